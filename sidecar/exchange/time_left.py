"""The deadline travels: each try says in ``x-sidecar-deadline`` how many milliseconds it has, and whoever gets that has
no more.

A hop that does not know goes on with work that nobody waits for any more. A deadline can only take time away, so it is
believed whoever says it. It is relative, as clocks differ; gRPC's ``grpc-timeout`` does the same.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange

FIELD: Final = b"x-sidecar-deadline"
#: Digits that are read, as in ``grpc-timeout``: a day and some hours. More say nothing.
_LONGEST: Final = 8
#: Lines that were written before, each with a head's end, by milliseconds; and how many are kept.
LINES: Final[dict[int, bytes]] = {}
_MOST: Final = 1000
#: Seconds, and the share of the usual time, below which a caller's deadline is too short to blame anybody.
_SHORT: Final = 1.0
_LITTLE: Final = 0.5


def granted(value: bytes) -> float:
    """Return the seconds that its caller leaves for a request, from the field's value; inf: that cannot be read."""
    value = value.strip(b" \t")
    return int(value) / 1000 if value.isdigit() and len(value) <= _LONGEST else inf


def in_haste(x: Exchange) -> bool:
    """Whether its caller left so little time that a try which took longer says nothing about its endpoint. Else who
    sends very short deadlines could have it taken away from all others. Of a chain that is patient, no time is too long
    for an endpoint."""
    return x.chain.patient or x.granted < min(_SHORT, _LITTLE * min(x.chain.timeout.request, x.chain.patience))


def with_time(raw: bytes, seconds: float) -> bytes:
    """A head, as HTTP/1.1 writes it, for a try that has so many seconds. What is under way has a millisecond."""
    left = int(seconds * 1000)
    return raw[:-2] + (LINES.get(left) or line_of(left))


def line_of(left: int) -> bytes:
    """The line for so many milliseconds, and a head's end. Most tries have the same time, less a moment."""
    if len(LINES) >= _MOST:
        LINES.clear()
    LINES[left] = end = b"%b: %d\r\n\r\n" % (FIELD, max(left, 1))
    return end
