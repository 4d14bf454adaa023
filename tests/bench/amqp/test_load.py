"""The load generator against a real broker: everything it sends is answered, and it leaves nothing behind."""

from __future__ import annotations

from contextlib import closing

import pytest

from bench.amqp import load, wire
from bench.amqp.cases import CASES, Case
from bench.amqp.client import Connection
from bench.amqp.load import Order, Target, carry_out
from bench.amqp.wire import WireError
from support.rabbitmq import RabbitMQ

#: A measurement takes longer, and ten times as many deliveries.
SECONDS = 0.1
DELIVERIES = 2000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case(rabbitmq: RabbitMQ, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DELIVERIES", DELIVERIES)
    direct = Target("direct", rabbitmq.port, 0)
    broker = Target("broker", rabbitmq.port, rabbitmq.pid)
    turns = carry_out(Order(case, broker, [direct], ["direct", "direct"], SECONDS))
    assert [turn.name for turn in turns] == ["direct", "direct"]
    for turn in turns:
        assert turn.seconds > 0
        assert turn.broker_cpu >= 0
        if case.rate:
            assert turn.messages == len(turn.latencies) == case.rate * SECONDS
            assert min(turn.latencies) > 0
        elif case.consuming:
            assert turn.messages == DELIVERIES
        else:
            assert turn.messages > 0
    with closing(Connection(rabbitmq.port)) as connection, pytest.raises(WireError, match="404 NOT_FOUND"):
        connection.call(wire.get("bench.direct.0"))
