"""Bindings by what they lead from and to, and where a publish goes by them."""

from __future__ import annotations

from typing import Final

from sidecar.amqp.topology.binding import Binding, Identity
from sidecar.amqp.topology.topic_match import PatternSet, is_literal

# How an exchange of some type finds its bindings; each way finds what those before it find, and more.
BY_KEY: Final = 0
BY_PATTERN: Final = 1
GUESS: Final = 2
ALL: Final = 3


class ExchangeBindings:
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
        if kind == ALL:
            for targets in self._by_key.values():
                found.update(targets)
            return
        self._collect(key, found)
        if kind != BY_KEY:
            for pattern in self._patterns.matching(key):
                self._collect(pattern, found)
            if kind == GUESS:
                self._collect("", found)

    def _collect(self, key: str, found: set[tuple[str, bool]]) -> None:
        targets = self._by_key.get(key)
        if targets is not None:
            found.update(targets)


class BindingTable:
    """Bindings in the order in which they were last heard of, and where they lead."""

    __slots__ = ("bindings", "fans", "sources", "targets", "words")

    def __init__(self) -> None:
        self.bindings: dict[Identity, Binding] = {}
        self.fans: dict[str, ExchangeBindings] = {}
        #: The bindings of an exchange, and those to a (name, to_exchange).
        self.sources: dict[str, set[Identity]] = {}
        self.targets: dict[tuple[str, bool], set[Identity]] = {}
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
            fan = self.fans[binding.source] = ExchangeBindings()
        fan.add(binding)

    def remove(self, identity: Identity) -> Binding | None:
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

    def again(self, identity: Identity, heard: int) -> bool:
        """It was heard of again; whether it is here at all."""
        binding = self.bindings.pop(identity, None)
        if binding is None:
            return False
        self.bindings[identity] = binding
        binding.learnt = heard
        return True
