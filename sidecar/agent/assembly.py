"""Puts listeners together: which filters stand in a chain.

The order of a chain, and the reason for each place, is :data:`sidecar.filters.order.ORDER`.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from sidecar.agent import balancing, llm, outage, protocols, rotation
from sidecar.agent.context import Context as Context
from sidecar.agent.rehearsal.watched import watched
from sidecar.agent.shared_limits import name_of
from sidecar.cache.invalidation import Caches
from sidecar.config.keys import INHERIT
from sidecar.config.schema import DECLARED
from sidecar.config.traffic import Inbound, Match, Upstream
from sidecar.config.traffic import Route as RouteSettings
from sidecar.core.stats import FilterStats, ListenerStats
from sidecar.endpoints.cluster import Cluster
from sidecar.exchange.filter import ANY, Chain, Filter, Site
from sidecar.exchange.guard import Guard, unmade
from sidecar.exchange.listener import Listener
from sidecar.exchange.routes import Route, Routes
from sidecar.filters.access_log import AccessLog
from sidecar.filters.decisions import Record
from sidecar.filters.drain import Drain
from sidecar.filters.forwarded import Forwarded
from sidecar.filters.metrics import ConnectionMetrics, Metrics
from sidecar.filters.order import placed
from sidecar.filters.request_id import RequestId, new_request_id
from sidecar.filters.retry import RetrySettings, spend
from sidecar.filters.timeout import Timeout
from sidecar.filters.tracing import Tracing
from sidecar.filters.why import Why, refusal_of
from sidecar.http.listener import HttpListener
from sidecar.http.pool import Pool
from sidecar.http.refusals import Refusals
from sidecar.net.shortage import SHORTAGE
from sidecar.resilience.budget import Budget
from sidecar.resilience.token_bucket import TokenBucket

if TYPE_CHECKING:
    from sidecar.http_queue.queue import HttpQueue

#: What clients ask of a queue: see :mod:`sidecar.http_queue.answers`.
_DOOR: Final = "/.sidecar/queue/"


#: Requests without an exchange that are remembered for those who ask why: per second, and at once. A flood of what is
#: no HTTP must not push out what is.
REFUSALS_RATE: Final = 10.0
REFUSALS_BURST: Final = 100

#: The filters of a port or a route, by the name of their key: ``None`` where one is switched off. Under ``filters``
#: those of other packages; under ``queue`` the settings of the queue, with the name of its lane.
Made = dict[str, Any]


class Assembly:
    """Builds one listener's chains, now and at each reload. A filter whose settings did not change stays, with its
    state: reloading must not close a breaker or refill a bucket. One that adapts to others stays, too: what is under
    way in a bulkhead still counts."""

    def __init__(
        self, context: Context, name: str, stats: ListenerStats, instead: Sequence[Filter] | None = None
    ) -> None:
        """``instead``: what stands in a rehearsal in place of the filters that are not in the configuration."""
        self._context = context
        self._name = name
        self._stats = stats
        #: (key, route) → its class, its settings and the filter that was built from them.
        self._built: dict[tuple[str, object], tuple[Any, Any, Filter]] = {}
        self._guards: dict[str, Guard] = {}
        #: What the upstream's retries are paid from, those of all routes.
        self._budget = Budget(inf, 0.0, context.clock())
        inbound, http = stats.direction == "inbound", stats.protocol == "http"
        #: Those of all routes, as they are now.
        self._caches = Caches()
        self._record = Record(context.decisions, "" if inbound else name)
        always: tuple[Filter, ...] = (
            Tracing(context.tracing.propagate, inbound, context.rng, context.sampling, context.record_span),
            RequestId(context.rng),
            Forwarded(),
            Drain(),
            Metrics(stats),
            ConnectionMetrics(stats),
            Why(context.stories, context.rng, http),
            self._record,
            AccessLog(context.access_log, http),
        )
        #: Those that ask the endpoints' sidecars for what the balancer goes by.
        self._asking: list[Filter] = []
        self._rehearsed = instead is not None
        #: What the chains were made for.
        self.config: Inbound | Upstream | None = None
        self._listener: Listener | None = None
        #: Those that are not in the configuration.
        self._always = [
            it
            for it in (always if instead is None else instead)
            if stats.protocol in it.protocols and stats.direction in it.sides
        ]

    @property
    def filters(self) -> list[Filter]:
        """The filters in use that are in the configuration, those of routes too."""
        return [it for _, _, it in self._built.values()]

    def apply(self, listener: Listener, config: Inbound | Upstream) -> None:
        """Give the listener the chains for this configuration."""
        self._listener, self.config = listener, config
        before = self._built
        self._built = {}
        main = self._filters(config, None, None, before)
        routes = [(route.match, self._filters(route, route.match, main, before)) for route in config.routes]
        every = [main, *(made for _, made in routes)]
        self._asking = [] if self._rehearsed else balancing.asking(config)
        outage.prepare(every, self._context.listener_of, self._caches)
        llm.prepare(self._stats, every)
        self._show(every)
        spend([made.get("retry") for made in every], self._budget, self._stats, self._context.clock)
        breakers = [it.mechanism for made in every if (it := made.get("circuit_breaker"))]
        queue = self._queue(listener, every)
        listener.default_route = Route(self._chain(main, queue), listener.cluster)
        listener.breakers = tuple(dict.fromkeys(breakers))
        listener.limits = config.limits
        self._record.watch(*watched(config))
        bulkhead = main["bulkhead"]
        self._stats.limit = bulkhead.shown() if bulkhead is not None else 0
        if isinstance(listener, HttpListener):
            table = [(match, Route(self._chain(made, queue, match), listener.cluster)) for match, made in routes]
            for number, (route, (_, it)) in enumerate(zip(config.routes, table, strict=True)):
                it.chain.number = number
                it.chain.own = tuple(name for name, settings in route.policies.items() if settings is not INHERIT)
            if queue is not None:
                door = Route(self._door(main["timeout"], queue), listener.cluster)
                table.insert(0, (Match(path=f"{_DOOR}*"), door))
            listener.routes = Routes(table, _DOOR if queue is not None else "") if table else None
            listener.quick = outage.quick(listener, every, self._context)
            listener.pool.max_connections = bulkhead.config.max_connections if bulkhead else 0
            listener.pool.keepalive = main["timeout"].times.keepalive
            listener.pool.limits = config.limits
        elif isinstance(config, Upstream) and config.amqp is not None:
            cast(Any, listener).configure(config.amqp, bulkhead.limiter if bulkhead is not None else None)

    def refresh(self) -> None:
        """Make the chains for the same configuration anew, as what is on beside it has changed."""
        if self._listener is not None and self.config is not None:
            self.apply(self._listener, self.config)

    def _filters(
        self,
        config: Inbound | Upstream | RouteSettings,
        match: Match | None,
        main: Made | None,
        before: Mapping[Any, Any],
    ) -> Made:
        """The filters of a port, or of one of its routes; what a route does not mention is the port's."""
        where = match and (match.path, match.methods, tuple(sorted(match.headers.items())))

        def keep(name: str, filter_class: Any, settings: Any) -> Filter:
            # Settings alone do not tell: those of filters that have none are all equal.
            old_class, old_settings, old = before.get((name, where), (None, None, None))
            same = old_class is filter_class and (
                old_settings == settings or (old.guard is None and old.adapt(settings))
            )
            made: Filter = old if same else self._made(filter_class, settings, match)
            self._built[name, where] = (filter_class, settings, made)
            return made

        made: Made = {} if main is None else dict(main)
        own = outage.apart(config) if isinstance(config, RouteSettings) else ()
        for name, it in DECLARED.items():
            if it.problem(self._stats.protocol, self._stats.direction):
                continue
            settings = config.policies.get(name, it.standard(self._stats.protocol) if main is None else INHERIT)
            if settings is not INHERIT and name == "faults":
                settings = self._context.faults.merged(self._stats, settings)
            if settings is not INHERIT and name == "queue":
                made[name] = settings and (settings, json.dumps(where) if where else "")
            elif settings is not INHERIT:
                made[name] = keep(name, it.filter, settings) if settings else None
            elif name in own and made[name] is not None:
                made[name] = keep(name, it.filter, made[name].config)
        if config.filters is not INHERIT:
            made["filters"] = tuple(
                keep(f"filters[{n}]", used.declared.filter, used.settings) for n, used in enumerate(config.filters)
            )
        return made

    def _made(self, filter_class: Any, settings: Any, match: Match | None) -> Filter:
        """A filter, with counters that go on from those of the one before."""
        stats = self._stats
        name = filter_class.name
        own = name in DECLARED
        shown = stats.filters.get(name)
        if shown is None:
            shown = FilterStats(filter_class.counters, "sidecar_" if own else "sidecar_filter_")
            if not own or filter_class.counters or filter_class.view is not Filter.view:
                stats.filters[name] = shown
        site = self._site(shown.counts, match)
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

    def _site(self, counts: dict[str, int], match: Match | None) -> Site:
        context, name = self._context, self._name
        shared = context.shared and functools.partial(context.shared, name_of(self._stats.direction, name, match))
        return Site(
            name, self._stats, context.clock, context.rng, counts, SHORTAGE.pairs,
            lambda breaker: context.breaker_changed(name, breaker), self._budget, shared,
        )  # fmt: skip

    def _show(self, every: Sequence[Made]) -> None:
        """What each filter in use shows of itself: the port's own, else that of the first route that has it."""
        in_use: dict[str, Filter] = {}
        for made in every:
            for it in _in_use(made):
                in_use.setdefault(it.name, it)
        for name, shown in self._stats.filters.items():
            found = in_use.get(name)
            shown.view = None if found is None else found.view if found.guard is None else found.guard.view(found.view)

    def _queue(self, listener: Listener, every: Sequence[Made]) -> HttpQueue | None:
        """Where the listener's requests are stored, if any are. It stays when nothing more is: what is there is to be
        delivered."""
        lanes = {made["queue"][1]: (made["queue"][0], self._tried_again(made)) for made in every if made.get("queue")}
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

    def _tried_again(self, made: Made) -> frozenset[int]:
        """Statuses after which a stored request is sent again."""
        retry = made.get("retry")
        if retry is not None:
            statuses: frozenset[int] = retry.statuses
            return statuses
        inbound = self._stats.direction == "inbound"  # where no route has a retry of its own
        return frozenset(int(item) for item in RetrySettings().on if item.isdigit()) if inbound else frozenset()

    def _door(self, timeout: Timeout, queue: HttpQueue) -> Chain:
        from sidecar.http_queue.filter import QueueDoor

        both = self._not_inbound()  # it is the sidecar that answers, not the app
        return Chain(placed([timeout, QueueDoor(queue), *both]), timeout.times, timeout.times.request)

    def _not_inbound(self) -> list[Filter]:
        return [it for it in self._always if "outbound" in it.sides and it is not self._record]

    def _chain(
        self, made: Made, queue: HttpQueue | None, match: Match | None = None, *, delivery: bool = False
    ) -> Chain:
        # A stored request has been taken in: there is nobody to turn away, and no client to name.
        clients = self._not_inbound() if delivery else self._always
        filters = [*outage.fitted(_in_use(made), delivery), *self._asking, *clients]
        if delivery:
            from sidecar.http.delivery import Delivered

            filters.append(Delivered())
        elif made.get("queue") and queue is not None:
            from sidecar.http_queue.filter import Queue

            settings, lane = made["queue"]
            filters.append(Queue(settings, queue, queue.lane(lane)))
        found = placed(filters)
        chain = llm.chain_of(found, made)
        if made.get("mirror") and not delivery:
            chain.keep = max(chain.keep, made["mirror"].config.max_body)
        if match is not None and match.path != "*":
            chain.route = match.path
        if delivery:
            chain.keep = ANY  # what is stored is in memory until it is over
        elif queue is not None:
            # Also where nothing more is to be stored: what is there may have come by any route that there was.
            chain.delivery = self._chain(made, queue, match, delivery=True)
            if made.get("queue"):
                chain.keep = max(chain.keep, made["queue"][0].max_body)
        return chain


