"""Bodies as filters have seen them pass, whole and without their framing."""

from __future__ import annotations

from typing import Any

from sidecar.core.replies import ProtocolError
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.body import Body
from sidecar.http.h1.framing import CHUNKED


def can_tell(x: HttpExchange, head: Any) -> bool:
    """Whether what filters see of the body of the answer with that head will tell where it ends."""
    return bool(head.length >= 0 or (head.length == CHUNKED and x.version != 0))


def whole(length: int, body: bytes) -> bytes | None:
    """The body of an answer of that length, out of all that was seen of it; ``None``: that is not all of it."""
    if length != CHUNKED:
        return body if len(body) == length else None
    framing = Body(CHUNKED, decode=True, lenient=True)
    try:
        framing.feed(body)
    except ProtocolError:
        return None
    return framing.decoded() if framing.done else None
