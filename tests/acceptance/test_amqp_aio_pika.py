"""What aio-pika's users do, through the sidecar's AMQP port to a real RabbitMQ."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, ProbableAuthenticationError, PublishError
from aio_pika.patterns import RPC

from support.patience import PATIENCE
from support.rabbitmq import RabbitMQ


def run(main: Callable[[], Awaitable[None]], seconds: float = PATIENCE) -> None:
    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await main()

    asyncio.run(limited())


@asynccontextmanager
async def connected(port: int, **query: Any) -> AsyncIterator[AbstractConnection]:
    connection = await aio_pika.connect(host="127.0.0.1", port=port, login="guest", password="guest", **query)
    async with connection:
        yield connection


def test_publish_consume_and_iterate(amqp_port: int) -> None:
    async def main() -> None:
        async with connected(amqp_port) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=20)
            exchange = await channel.declare_exchange("aio.direct", aio_pika.ExchangeType.DIRECT, auto_delete=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "work")
            messages = [aio_pika.Message(b"%d" % number, delivery_mode=2) for number in range(500)]
            await asyncio.gather(*(exchange.publish(message, "work") for message in messages))
            found: list[int] = []
            async with queue.iterator(timeout=5) as iterator:
                async for message in iterator:
                    async with message.process():
                        found.append(int(message.body))
                    if len(found) == 500:
                        break
            assert found == list(range(500))

    run(main)


def test_returns_and_nacks(amqp_port: int) -> None:
    async def main() -> None:
        async with connected(amqp_port) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(PublishError):
                await channel.default_exchange.publish(aio_pika.Message(b"lost"), "no.such.queue", mandatory=True)
            queue = await channel.declare_queue(
                exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
            )
            await channel.default_exchange.publish(aio_pika.Message(b"1"), queue.name)
            with pytest.raises(DeliveryError):
                await channel.default_exchange.publish(aio_pika.Message(b"2"), queue.name)
            message = await queue.get()
            await message.ack()
            await channel.default_exchange.publish(aio_pika.Message(b"3"), queue.name)

    run(main)


def test_transaction(amqp_port: int) -> None:
    async def main() -> None:
        async with connected(amqp_port) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue(exclusive=True)
            async with channel.transaction():
                await channel.default_exchange.publish(aio_pika.Message(b"committed"), queue.name)
            transaction = channel.transaction()
            await transaction.select()
            await channel.default_exchange.publish(aio_pika.Message(b"rolled back"), queue.name)
            await transaction.rollback()
            assert (await queue.get(no_ack=True)).body == b"committed"
            assert await queue.get(fail=False) is None

    run(main)


def test_rpc(amqp_port: int) -> None:
    """aio-pika's own pattern: an exclusive queue for answers, a dead-letter exchange, mandatory publishes."""

    async def multiply(*, x: int, y: int) -> int:
        return x * y

    async def main() -> None:
        async with connected(amqp_port) as server, connected(amqp_port) as client:
            serving = await RPC.create(await server.channel())
            await serving.register("aio.multiply", multiply, auto_delete=True)
            asking = await RPC.create(await client.channel())
            answers = await asyncio.gather(*(asking.call("aio.multiply", {"x": n, "y": n}) for n in range(50)))
            assert answers == [n * n for n in range(50)]
            await asking.close()
            await serving.close()

    run(main)


def test_properties_survive(amqp_port: int) -> None:
    async def main() -> None:
        async with connected(amqp_port) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            sent = aio_pika.Message(
                b"x", content_type="text/plain", priority=3, expiration=30, correlation_id="c", reply_to="r",
                message_id="m", timestamp=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), type="t", app_id="a",
                headers={
                    "when": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "ratio": 0.5,
                    "raw": bytearray(b"\x00\xff"), "list": [True, None, -1],
                },
            )  # fmt: skip
            await channel.default_exchange.publish(sent, queue.name)
            found = await queue.get(no_ack=True)
            assert {name: value for name, value in found.headers.items() if name != "traceparent"} == sent.headers
            names = "content_type content_encoding priority expiration correlation_id reply_to message_id timestamp"
            for name in [*names.split(), "type", "app_id", "delivery_mode", "user_id"]:
                assert getattr(found, name) == getattr(sent, name), name

    run(main)


def test_update_secret(amqp_port: int) -> None:
    async def main() -> None:
        async with connected(amqp_port) as connection:
            await connection.update_secret("guest", reason="rotated")
            channel = await connection.channel()
            assert (await channel.declare_queue(exclusive=True)).name

    run(main)


def test_errors(amqp_port: int) -> None:
    async def main() -> None:
        with pytest.raises(ProbableAuthenticationError):
            await aio_pika.connect(host="127.0.0.1", port=amqp_port, login="guest", password="wrong")
        async with connected(amqp_port) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("aio.arguments", auto_delete=True)
            other = await connection.channel()
            with pytest.raises(ChannelPreconditionFailed):
                await other.declare_queue("aio.arguments", auto_delete=True, arguments={"x-max-length": 5})
            await queue.delete()

    run(main)


def test_robust_connection_comes_back(amqp_port: int, rabbitmq: RabbitMQ) -> None:
    """The broker's operator closes the connection; the client reconnects, declares again, and consumes on."""

    async def main() -> None:
        connection = await aio_pika.connect_robust(
            host="127.0.0.1", port=amqp_port, login="guest", password="guest", reconnect_interval=0.1
        )
        async with connection:
            channel: AbstractChannel = await connection.channel()
            await channel.set_qos(prefetch_count=10)
            queue = await channel.declare_queue("aio.robust", durable=True)
            found: asyncio.Queue[bytes] = asyncio.Queue()

            async def consume(message: AbstractIncomingMessage) -> None:
                async with message.process():
                    found.put_nowait(message.body)

            await queue.consume(consume)
            await channel.default_exchange.publish(aio_pika.Message(b"before"), queue.name)
            assert await found.get() == b"before"
            closed = asyncio.Event()
            connection.close_callbacks.add(lambda *_: closed.set())
            await asyncio.to_thread(rabbitmq.close_all_connections)
            await closed.wait()
            await connection.connected.wait()
            with rabbitmq.channel() as direct:
                direct.basic_publish("", "aio.robust", b"after")
            assert await found.get() == b"after"
            await queue.delete(if_unused=False, if_empty=False)

    run(main)
