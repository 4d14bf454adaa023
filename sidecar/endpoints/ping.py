"""Asks an HTTP server whether it answers, with the one request that is meant for that: ``OPTIONS *``, a "ping" or
"no-op" (RFC 9110, section 9.3.7). Any answer is one, whatever its status."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

#: Bytes of an answer's head that are read, at most.
MOST: Final = 16 * 1024

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: [^\r\n]*)?")


class Pong(NamedTuple):
    """An answer: its status, and its fields by their names in lower case."""

    status: int
    fields: Mapping[str, str]


class NoAnswer(Exception):
    """There is a connection and no answer; the text says what came in its place."""


async def ping(host: str, port: int, name: str, line: str = "OPTIONS *") -> Pong:
    """Connect and ask, as for the host ``name``; for as long as the caller allows. Raises :class:`OSError` where there
    is no connection, and :class:`NoAnswer`."""
    reader, writer = await asyncio.open_connection(host, port, limit=MOST)
    try:
        writer.write(
            f"{line} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: sidecar-diagnose\r\nConnection: close\r\n\r\n".encode()
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            what = "closed the connection in the middle of an answer" if error.partial else "closed the connection"
            raise NoAnswer(f"it took the request and {what}") from None
        except asyncio.LimitOverrunError:
            raise NoAnswer("its answer is not HTTP/1.1") from None
        except ConnectionError as error:
            raise NoAnswer("it took the request and reset the connection") from error
    finally:
        writer.close()
    first, _, rest = head.partition(b"\r\n")
    match = _STATUS.fullmatch(first)
    if match is None:
        raise NoAnswer("its answer is not HTTP/1.1")
    pairs = (line.partition(":") for line in rest.decode("latin-1").split("\r\n"))
    return Pong(int(match[1]), {name.strip().lower(): value.strip() for name, _, value in pairs if name})
