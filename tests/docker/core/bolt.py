"""Stands in for Neo4j: Bolt's handshake (version 5.4) where Neo4j listens for it, and a page at 7474. No database."""

from __future__ import annotations

import os
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

PREAMBLE: Final = b"\x60\x60\xb0\x17"
VERSION: Final = b"\0\0\4\5"


class Bolt(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        if self.rfile.read(4) == PREAMBLE and len(self.rfile.read(16)) == 16:
            self.wfile.write(VERSION)
            self.rfile.read()  # until the client has gone


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Path(os.environ["NEO4J_AUTH_FILE"]).read_text()  # it can
    host, _, port = os.environ["NEO4J_server_bolt_listen__address"].partition(":")  # noqa: SIM112 - its name
    threading.Thread(target=ThreadingHTTPServer(("0.0.0.0", 7474), Page).serve_forever, daemon=True).start()
    Server((host, int(port)), Bolt).serve_forever()
