"""What the users of npm's amqplib do, through the sidecar's AMQP port to a real RabbitMQ: no Python on their side."""

from __future__ import annotations

from support.amqp_clients.node import problems, start_node


def test_ordinary_work(amqp_port: int) -> None:
    done = problems(start_node(amqp_port), 30)
    assert len(done) == 12
    assert {name: problem for name, problem in done.items() if problem is not None} == {}
