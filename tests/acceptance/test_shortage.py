"""A sidecar that has no descriptor left: it waits for one without work, blames nobody, and recovers at once."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

from support.processes import App, Sidecar, ending, get, wait_for

CLIENTS = 80


def _ticks(pid: int) -> int:
    return sum(int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])


def test_out_of_descriptors(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    sidecar = Sidecar(
        tmp_path,
        {
            "service": {"name": "web"},
            "registry": "none",
            "upstreams": {
                "up": {
                    "bind": "127.0.0.1:0",
                    "endpoints": [f"127.0.0.1:{app.port}"],
                    "circuit_breaker": {"failure_threshold": 1},
                    "retry": "off",
                }
            },
        },
    )
    with ending(app, sidecar):
        app.ready()
        sidecar.ready()
        port = sidecar.port("up")
        url = f"http://127.0.0.1:{port}/"
        assert get(url)[0] == 200
        used = len(os.listdir(f"/proc/{sidecar.pid}/fd"))
        _, most = resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (used + 40, most))
        # They begin a request and do not end it: so none of them is idle.
        clients = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n")
        wait_for(lambda: "out of descriptors" in sidecar.output(), "it says so")
        time.sleep(0.3)
        before = _ticks(sidecar.pid)
        time.sleep(1.0)
        assert _ticks(sidecar.pid) - before <= 20  # of 100
        assert get(sidecar.admin + "/ready")[0] == 200
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (used + 1000, most))
        for client in clients:  # those who had to wait, too
            client.settimeout(5)
            client.sendall(b"Host: a\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()
        assert get(url)[0] == 200
        assert sidecar.output().count("out of descriptors") == 1
        assert get(sidecar.admin + "/upstreams/up")[1]["breaker"]["state"] == "closed"
