"""Greets, with the time of day from the clock service. An app like any other: it knows nothing of sidecars.

``python greeter.py [PORT]`` (default 8080). It asks for the time at ``$CLOCK_URL``, which is the port that its sidecar
listens on for the upstream ``clock``.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLOCK_URL = os.environ.get("CLOCK_URL", "http://127.0.0.1:9000")
#: Handed on, so that one trace shows the whole way.
TRACE_HEADERS = ("traceparent", "tracestate", "baggage", "x-request-id")


class Handler(BaseHTTPRequestHandler):
    """``GET /`` greets; ``GET /health`` is for checks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; else each answer waits 40 ms for an acknowledgement

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, {"status": "healthy"})
            return
        headers = {name: self.headers[name] for name in TRACE_HEADERS if name in self.headers}
        try:
            with urllib.request.urlopen(urllib.request.Request(CLOCK_URL, headers=headers), timeout=10) as response:
                self.answer(200, {"greeting": "Hello!", **json.load(response)})
        except urllib.error.HTTPError as error:
            self.answer(502, {"greeting": "Hello!", "clock": error.headers.get("x-sidecar-error") or error.code})
        except OSError as error:
            self.answer(502, {"greeting": "Hello!", "clock": str(error)})

    def answer(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the sidecar writes the access log."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8080), Handler).serve_forever()
