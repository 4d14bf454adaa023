"""The other end of systemd's notify protocol: a real socket, as the service manager has it."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Self

from support.patience import PATIENCE

Message = dict[str, str]


class Manager:
    """Listens at a path in ``folder`` or, without one, at an abstract name. :attr:`address` is for NOTIFY_SOCKET."""

    def __init__(self, folder: Path | None = None) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.settimeout(PATIENCE)
        self.address = f"@sidecar-{secrets.token_hex(8)}" if folder is None else str(folder / "notify")
        self._sock.bind(self.address.replace("@", "\0"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def hears(self) -> Message:
        """The next message, key by key."""
        lines = self._sock.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def hears_of(self, key: str) -> Message:
        """The next one that has this key; those before it are passed over."""
        while True:
            found = self.hears()
            if key in found:
                return found
