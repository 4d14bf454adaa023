"""Asks another sidecar's admin API one thing, believing it as little as what stands at any address of a registry.

It gets a proof that we have the admin token (:mod:`sidecar.core.proof`), never the token; no redirect is followed; the
answer has a bound in bytes. The time is the caller's to bound.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from sidecar.core.proof import proof
from sidecar.core.secret import Secret

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
_PIECE: Final = 65536


class PeerClient:
    """``token`` is our own admin token, ``wall`` gives Unix time."""

    def __init__(self, token: Callable[[], Secret], wall: Callable[[], float]) -> None:
        self._token = token
        self._wall = wall

    async def get(self, address: str, path: str, query: str, most: int) -> tuple[int, bytes]:
        """Status and body of what ``path`` answers there, at most ``most`` bytes with the head. Raises OSError,
        ValueError."""
        host, _, port = address.rpartition(":")
        token = self._token().reveal()
        proven = f"authorization: {proof(token, 'GET', path, self._wall())}\r\n" if token else ""
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=_PIECE)
        try:
            target = quote(path, safe="/") + (f"?{query}" if query else "")
            writer.write(
                f"GET {target} HTTP/1.1\r\nhost: {address}\r\n{proven}connection: close\r\n\r\n".encode("ascii")
            )
            data = bytearray()
            while more := await reader.read(_PIECE):
                data += more
                if len(data) > most:
                    raise ValueError("too long")
        finally:
            writer.close()
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        found = _STATUS.match(head)
        if found is None:
            raise ValueError("not HTTP")
        return int(found[1]), body
