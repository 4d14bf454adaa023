"""What an answer says of itself at its end: how many tokens it has, and in what time they were made."""

from __future__ import annotations

import re
from typing import Final

#: Bytes at an answer's end in which that stands.
TAIL: Final = 2048
#: Ollama's own API, and OpenAI's (of which only some servers say the time).
_TOKENS: Final = re.compile(rb'"(?:eval_count|completion_tokens)"\s{0,4}:\s{0,4}([0-9]{1,9})')
_NANOSECONDS: Final = re.compile(rb'"eval_duration"\s{0,4}:\s{0,4}([0-9]{1,15})')


def usage_of(tail: bytes) -> tuple[int, float]:
    """Return the tokens of an answer and the seconds that the server took to make them, from its last bytes; 0 for what
    is not said."""
    tokens = _last(_TOKENS, tail)
    return tokens, _last(_NANOSECONDS, tail) / 1e9 if tokens else 0.0


def _last(pattern: re.Pattern[bytes], tail: bytes) -> int:
    found = pattern.findall(tail)
    return int(found[-1]) if found else 0


class Pieces:
    """Counts the pieces of an answer as they pass: events of an event stream, lines of JSON, else what came at once."""

    __slots__ = ("_border", "_cr", "_events", "_last")

    def __init__(self, kind: bytes) -> None:
        self._events = kind.startswith(b"text/event-stream")
        self._border = b"\n\n" if self._events else b"}\n" if kind.startswith(b"application/x-ndjson") else b""
        self._last = b""
        #: What has come of an event stream ends with CR, behind which LF ends no other line.
        self._cr = False

    def take(self, data: bytes) -> int:
        """More has come (of an event stream: of its text); return how many pieces ended in it."""
        border = self._border
        if not border:
            return 1
        if self._events and data:
            data = self._lines(data)
        data = self._last + data
        number = data.count(border)
        # Half a border may have come; a whole one has been counted.
        self._last = data[-1:] if not data.endswith(border) else b""
        return number

    def _lines(self, data: bytes) -> bytes:
        """The same with LF in place of what else ends a line, CR LF and CR (HTML Living Standard §9.2.5)."""
        cr, self._cr = self._cr, data.endswith(b"\r")
        if cr and data.startswith(b"\n"):
            data = data[1:]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data
