"""A server that does what a test says with each connection whose head has come."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any


class Server(socketserver.ThreadingTCPServer):
    """``play`` gets each connection, behind the head of its request; the last one is ``head``, and ``taken`` counts
    them. It serves from the start; use it as a context, or call :meth:`stop`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, play: Callable[[socket.socket], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.play = play
        self.head = b""
        self.taken = 0
        self.port: int = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Serve no more."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def __exit__(self, *_: Any) -> None:
        self.stop()


class _Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        self.request.settimeout(30)
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.request.recv(65536)
            if not more:
                return
            data += more
        self.server.head = data
        self.server.taken += 1
        self.server.play(self.request)
