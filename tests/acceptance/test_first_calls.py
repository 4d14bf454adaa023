"""An app that starts at once dials ports whose upstreams nobody knows yet: it waits for them, and not for ever."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.consul import ConsulAgent
from support.processes import App, Sidecar, ending, free_port, get, wait_for
from support.rabbitmq import RabbitMQ
from support.wire import Wire

#: What clients say first; and how a broker answers: with a method on channel 0.
REQUEST = b"GET /who HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"
HEADER = b"AMQP\0\0\x09\x01"
START = b"\x01\0\0"


@pytest.fixture(scope="module")
def consul() -> Iterator[ConsulAgent]:
    with ConsulAgent() as agent:
        yield agent


def dialled(port: int, says: bytes = REQUEST) -> socket.socket:
    """A connection to a port that may not be bound yet, and its first words on their way."""

    def connect() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), 60)
        except ConnectionRefusedError:
            return None

    found: socket.socket = wait_for(connect, "the port is bound")
    found.sendall(says)
    found.settimeout(60)
    return found


def answer(client: socket.socket) -> bytes:
    """The first of what is said to it; nothing: the end."""
    with client:
        return client.recv(4096)


def test_a_registry_that_comes_late(consul: ConsulAgent, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """Over HTTP, TCP and AMQP; and a SIGHUP while the start waits for the registry is a reload after it."""
    ports = {name: free_port() for name in ("web", "raw", "broker", "admin")}
    with Wire(consul.http_port) as wire, ending(App(tmp_path, "app")) as processes:
        app = processes[0].ready()
        assert isinstance(app, App)
        for name, port in (("web", app.port), ("raw", app.port), ("broker", rabbitmq.port)):
            consul.register(name, name, port)
        wire.cut()
        protocols = {"web": "http", "raw": "tcp", "broker": "amqp"}
        sidecar = Sidecar(tmp_path, {
            "service": {"name": "shop"},
            "registry": f"consul://127.0.0.1:{wire.port}",
            "admin": {"bind": f"127.0.0.1:{ports['admin']}"},
            "upstreams": {
                name: {"bind": f"127.0.0.1:{ports[name]}", "protocol": protocol, "discover": {"service": name}}
                for name, protocol in protocols.items()
            },
        })  # fmt: skip
        processes.append(sidecar)
        web, raw = dialled(ports["web"]), dialled(ports["raw"])
        broker = dialled(ports["broker"], HEADER)
        wait_for(lambda: get(f"http://127.0.0.1:{ports['admin']}/ready")[1] == {"ready": False, "phase": "starting"},
                 "it waits for its registry")  # fmt: skip
        sidecar.popen.send_signal(signal.SIGHUP)
        wire.mend()
        for client in (web, raw):
            assert answer(client).startswith(b"HTTP/1.1 200 ")
        assert answer(broker).startswith(START)
        wait_for(lambda: '"reloaded"' in sidecar.output(), "SIGHUP was heard, and is acted on when it is ready")
        assert sidecar.terminate() == 0


def test_a_registry_that_never_comes(tmp_path: Path) -> None:
    ports = {"http": free_port(), "tcp": free_port(), "amqp": free_port()}
    sidecar = Sidecar(tmp_path, {
        "service": {"name": "shop"},
        "registry": f"consul://127.0.0.1:{free_port()}",
        "upstreams": {
            name: {"bind": f"127.0.0.1:{port}", "protocol": name, "discover": {"service": "x"}}
            for name, port in ports.items()
        },
    })  # fmt: skip
    with ending(sidecar):
        clients = {name: dialled(port, HEADER if name == "amqp" else REQUEST) for name, port in ports.items()}
        assert b"x-sidecar-error: no_endpoints" in answer(clients["http"])
        with pytest.raises(ConnectionResetError):
            answer(clients["tcp"])
        assert answer(clients["amqp"]) == b"", "without a word, as always"
        assert sidecar.terminate() == 0