def _in_use(made: Made) -> Iterator[Filter]:
    for it in (*made.values(), *made["filters"]):
        if isinstance(it, Filter):
            yield it


def create_listener(context: Context, name: str, config: Inbound | Upstream) -> Listener:
    """A listener for an inbound port or an upstream, not bound yet and without endpoints."""
    inbound = isinstance(config, Inbound)
    stats = ListenerStats("inbound" if inbound else "outbound", name, config.protocol)
    cluster = Cluster(name, balancing.balancer(config, context.rng, context.clock), context.clock, context.rng)
    cluster.key_of = balancing.key_of(config)
    balancing.divide(cluster, config, context.rng, context.clock)
    cluster.connect_failures = stats.connect_failures
    rotation.configure(cluster, config)
    listener = protocols.listener_class(config.protocol)(
        name=name, bind=config.bind, stats=stats, cluster=cluster, loop=context.loop, wheel=context.wheel,
        clock=context.clock, new_request_id=lambda: new_request_id(context.rng),
    )  # fmt: skip
    listener.given_up = context.given_up
    if isinstance(listener, HttpListener):
        listener.host = name.encode()
        rare = TokenBucket(REFUSALS_RATE, REFUSALS_BURST, context.clock())
        listener.on_refusal = functools.partial(_refused, context, listener, rare)
        listener.refusals = Refusals(context.access_log, stats, context.wheel, context.clock, name)
        listener.pool = Pool(context.loop, context.wheel, context.clock, stats)
    elif isinstance(config, Upstream) and config.amqp is not None:
        protocols.set_up_amqp(listener, context, config.amqp)
    listener.assembly = Assembly(context, name, stats)
    listener.assembly.apply(listener, config)
    return listener


def _refused(
    context: Context, listener: Listener, rare: TokenBucket, code: str, message: str, request_id: str, client: str
) -> None:
    """Something was refused that never became an exchange."""
    if context.stories.enabled and not rare.take(context.clock()):
        context.stories.put(refusal_of(listener, time.time(), code, message, request_id, client))
