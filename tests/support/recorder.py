"""An app that notes what it has got, and a sidecar that queues requests for it."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from typing import Any, Self

from support.processes import Process, get, wait_for

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


def queueing_sidecar(folder: Path, app: int, port: int = 0, **queue: Any) -> dict[str, Any]:
    """A sidecar's configuration that queues what is posted to ``/tasks``, in front of the app at that port."""
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


def post(port: int, body: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Post that to ``/tasks``: status, fields, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/tasks", body, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
