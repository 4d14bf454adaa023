"""Which gates a publish passes: the limits of the configuration, compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sidecar.amqp.flow.gates import DepthGate, Gate, RateGate
from sidecar.amqp.flow.partitions import Partition, Partitions
from sidecar.amqp.flow.stats import AmqpStats, ExchangeStats, QueueDepth
from sidecar.amqp.topology.bindings import Bindings
from sidecar.amqp.topology.topic_match import Predicate, compile_pattern
from sidecar.amqp.wire.constants import BASIC_PUBLISH, SYNTAX_ERROR, AmqpError
from sidecar.core.amqp_settings import Amqp, AmqpPublish

#: How many routes of a vhost are remembered compiled, and what is known of how many of its exchanges; when there are
#: more, it is begun anew. Publishers choose both.
MAX_ROUTES: Final = 10_000
MAX_EXCHANGES: Final = 1_000
#: How many vhosts' routes are remembered; the broker has accepted each of them.
MAX_VHOSTS: Final = 1_000

_ANY: Final = "*"
_DEFAULT_EXCHANGE: Final = ("", "amq.default")


class PublishRoute:
    """What is the same for all publishes to one exchange with one routing key. Publishes of a channel with the same
    ``lane`` keep their order: those to one exchange, for the default exchange those to one queue (§4.7). ``gates``:
    of the watched queues that it leads to, as far as is known, then of the rate limit. ``expires``: how long such a
    message may be in the spool, seconds (0: for ever). ``partition``: how the exchange's messages are spread over
    routing keys, if they are."""

    __slots__ = ("exchange", "expires", "gates", "lane", "partition", "routing_key", "stats", "vhost")

    def __init__(
        self,
        vhost: str,
        exchange: str,
        routing_key: str,
        gates: tuple[Gate, ...],
        stats: ExchangeStats,
        expires: float = 0.0,
        partition: Partition | None = None,
    ) -> None:
        self.vhost = vhost
        self.exchange = exchange
        self.routing_key = routing_key
        self.lane = "exchange " + exchange if exchange else "queue " + routing_key
        self.gates = gates
        self.stats = stats
        self.expires = expires
        self.partition = partition


class KnownRoute:
    """The route of a ``key`` (see :meth:`RouteTable.find`), found while the policy had that ``version``."""

    __slots__ = ("key", "route", "version")

    def __init__(self, key: bytes, route: PublishRoute, version: int) -> None:
        self.key = key
        self.route = route
        self.version = version


class PublishRule:
    """A publish rule, compiled. ``gate`` is None when there is no limit."""

    __slots__ = ("_exchange", "_vhost", "expires", "gate", "matches_key")

    def __init__(self, settings: AmqpPublish, gate: RateGate | None) -> None:
        self._vhost = settings.vhost
        self._exchange = exchange_pattern(settings.exchange)
        self.matches_key: Predicate = compile_pattern(settings.routing_key)
        self.gate = gate
        self.expires = settings.expires

    def matches(self, vhost: str, exchange: str) -> bool:
        return (self._vhost == _ANY or self._vhost == vhost) and self._exchange(exchange)


def exchange_pattern(text: str) -> Predicate:
    """A function that says whether an exchange's name matches: ``*`` any, the empty name and ``amq.default`` the
    default exchange, everything else is a topic pattern."""
    if text == _ANY:
        return compile_pattern("#")
    return compile_pattern("" if text in _DEFAULT_EXCHANGE else text)


class ExchangeRules:
    """What publishes to one exchange have in common."""

    __slots__ = ("rules", "stats")

    def __init__(self, rules: Sequence[PublishRule], stats: ExchangeStats) -> None:
        self.rules = rules
        self.stats = stats


class RouteTable:
    """The routes of one vhost, found by what a publish says on the wire."""

    __slots__ = ("_exchanges", "_found", "_policy", "_version", "vhost")

    def __init__(self, policy: Policy, vhost: str) -> None:
        self.vhost = vhost
        self._policy = policy
        self._version = policy.version
        self._found: dict[bytes, PublishRoute] = {}
        self._exchanges: dict[str, ExchangeRules] = {}

    def find(self, key: bytes) -> PublishRoute:
        """The route for an exchange and a routing key, as they stand in ``basic.publish``: two short strings. Raises
        :class:`AmqpError` (502) when they are not."""
        if self._version == self._policy.version:
            route = self._found.get(key)
            if route is not None:
                return route
        return self._compile(key)

    def _compile(self, key: bytes) -> PublishRoute:
        policy = self._policy
        if self._version != policy.version:
            self._version = policy.version
            self._found.clear()
            self._exchanges.clear()
        name, routing_key = _parse(key)
        exchange = self._exchanges.get(name)
        if exchange is None:
            if len(self._exchanges) >= MAX_EXCHANGES:
                self._exchanges.clear()
            exchange = policy.exchange(self.vhost, name)
            self._exchanges[name] = exchange
        gates = policy.queue_gates(self.vhost, name, routing_key)
        expires = 0.0
        for rule in exchange.rules:
            if rule.matches_key(routing_key):
                expires = rule.expires
                if rule.gate is not None:
                    gates.append(rule.gate)
                break
        route = PublishRoute(
            self.vhost, name, routing_key, tuple(gates), exchange.stats, expires, policy.partitions.find(name)
        )
        if len(self._found) >= MAX_ROUTES:
            self._found.clear()
        self._found[key] = route
        return route


def _parse(key: bytes) -> tuple[str, str]:
    size = len(key)
    if size >= 2:
        middle = 1 + key[0]
        if middle < size and middle + 1 + key[middle] == size:
            name = key[1:middle].decode("utf-8", "surrogateescape")
            return name, key[middle + 1 :].decode("utf-8", "surrogateescape")
    raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - exchange and routing key of basic.publish do not fit", BASIC_PUBLISH)


class Policy:
    """An AMQP port's limits, for all its vhosts. ``version`` grows when routes may have changed; ``depth_gates`` are
    those of the watched queues by (vhost, queue), ``rate_gates`` those of the publish rules, both in the
    configuration's order."""

    __slots__ = (
        "_clock",
        "_numbers",
        "_queues",
        "_rates",
        "_routes",
        "_rules",
        "_stats",
        "bindings",
        "depth_gates",
        "partitions",
        "rate_gates",
        "version",
    )  # fmt: skip

    def __init__(self, config: Amqp, stats: AmqpStats, clock: Callable[[], float]) -> None:
        self._stats = stats
        self._clock = clock
        self.version = 0
        self.partitions = Partitions(config.partitions)
        self.bindings = Bindings()
        self.bindings.on_change = self._bindings_changed
        self.depth_gates: dict[tuple[str, str], DepthGate] = {}
        self.rate_gates: Sequence[RateGate] = ()
        #: The same gates: by what their rules match, and by vhost and queue.
        self._rates: dict[tuple[str, str, str], RateGate] = {}
        self._queues: dict[str, dict[str, DepthGate]] = {}
        #: Rate and burst of each rate gate.
        self._numbers: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._rules: tuple[PublishRule, ...] = ()
        self._routes: dict[str, RouteTable] = {}
        self.update(config)

    def routes(self, vhost: str) -> RouteTable:
        """The routes of a vhost that the broker has let a client open: the same object for all its connections."""
        routes = self._routes.pop(vhost, None)
        if routes is None:
            if len(self._routes) >= MAX_VHOSTS:
                # The one that was asked for longest ago. It goes on working for those who have it.
                del self._routes[next(iter(self._routes))]
            routes = RouteTable(self, vhost)
        self._routes[vhost] = routes
        return routes

    def update(self, config: Amqp) -> None:
        """Another configuration. Gates for the same rule or queue stay, with their state and whoever waits there; those
        that are gone let everybody through."""
        now = self._clock()
        self.partitions.update(config.partitions)
        self._update_queues(config, now)
        self._update_rules(config, now)
        self.bindings.watch(self.depth_gates)
        self.version += 1

    def exchange(self, vhost: str, name: str) -> ExchangeRules:
        """What publishes to an exchange have in common."""
        rules = [rule for rule in self._rules if rule.matches(vhost, name)]
        return ExchangeRules(rules, self._stats.exchange(vhost, name))

    def queue_gates(self, vhost: str, exchange: str, routing_key: str) -> list[Gate]:
        """Those of the watched queues that a publish leads to, as far as is known."""
        gates: list[Gate] = []
        queues = self._queues.get(vhost)
        if queues is not None:
            reached = self.bindings.watched_queues(vhost, exchange, routing_key)
            if reached:
                for name, gate in queues.items():
                    if name in reached:
                        gates.append(gate)
        return gates

    def _update_queues(self, config: Amqp, now: float) -> None:
        stats = self._stats.queues
        gates: dict[tuple[str, str], DepthGate] = {}
        for wanted in config.queues:
            key = (wanted.vhost, wanted.name)
            gate = self.depth_gates.get(key)
            if gate is None:
                gate = DepthGate(QueueDepth(wanted.vhost, wanted.name, wanted.high, wanted.low), wanted.over)
            else:
                gate.over = wanted.over
                queue = gate.queue
                if (queue.high, queue.low) != (wanted.high, wanted.low):
                    queue.high = wanted.high
                    queue.low = wanted.low
                    gate.reconsider(now)
            gates[key] = gate
        gone = [gate for key, gate in self.depth_gates.items() if key not in gates]
        self.depth_gates = gates
        self._queues = {}
        stats.clear()
        for (vhost, name), gate in gates.items():
            stats[vhost, name] = gate.queue
            self._queues.setdefault(vhost, {})[name] = gate
        for gate in gone:
            gate.retire(now)

    def _update_rules(self, config: Amqp, now: float) -> None:
        gates: dict[tuple[str, str, str], RateGate] = {}
        settings: dict[tuple[str, str, str], tuple[float, int]] = {}
        rules: list[PublishRule] = []
        for wanted in config.publish:
            key = (wanted.vhost, wanted.exchange, wanted.routing_key)
            # A second rule for exactly the same publishes never has its turn.
            if wanted.rate > 0 and key not in gates:
                numbers = (wanted.rate, wanted.burst)
                gate = self._rates.get(key)
                if gate is None:
                    gate = RateGate(_rate_name(wanted), wanted.rate, wanted.burst, wanted.over, now)
                elif self._numbers[key] != numbers:
                    gate.change(wanted.rate, wanted.burst, wanted.over, now)
                gate.over = wanted.over
                gates[key] = gate
                settings[key] = numbers
            rules.append(PublishRule(wanted, gates.get(key)))
        gone = [gate for key, gate in self._rates.items() if key not in gates]
        self._rates = gates
        self._numbers = settings
        self._rules = tuple(rules)
        self.rate_gates = tuple(gates.values())
        for gate in gone:
            gate.retire(now)

    def _bindings_changed(self) -> None:
        self.version += 1


def _rate_name(rule: AmqpPublish) -> str:
    """As people know it from the configuration."""
    name = f"rate of {rule.exchange or _DEFAULT_EXCHANGE[1]}, {rule.routing_key}"
    return name if rule.vhost == _ANY else f"{name} of {rule.vhost}"
