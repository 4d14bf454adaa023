"""Says over HTTP whether the Redis beside it is the primary: 200 if it is, 503 if it is not, or is away.

Callers' sidecars ask it (``health: {check: {http: /, port: 6380}}``), and so send what apps write to the
node that Sentinel has made the primary. ``python role.py [LISTEN [REDIS]]``, both HOST:PORT; Redis' password
is in the file ``$REDIS_PASSWORD_FILE``.
"""

from __future__ import annotations

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LISTEN = sys.argv[1] if len(sys.argv) > 1 else "0.0.0.0:6380"
REDIS = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:6379"
PASSWORD_FILE = os.environ.get("REDIS_PASSWORD_FILE", "/run/secrets/redis")


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def role() -> str:
    """``master``, ``slave``, or what Redis says instead. Raises OSError."""
    password = Path(PASSWORD_FILE).read_bytes().strip()
    question = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n*1\r\n$4\r\nROLE\r\n" % (len(password), password)
    with socket.create_connection(address(REDIS), timeout=1) as connection, connection.makefile("rb") as answers:
        connection.sendall(question)
        if answers.readline(256) != b"+OK\r\n":
            return "no login"
        answers.readline(256), answers.readline(256)  # how many parts the role has, and how long the first is
        return answers.readline(256).decode("ascii", "replace").strip()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # an idle connection does not keep a thread for ever

    def do_GET(self) -> None:
        try:
            found = role()
        except OSError as error:
            found = f"away: {error}"
        body = f"{found}\n".encode()
        self.send_response(200 if found == "master" else 503)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence: it is asked every second."""


if __name__ == "__main__":
    ThreadingHTTPServer(address(LISTEN), Handler).serve_forever()
