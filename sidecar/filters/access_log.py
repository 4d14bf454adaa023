"""Hands finished exchanges to the access log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from sidecar.core.records import AccessLog as Log
from sidecar.core.records import AccessRecord
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

    def __init__(self, log: Log) -> None:
        self._log = log

    def on_end(self, x: Exchange) -> None:
        if not self._log.enabled_for(x.status, x.error):
            return
        listener = x.listener
        last = x.attempt or (x.tried[-1] if x.tried else None)
        head: RequestHead | None = getattr(x, "head", None)
        trace = x.trace or (trace_of(head.get(b"traceparent")) if head else None)
        self._log.record(
            AccessRecord(
                time=time.time(),
                direction=listener.stats.direction,
                upstream=listener.name,
                method=head.method if head else listener.stats.protocol.upper(),
                target=head.target.partition(b"?")[0].decode("latin-1") if head else "",
                status=x.status,
                error=x.error or None,
                duration=listener.clock() - x.started,
                bytes_in=x.bytes_in,
                bytes_out=x.bytes_out,
                endpoint=last.endpoint.address if last else None,
                attempts=x.attempts,
                client=x.client_ip,
                request_id=x.request_id,
                trace_id=trace.trace_id if trace else None,
                cause=_cause(x, last),
                peer_error=last.peer_error if last else "",
            )
        )


def _cause(x: Exchange, last: Attempt | None) -> str:
    """Why it failed, in one word, if that is known."""
    if x.error == "no_endpoints":
        return x.cluster.cause
    return last.cause if x.error and last is not None else ""
