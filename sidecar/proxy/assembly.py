"""Puts listeners together: which filters stand in a chain, in which order, and why.

The order of a chain, and the reason for each place:

1.  ``Timeouts``        the deadline counts from the start, waiting included, so it is set before anything can wait
2.  ``Tracing``         whatever happens next, refusals too, has a trace id
3.  ``RequestId``       ... and a request id
4.  ``Forwarded``       inbound only; changes the head, never refuses, so before those that may
5.  ``Drain``           inbound only; cheapest refusal first
6.  ``RateLimit``       before the bulkhead: what is refused must not take up a place in its queue
7.  ``Bulkhead``        the last one before the first try: whoever passes holds a slot until the end
8.  ``CircuitBreaker``  before each try; after the bulkhead, or a half-open permit would be spent on waiting. Before
                        ``Retry``, so that a failure is counted before it is decided whether to go on
9.  ``Retry``           once a try went wrong
10. ``Metrics``, ``AccessLog``   last: by then everything about the exchange is known

At the end of an exchange the ``on_end`` hooks run in this same order, so slots are given back first and counted last.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from sidecar.config import model
from sidecar.config.model import INHERIT, Inbound, Match, Route, Upstream
from sidecar.filters.access_log import AccessLog
from sidecar.filters.api import Chain
from sidecar.filters.bulkhead import Bulkhead
from sidecar.filters.circuit_breaker import CircuitBreaker
from sidecar.filters.drain import Drain
from sidecar.filters.forwarded import Forwarded
from sidecar.filters.metrics import ConnectionMetrics, Metrics
from sidecar.filters.rate_limit import RateLimit
from sidecar.filters.request_id import RequestId, new_request_id
from sidecar.filters.retry import Retry
from sidecar.filters.timeouts import Timeouts
from sidecar.filters.tracing import Tracing
from sidecar.proxy.http1.listener import HttpListener
from sidecar.proxy.http1.pool import Pool
from sidecar.proxy.listener import Listener
from sidecar.proxy.routes import Routes
from sidecar.proxy.tcp import TcpListener
from sidecar.resilience.backoff import Backoff
from sidecar.resilience.breaker import CircuitBreaker as Breaker
from sidecar.resilience.wheel import TimerWheel
from sidecar.telemetry.logs import AccessLog as AccessLogWriter
from sidecar.telemetry.spans import SpanRecord
from sidecar.telemetry.stats import ListenerStats
from sidecar.upstreams import balancers
from sidecar.upstreams.cluster import Cluster


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
        inbound = stats.direction == "inbound"
        self._tracing = Tracing(context.tracing, "server" if inbound else "client", context.rng, context.record_span)
        self._request_id = RequestId(context.rng)
        self._metrics = Metrics(stats, context.clock)
        self._connection_metrics = ConnectionMetrics(stats, context.clock)
        self._access_log = AccessLog(context.access_log)

    def apply(self, listener: Listener, config: Inbound | Upstream) -> None:
        """Give the listener the chains for this configuration."""
        before = self._built
        self._built = {}
        main = self._policies(config, None, None, before)
        routes = [(route.match, self._policies(route, route.match, main, before)) for route in config.routes]
        breakers = [p.circuit_breaker.mechanism for p in (main, *(p for _, p in routes)) if p.circuit_breaker]
        listener.chain = self._chain(main)
        listener.breakers = tuple(dict.fromkeys(breakers))
        listener.limits = config.limits
        if isinstance(listener, HttpListener):
            chains = [(match, self._chain(policies)) for match, policies in routes]
            listener.routes = Routes(chains) if chains else None
            listener.pool.max_connections = config.bulkhead.max_connections if config.bulkhead else 0
            listener.pool.keepalive = config.timeout.keepalive
            listener.pool.limits = config.limits
        elif isinstance(config, Upstream) and config.amqp is not None:
            cast(Any, listener).configure(config.amqp)

    def _policies(
        self, config: Inbound | Upstream | Route, match: Match | None, main: Policies | None, before: Built
    ) -> Policies:
        context = self._context
        clock = context.clock
        where = match and (match.path, match.methods, tuple(sorted(match.headers.items())))

        def build(policy: str, make: Callable[[Any, Any], Any]) -> Any:
            """The filter for a policy; ``make`` gets the settings, and the filter that stood here before, if any."""
            settings = getattr(config, policy, None)  # inbound, there is neither breaker nor retry
            if settings is INHERIT:
                return getattr(main, policy)
            if settings is None:
                return None
            old_settings, old = before.get((policy, where), (None, None))
            made = old if old_settings == settings else make(settings, old)
            self._built[policy, where] = (settings, made)
            return made

        def bulkhead(settings: model.Bulkhead, old: Bulkhead | None) -> Bulkhead:
            if old is None:
                return Bulkhead(settings, self._stats, clock)
            old.resize(settings)
            return old

        def breaker(settings: model.CircuitBreaker, _: object) -> CircuitBreaker:
            mechanism = Breaker(settings, clock, lambda changed: context.breaker_changed(self._name, changed))
            return CircuitBreaker(mechanism, settings)

        return Policies(
            timeout=build("timeout", lambda settings, _: settings),
            rate_limit=build("rate_limit", lambda settings, _: RateLimit(settings, clock)),
            bulkhead=build("bulkhead", bulkhead),
            circuit_breaker=build("circuit_breaker", breaker),
            retry=build("retry", lambda settings, _: Retry(settings, Backoff(settings, context.rng), clock)),
        )

    def _chain(self, policies: Policies) -> Chain:
        http = self._stats.protocol == "http"
        inbound = self._stats.direction == "inbound"
        breaker = policies.circuit_breaker
        filters = (
            Timeouts(policies.timeout),
            self._tracing if http else None,
            self._request_id if http else None,
            Forwarded() if http and inbound else None,
            Drain() if inbound else None,
            policies.rate_limit,
            policies.bulkhead,
            breaker,
            policies.retry,
            self._metrics if http else self._connection_metrics,
            self._access_log,
        )
        timeout = policies.timeout
        patience = min(timeout.request, breaker.settings.timeout_duration) if breaker else timeout.request
        return Chain([f for f in filters if f is not None], timeout, patience)


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


def _set_up_amqp(listener: Listener, context: Context, config: model.Amqp) -> None:
    from sidecar.amqp.listener import AmqpListener
    from sidecar.amqp.tracing import MessageTracing

    assert isinstance(listener, AmqpListener)
    tracing = MessageTracing(context.tracing, context.rng, context.record_span, context.clock)
    listener.set_up(config, tracing, context.rng)
