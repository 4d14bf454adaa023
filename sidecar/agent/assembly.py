"""Puts listeners together: which filters stand in a chain.

The order of a chain, and the reason for each place, is :data:`sidecar.filters.order.ORDER`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from sidecar.config import model
from sidecar.config.model import INHERIT, Inbound, Match, Upstream
from sidecar.core.amqp_settings import Amqp
from sidecar.core.records import AccessLog as AccessLogWriter
from sidecar.core.records import SpanRecord
from sidecar.core.stats import FilterStats, ListenerStats
from sidecar.endpoints import balancers
from sidecar.endpoints.cluster import Cluster
from sidecar.exchange.filter import ANY, KEEP, Chain, Filter, Site
from sidecar.exchange.guard import Guard, unmade
from sidecar.exchange.listener import Listener
from sidecar.exchange.routes import Route, Routes
from sidecar.filters.access_log import AccessLog
from sidecar.filters.bulkhead import Bulkhead
from sidecar.filters.circuit_breaker import CircuitBreaker
from sidecar.filters.drain import Drain
from sidecar.filters.forwarded import Forwarded
from sidecar.filters.host import Host
from sidecar.filters.metrics import ConnectionMetrics, Metrics
from sidecar.filters.order import DECLARING, RANK, STATEFUL
from sidecar.filters.rate_limit import RateLimit
from sidecar.filters.request_id import RequestId, new_request_id
from sidecar.filters.retry import Retry
from sidecar.filters.timeouts import Timeouts
from sidecar.filters.tracing import Tracing
from sidecar.http.listener import HttpListener
from sidecar.http.pool import Pool
from sidecar.net.shortage import SHORTAGE
from sidecar.net.wheel import TimerWheel
from sidecar.resilience.backoff import Backoff
from sidecar.resilience.breaker import CircuitBreaker as Breaker
from sidecar.tcp.relay import TcpListener

if TYPE_CHECKING:
    from sidecar.http.delivery import Delivered
    from sidecar.http_queue.filter import Queue
    from sidecar.http_queue.queue import HttpQueue

#: What clients ask of a queue: see :mod:`sidecar.http_queue.answers`.
_DOOR: Final = "/.sidecar/queue/"


@dataclass(frozen=True, slots=True)
class Context:
    """What all listeners of a sidecar share."""

    loop: asyncio.AbstractEventLoop
    wheel: TimerWheel
    clock: Callable[[], float]
    rng: random.Random
    access_log: AccessLogWriter
    record_span: Callable[[SpanRecord], None] | None
    tracing: model.Tracing
    breaker_changed: Callable[[str, Breaker], None]


@dataclass(frozen=True, slots=True)
class Policies:
    """The filters of a listener or a route that have settings of their own; ``None``: switched off."""

    timeout: model.Timeout
    rate_limit: RateLimit | None
    bulkhead: Bulkhead | None
    circuit_breaker: CircuitBreaker | None
    retry: Retry | None
    queue: tuple[model.Queue, str] | None = None
    """With the name of its lane: routes that have the listener's share that."""
    declared: dict[str, Filter | None] = field(default_factory=dict)
    """Those that declare their settings, by name."""
    others: tuple[Filter, ...] = ()
    """Those of other packages."""


#: (policy, route) → its settings and the filter that was built from them.
Built = dict[tuple[str, object], tuple[object, Any]]


