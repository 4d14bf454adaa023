"""A finished exchange of HTTP as spans, by OpenTelemetry's conventions: itself, and each of its tries.

Inbound it is a ``server`` span. Outbound it is an ``internal`` one, the sidecar's work, and below it each try is a
``client`` span; its id is in the ``traceparent`` that the try was sent with. Only what is recorded comes here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sidecar.core import conventions as names
from sidecar.core.records import LONGEST_TEXT, SpanRecord
from sidecar.core.stats import METHODS
from sidecar.exchange.attempt import CONNECT, HEDGED, MALFORMED, RACE, RESET, TIMEOUT, Attempt

if TYPE_CHECKING:
    from sidecar.core.trace import Trace
    from sidecar.exchange.request import Request

_CODES: Final = {
    CONNECT: "connect_failed",
    TIMEOUT: "timeout",
    RESET: "upstream_reset",
    RACE: "upstream_reset",
    MALFORMED: "bad_upstream",
}
_DEFAULT_PORT: Final = 80


def spans(x: Request, trace: Trace, inbound: bool) -> Iterator[SpanRecord]:
    """The spans of an exchange that is about to end. ``trace.tries`` has the ids of its tries, in their order."""
    clock = Clock(x)
    if not inbound:
        if x.attempts or x.tried:
            yield from _tries(x, trace, clock)
        elif trace.tries:
            # No try used it, but whoever stored the request has it in there: it is this span's then.
            trace.span_id = trace.tries[0]
    method = x.method if x.method in METHODS else names.OTHER
    name = method if method is not names.OTHER else names.OTHER_METHOD_NAME
    attributes = _common(x, method)
    attributes[names.URL_PATH] = _clipped(x.head.path)
    attributes[names.URL_SCHEME] = "http"
    _say_server(x, inbound, attributes)
    attributes[names.UPSTREAM] = x.listener.name
    attributes[names.ATTEMPTS] = x.attempts
    attributes[names.REQUEST_ID] = x.request_id[:LONGEST_TEXT]
    if x.status:
        attributes[names.STATUS_CODE] = x.status
    if x.error:
        attributes[names.ERROR] = x.error
    ok = x.status < 500 and (not x.error or 400 <= x.status < 500)
    if not ok:
        attributes[names.ERROR_TYPE] = x.error or str(x.status)
    if inbound:
        attributes[names.CLIENT_ADDRESS] = x.client_ip
        attributes[names.PROTOCOL_VERSION] = f"1.{getattr(x.head, 'version', 1)}"
        if x.chain.route:
            attributes[names.ROUTE] = x.chain.route
            name = f"{name} {x.chain.route}"
    else:
        name = f"{name} {x.listener.name}"
    kind = "server" if inbound else "internal"
    yield SpanRecord(
        trace.trace_id, trace.span_id, trace.parent_id, name[:LONGEST_TEXT], kind, clock.at(x.started), clock.now_ns,
        attributes, ok,
    )  # fmt: skip


class Clock:
    """Times of the listener's clock as Unix time, by what both say now."""

    __slots__ = ("_now", "now_ns")

    def __init__(self, x: Request) -> None:
        self._now = x.listener.clock()
        self.now_ns = time.time_ns()

    def at(self, when: float) -> int:
        """In nanoseconds."""
        return self.now_ns - int((self._now - when) * 1e9)


def _began(attempt: Attempt) -> float:
    return attempt.began


def _tries(x: Request, trace: Trace, clock: Clock) -> Iterator[SpanRecord]:
    """A span for each try. One that went to another address of the same name, which was quicker, is the same try."""
    made = [it for it in (*x.tried, x.attempt) if it is not None and not it.moved]
    if x.rival is not None or len(made) > 1:
        made = sorted([*made, *([x.rival] if x.rival is not None else [])], key=_began)
    method = x.method if x.method in METHODS else names.OTHER
    for count, (attempt, span_id) in enumerate(zip(made, trace.tries, strict=False)):
        attributes = _common(x, method)
        _say_server(x, False, attributes)
        address = attributes.get(names.SERVER_ADDRESS, "")
        host = f"[{address}]" if ":" in str(address) else address
        attributes[names.URL_FULL] = f"http://{host}:{attributes[names.SERVER_PORT]}{_clipped(x.head.path)}"[
            :LONGEST_TEXT
        ]
        attributes[names.PEER_ADDRESS] = attempt.endpoint.host
        attributes[names.PEER_PORT] = attempt.endpoint.port
        attributes[names.PROTOCOL_VERSION] = "1.1"
        attributes[names.UPSTREAM] = x.listener.name
        if count:
            attributes[names.RESEND_COUNT] = count
        last = attempt is x.attempt or (x.attempt is None and attempt is made[-1])
        status = attempt.status
        if status:
            attributes[names.STATUS_CODE] = status
        error = _error(x, attempt, status, last)
        if error:
            attributes[names.ERROR_TYPE] = error
        if attempt.peer_error:
            attributes[names.PEER_ERROR] = attempt.peer_error
        if attempt.cause:
            attributes[names.CAUSE] = attempt.cause
        end = clock.now_ns if attempt is x.attempt or attempt is x.rival else clock.at(attempt.began + attempt.took)
        yield SpanRecord(
            trace.trace_id, span_id, trace.span_id, method if method is not names.OTHER else names.OTHER_METHOD_NAME,
            "client", clock.at(attempt.began), end, attributes, not error,
        )  # fmt: skip


def _error(x: Request, attempt: Attempt, status: int, last: bool) -> str:
    """What went wrong with a try, or nothing."""
    if attempt.failure == HEDGED:
        return ""
    if attempt.failure:
        if attempt.failure == CONNECT and attempt.cause == "timeout":
            return "connect_timeout"
        return _CODES.get(attempt.failure, names.OTHER)
    if last and x.error and status < 400:
        return x.error
    return str(status) if status >= 400 else ""


def _common(x: Request, method: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {names.METHOD: method}
    if method is names.OTHER:
        attributes[names.METHOD_ORIGINAL] = x.method[:LONGEST_TEXT]
    return attributes


def _say_server(x: Request, inbound: bool, attributes: dict[str, str | int]) -> None:
    """Whom the client meant: its Host. An app that dials the sidecar on its own host means the upstream."""
    host = (x.head.get(b"host") or b"").decode("latin-1")
    if host.startswith("["):
        address, _, port = host[1:].partition("]")
        port = port[1:]
    else:
        address, _, port = host.partition(":")
    if not inbound and (address in ("", "localhost", "::1") or address.startswith("127.")):
        address = x.listener.name
    if address:
        attributes[names.SERVER_ADDRESS] = address[:255]
        attributes[names.SERVER_PORT] = int(port) if port.isdigit() and len(port) < 6 else _DEFAULT_PORT


def _clipped(path: bytes) -> str:
    return path[:LONGEST_TEXT].decode("latin-1")
