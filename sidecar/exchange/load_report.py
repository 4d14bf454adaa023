"""What an inbound sidecar says of its load with each answer, to sidecars that ask for it.

Who asks sends ``x-sidecar-load`` with the request. The answer has ORCA's field in its text form with named metrics, the
shortest one, which needs no parser. It is one line::

    endpoint-load-metrics: TEXT named_metrics.sidecar_in_flight=3,named_metrics.sidecar_latency_ms=12.5

The app's own field of that name is another line, and stays.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from sidecar.endpoints.load import LONGEST, Report
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
#: Statuses that may come with the time for which to leave the endpoint alone.
_WAIT: Final = (429, 503)


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
        if head.status != 503 or not x.chain.patient:
            x.tell(attempt, head.status)
        told = head.fields.get(b"retry-after") if head.status in _WAIT else None
        if told is not None:
            seconds = parse_retry_after(told, time.time())
            if seconds is not None:
                cluster.balancer.asked_to_wait(attempt.endpoint, seconds)
    listener = x.listener
    if x.head.asks_load and listener.stats.direction == "inbound":  # an app's own word for it does not count
        now = listener.clock()
        active = listener.stats.pending
        for app in cluster.endpoints:
            active += app.active
        head.add(FIELD, listener.reporter.report(active, now - x.started, now))
