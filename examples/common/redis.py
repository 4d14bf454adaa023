"""Redis at a port of 127.0.0.1: as much of it as a service that keeps a few records needs.

A connection for each question: so there is none to look after when Redis restarts, and the sidecar's ``wait`` has each
question wait for it in its own right.
"""

from __future__ import annotations

import asyncio
from pathlib import Path


class RedisError(Exception):
    """Redis refuses the command."""


class Redis:
    def __init__(self, port: int, password: Path | None = None, timeout: float = 20.0) -> None:
        self._port = port
        self._password = password
        self._timeout = timeout

    async def ask(self, *words: str) -> object:
        """The reply to a command: None, a number, a text, or a list of such. Raises OSError (TimeoutError among them)
        when nothing answers, and RedisError."""
        async with asyncio.timeout(self._timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                if self._password is not None:
                    writer.write(_command("AUTH", self._password.read_text().strip()))
                    await _reply(reader)
                writer.write(_command(*words))
                return await _reply(reader)
            finally:
                writer.close()


def _command(*words: str) -> bytes:
    given = [word.encode() for word in words]
    return b"".join([b"*%d\r\n" % len(given), *(b"$%d\r\n%b\r\n" % (len(it), it) for it in given)])


async def _reply(reader: asyncio.StreamReader) -> object:
    line = await reader.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("Redis has closed the connection")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise RedisError(text)
    if kind == b":":
        return int(text)
    if kind == b"$":
        return None if text == "-1" else await _text(reader, int(text))
    if kind == b"*":
        return [await _reply(reader) for _ in range(int(text))]
    return text


async def _text(reader: asyncio.StreamReader, length: int) -> str:
    try:
        return (await reader.readexactly(length + 2))[:-2].decode()
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("Redis has closed the connection") from error
