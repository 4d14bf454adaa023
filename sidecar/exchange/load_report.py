"""What an inbound sidecar says of its load with each answer, to sidecars that ask for it.

Who asks sends ``x-sidecar-load`` with the request. The answer has ORCA's field in its text form with named metrics, the
shortest one, which needs no parser. It is one line::

    endpoint-load-metrics: TEXT named_metrics.sidecar_in_flight=3,named_metrics.sidecar_latency_ms=12.5

The app's own field of that name is another line, and stays.
"""

from __future__ import annotations

import re
import time
from math import exp
from typing import TYPE_CHECKING, Final

from sidecar.endpoints.load import Report
from sidecar.resilience.backoff import parse_retry_after

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request

#: The field that asks.
ASK: Final = b"x-sidecar-load"
FIELD: Final = b"endpoint-load-metrics"
#: How the value of a line of ours begins.
BEGIN: Final = b"TEXT named_metrics.sidecar_"
_READ: Final = re.compile(
    rb"TEXT named_metrics\.sidecar_in_flight=([0-9]{1,7}), ?"
    rb"named_metrics\.sidecar_latency_ms=([0-9]{1,7})(?:\.([0-9]))?[0-9]{0,9}"
)
#: The longest latency that is believed, in seconds.
LONGEST: Final = 600.0
#: Seconds in which a latency fades out of what is reported.
DECAY: Final = 1.0
#: Statuses that may come with the time for which to leave the endpoint alone.
_WAIT: Final = (429, 503)


class Reporter:
    """The latency of one inbound port lately: an average that fades with time."""

    __slots__ = ("_at", "_latency")

    def __init__(self) -> None:
        self._latency = 0.0
        self._at = -1.0

    def report(self, active: int, seconds: float, now: float) -> bytes:
        """Take in that an answer took so long; the line's value then, with so many requests in flight."""
        if self._at < 0:
            self._latency = seconds
        else:
            weight = exp((self._at - now) / DECAY)
            self._latency = self._latency * weight + seconds * (1.0 - weight)
        self._at = now
        return b"TEXT named_metrics.sidecar_in_flight=%d,named_metrics.sidecar_latency_ms=%.1f" % (
            active,
            min(self._latency, LONGEST) * 1000.0,
        )


def read(value: bytes) -> Report | None:
    """The report in such a value, which a peer has sent; None: it is none."""
    found = _READ.fullmatch(value)
    if found is None:
        return None
    flying, whole, tenths = found.groups()
    return Report(int(flying), min((int(whole) + int(tenths or b"0") / 10.0) / 1000.0, LONGEST))


def heard(x: Request, attempt: Attempt, head: ResponseHead) -> None:
    """Tell those who want to know that an answer's head has come: the watchers of the cluster, the balancer for how
    long to leave the endpoint alone, and the sidecar that has asked for the load."""
    cluster = x.cluster
    if cluster.watchers:
        x.tell(attempt, head.status)
        told = head.fields.get(b"retry-after") if head.status in _WAIT else None
        if told is not None:
            seconds = parse_retry_after(told, time.time())
            if seconds is not None:
                cluster.balancer.asked_to_wait(attempt.endpoint, seconds)
    listener = x.listener
    if x.head.asks_load and listener.stats.direction == "inbound":  # an app's own word for it does not count
        now = listener.clock()
        head.add(FIELD, listener.reporter.report(listener.stats.active, now - x.started, now))
