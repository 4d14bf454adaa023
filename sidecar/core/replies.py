"""Every answer that the sidecar gives itself: the codes, their statuses, and the bytes on the wire.

:data:`STATUS` is the one map from a code to its status, so the error table of the documentation can be checked against
it. Filters that have codes of their own declare them there.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Final

import orjson

#: The contract's error table, without what filters declare.
STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "headers_too_large": 431,
    "body_too_large": 413,
    "no_endpoints": 503,
    "overloaded": 503,
    "draining": 503,
    "local_shortage": 503,
    "outcome_unknown": 503,
    "connect_failed": 502,
    "upstream_reset": 502,
    "bad_upstream": 502,
    "connect_timeout": 504,
    "timeout": 504,
    "filter_failed": 500,
}

#: Codes of a peer sidecar that mean: the request never reached the app, so any method may go elsewhere at once.
NOT_DELIVERED: Final = frozenset(
    {b"draining", b"connect_failed", b"connect_timeout", b"no_endpoints", b"local_shortage"}
)


_PHRASES: Final[dict[int, str]] = {int(it): it.phrase for it in HTTPStatus}


def _line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\ncontent-type: application/json\r\n".encode()


_LINE: Final[dict[int, bytes]] = {status: _line(status) for status in set(STATUS.values())}


def declare(code: str, status: int) -> None:
    """Enter a filter's code. Raises :class:`ValueError` when the code has another status already, or the status is no
    error's."""
    if STATUS.get(code, status) != status:
        raise ValueError(f"the code {code} has the status {STATUS[code]} already, not {status}")
    if status not in _LINE:
        if not 400 <= status < 600 or status not in set(HTTPStatus):
            raise ValueError(f"{status}, of the code {code}, is not the status of an error")
        _LINE[status] = _line(status)
    STATUS[code] = status


class Reply:
    """A filter's verdict "answer this yourself": a code of :data:`STATUS`, a sentence for a person, and for some
    codes the seconds after which trying again makes sense. ``status`` is that of the code, unless it is said."""

    __slots__ = ("code", "given", "message", "retry_after")

    def __init__(self, code: str, message: str, retry_after: float | None = None, status: int = 0) -> None:
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.given = status

    @property
    def status(self) -> int:
        """The status of the answer."""
        return self.given or STATUS[self.code]

    def __repr__(self) -> str:
        return f"Reply({self.code!r}, {self.message!r})"


class ProtocolError(Exception):
    """A peer's message that is not valid HTTP/1.1, is ambiguous, or is over a limit; ``code`` is the answer's."""

    def __init__(self, message: str, code: str = "bad_request") -> None:
        super().__init__(message)
        self.code = code


def known(code: bytes) -> str:
    """A code that a peer sidecar gave; ``other`` for one that nobody here knows, as what peers send must not become
    labels without a bound."""
    text = code.decode("latin-1")
    return text if text in STATUS else "other"


def render(
    reply: Reply, upstream: str, request_id: str, *, close: bool, head_only: bool = False, line: bytes = b""
) -> bytes:
    """The whole answer; ``line`` is one more of its head. ``Retry-After`` is rounded up to seconds (RFC 9110
    §10.2.3), so that nobody is early."""
    body = orjson.dumps({"error": reply.code, "message": reply.message, "upstream": upstream, "request_id": request_id})
    lines = [
        _LINE.get(reply.status) or _line(reply.status),
        b"content-length: %d\r\nx-sidecar-error: %b\r\n" % (len(body), reply.code.encode()),
    ]
    lines.append(line)
    if request_id:
        lines.append(b"x-request-id: %b\r\n" % request_id.encode("latin-1"))
    if reply.retry_after is not None:
        lines.append(b"retry-after: %d\r\n" % max(1, math.ceil(reply.retry_after)))
    if close:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    if not head_only:
        lines.append(body)
    return b"".join(lines)
