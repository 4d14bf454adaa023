"""A real RabbitMQ that goes away behind a sidecar: what its clients are told, and that they can come back."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pika
import pytest
from pamqp import commands
from pika.exceptions import AMQPConnectionError

from support.amqp_clients.raw import Listener, RawClient
from support.processes import Sidecar, ending, free_port, get, wait_for
from support.rabbitmq import RabbitMQ, behind_sidecar, parameters_to


def closed(listener: Listener) -> commands.Connection.Close:
    """What it was told at the end."""
    close = wait_for(lambda: listener.methods(commands.Connection.Close), "a close", 10)[0]
    assert isinstance(close, commands.Connection.Close)
    listener.send_on(0, commands.Connection.CloseOk())
    return close


def refused(port: int) -> bool:
    """Whether a connection there is refused, as where nobody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), 10).close()
    except ConnectionRefusedError:
        return True
    return False


def refusing(sidecar: Sidecar) -> dict[str, str]:
    """Why clients are refused, as operators see it."""
    found: dict[str, str] = get(f"{sidecar.admin}/amqp")[1]["upstreams"][0]["refusing"]
    return found


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
    # A client that comes all the time opens a breaker whose minutes are not waited for.
    patient = behind_sidecar(rabbitmq.port)
    patient["upstreams"]["rabbitmq"]["circuit_breaker"] = {"failure_threshold": 1, "reset_timeout": "10m"}
    sidecars = (Sidecar(tmp_path, config), Sidecar(tmp_path, patient, "patient"))
    with ending(*sidecars):
        sidecar = sidecars[0].ready()
        port = sidecar.port("rabbitmq")
        other = sidecars[1].ready().port("rabbitmq")

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
            rabbitmq.crash_app()
            for listener in listeners:
                close = closed(listener)
                assert (close.reply_code, str(rabbitmq.port) in close.reply_text) == (320, True), close.reply_text
        finally:
            for listener in listeners:
                listener.__exit__()

        # It is not there, and so nobody listens here, as for who dials it directly.
        wait_for(lambda: refused(port), "the port refuses connections")
        with pytest.raises(AMQPConnectionError) as caught:
            pika.BlockingConnection(parameters_to(port))
        assert "Connection refused" in repr(caught.value)
        assert list(refusing(sidecar)) == ["no_broker"]
        with suppress(AMQPConnectionError):  # there may have been no time to refuse it
            pika.BlockingConnection(parameters_to(other))
        wait_for(lambda: refused(other), "the other port refuses connections, too")

        rabbitmq.start_app()
        wait_for(lambda: works(port), "clients are served again")
        wait_for(lambda: works(other), "those of an open breaker, too", 10)
        assert not refusing(sidecar)
        assert rabbitmq.depth("outage.durable") == 0
    rabbitmq.delete("outage.durable")


def test_another_broker_is_taken(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """The first of the cluster's two is not there."""
    with ending(Sidecar(tmp_path, behind_sidecar(free_port(), rabbitmq.port))) as processes:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        for _ in range(6):
            assert works(sidecar.port("rabbitmq"))


def test_places_that_are_taken_and_draining_refuse_too(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    config = behind_sidecar(rabbitmq.port)
    config["upstreams"]["rabbitmq"]["bulkhead"] = {"max_connections": 2}
    config["drain"] = {"timeout": "20s"}
    with ending(Sidecar(tmp_path, config)) as processes:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        port = sidecar.port("rabbitmq")
        one, other = (pika.BlockingConnection(parameters_to(port)) for _ in range(2))
        wait_for(lambda: refused(port), "the port refuses a third")
        assert list(refusing(sidecar)) == ["overloaded"]
        other.close()
        wait_for(lambda: works(port), "there is room again")

        # A delivery that is not acknowledged keeps the drain from ending.
        queue = one.channel().queue_declare("", exclusive=True).method.queue
        channel = one.channel()
        channel.basic_publish("", queue, b"work")
        wait_for(lambda: channel.basic_get(queue)[0], "the message is fetched")
        sidecar.popen.terminate()
        wait_for(lambda: refused(port), "one that drains takes nobody")
        assert one.is_open
        one.close()


def test_the_hundred_and_first_connection(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """Brokers take as many as they have descriptors for, and so does a port that is told nothing else."""
    with ending(Sidecar(tmp_path, behind_sidecar(rabbitmq.port))) as processes, ExitStack() as stack:
        sidecar = processes[0].ready()
        assert isinstance(sidecar, Sidecar)
        for _ in range(101):
            stack.enter_context(RawClient(sidecar.port("rabbitmq")))
        assert works(sidecar.port("rabbitmq"))
