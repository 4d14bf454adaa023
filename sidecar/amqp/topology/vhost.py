"""What is known of the exchanges, queues and bindings of one vhost."""

from __future__ import annotations

from typing import Final

from sidecar.amqp.topology.binding import Binding
from sidecar.amqp.topology.binding_table import ALL, BY_KEY, BY_PATTERN, GUESS, BindingTable

#: What is remembered of one vhost at most: bindings, the words of their keys all together. (A word costs about 100
#: bytes once its pattern is compiled.)
MAX_BINDINGS: Final = 10_000
MAX_WORDS: Final = 100_000
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

#: Types whose binding keys say nothing about routing keys are taken to reach every queue bound to them: a headers
#: exchange looks at the content, a hash or a random exchange picks one that we cannot foresee.
_KINDS: Final = {
    "direct": BY_KEY,
    "topic": BY_PATTERN,
    "fanout": ALL,
    "headers": ALL,
    "x-consistent-hash": ALL,
    "x-modulus-hash": ALL,
    "x-random": ALL,
    "x-recent-history": ALL,
}


class VhostBindings:
    """What is known of one vhost. Bindings to watched queues, and between exchanges, are apart from the many to
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
        self.near = BindingTable()
        self.rest = BindingTable()

    def store(self, binding: Binding) -> BindingTable:
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
        way = _KINDS.get(kind, GUESS)
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
            fan.collect(self.kinds.get(source, GUESS), key, targets)
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
                fan.collect(self.kinds.get(source, GUESS), key, targets)
        for name, _ in targets:
            queues.add(name)
