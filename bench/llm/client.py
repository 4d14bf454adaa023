"""A client that notes when each piece of an answer arrives."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from re import findall
from typing import NamedTuple, Self

#: Of a request without a deadline of its own; nothing here takes as long.
PATIENCE = 240.0


class Answer(NamedTuple):
    """``status``: 0, there was none. ``first``: seconds to the first byte of the body; inf, none came. ``pieces``: what
    arrived at once, and when (Unix time). ``whole``: the end came."""

    status: int
    first: float
    pieces: list[tuple[float, bytes]]
    whole: bool

    def lines(self) -> list[tuple[float, float]]:
        """When each line of the answer was made and when it arrived (Unix time)."""
        return [
            (datetime.fromisoformat(made.decode()).timestamp(), at)
            for at, data in self.pieces
            for made in findall(rb'"created_at": "([^"]+)"', data)
        ]


def prompt(clauses: int = 1, model: str = "llama3.2") -> bytes:
    """A request's body, upon which the stand-in answers with so many lines of four tokens or more."""
    return json.dumps({"model": model, "prompt": ", ".join(["go"] * clauses)}).encode()


def head(length: int, agent: str = "", path: str = "/api/generate") -> bytes:
    """A request's head."""
    named = f"x-agent-id: {agent}\r\n" if agent else ""
    return (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\n{named}content-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


class Client:
    """A connection to a port of this machine, made when it is needed, with one request under way."""

    def __init__(self, port: int, agent: str = "", path: str = "/api/generate") -> None:
        self._port, self._agent, self._path = port, agent, path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, whatever is under way."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def send(self, body: bytes) -> asyncio.StreamReader:
        """Ask, and do not wait."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(head(len(body), self._agent, self._path) + body)
        await writer.drain()
        return reader

    async def ask(self, body: bytes) -> Answer:
        """Ask, and take the answer."""
        began = time.monotonic()
        status, first = 0, float("inf")
        pieces: list[tuple[float, bytes]] = []
        try:
            async with asyncio.timeout(PATIENCE):
                reader = await self.send(body)
                text = (await reader.readuntil(b"\r\n\r\n")).lower()
                status = int(text.split(b" ", 2)[1])
                size = 0
                while not _ended(text, size, pieces[-2:]):
                    data = await reader.read(1 << 16)
                    if not data:
                        raise ConnectionError
                    first = min(first, time.monotonic() - began)
                    pieces.append((time.time(), data))
                    size += len(data)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return Answer(status, first, pieces, whole=False)
        return Answer(status, first, pieces, whole=True)


def _ended(text: bytes, size: int, last: list[tuple[float, bytes]]) -> bool:
    """Whether all of an answer is here, whose head is ``text`` in small letters."""
    if b"transfer-encoding: chunked" in text:
        return b"".join(data for _, data in last).endswith(b"0\r\n\r\n")
    return size >= int(text.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
