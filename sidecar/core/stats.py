"""Counters of the data plane: plain integers that the hot path adds to, read at scrape time.

prometheus_client costs 2 to 7 µs per observation; an attribute or dictionary increment costs a tenth of one. So the
data plane counts here, and :mod:`sidecar.telemetry.metrics` turns these objects into Prometheus families when, and
only when, somebody asks. Every dictionary key comes from a closed set, so nothing here grows with what a peer sends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

#: Upper bounds of the latency buckets, seconds. 0.2 and 0.5 are limits in the reports, the rest is a 1-2.5-5 series.
BUCKETS: Final[tuple[float, ...]] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

#: The same for what takes minutes: models that are loaded, and what waits for them.
LONG_BUCKETS: Final[tuple[float, ...]] = (
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip

#: Statuses that get a label of their own (IANA's, 0 for none, and 499); of others the class counts, from 1 to 9.
STATUSES: Final = frozenset({0, 499, *map(int, HTTPStatus)})
#: Methods that get a label of their own; all others are counted as ``other``.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"})
#: The most models of an upstream that are counted apart: clients name them.
MAX_MODELS: Final = 50
#: The most reasons for another try that are counted apart: filters of other packages have reasons of their own.
MAX_REASONS: Final = 50


def code_label(code: int) -> str:
    """How a key of :attr:`ListenerStats.requests` is shown: a status, or a class such as ``2xx``."""
    return f"{code}xx" if 0 < code < 10 else str(code)


#: An observed value and the sampled trace that it is of: trace id, value, Unix time.
Exemplar = tuple[str, float, float]


class Histogram:
    """Counts per bucket (not cumulative; the last one is above every bound) and the sum of what was observed.
    ``exemplars`` has the newest one of a bucket, by its number, where there is one."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> int:
        """Count one value; the number of its bucket."""
        bucket = 0
        for bound in self.bounds:  # it is mostly one of the first: a call of bisect costs more
            if value <= bound:
                break
            bucket += 1
        self.counts[bucket] += 1
        self.total += value
        return bucket

    def observe_in(self, bucket: int, value: float) -> None:
        """Count one value whose bucket is known."""
        self.counts[bucket] += 1
        self.total += value

    def exemplify(self, value: float, trace_id: str, at: float) -> None:
        """Remember which trace a value was of. :meth:`observe` counts it."""
        self.exemplars[bisect_left(self.bounds, value)] = (trace_id, value, at)

    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """The ``q`` quantile (0 to 1), interpolated within its bucket; 0 when nothing was observed."""
        wanted = q * self.count()
        seen = 0
        lower = 0.0
        for bound, n in zip(self.bounds, self.counts, strict=False):
            if n and seen + n >= wanted:
                return lower + (bound - lower) * (wanted - seen) / n
            seen += n
            lower = bound
        return lower if seen < wanted else 0.0


class Tally:
    """A number that goes up."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class QueueStats:
    """What the queue of one listener's requests counted."""

    __slots__ = ("bytes", "outcomes", "requests")

    def __init__(self) -> None:
        #: What is stored and has no outcome yet.
        self.requests = 0
        self.bytes = 0
        #: What became of requests: queued, repeated (known by its key already), delivered, failed, expired, refused
        #: (there was no room, or the disk did not take it), unknown (the disk failed in the middle), tried (not
        #: delivered, and to be tried again).
        self.outcomes: defaultdict[str, int] = defaultdict(int)


class FilterStats:
    """What one filter of a listener counted, now or before. ``counters``: the help text of each; ``prefix`` is that of
    the metrics' names. ``view``: what it shows of itself at present; ``None``: it is no longer in use. ``failures``: by
    hook, how often a filter of another package has raised."""

    __slots__ = ("counters", "counts", "failures", "prefix", "view")

    def __init__(self, counters: dict[str, str], prefix: str) -> None:
        self.counters = counters
        self.counts: dict[str, int] = dict.fromkeys(counters, 0)
        self.prefix = prefix
        self.view: Callable[[], dict[str, Any]] | None = None
        self.failures: dict[str, int] = {}


class ModelStats:
    """What was counted of one model: seconds that requests for it waited for a slot, and from a try's begin to an
    answer's first byte; pieces of its answers; their tokens and the seconds in which these were made, as far as
    answers say so."""

    __slots__ = ("chunks", "first_byte", "queued", "seconds", "tokens")

    def __init__(self) -> None:
        self.queued = Histogram(LONG_BUCKETS)
        self.first_byte = Histogram(LONG_BUCKETS)
        self.chunks = 0
        self.tokens = 0
        self.seconds = 0.0


class LlmStats:
    """What was counted of an upstream's models: ``slots`` there are, ``used`` and ``waiting`` for one. Beyond
    :data:`MAX_MODELS` different ones it is counted for ``other``."""

    __slots__ = ("models", "slots", "used", "waiting")

    def __init__(self) -> None:
        self.slots = 0
        self.used = 0
        self.waiting = 0
        self.models: dict[str, ModelStats] = {}

    def of(self, model: str) -> ModelStats:
        """What is counted of that model."""
        name = model or "unknown"
        found = self.models.get(name)
        if found is None:
            if len(self.models) >= MAX_MODELS:
                name = "other"
            found = self.models.setdefault(name, ModelStats())
        return found


