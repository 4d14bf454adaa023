"""Requests are queued by a real sidecar while their upstream is dead, and none that was acknowledged is lost. With
``SIDECAR_SOAK=1`` the sidecar is killed four times as often."""

from __future__ import annotations

import copy
import http.client
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Self

import yaml

from support.processes import Process, Sidecar, ending, free_port, get, wait_for

LIVES = 16 if os.environ.get("SIDECAR_SOAK") == "1" else 4

#: Notes every request that it has got in a file before it answers.
_APP = """
import http.client
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        with open(sys.argv[2], "a") as notes:
            notes.write(f"{body} {self.headers.get('x-sidecar-queued', '-')}\\n")
        answer = f"done {body}".encode()
        self.send_response(201)
        self.send_header("content-length", str(len(answer)))
        self.send_header("x-app", "yes")
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

http.client._MAXHEADERS = 200
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Recorder(Process):
    """An app that notes what it has got."""

    def __init__(self, folder: Path, port: int, number: int) -> None:
        self.port = port
        self.notes = folder / "notes"
        script = folder / "recorder.py"
        script.write_text(_APP)
        super().__init__([sys.executable, str(script), str(port), str(self.notes)], folder / f"recorder-{number}.log")

    def ready(self) -> Self:
        wait_for(lambda: get(f"http://127.0.0.1:{self.port}/")[0] == 204, "the app answers")
        return self

    def got(self) -> list[tuple[str, str]]:
        """Bodies, and the ids that they were queued by."""
        if not self.notes.exists():
            return []
        return [(body, id) for body, _, id in (line.partition(" ") for line in self.notes.read_text().splitlines())]

    def gets_more(self) -> None:
        """Wait until it does."""
        before = len(self.got())
        wait_for(lambda: len(self.got()) > before, "the app gets requests")


def _config(folder: Path, app: int, port: int = 0, **queue: Any) -> dict[str, Any]:
    return {
        "service": {"name": "web"},
        "upstreams": {
            "tasks": {
                "bind": f"127.0.0.1:{port}",
                "endpoints": [f"127.0.0.1:{app}"],
                "routes": [
                    {
                        "match": {"path": "/tasks", "methods": ["POST"]},
                        "queue": {"spool": True, "path": str(folder / "spool"), **queue},
                        "retry": "off",
                        "circuit_breaker": {"reset_timeout": "1s"},
                    }
                ],
            }
        },
    }


def _post(port: int, body: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/tasks", body, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def _ended(port: int, location: str) -> Any:
    status, body = get(f"http://127.0.0.1:{port}{location}")
    assert status in (0, 200), (status, body)
    return body if status and body["status"] in ("done", "failed") else None


def test_an_outage_is_bridged(tmp_path: Path) -> None:
    app_port = free_port()
    with ending(Sidecar(tmp_path, _config(tmp_path, app_port))) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        port = sidecar.ready().port("tasks")
        app = Recorder(tmp_path, app_port, 0)
        processes.append(app)
        app.ready()
        assert _post(port, "direct")[0] == 201
        app.kill()
        locations = {}
        for number in range(100):
            status, fields, body = _post(port, f"queued-{number}", **{"Idempotency-Key": f"k{number}"})
            if status == 502:  # the connection that was kept from before: nobody knows what became of that one
                status, fields, body = _post(port, f"queued-{number}", **{"Idempotency-Key": f"k{number}"})
            assert status == 202, (number, status, body)
            assert json.loads(body)["status"] == "queued"
            locations[number] = fields["location"]
        assert len(set(locations.values())) == 100
        status, page = get(f"{sidecar.admin}/metrics")
        assert 'sidecar_queued_requests{upstream="tasks"} 100.0' in page
        app = Recorder(tmp_path, app_port, 1)
        processes.append(app)
        for number, location in locations.items():
            state = wait_for(lambda location=location: _ended(port, location), f"{number} is delivered", 30)  # type: ignore[misc]
            assert (state["status"], state["answer"]["status"]) == ("done", 201)
            status, body = get(f"http://127.0.0.1:{port}{location}/outcome")
            assert (status, body) == (201, f"done queued-{number}")
        queued = [(body, id) for body, id in app.got() if id != "-"]
        assert sorted(queued) == sorted(
            (f"queued-{number}", location.rpartition("/")[2]) for number, location in locations.items()
        )
        page = get(f"{sidecar.admin}/metrics")[1]
        assert 'sidecar_queued_requests{upstream="tasks"} 0.0' in page
        assert 'sidecar_queued_total{outcome="delivered",upstream="tasks"} 100.0' in page


def test_a_killed_sidecar_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(1)
    app_port, port = free_port(), free_port()
    config = _config(tmp_path, app_port, port, concurrency=8)
    acknowledged: dict[str, str] = {}
    with ending() as processes:
        app: Recorder | None = None
        number = 0
        for life in range(LIVES):
            sidecar = Sidecar(tmp_path, config, f"sidecar-{life}")
            processes.append(sidecar)
            sidecar.ready()
            if life % 2:
                # Deliveries are under way, too, when it dies, and more wait.
                app = Recorder(tmp_path, app_port, life)
                processes.append(app)
                app.gets_more()
            for _ in range(rng.randint(0, 20) if life % 2 else rng.randint(80, 120)):
                number += 1
                status, fields, _ = _post(port, f"n{number}")
                if status == 202:
                    acknowledged[f"n{number}"] = fields["location"]
            sidecar.kill()
            if app is not None:
                app.kill()
        assert len(acknowledged) > 50
        sidecar = Sidecar(tmp_path, config, "sidecar-last")
        app = Recorder(tmp_path, app_port, 99)
        processes += [sidecar, app]
        sidecar.ready()
        for body, location in acknowledged.items():
            state = wait_for(lambda location=location: _ended(port, location), f"{body} is delivered", 30)  # type: ignore[misc]
            assert state["status"] == "done"
        got = Counter(body for body, _ in app.got())
        assert [body for body in acknowledged if not got[body]] == []
        # At least once: what was under way when a process died may have come again, and nothing else.
        assert sum(n - 1 for n in got.values()) <= LIVES // 2 * 8
        assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
        assert {it.stat().st_mode & 0o777 for it in (tmp_path / "spool").iterdir()} == {0o600}


def test_what_was_acknowledged_is_delivered_after_a_reload_without_the_queue(tmp_path: Path) -> None:
    app_port, port = free_port(), free_port()
    config = _config(tmp_path, app_port, port)
    config["admin"] = {"bind": "127.0.0.1:0"}
    plain = copy.deepcopy(config)
    del plain["upstreams"]["tasks"]["routes"]
    with ending(Sidecar(tmp_path, config)) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        sidecar.ready()
        # As many fields as a client may send: what we add must not be too much.
        filler = {f"x-filler-{number}": "x" for number in range(96)}
        status, fields, _ = _post(port, "acknowledged", **filler)
        assert status == 202
        file = tmp_path / "sidecar.yaml"
        file.write_text(yaml.safe_dump({**plain, "upstreams": {}}))
        sidecar.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: "1 requests are stored for it" in sidecar.output(), "that is refused")
        file.write_text(yaml.safe_dump(plain))
        sidecar.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: '"reloaded"' in sidecar.output(), "the queue is taken out")
        assert "is delivered all the same" in sidecar.output()
        app = Recorder(tmp_path, app_port, 0)
        processes.append(app)
        state = wait_for(lambda: _ended(port, fields["location"]), "it is delivered", 30)
        assert (state["status"], state["answer"]["status"]) == ("done", 201)
        assert [body for body, _ in app.got()] == ["acknowledged"]
        assert sidecar.terminate() == 0
