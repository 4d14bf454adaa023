"""Decides whether a try that went wrong is followed by another one, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from sidecar.config.containers import ListOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.policy import Policy
from sidecar.config.values import After, Boolean, Duration, Enum, Failure, Integer, Method, Rate, Share
from sidecar.core.methods import IDEMPOTENT
from sidecar.core.replies import NOT_DELIVERED
from sidecar.exchange.attempt import CONNECT, HEDGED, MALFORMED, RACE, TIMEOUT
from sidecar.exchange.filter import ANY, Again, Filter, Site
from sidecar.exchange.story import milliseconds
from sidecar.resilience.backoff import Backoff, parse_retry_after
from sidecar.resilience.quantile import Quantile

if TYPE_CHECKING:
    from sidecar.core.stats import ListenerStats
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request
    from sidecar.resilience.budget import Budget


#: Of two tries beside each other: this one has brought nothing, so wait for the other one.
OTHER: Final = Again(0.0, "hedge")
#: Latencies that have to be known before a quantile of them says anything.
LEAST: Final = 100


class BudgetSettings(Settings):
    """What may be repeated, in any ten seconds: at most ratio of the requests in them, and min for each second."""

    short = "ratio"

    ratio: float = key(Share(), "Share of the requests.", default=0.2, example="20%")
    min: float = key(
        Rate(zero=True, off="none of that"), "For little traffic: so many more.", default=3.0, example="3/s"
    )


class HedgeSettings(Settings):
    """A second try beside a first one that has no answer after that time. The quicker one counts."""

    short = "after"

    after: float = key(After(), "How long to wait for the first; p95: as 95 % of the latest took at most.", default=0.0)


class RetrySettings(Settings):
    """``max_attempts`` counts the first try; delays are seconds; ``methods`` are upper case."""

    short = "max_attempts"

    max_attempts: int = key(Integer(1, 20), "Most tries, the first included.", default=3)
    backoff_type: str = key(Enum("exponential", "linear", "constant"), "How the delays grow.", default="exponential")
    initial_delay: float = key(Duration(zero=True), "Before the second try.", default=1.0, example=1)
    max_delay: float = key(Duration(zero=True), "The longest delay.", default=30.0, example="30s")
    jitter: bool = key(
        Boolean(), "Spread the delays at random, so that clients do not come back all at once.", default=True
    )
    on: frozenset[str] = key(
        ListOf(Failure("connect", "reset", "timeout", "5xx"), minimum=1, maximum=64, into=frozenset),
        "What is tried again.",
        default=frozenset({"connect", "reset", "502", "503", "504"}),
        example=["connect", "reset", 502, 503, 504],
        protocols=("http",),
    )
    methods: frozenset[str] = key(
        ListOf(Method(), minimum=1, maximum=64, into=frozenset),
        "Methods that may be repeated.",
        default=IDEMPOTENT,
        example=["GET"],
        protocols=("http",),
    )
    budget: BudgetSettings | None = key(
        Policy(section(BudgetSettings)),
        "The most retries, all requests taken together. What certainly did not reach an app is none; off: any number.",
        default=BudgetSettings(),
        example={"ratio": "20%", "min": "3/s"},
        protocols=("http",),
        route="is not for a route: an upstream has one budget, for all of its routes",
    )
    hedge: HedgeSettings | None = key(
        Policy(section(HedgeSettings)),
        "Ask a second endpoint when the first is slow; requests of those methods, as far as the budget pays.",
        default=None,
        example={"after": "p95"},
        protocols=("http",),
    )
    per_try_timeout: float = key(
        Duration(zero=True),
        "How long one try may wait for the head of its answer; then another one goes elsewhere. 0: as long as all.",
        default=0.0,
        example="2s",
        protocols=("http",),
    )

    @staticmethod
    def check(given: Sequence[Any], protocol: str) -> None:
        for fields in given:
            if not fields.known("initial_delay", "max_delay"):
                continue
            initial, longest = fields.value("initial_delay"), fields.value("max_delay")
            if initial > longest:
                fields.place.report(
                    "has an initial_delay above its max_delay",
                    found=f"initial_delay {initial:g} s, max_delay {longest:g} s",
                    allowed="initial_delay at most max_delay",
                )


class Retry(Filter):
    """Only before the first byte of an answer has gone back, only while the whole request is at hand, never past the
    deadline. What certainly did not reach an app (no connection, or a peer sidecar said so) may be repeated whatever
    its method is, and at once if there is another endpoint. Everything else needs a method of ``retry.methods`` and
    waits: for the upstream's own ``Retry-After`` where it gave one, else for the backoff. A TCP connection has no
    method and is only ever repeated while it is being made.

    The budget pays for each retry. What did not reach an app is none, with one exception: a peer sidecar that could not
    deliver is asked again, because there is no other endpoint. ``max_attempts`` bounds those that are free, and so does
    the ejection of an endpoint that cannot be reached.

    ``wall`` gives Unix time, which the dates in ``Retry-After`` are compared with.
    """

    name: ClassVar[str] = "retry"
    settings_class: ClassVar[Any] = RetrySettings
    doc: ClassVar[str] = "Try again, later and elsewhere."
    by_default: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: a failing app is not called less, or again, by its own sidecar"

    def __init__(self, config: RetrySettings, site: Site, wall: Callable[[], float] = time.time) -> None:
        super().__init__(config, site)
        self._rng = site.rng
        self._clock = site.clock
        self._wall = wall
        self._budget = site.budget
        self._suppressed = site.stats.suppressed
        self._hedges = site.stats.hedges
        #: Of first tries, where a second one begins after what these say.
        self._latencies: Quantile | None = None
        self._read(config)

    def _read(self, config: RetrySettings) -> None:
        self._config = config
        self._backoff = Backoff(config.initial_delay, config.max_delay, self._rng, config.backoff_type, config.jitter)
        self._per_try: float = config.per_try_timeout
        hedge = config.hedge
        self._hedging: bool = hedge is not None
        self._after: float = hedge.after if hedge is not None else 0.0
        if hedge is None or hedge.after:
            self._latencies = None
        elif self._latencies is None:
            self._latencies = Quantile(0.95, LEAST)
        #: Answers after which it is tried again.
        self.statuses = frozenset(int(item) for item in config.on if item.isdigit()) | (
            frozenset(range(500, 600)) if "5xx" in config.on else frozenset()
        )

    def adapt(self, config: RetrySettings) -> bool:
        """What is known of latencies stays."""
        self.config = config
        self._read(config)
        return True

    def view(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        budget = self._budget
        if budget.ratio != inf:
            left = round(budget.left(self._clock()), 1)
            told["budget"] = {"left": left, "ratio": budget.ratio, "min_per_second": budget.least}
        if self._hedging:
            after = self._wait()
            told["hedge"] = {"after_ms": milliseconds(after) if after else None, **self._hedges}
        return told

    def uses(self, hook: str) -> bool:
        return self._hedging or hook not in ("on_try", "on_late")

    def patience(self) -> float:
        return self._per_try or float(ANY)

    def on_try(self, x: Exchange) -> None:
        if not x.tried and x.attempt is None:
            self._plan(cast("Request", x))

    def _plan(self, x: Request) -> None:
        """Say when a second try may begin beside the first."""
        after = self._wait()
        if after and x.method in self._config.methods and not x.head.upgrade:
            x.hedge_at = self._clock() + after

    def _wait(self) -> float:
        """Seconds to wait for the first; 0: for as long as it takes, as too little is known."""
        return self._after if self._latencies is None else self._latencies.value()

    def on_late(self, x: Request) -> bool:
        if not x.request_done or not x.replayable or not self._elsewhere(x):
            return False
        if not self._budget.take(self._clock()):
            self._hedges["unpaid"] += 1
            return False
        return True

    def _measure(self, x: Exchange) -> None:
        """Take in how long a first try took; at least, if it was given up."""
        attempt = x.attempt
        if attempt is not None and not attempt.hedge and not x.tried and self._latencies is not None:
            self._latencies.add(self._clock() - attempt.began)

    def on_answer(self, x: Request, head: ResponseHead) -> Again | None:
        if not x.tried:
            budget = self._budget
            if x.started >= budget.end:
                budget.turn(x.started)
            budget.requests += 1
        status = head.status
        if status < 400:
            if self._latencies is not None:
                self._measure(x)
            return None
        if self._latencies is not None and status < 500:
            self._measure(x)
        undelivered = status >= 500 and head.peer_error in NOT_DELIVERED and CONNECT in self._config.on
        again = status in self.statuses or (status == 429 and x.chain.patient)
        if undelivered or (again and self._repeats(x)):
            if x.rival is not None:
                return OTHER
            attempt = x.attempt
            if attempt is not None and attempt.retried >= 0:
                self._suppressed["retried"] += 1
                self._note(x, "retried")
                return None
        if undelivered:
            return self._again(x, str(status), at_once=True, free=self._elsewhere(x))
        if not again or not self._repeats(x):
            if status >= 500:
                self._note(x, "method" if again else "on")
            return None
        told = head.fields.get(b"retry-after")
        return self._again(x, str(status), told=told)

    def on_failure(self, x: Exchange, kind: str) -> Again | None:
        if kind is TIMEOUT or kind is HEDGED:
            self._measure(x)
        if not x.tried and kind is not HEDGED:
            self._budget.request(x.started)
        if kind is RACE or kind is HEDGED or x.rival is not None:
            return None
        if kind is CONNECT:
            if CONNECT in self._config.on:
                return self._again(x, kind, at_once=True, free=True)
            self._note(x, "on")
            return None
        if kind is MALFORMED:
            allowed = 502 in self.statuses
        else:
            allowed = kind in self._config.on
        late = kind is TIMEOUT and self._was_late(x)
        if late:
            allowed = True
        if allowed and self._repeats(x):
            return self._again(x, kind, at_once=late)
        self._note(x, "method" if allowed else "on")
        return None

    def _repeats(self, x: Exchange) -> bool:
        """Whether its method is one that may be sent again."""
        return x.method in self._config.methods or x.method in x.chain.repeat

    def _was_late(self, x: Exchange) -> bool:
        """Whether it is this try's own time that is over."""
        attempt = x.attempt
        return self._per_try > 0.0 and attempt is not None and self._clock() - attempt.began >= self._per_try

    def _elsewhere(self, x: Exchange) -> bool:
        """Whether there is an endpoint that it has not been sent to."""
        return any(e is not x.endpoint and not x.been(e) for e in x.listener.cluster.eligible)

    def _again(
        self, x: Exchange, reason: str, *, at_once: bool = False, told: bytes | None = None, free: bool = False
    ) -> Again | None:
        """Another try, if there may be one. ``at_once``: without a delay, if it goes to another endpoint. ``free``: it
        is no retry as the budget counts them."""
        if x.attempts >= self._config.max_attempts or not x.replayable:
            self._note(x, "attempts" if x.replayable else "body")
            return None
        delay = None
        if at_once and self._elsewhere(x):
            delay = 0.0
        elif told is not None:
            delay = parse_retry_after(told, self._wall())
        if delay is None:
            delay = self._backoff.delay(x.attempts)
        now = self._clock()
        if now + delay >= x.deadline:
            self._note(x, "deadline")
            return None
        if not free and not self._budget.take(now):
            self._suppressed["budget"] += 1
            self._note(x, "budget")
            return None
        return Again(delay, reason)

    def _note(self, x: Exchange, why: str) -> None:
        """Note why there is no other try: by the key ``on``; its ``method``; it had all its ``attempts``; its ``body``
        was too large to be kept; its ``deadline`` comes first; the ``budget`` is used up; a sidecar behind it has
        ``retried``. Where this one has tried again, no hop above is to."""
        if why == "budget" or (x.attempts > 1 and why != "retried"):
            x.retried = x.attempts
        detail: dict[str, Any] = {"why": why, "attempts": x.attempts, "max_attempts": self._config.max_attempts}
        if x.method:
            detail["method"] = x.method
        x.note("not_again", detail)


def spend(retries: Sequence[Any], budget: Budget, stats: ListenerStats, clock: Callable[[], float]) -> None:
    """Have a port's retries paid from its budget: as its own filter says, the first one of these, else by default; what
    was counted stays. ``None`` stands for a retry that is off."""
    settings: BudgetSettings | None = None
    if any(retries) and stats.protocol == "http":
        settings = (retries[0].config if retries[0] else RetrySettings()).budget
    budget.configure(settings.ratio if settings else inf, settings.min if settings else 0.0)
    stats.retry_budget = (lambda: budget.left(clock())) if settings else None