class ListenerStats:
    """What one listener counted. ``direction`` is ``inbound`` or ``outbound``; ``upstream`` is the upstream's name,
    for inbound that of the service. For TCP an exchange is a connection and there are no methods and codes."""

    __slots__ = (
        "_shown_in", "_shown_out", "_tallies", "active", "bytes_in", "bytes_out", "cache", "client_connections",
        "connect_failures", "direction", "duration", "fallbacks", "faults", "filters", "first_byte", "hedges",
        "limit", "llm", "mirrored", "peer_errors", "pending", "protocol", "queue", "rejected", "retries",
        "retry_budget", "shed", "suppressed", "tunnels", "upstream", "upstream_active", "upstream_idle", "waiting",
    )  # fmt: skip

    def __init__(self, direction: str, upstream: str, protocol: str = "http") -> None:
        self.direction = direction
        self.upstream = upstream
        self.protocol = protocol
        self._tallies: dict[tuple[str, int], Tally] = {}
        #: Seconds from the head's arrival to the exchange's end, and to the beginning of its answer. Of what has had a
        #: try: that the sidecar refuses at once says nothing about how long answers take.
        self.duration = Histogram()
        self.first_byte = Histogram()
        #: Exchanges under way (waiting ones included).
        self.active = 0
        #: The most exchanges at once that the port's own bulkhead allows; 0: any number.
        self.limit = 0
        #: By priority, what bulkheads have shed that know priorities or find their limit.
        self.shed: defaultdict[str, int] = defaultdict(int)
        #: Exchanges waiting in a bulkhead's queue.
        self.pending = 0
        #: Exchanges waiting for the upstream to come back.
        self.waiting = 0
        #: The number of a fallback's step → answers that came from it.
        self.fallbacks: defaultdict[int, int] = defaultdict(int)
        #: What was done to exchanges on purpose (delay, abort, reset, throttle) → how often.
        self.faults: defaultdict[str, int] = defaultdict(int)
        #: What the cache did with requests: hit, miss, revalidated, collapsed, stale, bypass → how often.
        self.cache: defaultdict[str, int] = defaultdict(int)
        #: Why a try was repeated (connect, reset, timeout, or a status) → how often.
        self.retries: defaultdict[str, int] = defaultdict(int)
        #: Why a try that could have been repeated was not → how often; and what there is left to repeat tries with.
        self.suppressed: defaultdict[str, int] = defaultdict(int)
        #: What came of attempts that began beside another one → how often.
        self.hedges: defaultdict[str, int] = defaultdict(int)
        #: What became of copies for another upstream → how often.
        self.mirrored: defaultdict[str, int] = defaultdict(int)
        #: Of an upstream that runs language models.
        self.llm: LlmStats | None = None
        self.retry_budget: Callable[[], float] | None = None
        #: The contract's error codes → answers that the sidecar gave itself.
        self.rejected: defaultdict[str, int] = defaultdict(int)
        #: Why connections could not be made → how often; the cluster counts them.
        self.connect_failures: dict[str, int] = {}
        #: The codes of peer sidecars that answered in place of their app → how often.
        self.peer_errors: defaultdict[str, int] = defaultdict(int)
        #: Body and tunnel bytes, from the client and to the client. What a reset destroyed is taken back from them.
        self.bytes_in = 0
        self.bytes_out = 0
        self._shown_in = self._shown_out = 0
        #: Open connections: accepted ones; upstream ones in use and unused; upgraded or TCP pairs.
        self.client_connections = 0
        #: Where requests are queued.
        self.queue: QueueStats | None = None
        #: Of filters that declare what they count, by name.
        self.filters: dict[str, FilterStats] = {}
        self.upstream_active = 0
        self.upstream_idle = 0
        self.tunnels = 0

    def tally(self, method: str, status: int) -> Tally:
        """What counts exchanges with that method and status: of :data:`METHODS` and :data:`STATUSES`, or ``other``
        and the status's class. To keep it is cheaper than to look it up for each exchange."""
        found = self._tallies.get((method, status))
        return found if found is not None else self._tallies.setdefault((method, status), Tally())

    @property
    def requests(self) -> defaultdict[tuple[str, int], int]:
        """(method, status code or class) → finished exchanges. 499: the client left before it had all of its answer."""
        found = {key: tally.n for key, tally in list(self._tallies.items()) if tally.n}
        return defaultdict(int, found)

    def retried(self, reason: str) -> None:
        """A try is repeated; beyond :data:`MAX_REASONS` different reasons, it counts as ``other``."""
        retries = self.retries
        retries[reason if reason in retries or len(retries) < MAX_REASONS else "other"] += 1

    def passed(self) -> tuple[int, int]:
        """:attr:`bytes_in` and :attr:`bytes_out` as counters that never fall, as Prometheus needs them."""
        self._shown_in = max(self._shown_in, self.bytes_in)
        self._shown_out = max(self._shown_out, self.bytes_out)
        return self._shown_in, self._shown_out


def counted(stats: ListenerStats) -> tuple[int, int, list[int]]:
    """How many exchanges have ended so far, how many of them badly (a status from 500 on, or a connection's 5), and how
    long all took, per bucket."""
    requests = stats.requests
    return (
        sum(requests.values()),
        sum([n for (_, code), n in requests.items() if code >= 500 or code == 5]),
        list(stats.duration.counts),
    )
