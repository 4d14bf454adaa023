"""Hands finished exchanges to the access log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from sidecar.core.records import AccessLog as Log
from sidecar.core.records import AccessRecord, Try
from sidecar.core.trace import trace_of
from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.message import RequestHead


class AccessLog(Filter):
    """Last, when everything about the exchange is known. Only builds a tuple; the log's own thread formats it."""

    name: ClassVar[str] = "access_log"
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")

    def __init__(self, log: Log, http: bool) -> None:
        self._log = log
        self._http = http

    def on_end(self, x: Exchange) -> None:
        log = self._log
        if log.enabled_for(x.status, x.error) or (
            x.story is not None and fallback_of(x) and log.enabled_for(x.status, "fallback")
        ):
            log.record(_record(x))
        elif log.choosy:
            # An answer that was all there at once has just ended.
            began = (x.head_at or x.ended) if self._http else _stood(x)
            if log.picks(x.request_id, began - x.started):
                log.record(_record(x))
        if log.tap is not None:
            log.tap(_record(x))


def _stood(x: Exchange) -> float:
    """When a connection stood."""
    last = x.attempt
    return last.sent if last is not None and last.sent else x.ended


def _record(x: Exchange) -> AccessRecord:
    listener, started, now = x.listener, x.started, x.ended
    last = x.attempt or (x.tried[-1] if x.tried else None)
    head: RequestHead | None = getattr(x, "head", None)
    trace = x.trace or (trace_of(head.get(b"traceparent")) if head else None)
    began = sent = answered = -1.0
    kept = False
    if last is not None:
        began = last.began - started
        kept = last.kept
        if last.sent:
            sent = last.sent - started
        if x.head_at:
            answered = x.head_at - started
        elif last is x.attempt and last.status:
            answered = now - started
    return AccessRecord(
        time=time.time(),
        direction=listener.stats.direction,
        upstream=listener.name,
        method=head.method if head else listener.stats.protocol.upper(),
        target=head.target.partition(b"?")[0].decode("latin-1") if head else "",
        status=x.status,
        error=x.error or None,
        duration=now - started,
        bytes_in=x.bytes_in,
        bytes_out=x.bytes_out,
        endpoint=last.endpoint.address if last else None,
        attempts=x.attempts,
        client=x.client_ip,
        request_id=x.request_id,
        trace_id=trace.trace_id if trace else None,
        cause=_cause(x, last),
        peer_error=last.peer_error if last else "",
        span_id=x.trace.span_id if x.trace and x.trace.sampled else "",
        began=began,
        sent=sent,
        head=answered,
        kept=kept,
        tries=_tries(x, now) if x.tried else (),
        fallback=fallback_of(x),
        dialled=listener.redirected.get(getattr(x, "client", None), "") if listener.redirected else "",
    )


def fallback_of(x: Exchange) -> int:
    """The number of the fallback's step that has answered; 0: it was the upstream, or none."""
    if x.story is None:
        return 0
    return next((int(it.detail["step"]) for it in x.story if it.what == "fallback"), 0)


def _tries(x: Exchange, now: float) -> tuple[Try, ...]:
    """The attempts before the last one, and that one, if it is not among them."""
    started = x.started
    found = [_try(it, started, it.took) for it in x.tried]
    if x.attempt is not None:
        found.append(_try(x.attempt, started, now - x.attempt.began))
    return tuple(found)


def _try(it: Attempt, started: float, seconds: float) -> Try:
    return Try(it.endpoint.address, it.began - started, it.failure, it.cause, it.status, it.peer_error, seconds)


def _cause(x: Exchange, last: Attempt | None) -> str:
    """Why it failed, in one word, if that is known."""
    if x.error == "no_endpoints":
        return x.cluster.cause
    return last.cause if x.error and last is not None else ""
