"""Clients that are programs of their own, through the sidecar's AMQP port to a real RabbitMQ: Celery, and npm's
amqplib, which has nothing of Python in it. pika and aio-pika have tests of their own."""

from __future__ import annotations

from support.amqp_clients.processes import CeleryWorker, done_by, problems, start_celery, start_node


def test_node_amqplib(amqp_port: int) -> None:
    done = done_by(start_node(amqp_port))
    assert problems(done) == {}
    assert len(done) == 12


def test_celery(amqp_port: int, celery_worker: CeleryWorker) -> None:
    before = celery_worker.trouble()  # another test may have restarted the broker
    done = done_by(start_celery(amqp_port))
    assert problems(done) == {}
    assert len(done) == 9
    assert celery_worker.trouble() == before
