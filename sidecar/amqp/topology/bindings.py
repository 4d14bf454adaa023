"""What is known of a broker's exchanges and bindings, and so which queues a publish leads to.

Learnt from what clients declare and bind through the port and, where the management API may be asked, from that. It is
knowledge with gaps: what others bound before we looked is missing, what ends by itself (auto-delete, expiry) stays. So
it serves for holding publishes back, never for delivering anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Final

from sidecar.amqp.topology.topic_match import PatternSet, is_literal

log = logging.getLogger("sidecar.amqp")

#: What is remembered of one vhost at most: bindings, the words of their keys all together, exchanges, queues that limit
#: the life of messages; and of how many vhosts. (A word costs about 100 bytes once its pattern is compiled.)
MAX_BINDINGS: Final = 10_000
MAX_WORDS: Final = 100_000
MAX_EXCHANGES: Final = 10_000
MAX_QUEUES: Final = 10_000
MAX_VHOSTS: Final = 1_000
#: Through how many exchanges a publish is followed.
MAX_FOLLOWED: Final = 1_000

#: Exchanges that every vhost has.
PREDECLARED: Final = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
    "amq.rabbitmq.log": "topic",
}

# How an exchange of some type finds its bindings; each way finds what those before it find, and more.
_BY_KEY: Final = 0
_BY_PATTERN: Final = 1
_GUESS: Final = 2
_ALL: Final = 3

#: Types whose binding keys say nothing about routing keys are taken to reach every queue bound to them: a headers
#: exchange looks at the content, a hash or a random exchange picks one that we cannot foresee.
_KINDS: Final = {
    "direct": _BY_KEY,
    "topic": _BY_PATTERN,
    "fanout": _ALL,
    "headers": _ALL,
    "x-consistent-hash": _ALL,
    "x-modulus-hash": _ALL,
    "x-random": _ALL,
    "x-recent-history": _ALL,
}


_Identity = tuple[str, str, str, bool, bytes]


class Binding:
    """One binding: from the exchange ``source`` to a queue or, with ``to_exchange``, to an exchange. Bindings that
    differ in their arguments only are different ones (§3.1.3.3); ``arguments`` are kept as a digest."""

    __slots__ = ("digest", "learnt", "routing_key", "source", "target", "to_exchange", "words")

    def __init__(
        self,
        source: str,
        target: str,
        routing_key: str,
        arguments: Mapping[str, object] | None = None,
        to_exchange: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self.routing_key = routing_key
        self.to_exchange = to_exchange
        self.digest = digest(arguments) if arguments else b""
        self.words = routing_key.count(".") + 1
        #: When it was last heard of (:attr:`Bindings.heard`).
        self.learnt = 0

    @property
    def identity(self) -> _Identity:
        return self.source, self.target, self.routing_key, self.to_exchange, self.digest


def digest(arguments: Mapping[str, object]) -> bytes:
    """Arguments in a few bytes, whatever their size; their order does not matter."""
    text = repr(sorted(arguments.items(), key=_name))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _name(item: tuple[str, object]) -> str:
    return item[0]


class _ExchangeBindings:
    """What leads away from one exchange."""

    __slots__ = ("_by_key", "_patterns")

    def __init__(self) -> None:
        #: Binding key → targets, (name, to_exchange) → how many bindings that is.
        self._by_key: dict[str, dict[tuple[str, bool], int]] = {}
        #: The binding keys that have wildcards.
        self._patterns = PatternSet()

    def add(self, binding: Binding) -> None:
        key = binding.routing_key
        targets = self._by_key.get(key)
        if targets is None:
            targets = self._by_key[key] = {}
            if not is_literal(key):
                self._patterns.add(key)
        target = (binding.target, binding.to_exchange)
        targets[target] = targets.get(target, 0) + 1

    def remove(self, binding: Binding) -> None:
        key = binding.routing_key
        targets = self._by_key[key]
        target = (binding.target, binding.to_exchange)
        if targets[target] > 1:
            targets[target] -= 1
            return
        del targets[target]
        if not targets:
            del self._by_key[key]
            self._patterns.discard(key)

    def collect(self, kind: int, key: str, found: set[tuple[str, bool]]) -> None:
        """Adds the targets of a publish with that routing key."""
        if kind == _ALL:
            for targets in self._by_key.values():
                found.update(targets)
            return
        self._collect(key, found)
        if kind != _BY_KEY:
            for pattern in self._patterns.matching(key):
                self._collect(pattern, found)
            if kind == _GUESS:
                self._collect("", found)

    def _collect(self, key: str, found: set[tuple[str, bool]]) -> None:
        targets = self._by_key.get(key)
        if targets is not None:
            found.update(targets)


class _BindingTable:
    """Bindings in the order in which they were last heard of, and where they lead."""

    __slots__ = ("bindings", "fans", "sources", "targets", "words")

    def __init__(self) -> None:
        self.bindings: dict[_Identity, Binding] = {}
        self.fans: dict[str, _ExchangeBindings] = {}
        #: The bindings of an exchange, and those to a (name, to_exchange).
        self.sources: dict[str, set[_Identity]] = {}
        self.targets: dict[tuple[str, bool], set[_Identity]] = {}
        self.words = 0

    def add(self, binding: Binding) -> None:
        """A binding that is not there yet."""
        identity = binding.identity
        self.bindings[identity] = binding
        self.words += binding.words
        self.sources.setdefault(binding.source, set()).add(identity)
        self.targets.setdefault((binding.target, binding.to_exchange), set()).add(identity)
        fan = self.fans.get(binding.source)
        if fan is None:
            fan = self.fans[binding.source] = _ExchangeBindings()
        fan.add(binding)

    def remove(self, identity: _Identity) -> Binding | None:
        binding = self.bindings.pop(identity, None)
        if binding is None:
            return None
        self.words -= binding.words
        target = (binding.target, binding.to_exchange)
        targets = self.targets[target]
        targets.remove(identity)
        if not targets:
            del self.targets[target]
        source = binding.source
        sources = self.sources[source]
        sources.remove(identity)
        if sources:
            self.fans[source].remove(binding)
        else:
            del self.sources[source]
            del self.fans[source]
        return binding

    def remove_exchange(self, name: str) -> bool:
        """Every binding from and to it; whether there was one."""
        gone = self.sources.get(name, set()) | self.targets.get((name, True), set())
        for identity in gone:
            self.remove(identity)
        return bool(gone)

    def remove_queue(self, name: str) -> bool:
        """Every binding to it; whether there was one."""
        gone = list(self.targets.get((name, False), ()))
        for identity in gone:
            self.remove(identity)
        return bool(gone)

    def again(self, identity: _Identity, heard: int) -> bool:
        """It was heard of again; whether it is here at all."""
        binding = self.bindings.pop(identity, None)
        if binding is None:
            return False
        self.bindings[identity] = binding
        binding.learnt = heard
        return True


class _VhostBindings:
    """What is known of one vhost. Bindings to watched queues, and between exchanges, are kept apart from the many to
    queues that nobody watches: those go first when there are too many, and are not looked at to route a publish."""

    __slots__ = ("kinds", "learnt", "lives", "near", "rest", "transient", "types", "watched")

    def __init__(self, watched: frozenset[str]) -> None:
        #: The declared exchanges' types, those heard of longest ago first; and when that was (:attr:`Bindings.heard`).
        self.types: dict[str, str] = {}
        self.learnt: dict[str, int] = {}
        self.kinds: dict[str, int] = {name: _KINDS[kind] for name, kind in PREDECLARED.items()}
        #: Exchanges that end with their broker.
        self.transient: set[str] = set()
        #: For how long a queue keeps a message, seconds, and whether it ends by itself, those heard of longest ago
        #: first; the others keep it for ever.
        self.lives: dict[str, tuple[float, bool]] = {}
        self.watched = watched
        self.near = _BindingTable()
        self.rest = _BindingTable()

    def store(self, binding: Binding) -> _BindingTable:
        return self.near if binding.to_exchange or binding.target in self.watched else self.rest

    def watch(self, queues: frozenset[str]) -> None:
        """Other queues are watched now."""
        self.watched = queues
        for store in (self.near, self.rest):
            for identity, binding in list(store.bindings.items()):
                if self.store(binding) is not store:
                    store.remove(identity)
                    self.store(binding).add(binding)

    def declared(self, name: str, kind: str, heard: int, sure: bool) -> bool:
        """Whether that is news. The broker refuses to change an exchange's type, so a second one says that either is
        wrong; until somebody is ``sure``, the one that reaches more counts."""
        if name in PREDECLARED:
            return False
        way = _KINDS.get(kind, _GUESS)
        if name in self.types:
            before = self.kinds[name]
            del self.types[name]
            if not sure:
                way = max(way, before)
        else:
            before = -1
        self.types[name] = kind
        self.learnt[name] = heard
        self.kinds[name] = way
        return way != before

    def deleted(self, name: str) -> bool:
        """Whether there was one."""
        known = self.types.pop(name, None) is not None
        if known:
            del self.learnt[name]
            del self.kinds[name]
            self.transient.discard(name)
        return known

    def trim(self) -> int:
        """Forgets the oldest until the rest is within the bounds; how many went."""
        near = self.near
        rest = self.rest
        count = 0
        while len(near.bindings) + len(rest.bindings) > MAX_BINDINGS or near.words + rest.words > MAX_WORDS:
            store = rest if rest.bindings else near
            store.remove(next(iter(store.bindings)))
            count += 1
        return count

    def reach(self, exchange: str, key: str, queues: set[str]) -> set[str]:
        """Adds the watched queues that a publish reaches; the exchanges it runs through. Each is looked at once,
        however they are bound together."""
        seen = {exchange}
        todo = [exchange]
        fans = self.near.fans
        while todo:
            source = todo.pop()
            fan = fans.get(source)
            if fan is None:
                continue
            targets: set[tuple[str, bool]] = set()
            fan.collect(self.kinds.get(source, _GUESS), key, targets)
            for name, to_exchange in targets:
                if not to_exchange:
                    queues.add(name)
                elif name not in seen and len(seen) < MAX_FOLLOWED:
                    seen.add(name)
                    todo.append(name)
        return seen

    def reach_rest(self, exchanges: set[str], key: str, queues: set[str]) -> None:
        """Adds the queues that nobody watches."""
        targets: set[tuple[str, bool]] = set()
        for source in exchanges:
            fan = self.rest.fans.get(source)
            if fan is not None:
                fan.collect(self.kinds.get(source, _GUESS), key, targets)
        for name, _ in targets:
            queues.add(name)


class Bindings:
    """Every vhost's exchanges and bindings, within bounds. Names are as in the protocol; the empty exchange is the
    default one, which leads to the queue that the routing key names.

    ``version`` grows with every change. ``heard`` grows with every exchange or binding that is heard of, new or not.
    ``forgotten`` counts what was dropped because there was too much. ``on_change`` is called after changes that
    :meth:`watched_queues` may notice."""

    __slots__ = ("_full", "_vhosts", "_watched", "forgotten", "heard", "on_change", "version")

    def __init__(self) -> None:
        self.version = 0
        self.heard = 0
        self.forgotten = 0
        self.on_change: Callable[[], None] | None = None
        self._vhosts: dict[str, _VhostBindings] = {}
        self._watched: dict[str, frozenset[str]] = {}
        #: Vhosts whose bounds were reached: one line of log each.
        self._full: set[str] = set()

    def watch(self, queues: Iterable[tuple[str, str]]) -> None:
        """Which queues, (vhost, name), matter most."""
        names: dict[str, set[str]] = {}
        for vhost, queue in queues:
            names.setdefault(vhost, set()).add(queue)
        self._watched = {vhost: frozenset(found) for vhost, found in names.items()}
        for vhost, known in self._vhosts.items():
            wanted = self._watched.get(vhost, frozenset())
            if wanted != known.watched:
                known.watch(wanted)
        self._changed(True)

    def exchange_declared(self, vhost: str, name: str, kind: str, durable: bool | None = True) -> None:
        """A client declares an exchange, and not passively: then the type says nothing. ``durable`` is ``None`` as long
        as it is not known."""
        self.heard += 1
        known = self._vhost(vhost)
        if durable is not None and durable == (name in known.transient) and name not in PREDECLARED:
            known.transient ^= {name}
            self.version += 1
        if known.declared(name, kind, self.heard, False):
            near = name in known.near.fans
            if len(known.types) > MAX_EXCHANGES:
                oldest = next(iter(known.types))
                known.deleted(oldest)
                self._forgot(vhost, 1)
                near = near or oldest in known.near.fans
            self._changed(near)

    def exchange_deleted(self, vhost: str, name: str) -> None:
        """All bindings from and to it are gone too."""
        known = self._vhosts.get(vhost)
        if known is not None:
            changed = known.deleted(name)
            near = known.near.remove_exchange(name)
            rest = known.rest.remove_exchange(name)
            if changed or near or rest:
                self._changed(near)

    def bound(
        self, vhost: str, exchange: str, queue: str, routing_key: str, arguments: Mapping[str, object] | None = None
    ) -> None:
        self._learn(vhost, Binding(exchange, queue, routing_key, arguments))

    def unbound(
        self, vhost: str, exchange: str, queue: str, routing_key: str, arguments: Mapping[str, object] | None = None
    ) -> None:
        self._unlearn(vhost, Binding(exchange, queue, routing_key, arguments))

    def exchange_bound(
        self, vhost: str, source: str, destination: str, routing_key: str, arguments: Mapping[str, object] | None = None
    ) -> None:
        self._learn(vhost, Binding(source, destination, routing_key, arguments, True))

    def exchange_unbound(
        self, vhost: str, source: str, destination: str, routing_key: str, arguments: Mapping[str, object] | None = None
    ) -> None:
        self._unlearn(vhost, Binding(source, destination, routing_key, arguments, True))

    def queue_declared(self, vhost: str, queue: str, transient: bool, arguments: Mapping[str, object]) -> None:
        """A client declares a queue, and not passively. ``transient``: it ends by itself."""
        life = _life(transient, arguments)
        if not life and vhost not in self._vhosts:
            return
        lives = self._vhost(vhost).lives
        found = (life, transient) if life else None
        if lives.pop(queue, None) != found:
            self.version += 1
        if found is not None:
            lives[queue] = found
            if len(lives) > MAX_QUEUES:
                del lives[next(iter(lives))]

    def life(self, vhost: str, exchange: str, routing_key: str) -> tuple[float, bool]:
        """For how long a message would be kept where it leads to, as far as is known, seconds: the longest time of
        these queues (0: one of them keeps it for ever, or none is known). And whether all of them end by themselves."""
        known = self._vhosts.get(vhost)
        longest = 0.0
        transient = True
        if known is not None and known.lives:
            for queue in self.queues(vhost, exchange, routing_key):
                life = known.lives.get(queue)
                if life is None:
                    return 0.0, False
                longest = max(longest, life[0])
                transient = transient and life[1]
        return longest, transient and longest > 0.0

    def fleeting(self, vhost: str, exchange: str, routing_key: str) -> bool:
        """Whether an exchange ends with its broker, and no queue is known to which it leads."""
        known = self._vhosts.get(vhost)
        return known is not None and exchange in known.transient and not self.queues(vhost, exchange, routing_key)

    def queue_deleted(self, vhost: str, queue: str) -> None:
        """All bindings to it are gone too."""
        known = self._vhosts.get(vhost)
        if known is not None:
            known.lives.pop(queue, None)
            near = queue in known.watched
            if (known.near if near else known.rest).remove_queue(queue):
                self._changed(near)

    def replace(
        self, vhost: str, exchanges: Mapping[str, str], bindings: Iterable[Binding], since: int | None = None
    ) -> None:
        """What the broker itself says: all exchanges with their types, and all bindings (those of the default exchange
        are passed over). It replaces what was learnt. ``since`` is ``heard`` as it was before the broker was asked:
        what was learnt after that may be younger than the answer, and stays."""
        known = self._vhost(vhost)
        if since is None:
            since = self.heard
        self.heard += 1
        near = False
        changed = False
        for name in [name for name in known.types if name not in exchanges and known.learnt[name] <= since]:
            near = known.deleted(name) or near
        for name, kind in exchanges.items():
            learnt = known.learnt.get(name, 0)
            if name and learnt <= since and (learnt or len(known.types) < MAX_EXCHANGES):
                near = known.declared(name, kind, self.heard, True) or near
        wanted: dict[_Identity, Binding] = {}
        others: list[Binding] = []
        for binding in bindings:
            if binding.source:
                if known.store(binding) is known.near:
                    wanted[binding.identity] = binding
                else:
                    others.append(binding)
        room = max(MAX_BINDINGS - len(wanted), 0)
        if len(others) > room:
            self._forgot(vhost, len(others) - room)
        for binding in others[:room]:
            wanted[binding.identity] = binding
        for store in (known.near, known.rest):
            for identity, binding in list(store.bindings.items()):
                if binding.learnt <= since and identity not in wanted:
                    store.remove(identity)
                    changed = True
                    near = near or store is known.near
        for identity, binding in wanted.items():
            store = known.store(binding)
            if not store.again(identity, self.heard):
                binding.learnt = self.heard
                store.add(binding)
                changed = True
                near = near or store is known.near
        if changed or near:
            self._trim(vhost, known)
            self._changed(near)

    def queues(self, vhost: str, exchange: str, routing_key: str) -> set[str]:
        """Which queues a publish reaches, as far as is known."""
        found: set[str] = set()
        if not exchange:
            found.add(routing_key)
        else:
            known = self._vhosts.get(vhost)
            if known is not None:
                known.reach_rest(known.reach(exchange, routing_key, found), routing_key, found)
        return found

    def watched_queues(self, vhost: str, exchange: str, routing_key: str) -> set[str]:
        """Which of the watched queues a publish reaches: like :meth:`queues`, and cheap however many others there
        are."""
        found: set[str] = set()
        watched = self._watched.get(vhost)
        if watched is not None:
            if exchange:
                known = self._vhosts.get(vhost)
                if known is not None:
                    known.reach(exchange, routing_key, found)
            elif routing_key in watched:
                found.add(routing_key)
        return found

    def _vhost(self, name: str) -> _VhostBindings:
        known = self._vhosts.get(name)
        if known is None:
            if len(self._vhosts) >= MAX_VHOSTS:
                oldest = next(iter(self._vhosts))
                del self._vhosts[oldest]
                self._full.discard(oldest)
                self.forgotten += 1
            known = self._vhosts[name] = _VhostBindings(self._watched.get(name, frozenset()))
        return known

    def _learn(self, vhost: str, binding: Binding) -> None:
        if binding.source:
            self.heard += 1
            known = self._vhost(vhost)
            store = known.store(binding)
            if not store.again(binding.identity, self.heard):
                binding.learnt = self.heard
                store.add(binding)
                self._changed(self._trim(vhost, known) or store is known.near)

    def _unlearn(self, vhost: str, binding: Binding) -> None:
        known = self._vhosts.get(vhost)
        if known is not None:
            store = known.store(binding)
            if store.remove(binding.identity) is not None:
                self._changed(store is known.near)

    def _trim(self, vhost: str, known: _VhostBindings) -> bool:
        """Whether the watched queues' bindings had to go as well."""
        near = len(known.near.bindings)
        count = known.trim()
        if count:
            self._forgot(vhost, count)
        return len(known.near.bindings) != near

    def _forgot(self, vhost: str, count: int) -> None:
        self.forgotten += count
        if vhost not in self._full:
            self._full.add(vhost)
            log.warning(
                "vhost %r has more exchanges or bindings than are remembered: those heard of longest ago are "
                "forgotten, those of unwatched queues first",
                vhost,
            )

    def _changed(self, near: bool) -> None:
        self.version += 1
        if near and self.on_change is not None:
            self.on_change()


def _life(transient: bool, arguments: Mapping[str, object]) -> float:
    """For how long such a queue keeps a message that nobody fetches, seconds; 0: for ever. One that ends by itself
    goes, with all that is in it, when nobody has used it for ``x-expires``."""
    times = [_milliseconds(arguments.get("x-message-ttl"))]
    if transient:
        times.append(_milliseconds(arguments.get("x-expires")))
    return min((max(time, 1) / 1000 for time in times if time is not None), default=0.0)


def _milliseconds(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
