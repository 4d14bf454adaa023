"""Faults that are put into a running sidecar: what its client sees, where it is told, and that it ends."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.status import show_status
from support.patience import PATIENCE
from support.processes import Sidecar, ending, get, wait_for
from support.scripted import Server

BODY = b"x" * 4096


def answer(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(BODY), BODY))


def ask(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=PATIENCE) as reply:
        return json.load(reply)


def test_faults_are_put_seen_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(answer) as app:
        config = {
            "service": {"name": "edge"},
            "upstreams": {"tasks": {"bind": "127.0.0.1:0", "endpoints": [app.address]}},
        }
        with ending(Sidecar(tmp_path, config)) as running:
            sidecar = running[0]
            assert isinstance(sidecar, Sidecar)
            url = f"http://127.0.0.1:{sidecar.ready().port('tasks')}"
            faults = [
                {"match": {"path": "/late"}, "delay": "300ms"},
                {"match": {"path": "/no"}, "abort": 418},
                {"match": {"path": "/cut"}, "reset": True},
                {"match": {"path": "/slow"}, "throttle": "8KiB/s"},
            ]
            put = ask("PUT", f"{sidecar.admin}/faults", {"upstream": "tasks", "for": "1m", "faults": faults})
            assert [it["match"]["path"] for it in put["faults"]] == ["/late", "/no", "/cut", "/slow"]

            began = time.monotonic()
            assert get(f"{url}/late") == (200, BODY.decode())
            assert time.monotonic() - began >= 0.3
            status, said = get(f"{url}/no")
            assert (status, said["error"]) == (418, "fault_injected")
            with socket.create_connection(("127.0.0.1", sidecar.port("tasks")), PATIENCE) as client:
                client.sendall(b"GET /cut HTTP/1.1\r\nhost: t\r\n\r\n")
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            began = time.monotonic()
            assert get(f"{url}/slow") == (200, BODY.decode())
            assert time.monotonic() - began >= 0.3  # 4 KiB take half a second; some may pass at once
            assert get(f"{url}/other") == (200, BODY.decode())

            _, page = get(f"{sidecar.admin}/metrics")
            for kind in ("delay", "abort", "reset", "throttle"):
                assert f'sidecar_faults_injected_total{{upstream="tasks",kind="{kind}"}} 1.0' in page
            assert show_status(sidecar.admin) == 0
            told = capsys.readouterr().out
            assert told.count("FAULTS    upstreams.tasks: 100 % of what matches are") == 4
            wait_for(lambda: "a fault is injected at upstreams.tasks" in sidecar.output(), "the log says so")
            reached = app.taken

            assert ask("DELETE", f"{sidecar.admin}/faults")["faults"] == []
            assert get(f"{url}/no") == (200, BODY.decode())
            assert app.taken == reached + 1
