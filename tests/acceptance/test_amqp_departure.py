"""Clients that go while publishes of them are held, in front of a real RabbitMQ: others get at once what they had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pamqp import commands
from pika.exceptions import ChannelClosedByBroker

from support.amqp_clients.raw import RawClient
from support.processes import Sidecar, ending, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar

#: Far more than what it takes to see that something came before they had gone, at one in a second.
HELD = 300


def is_free(rabbitmq: RabbitMQ, queue: str) -> bool:
    with rabbitmq.channel() as channel:
        try:
            channel.queue_declare(queue, exclusive=True)
        except ChannelClosedByBroker:
            return False
    return True


@pytest.mark.parametrize("how", ["dies", "closes"])
@pytest.mark.parametrize("spool", [False, True])
def test_a_client_goes_with_publishes_held(rabbitmq: RabbitMQ, tmp_path: Path, how: str, spool: bool) -> None:
    amqp: dict[str, Any] = {"publish": [{"exchange": "", "routing_key": "departure.slow", "rate": "1/s", "burst": 1}]}
    if spool:
        amqp |= {"credentials": GUEST, "spool": {"path": str(tmp_path / "spool")}}
    for queue in ("departure.work", "departure.slow"):
        rabbitmq.declare(queue, durable=True)
        rabbitmq.purge(queue)
    with ending(Sidecar(tmp_path, behind_sidecar(rabbitmq.port, **amqp))) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        client = RawClient(sidecar.ready().port("rabbitmq"), heartbeat=30).open_channel()
        named = client.queue(1, "", exclusive=True)
        client.queue(1, "departure.mine", exclusive=True)
        client.call(1, commands.Basic.Qos(prefetch_count=10), commands.Basic.QosOk)
        client.call(1, commands.Basic.Consume(queue="departure.work", consumer_tag="c"), commands.Basic.ConsumeOk)
        with rabbitmq.channel() as channel:
            for number in range(20):
                channel.basic_publish("", "departure.work", b"%d" % number)
        for _ in range(10):
            client.expect(commands.Basic.Deliver, 1)
            client.content(1)
        for _ in range(HELD):
            client.publish(1, "", "departure.slow", b"x")
        if how == "closes":
            client.send(0, commands.Connection.Close(200, "", 0, 0))
        else:
            client.sock.close()
        wait_for(lambda: rabbitmq.depth("departure.work") == 20, "all of them are ready for others")
        wait_for(lambda: is_free(rabbitmq, "departure.mine"), "its queue is free")
        wait_for(lambda: rabbitmq.depth(named) == -1, "so is the other one")
        assert rabbitmq.depth("departure.slow") < HELD
        client.sock.close()
    for queue in ("departure.work", "departure.slow"):
        rabbitmq.delete(queue)
