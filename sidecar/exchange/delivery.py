"""A stored request that is sent to its upstream, as the queue sees it, which knows no protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

#: Says which stored request this is, so that one that comes twice can be recognised.
HEADER: Final = b"x-sidecar-queued"


class Stored(Protocol):
    """A request as it was stored: its head as HTTP/1.1 writes it, and who sent it."""

    id: str
    client: str
    request_id: str
    head: bytes
    body: bytes


class Result:
    """How a delivery ended. ``status`` 0: there was no exchange at all. ``error`` is our own code, or a peer sidecar's;
    ``ours``: the answer was not the upstream's. ``head`` is that of the answer without fields about framing, ``whole``:
    all of its ``body`` is there."""

    __slots__ = ("body", "error", "head", "message", "ours", "retry_after", "status", "whole")

    def __init__(self, status: int, error: str, ours: bool, message: str = "") -> None:
        self.status = status
        self.error = error
        self.ours = ours
        self.message = message
        self.head = b""
        self.body = b""
        self.whole = True
        #: As the answer's field says it; empty: it does not.
        self.retry_after = b""


#: Sends a request: the most of an answer's body that is kept, the seconds after which one that has not come whole is
#: not waited for any longer, and what is called with the result, once. What it returns breaks the delivery off.
Deliver = Callable[[Stored, int, float, Callable[[Result], None]], Callable[[], None]]