class Assembly:
    """Builds one listener's chains, now and at each reload. A policy whose settings did not change keeps its filter and
    so its state: reloading must not close a breaker or refill a bucket. A bulkhead is resized: what is under way still
    counts."""

    def __init__(self, context: Context, name: str, stats: ListenerStats) -> None:
        self._context = context
        self._name = name
        self._stats = stats
        self._built: Built = {}
        self._guards: dict[str, Guard] = {}
        inbound = stats.direction == "inbound"
        self._tracing = Tracing(context.tracing, "server" if inbound else "client", context.rng, context.record_span)
        self._request_id = RequestId(context.rng)
        self._metrics = Metrics(stats, context.clock)
        self._connection_metrics = ConnectionMetrics(stats, context.clock)
        self._access_log = AccessLog(context.access_log)
        self._host: Host | None = None

    def apply(self, listener: Listener, config: Inbound | Upstream) -> None:
        """Give the listener the chains for this configuration."""
        before = self._built
        self._built = {}
        self._host = Host(config.host) if isinstance(config, Upstream) and config.host else None
        main = self._policies(config, None, None, before)
        routes = [(route.match, self._policies(route, route.match, main, before)) for route in config.routes]
        self._show([main, *(policies for _, policies in routes)])
        breakers = [p.circuit_breaker.mechanism for p in (main, *(p for _, p in routes)) if p.circuit_breaker]
        queue = self._queue(listener, [main, *(policies for _, policies in routes)])
        listener.default_route = Route(self._chain(main, queue), listener.cluster)
        listener.breakers = tuple(dict.fromkeys(breakers))
        listener.limits = config.limits
        if isinstance(listener, HttpListener):
            table = [(match, Route(self._chain(policies, queue), listener.cluster)) for match, policies in routes]
            if queue is not None:
                door = Route(self._door(config.timeout, queue), listener.cluster)
                table.insert(0, (Match(path=f"{_DOOR}*"), door))
            listener.routes = Routes(table, _DOOR if queue is not None else "") if table else None
            listener.pool.max_connections = config.bulkhead.max_connections if config.bulkhead else 0
            listener.pool.keepalive = config.timeout.keepalive
            listener.pool.limits = config.limits
        elif isinstance(config, Upstream) and config.amqp is not None:
            bulkhead = main.bulkhead
            cast(Any, listener).configure(config.amqp, bulkhead.limiter if bulkhead is not None else None)

    def _policies(
        self, config: Inbound | Upstream | model.Route, match: Match | None, main: Policies | None, before: Built
    ) -> Policies:
        context = self._context
        clock = context.clock
        where = match and (match.path, match.methods, tuple(sorted(match.headers.items())))

        def build(policy: str, make: Callable[[Any, Any], Any]) -> Any:
            """The filter for a policy; ``make`` gets the settings, and the filter that stood here before, if any."""
            settings = getattr(config, policy, None)  # inbound, there is neither breaker nor retry
            return getattr(main, policy) if settings is INHERIT else keep(policy, settings, make)

        def keep(policy: str, settings: Any, make: Callable[[Any, Any], Any]) -> Any:
            if settings is None:
                return None
            old_settings, old = before.get((policy, where), (None, None))
            made = old if old_settings == settings else make(settings, old)
            self._built[policy, where] = (settings, made)
            return made

        def bulkhead(settings: model.Bulkhead, old: Bulkhead | None) -> Bulkhead:
            if old is None:
                # A broker takes as many connections as it has descriptors for. So does a port of it: one more client
                # would be accepted, and find no descriptor for its other end.
                return Bulkhead(settings, self._stats, clock, SHORTAGE.pairs if self._stats.protocol == "amqp" else 0)
            old.resize(settings)
            return old

        def breaker(settings: model.CircuitBreaker, _: object) -> CircuitBreaker:
            mechanism = Breaker(
                settings.failure_threshold,
                settings.reset_timeout,
                settings.half_open_requests,
                clock,
                lambda changed: context.breaker_changed(self._name, changed),
            )
            return CircuitBreaker(mechanism, settings)

        def retry(settings: model.Retry, _: object) -> Retry:
            delays = Backoff(
                settings.initial_delay, settings.max_delay, context.rng, settings.backoff_type, settings.jitter
            )
            return Retry(settings, delays, clock)

        declared: dict[str, Filter | None] = {}
        for it in DECLARING:
            settings = config.policies.get(it.name, None if main is None else INHERIT)
            if settings is not INHERIT:
                declared[it.name] = keep(it.name, settings, functools.partial(self._made, it))
            elif main is not None:
                declared[it.name] = main.declared[it.name]
        if config.filters is INHERIT:
            others = main.others if main is not None else ()
        else:
            others = tuple(
                keep(f"filters[{n}]", used, lambda used, _: self._made(used.declared.filter, used.settings, None))
                for n, used in enumerate(config.filters)
            )
        return Policies(
            declared=declared,
            others=others,
            timeout=build("timeout", lambda settings, _: settings),
            rate_limit=build("rate_limit", lambda settings, _: RateLimit(settings, clock)),
            bulkhead=build("bulkhead", bulkhead),
            circuit_breaker=build("circuit_breaker", breaker),
            retry=build("retry", retry),
            queue=build("queue", lambda settings, _: (settings, json.dumps(where) if where else "")),
        )

    def _made(self, filter_class: Any, settings: Any, _: object) -> Filter:
        """A filter that declares its settings, with counters that go on from those of the one before."""
        stats, context = self._stats, self._context
        name = filter_class.name
        own = filter_class in DECLARING
        shown = stats.filters.get(name)
        if shown is None:
            shown = stats.filters[name] = FilterStats(filter_class.counters, "sidecar_" if own else "sidecar_filter_")
        site = Site(self._name, stats.direction, stats.protocol, context.clock, context.rng, shown.counts)
        made: Filter
        if own:
            made = filter_class(settings, site)
            return made
        guard = self._guards.setdefault(name, Guard(name, site, shown.failures))
        try:
            made = filter_class(settings, site)
        except Exception as error:  # a reload must not stop in the middle
            guard.failed("__init__", error)
            made = unmade(filter_class)
        made.guard = guard
        return made

    def _show(self, policies: Sequence[Policies]) -> None:
        """What each filter in use shows of itself: the port's own, else that of the first route that has it."""
        in_use: dict[str, Filter] = {}
        for it in policies:
            for made in (*it.declared.values(), *it.others):
                if made is not None:
                    in_use.setdefault(made.name, made)
        for name, shown in self._stats.filters.items():
            found = in_use.get(name)
            shown.view = None if found is None else found.view if found.guard is None else found.guard.view(found.view)

    def _queue(self, listener: Listener, policies: Sequence[Policies]) -> HttpQueue | None:
        """Where the listener's requests are stored, if any are. It stays when nothing more is: what is there is to be
        delivered."""
        lanes = {
            policy.queue[1]: (policy.queue[0], self._tried_again(policy))
            for policy in policies
            if policy.queue is not None
        }
        if not isinstance(listener, HttpListener):
            return None
        if lanes and listener.queue is None:
            # Only where it is used, as AMQP.
            from sidecar.http.delivery import deliver
            from sidecar.http_queue.queue import HttpQueue

            path = next(iter(lanes.values()))[0].path
            listener.queue = HttpQueue(listener, functools.partial(deliver, listener), path, self._context.rng)
        queue: HttpQueue | None = listener.queue
        if queue is not None:
            queue.configure(lanes)
        return queue

    def _tried_again(self, policies: Policies) -> frozenset[int]:
        """Statuses after which a stored request is sent again."""
        if policies.retry is not None:
            return policies.retry.statuses
        inbound = self._stats.direction == "inbound"  # where no route has a retry of its own
        return frozenset(int(item) for item in model.Retry().on if item.isdigit()) if inbound else frozenset()

    def _door(self, timeout: model.Timeout, queue: HttpQueue) -> Chain:
        from sidecar.http_queue.filter import QueueDoor

        filters = (
            Timeouts(timeout),
            self._tracing,
            self._request_id,
            QueueDoor(queue),
            self._metrics,
            self._access_log,
        )
        return Chain(placed(filters), timeout, timeout.request)

    def _chain(self, policies: Policies, queue: HttpQueue | None, *, delivery: bool = False) -> Chain:
        http = self._stats.protocol == "http"
        inbound = self._stats.direction == "inbound" and not delivery
        breaker = policies.circuit_breaker
        storing: Queue | None = None
        last: Delivered | None = None
        if delivery:
            from sidecar.http.delivery import Delivered

            last = Delivered()
        elif policies.queue is not None and queue is not None:
            from sidecar.http_queue.filter import Queue

            settings, lane = policies.queue
            storing = Queue(settings, queue, queue.lane(lane))
        filters = (
            Timeouts(policies.timeout),
            self._tracing if http else None,
            self._request_id if http else None,
            Forwarded() if http and inbound else None,
            Drain() if inbound else None,
            storing,
            self._host,
            policies.rate_limit,
            policies.bulkhead,
            breaker,
            policies.retry,
            self._metrics if http else self._connection_metrics,
            self._access_log,
            last,
            *policies.declared.values(),
            *policies.others,
        )
        timeout = policies.timeout
        patience = min(timeout.request, breaker.settings.timeout_duration) if breaker else timeout.request
        chain = Chain(placed(f for f in filters if f is not None), timeout, patience)
        if delivery:
            chain.keep = ANY  # what is stored is in memory until it is over
        elif queue is not None:
            # Also where nothing more is to be stored: what is there may have come by any route that there was.
            chain.delivery = self._chain(policies, queue, delivery=True)
            if policies.queue is not None:
                chain.keep = max(KEEP, policies.queue[0].max_body)
        return chain


