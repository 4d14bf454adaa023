"""The request of a health check: a GET of a few lines over asyncio's streams, and what its answer says.

An HTTP client library would cost every sidecar more memory than the rest of its control plane, and pools, redirects and
cookies are what a check must not have. All that is read is bounded, and what is no HTTP/1 is refused.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from sidecar.core.health import Health
from sidecar.core.text import printable
from sidecar.net.dial import connect

#: The longest line of an answer's head, and the most of a body that is read, bytes.
MAX_LINE: Final = 8192
MAX_BODY: Final = 65536
#: Lines of all heads of one answer together, interim ones (1xx) included.
MAX_LINES: Final = 256
#: Seconds spent on reading the body: mostly it says nothing more, and reading it spares the app a broken pipe.
BODY_TIME: Final = 0.5

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: .*)?\r?\n", re.DOTALL)
#: Words for a state in the body of an answer: ours, and those of draft-inadarei-api-health-check.
_WORDS: Final = {
    "warning": "warning", "warn": "warning", "unhealthy": "unhealthy", "fail": "unhealthy",
}  # fmt: skip
#: Things that a deep check finds unwell and that are named.
MOST_ILL: Final = 5
#: What a sidecar answers in place of its app that is well, and has too much to do.
_BUSY: Final = frozenset({b"overloaded", b"rate_limited"})


@dataclass(frozen=True, slots=True)
class Answered:
    """A status, the fields of the head by their names in lower case, and what was read of the body."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes


async def get(addresses: Sequence[tuple[str, int]], path: str, host: str) -> Answered:
    """Ask whichever of the addresses is the quickest, for as long as the caller allows. Raises OSError, EOFError, or
    ValueError when the answer is not HTTP/1."""
    reader, writer = await _open(addresses)
    try:
        # Whatever is written in the configuration, the target stays on its line.
        target = quote(path, safe="/:?#[]@!$&'()*+,;=%-._~")
        writer.write(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sidecar-health\r\nAccept: */*\r\n"
            "Connection: close\r\n\r\n".encode("ascii")
        )
        status, fields = await _head(reader)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIME):
                await _read(reader, _size(fields), body)
        except (TimeoutError, OSError):
            pass
    finally:
        writer.close()
    return Answered(status, fields, bytes(body))


async def accepts(addresses: Sequence[tuple[str, int]]) -> None:
    """Connect, and close at once. Raises OSError."""
    (await _open(addresses))[1].close()


def what(path: str) -> str:
    """How the request is called in results. A query may hold a secret."""
    return f"GET {path.partition('?')[0]}"


def by_status(status: int, what: str) -> Health:
    """2xx is healthy, 429 a warning, everything else (redirects too) unhealthy, as Consul judges its own checks."""
    if 200 <= status < 300:
        return Health("healthy", f"{what}: {status}")
    if status == 429:
        return Health("warning", f"{what}: {status}")
    return Health("unhealthy", f"{what}: {status}{', redirects are not followed' if 300 <= status < 400 else ''}")


def by_word(answer: Answered, what: str) -> Health:
    """The same, but a service that says of itself that it is worse is believed: by the ``status`` of a JSON body. A
    sidecar in front of it that has too much to do is a warning: without its traffic, the others would have more."""
    found = by_status(answer.status, what)
    if found.status == "unhealthy" and answer.fields.get(b"x-sidecar-error", b"") in _BUSY:
        return Health("warning", f"{what}: {answer.status}, its sidecar has too much to do")
    word = _word(answer)
    said = _WORDS.get(word, "")
    if said == "unhealthy" or (said == "warning" and found.status != "unhealthy"):
        return Health(said, f"{what}: {answer.status}, and says {word}")
    return found


def ill(answer: Answered) -> list[str]:
    """The names of what a sidecar's deep check finds unwell: the first :data:`MOST_ILL`, made safe to show."""
    found = said(answer)
    parts = found.get("dependencies")
    named = {"its app": found.get("app"), **(parts if isinstance(parts, dict) else {})}
    bad = [name for name, it in named.items() if isinstance(it, dict) and it.get("status") in ("warning", "unhealthy")]
    return [printable(name, 64) for name in bad[:MOST_ILL]]


def _word(answer: Answered) -> str:
    """What the body says of the state; empty: nothing that can be read."""
    status = said(answer).get("status")
    return status.strip().lower() if isinstance(status, str) and len(status) <= 32 else ""


def said(answer: Answered) -> dict[str, Any]:
    """The JSON object that the body is; empty: it is none."""
    body = answer.body
    if answer.fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = _unchunked(body)
    if not body.lstrip().startswith(b"{"):
        return {}
    try:
        found: dict[str, Any] = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found


def _unchunked(data: bytes) -> bytes:
    """A body without its chunks' sizes (RFC 9112, section 7.1); what is malformed ends it."""
    found = bytearray()
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        size = data[at:end].partition(b";")[0].strip() if end >= 0 else b""
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size) or int(size, 16) == 0:
            return bytes(found)
        found += data[end + 2 : end + 2 + int(size, 16)]
        at = end + 4 + int(size, 16)


async def _open(addresses: Sequence[tuple[str, int]]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(sock=await connect(addresses), limit=MAX_LINE)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    """The status and the fields. Raises ValueError when it is not HTTP/1."""
    status = 0
    fields: dict[bytes, bytes] = {}
    for _ in range(MAX_LINES):
        line = await reader.readline()  # ValueError when longer than MAX_LINE
        if not line.endswith(b"\n"):
            raise EOFError("closed before the head of an answer was complete")
        if not status:
            match = _STATUS_LINE.fullmatch(line)
            if match is None:
                raise ValueError("the answer is not HTTP/1")
            status = int(match[1])
        elif line in (b"\r\n", b"\n"):
            if status >= 200:
                return status, fields
            status = 0  # an interim answer (RFC 9110 §15.2): the final one follows
            fields.clear()
        else:
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
    raise ValueError("the head of the answer is too long")


def _size(fields: dict[bytes, bytes]) -> int:
    """Bytes of the body that are read."""
    length = fields.get(b"content-length", b"")
    return min(int(length), MAX_BODY) if length.isdigit() and len(length) < 20 else MAX_BODY


async def _read(reader: asyncio.StreamReader, size: int, into: bytearray) -> None:
    while len(into) < size:
        data = await reader.read(min(size - len(into), MAX_LINE))
        if not data:
            return
        into += data
