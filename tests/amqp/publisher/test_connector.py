from __future__ import annotations

import asyncio

import pytest

from sidecar.amqp.publisher.connection import Publisher
from sidecar.amqp.publisher.connector import Connector
from sidecar.amqp.wire.client_handshake import ClientHandshake, own_properties, plain
from sidecar.net.wheel import TimerWheel
from support import amqp
from support.processes import free_port
from support.publishing import Told


@pytest.mark.parametrize("known", [True, False])
def test_a_broker_that_is_not_there(known: bool) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        told = Told()
        handshake = ClientHandshake("PLAIN", plain("guest", "guest"), "/", own_properties("tests"))
        publisher = Publisher(handshake, told, TimerWheel(loop.call_at, loop.time), loop.time, loop.call_soon)
        publisher.send(amqp.publish(1, "k"), "a")
        addresses = [("127.0.0.1", free_port())] if known else []
        connector = Connector(lambda: addresses, loop)
        connector.connect(publisher)
        await told.over.wait()
        assert told.error is not None
        assert told.left == ["a"]
        assert ("cannot connect" if known else "no broker is known") in told.error.text
        connector.close()

    asyncio.run(scenario())


def test_addresses_take_turns() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        addresses = [("127.0.0.1", free_port()) for _ in range(3)]
        connector = Connector(lambda: addresses, loop)
        tried: list[str] = []
        for _ in range(6):
            told = Told()
            handshake = ClientHandshake("PLAIN", plain("guest", "guest"), "/", own_properties("tests"))
            publisher = Publisher(handshake, told, TimerWheel(loop.call_at, loop.time), loop.time, loop.call_soon)
            connector.connect(publisher)
            await told.over.wait()
            tried.append(publisher.endpoint)
        assert sorted(tried) == sorted(2 * [f"{host}:{port}" for host, port in addresses])

    asyncio.run(scenario())
