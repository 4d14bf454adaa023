"""Lets only so many exchanges be under way at once; a few more wait their turn, the rest are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.config.declared import Settings, key, section
from sidecar.config.kinds import BROKEN
from sidecar.config.values import Duration, FromHeader, Integer
from sidecar.core.replies import Reply
from sidecar.core.stats import ListenerStats
from sidecar.exchange.filter import HELD, Filter, Site, Wait
from sidecar.exchange.story import milliseconds
from sidecar.filters.shedding import Shedding
from sidecar.resilience.adaptive_limit import NEITHER, AdaptiveLimit
from sidecar.resilience.limiter import Limiter
from sidecar.resilience.priority_limiter import PriorityLimiter

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange


_COUNT: Final = Integer(0, 1_000_000)
_BY_PROTOCOL: Final = {"amqp": {"max_connections": 0}}


class AdaptiveSettings(Settings):
    """A limit that is found by how much gets done, in place of ``max_requests``."""

    min: int = key(Integer(1, 1_000_000), "The least that it may be.", default=4)
    max: int = key(Integer(1, 1_000_000), "The most that it may be.", default=1000)


class BulkheadSettings(Settings):
    """0 for a count means no limit. ``max_tunnels`` counts upgraded connections (WebSockets), and none of the others
    counts them."""

    short = "max_requests"
    by_protocol = _BY_PROTOCOL

    max_connections: int = key(
        _COUNT,
        "Most connections; 0: no limit, and for amqp as many as there are descriptors for, two each.",
        default=100,
        told="100; for protocol amqp 0",
    )
    max_requests: int = key(
        _COUNT,
        "Most requests in flight; 0: no limit. For tcp and amqp, max_connections counts alone.",
        default=100,
        example=20,
    )
    max_pending: int = key(_COUNT, "Most requests that wait for their turn; 0: none waits.", default=200)
    max_tunnels: int = key(
        _COUNT,
        "Most WebSockets and other upgraded connections, which none of the others counts; 0: no limit.",
        default=1000,
        protocols=("http",),
    )
    pending_timeout: float = key(Duration(zero=True), "The longest one waits for its turn.", default=5.0, example="5s")
    adaptive: AdaptiveSettings | None = key(
        section(AdaptiveSettings),
        "Find the limit, in place of max_requests. max_connections is then adaptive.max by default.",
        default=None,
        example={"min": 4, "max": 1000},
        protocols=("http",),
    )
    priority: str | None = key(
        FromHeader(),
        "What says how important a request is: critical, normal (any other value, too) or low. What is critical is let "
        "in first and shed last.",
        default=None,
        example="header:x-priority",
        protocols=("http",),
    )

    cross: ClassVar[Sequence[dict[str, Any]]] = (
        {"if": {"required": ["adaptive"]}, "then": {"properties": {"max_requests": {"enum": [0]}}}},
        {"not": {"required": ["priority", "max_pending"], "properties": {"max_pending": {"const": 0}}}},
    )

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        if given.get("adaptive") is not None:
            given.setdefault("max_connections", given["adaptive"].max)
            given.setdefault("max_requests", 0)

    @staticmethod
    def check(given: Sequence[Any], protocol: str) -> None:
        for fields in given:
            _check(fields)


def _check(fields: Any) -> None:
    """Report what does not fit together in one section."""
    adaptive = fields.section_of("adaptive")
    if adaptive is not None and adaptive.known("min", "max"):
        least, most = adaptive.value("min"), adaptive.value("max")
        if least > most:
            which = "min" if "min" in adaptive.places else "max"
            adaptive.places[which].report(
                "leaves no limit: min is above max", found=f"min {least}, max {most}", allowed="min up to max"
            )
        connections = fields.get("max_connections")
        if connections and connections < most:
            fields.places["max_connections"].report(
                "is less than adaptive.max, and each request needs a connection of its own",
                found=f"{connections}",
                allowed=f"{most} or more, 0 for no limit, or leave it out; or set adaptive.max to {connections}",
            )
    if adaptive is not None and fields.get("max_requests"):
        fields.places["max_requests"].report(
            "is a fixed limit, and adaptive finds one", allowed="only one of them; the most it may find is adaptive.max"
        )
    if fields.get("priority"):
        for name in ("max_pending", "pending_timeout"):
            if name in fields.places and fields.value(name) is not BROKEN and not fields.value(name):
                fields.places[name].report(
                    "lets none wait, so priority has nothing to put first", found="0", allowed="more than 0"
                )


class Bulkhead(Filter):
    """The last filter before the first try: whoever passes holds a slot until the exchange ends. An HTTP/1.1 exchange
    needs a connection of its own, so the smaller of ``max_requests`` and ``max_connections`` counts; tunnels give both
    back for a place among ``tunnels``. For TCP and AMQP only ``max_connections`` counts.

    A broker takes as many connections as it has descriptors for. So does a port of it: one more client would be
    accepted, and find no descriptor for its other end."""

    name: ClassVar[str] = "bulkhead"
    stateful: ClassVar[bool] = True
    settings_class: ClassVar[Any] = BulkheadSettings
    doc: ClassVar[str] = "How much may be under way at once, and how much may wait."
    key_docs: ClassVar[dict[str, str]] = {"inbound": "Admission by what is under way."}
    by_default: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")

    def __init__(self, config: BulkheadSettings, site: Site) -> None:
        super().__init__(config, site)
        stats = site.stats
        #: How many there may be where the settings have no limit; 0: any number.
        self._most = most = site.pairs if stats.protocol == "amqp" else 0
        self._shedding = _shedding(config, site)
        self.limiter = (
            self._shedding.limiter
            if self._shedding is not None
            else Limiter(_limit(config, stats) or most, config.max_pending)
        )
        self.tunnels = Limiter(config.max_tunnels, 0)
        self._upgrades = stats.protocol == "http"
        self._pending_timeout = config.pending_timeout
        self._stats = stats
        self._clock = site.clock

    def adapt(self, config: BulkheadSettings) -> bool:
        """Other settings, for what comes from now on; what is under way stays counted, and a limit that was found
        stays. Between one that is found or knows priorities and one that does neither there is no going on."""
        shedding = self._shedding
        old: BulkheadSettings = self.config
        if (old.adaptive is None) != (config.adaptive is None) or (shedding is None) != _plain(config):
            return False
        self.config = config
        self.limiter.max_pending = config.max_pending
        self._pending_timeout = config.pending_timeout
        self.tunnels.resize(config.max_tunnels)
        if shedding is None:
            self.limiter.resize(_limit(config, self._stats) or self._most)
        else:
            _configure(shedding, config, self._stats, self._clock())
        return True

    def shown(self) -> int:
        """Return the limit, which is the one that the port shows; a change of it is shown from now on."""
        if self._shedding is not None:
            self._shedding.shown = True
        return self.limiter.limit

    def view(self) -> dict[str, Any]:
        return self._shedding.view() if self._shedding is not None else {}

    def on_request(self, x: Exchange) -> Reply | Wait | None:
        if self._upgrades and self.tunnels.full:
            http: Any = x
            if http.head.upgrade:
                x.note("tunnels_full", {"active": self.tunnels.active})
                return no_more_tunnels(x.listener.name, self.tunnels)  # before the app has set one up
        shedding = self._shedding
        if shedding is not None:
            shedding.place = self.place
            return shedding.ask(x)
        limiter = self.limiter
        if limiter.try_acquire():
            x.state[self.place] = limiter
            return None
        waiter = _Waiting(self, x)
        full = not self._pending_timeout or not limiter.enqueue(waiter)
        self._note(x, "bulkhead_full" if full else "bulkhead_wait", limiter)
        if full:
            return Reply(
                "overloaded",
                f"{limiter.active} in progress and {limiter.pending} waiting: {x.listener.name} takes no more",
                1.0,
            )
        x.state[self.place] = waiter
        self._stats.pending += 1
        return Wait(
            min(x.deadline, self._clock() + self._pending_timeout),
            Reply("overloaded", f"waited too long for a free slot of {x.listener.name}", 1.0),
        )

    def granted(self, x: Exchange) -> None:
        """A slot has become free, and is its."""
        self._stats.pending -= 1
        if x.suspended is HELD:  # its time was over, and another filter has taken it over
            x.state[self.place] = None
            self.limiter.release()
            return
        x.state[self.place] = self.limiter
        x.note("bulkhead_passed", {})
        x.grant()

    def _note(self, x: Exchange, what: str, limiter: Limiter) -> None:
        config = self.config
        by = "max_connections" if limiter.limit == config.max_connections != config.max_requests else "max_requests"
        x.note(
            what,
            {
                "active": limiter.active, "limit": limiter.limit, "by": by, "pending": limiter.pending,
                "max_pending": limiter.max_pending, "pending_timeout_ms": milliseconds(self._pending_timeout),
            },
        )  # fmt: skip

    def on_upgrade(self, x: Exchange) -> Reply | None:
        """A tunnel gives its slot back for a place among the tunnels. There was one when it was asked for."""
        tunnels = self.tunnels
        if not tunnels.try_acquire():
            x.note("tunnels_full", {"active": tunnels.active})
            return no_more_tunnels(x.listener.name, tunnels)
        slot = x.state[self.place]
        x.state[self.place] = tunnels
        if self._shedding is not None:
            if slot is not None:
                self._shedding.give_back(slot, NEITHER)
        elif slot is not None:
            slot.release()
        return None

    def on_end(self, x: Exchange) -> None:
        state, place = x.state, self.place
        slot = state[place]
        if slot is None:
            return
        state[place] = None
        if slot is self.limiter or slot is self.tunnels:
            slot.release()
        elif self._shedding is not None:
            self._shedding.leave(x, slot)
        else:
            self._stats.pending -= 1
            self.limiter.forget(slot)


class _Waiting:
    """An exchange that waits for a slot."""

    __slots__ = ("_bulkhead", "_x")

    def __init__(self, bulkhead: Bulkhead, x: Exchange) -> None:
        self._bulkhead = bulkhead
        self._x = x

    def granted(self) -> None:
        self._bulkhead.granted(self._x)


def no_more_tunnels(name: str, tunnels: Limiter) -> Reply:
    """The answer to an upgrade for which there is no room."""
    return Reply("overloaded", f"{tunnels.active} tunnels to {name} are open: no more (bulkhead.max_tunnels)", 1.0)


def _limit(config: BulkheadSettings, stats: ListenerStats) -> int:
    """How many may be under way at once; 0: any number."""
    limits = [config.max_connections]
    if stats.protocol == "http":
        limits.append(config.max_requests)
    return min((n for n in limits if n), default=0)


def _plain(config: BulkheadSettings) -> bool:
    """Whether it has a fixed limit and knows no priorities."""
    return config.adaptive is None and not config.priority


def _shedding(config: BulkheadSettings, site: Site) -> Shedding | None:
    """What stands in for the plain limit, if anything does."""
    if _plain(config):
        return None
    adaptive = None
    if config.adaptive is not None:
        adaptive = AdaptiveLimit(config.adaptive.min, config.adaptive.max, site.clock())
    limiter = PriorityLimiter(_limit(config, site.stats), config.max_pending, adaptive)
    return Shedding(limiter, site, _by(config), config.priority or "", config.pending_timeout)


def _configure(shedding: Shedding, config: BulkheadSettings, stats: ListenerStats, now: float) -> None:
    """Give it other settings."""
    shedding.configure(_by(config), config.priority or "", config.pending_timeout)
    limiter = shedding.limiter
    if config.adaptive is not None and limiter.adaptive is not None:
        limiter.adaptive.resize(config.adaptive.min, config.adaptive.max)
    limiter.change(_limit(config, stats), now)


def _by(config: BulkheadSettings) -> str:
    """The key that the limit is from."""
    if config.adaptive is not None:
        return "adaptive"
    few = config.max_connections and (not config.max_requests or config.max_connections < config.max_requests)
    return "max_connections" if few else "max_requests"
