"""A real RabbitMQ that goes away behind a sidecar: what its clients are told, and that they can come back."""

from __future__ import annotations

import time
from pathlib import Path

import pika
import pytest
from pamqp import commands
from pika.exceptions import AMQPConnectionError, ConnectionClosedByBroker

from support.amqp_clients.raw import Listener, RawClient
from support.processes import Sidecar, ending, free_port, wait_for
from support.rabbitmq import RabbitMQ, behind_sidecar, parameters_to


def closed(listener: Listener) -> commands.Connection.Close:
    """What it was told at the end."""
    close = wait_for(lambda: listener.methods(commands.Connection.Close), "a close", 10)[0]
    assert isinstance(close, commands.Connection.Close)
    listener.send_on(0, commands.Connection.CloseOk())
    return close


def works(port: int) -> bool:
    try:
        connection = pika.BlockingConnection(parameters_to(port))
    except AMQPConnectionError:
        return False
    queue = connection.channel().queue_declare("", exclusive=True).method.queue
    connection.close()
    return bool(queue)


def test_the_broker_goes_and_comes_back(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    rabbitmq.declare("outage.durable", durable=True)
    config = behind_sidecar(rabbitmq.port)
    config["upstreams"]["rabbitmq"] |= {
        "retry": {"max_attempts": 2, "initial_delay": "10ms"},
        "circuit_breaker": {"failure_threshold": 3, "reset_timeout": "500ms"},
    }
    with ending(Sidecar(tmp_path, config)) as processes:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        port = sidecar.port("rabbitmq")

        # It stands still: each leg has heartbeats of its own, so this end is told.
        with Listener(RawClient(port, heartbeat=1).open_channel()) as frozen:
            rabbitmq.freeze()
            started = time.monotonic()
            close = closed(frozen)
            assert close.reply_code == 320
            assert str(rabbitmq.port) in close.reply_text
            assert time.monotonic() - started < 30
            rabbitmq.thaw()
        assert works(port)

        # It crashes, under three clients at once.
        listeners = [Listener(RawClient(port, heartbeat=5).open_channel().confirms()) for _ in range(3)]
        for listener in listeners:
            listener.__enter__()
        try:
            rabbitmq.kill()
            for listener in listeners:
                close = closed(listener)
                assert (close.reply_code, str(rabbitmq.port) in close.reply_text) == (320, True), close.reply_text
        finally:
            for listener in listeners:
                listener.__exit__()

        # It is not there: a reason, in the first answer that a client can understand.
        for _ in range(5):
            with pytest.raises((AMQPConnectionError, ConnectionClosedByBroker), match="320"):
                pika.BlockingConnection(parameters_to(port))
        with RawClient(port, open=False) as client:
            client.send_bytes(b"AMQP\x00\x00\x09\x01")
            client.expect(commands.Connection.Start)

        rabbitmq.start()
        rabbitmq.ready()
        wait_for(lambda: works(port), "clients are served again")
        assert rabbitmq.depth("outage.durable") == 0
    rabbitmq.delete("outage.durable")


def test_another_broker_is_taken(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """The first of the cluster's two is not there."""
    with ending(Sidecar(tmp_path, behind_sidecar(free_port(), rabbitmq.port))) as processes:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        for _ in range(6):
            assert works(sidecar.port("rabbitmq"))
