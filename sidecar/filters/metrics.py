"""Counts finished exchanges."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from sidecar.core.stats import METHODS, STATUSES, ListenerStats, Tally
from sidecar.exchange.filter import Filter

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange


class Metrics(Filter):
    """One per listener; adds to its :class:`~sidecar.core.stats.ListenerStats`."""

    name: ClassVar[str] = "metrics"

    def __init__(self, stats: ListenerStats, wall: Callable[[], float] = time.time) -> None:
        self._stats = stats
        self._wall = wall
        #: What the last one was counted by: nearly always it is that of the next one, too.
        self._method = ""
        self._status = -1
        self._tally = Tally()

    def on_end(self, x: Exchange) -> None:
        stats = self._stats
        method = x.method
        status = x.status
        if method != self._method or status != self._status:
            self._method, self._status = method, status
            label = method if method in METHODS else "other"
            self._tally = stats.tally(label, status if status in STATUSES else status // 100)
        self._tally.n += 1
        if x.attempts:
            now = x.ended
            took = now - x.started
            bucket = stats.duration.observe(took)
            attempt = x.attempt
            if attempt is not None:
                attempt.endpoint.seconds += now - attempt.began
            if x.head_at:
                stats.first_byte.observe(x.head_at - x.started)
            elif attempt is not None and attempt.status:  # its answer has come all at once
                stats.first_byte.observe_in(bucket, took)
            trace = x.trace
            if trace is not None and trace.sampled:
                stats.duration.exemplify(took, trace.trace_id, self._wall())
        if x.error:
            stats.rejected[x.error] += 1


class ConnectionMetrics(Filter):
    """The same for TCP and AMQP, where an exchange is a connection: its method is the protocol, its code 200, or that
    of the error it ended with."""

    name: ClassVar[str] = "connection_metrics"
    protocols: ClassVar[tuple[str, ...]] = ("tcp", "amqp")

    def __init__(self, stats: ListenerStats) -> None:
        self._stats = stats
        self._method = stats.protocol.upper()

    def on_end(self, x: Exchange) -> None:
        stats = self._stats
        stats.tally(self._method, x.status).n += 1
        now = x.ended
        if x.attempts or not x.error:
            stats.duration.observe(now - x.started)
        attempt = x.attempt
        if attempt is not None:
            attempt.endpoint.seconds += now - attempt.began
        if x.error:
            stats.rejected[x.error] += 1
