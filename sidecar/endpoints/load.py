"""What is known of how busy and how quick an endpoint is."""

from __future__ import annotations

from math import exp
from typing import Final, NamedTuple

#: Seconds in which an estimate fades to 1/e of itself when nothing is heard, as in Finagle and Linkerd.
DECAY: Final = 10.0
#: Seconds: two endpoints that are both quicker than this count as equally quick.
FLOOR: Final = 0.001
#: The longest latency that is reported, and believed, in seconds; and those in which one fades out of a report.
LONGEST: Final = 600.0
FADES: Final = 1.0


class Report(NamedTuple):
    """What an endpoint's own sidecar says: requests in flight there, from everybody, and the seconds that answers have
    taken lately."""

    in_flight: int
    latency: float


class Load:
    """Of one endpoint: an estimate of the seconds to an answer's head, and the last report. Times are the cluster's
    clock's; below 0: never."""

    __slots__ = ("active_then", "ewma", "measured_at", "report", "reported_at")

    def __init__(self) -> None:
        self.ewma = 0.0
        self.measured_at = -1.0
        self.report: Report | None = None
        self.reported_at = -1.0
        #: What was under way from here when the report came: what has begun since is not in it.
        self.active_then = 0

    def measured(self, seconds: float, now: float) -> None:
        """Take in a time. The estimate is a peak EWMA: it goes up to a longer one at once, and down by and by."""
        if self.measured_at < 0:
            self.ewma = seconds
        else:
            weight = exp((self.measured_at - now) / DECAY)
            blend = self.ewma * weight + seconds * (1.0 - weight)
            self.ewma = seconds if seconds > blend else blend
        self.measured_at = now

    def seconds(self, now: float) -> float:
        """The estimate as it stands, at least :data:`FLOOR`: what was slow is tried again some time after."""
        faded = self.ewma * exp((self.measured_at - now) / DECAY)
        return faded if faded > FLOOR else FLOOR


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
            weight = exp((self._at - now) / FADES)
            self._latency = self._latency * weight + seconds * (1.0 - weight)
        self._at = now
        return b"TEXT named_metrics.sidecar_in_flight=%d,named_metrics.sidecar_latency_ms=%.1f" % (
            active,
            min(self._latency, LONGEST) * 1000.0,
        )
