"""A service with one instance that hangs: a second try beside each one that goes there, by a real sidecar."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from support.patience import PATIENCE
from support.processes import Sidecar, ending, get, wait_for
from support.scripted import Server


def test_an_instance_that_hangs_is_noticed_by_nobody(tmp_path: Path) -> None:
    over, left = threading.Event(), []

    def hang(connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        left.append(connection.recv(1))  # until the sidecar closes it
        over.set()

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ngood")

    with Server(hang) as slow, Server(answer) as quick:
        config = {
            "service": {"name": "edge"},
            "upstreams": {
                "search": {
                    "bind": "127.0.0.1:0",
                    "endpoints": [slow.address, quick.address],
                    "retry": {"hedge": {"after": "50ms"}},
                }
            },
        }
        with ending(Sidecar(tmp_path, config)) as running:
            sidecar = running[0]
            assert isinstance(sidecar, Sidecar)
            url = f"http://127.0.0.1:{sidecar.ready().port('search')}/"
            for _ in range(8):
                assert get(url) == (200, "good")
            assert slow.taken >= 2
            assert over.wait(PATIENCE)
            wait_for(lambda: len(left) == slow.taken, "the slow one's connections are closed")
            assert set(left) == {b""}
            _, page = get(f"{sidecar.admin}/metrics")
            assert f'sidecar_hedges_total{{upstream="search",outcome="won"}} {slow.taken}.0' in page
            _, told = get(f"{sidecar.admin}/upstreams/search")
            assert told["stats"]["filters"]["retry"]["hedge"]["after_ms"] == 50.0
            assert [endpoint["active"] for endpoint in told["endpoints"]] == [0, 0]
