"""Tells the time. An app like any other: it knows nothing of sidecars.

``python clock.py [PORT]`` (default 8080), on loopback only: others reach it through its sidecar's inbound port.
"""

from __future__ import annotations

import json
import socket
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """``GET /`` tells the time and who said so; ``GET /health`` is for checks."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; else each answer waits 40 ms for an acknowledgement

    def do_GET(self) -> None:
        if self.path == "/health":
            document = {"status": "healthy"}
        else:
            document = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()}
        body = json.dumps(document).encode()
        self.send_response(200)
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
