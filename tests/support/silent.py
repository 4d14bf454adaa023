"""An address that says nothing, not even no."""

from __future__ import annotations

import socket


class Silent:
    """An address that answers no SYN: its backlog is full."""

    def __init__(self, host: str, port: int = 0) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind((host, port))
        self._listening.listen(0)
        self._filling = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(self._listening.getsockname())
            self._filling.append(client)
        self.port: int = self._listening.getsockname()[1]

    def close(self) -> None:
        for it in (self._listening, *self._filling):
            it.close()