def placed(filters: Iterable[Filter]) -> list[Filter]:
    """The same filters in their order, those of other packages behind the ones that they name; each one that needs a
    place for its state has it."""
    found = sorted(filters, key=_rank)
    others = 0
    for it in found:
        if it.name in STATEFUL:
            it.place = STATEFUL.index(it.name)
        elif it.stateful:
            it.place = len(STATEFUL) + others
            others += 1
    return found


def _rank(it: Filter) -> float:
    rank = RANK.get(it.name)
    return rank if rank is not None else RANK[it.after] + 0.5


def create_listener(context: Context, name: str, config: Inbound | Upstream) -> Listener:
    """A listener for an inbound port or an upstream, not bound yet and without endpoints."""
    inbound = isinstance(config, Inbound)
    stats = ListenerStats("inbound" if inbound else "outbound", name, config.protocol)
    balancer = "round_robin" if isinstance(config, Inbound) else config.balancer
    cluster = Cluster(name, balancers.create(balancer, context.rng), context.clock, context.rng)
    listener = _kind(config.protocol)(
        name=name,
        bind=config.bind,
        stats=stats,
        cluster=cluster,
        loop=context.loop,
        wheel=context.wheel,
        clock=context.clock,
        new_request_id=lambda: new_request_id(context.rng),
    )
    if isinstance(listener, HttpListener):
        listener.host = name.encode()
        listener.pool = Pool(context.loop, context.wheel, context.clock, stats)
    elif isinstance(config, Upstream) and config.amqp is not None:
        _set_up_amqp(listener, context, config.amqp)
    listener.assembly = Assembly(context, name, stats)
    listener.assembly.apply(listener, config)
    return listener


def _kind(protocol: str) -> type[Listener]:
    if protocol == "http":
        return HttpListener
    if protocol == "tcp":
        return TcpListener
    # Only where it is used: it is a good deal of code.
    from sidecar.amqp.listener import AmqpListener

    return AmqpListener


def _set_up_amqp(listener: Listener, context: Context, config: Amqp) -> None:
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.listener import AmqpListener

    assert isinstance(listener, AmqpListener)
    sample, propagate = context.tracing.sample, context.tracing.propagate
    tracing = MessageTracing(sample, propagate, context.rng, context.record_span, context.clock)
    listener.set_up(config, tracing, context.rng)
