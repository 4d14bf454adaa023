"""The load generator against a real broker: everything it sends is answered, and it leaves nothing behind."""

from __future__ import annotations

from contextlib import closing

import pytest

from bench.amqp import wire
from bench.amqp.cases import CASES, DELIVERIES, Case
from bench.amqp.client import Connection
from bench.amqp.load import Order, Target, carry_out
from bench.amqp.wire import WireError
from support.rabbitmq import RabbitMQ


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case(rabbitmq: RabbitMQ, case: Case) -> None:
    direct = Target("direct", rabbitmq.port, 0)
    turns = carry_out(Order(case, Target("broker", rabbitmq.port, rabbitmq.pid), [direct], ["direct", "direct"], 0.2))
    assert [turn.name for turn in turns] == ["direct", "direct"]
    for turn in turns:
        assert turn.seconds > 0
        assert turn.broker_cpu >= 0
        if case.rate:
            assert turn.messages == len(turn.latencies) == case.rate * 0.2
            assert min(turn.latencies) > 0
        elif case.consuming:
            assert turn.messages == DELIVERIES
        else:
            assert turn.messages > 0
    with closing(Connection(rabbitmq.port)) as connection, pytest.raises(WireError, match="404 NOT_FOUND"):
        connection.call(wire.get("bench.direct.0"))
