"""What is known of a broker's exchanges and bindings, and so which queues a publish leads to.

Learnt from what clients declare and bind through the port and, where the management API may be asked, from that. It is
knowledge with gaps: what others bound before we looked is missing, what ends by itself (auto-delete, expiry) stays. So
it serves for holding publishes back, never for delivering anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from sidecar.amqp.topology.binding import Binding, Identity
from sidecar.amqp.topology.vhost import MAX_BINDINGS, PREDECLARED, VhostBindings

log = logging.getLogger("sidecar.amqp")

#: What is remembered of one vhost at most, beside its bindings: exchanges, queues that limit the life of messages; and
#: of how many vhosts.
MAX_EXCHANGES: Final = 10_000
MAX_QUEUES: Final = 10_000
MAX_VHOSTS: Final = 1_000


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
        self._vhosts: dict[str, VhostBindings] = {}
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
        wanted: dict[Identity, Binding] = {}
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

    def _vhost(self, name: str) -> VhostBindings:
        known = self._vhosts.get(name)
        if known is None:
            if len(self._vhosts) >= MAX_VHOSTS:
                oldest = next(iter(self._vhosts))
                del self._vhosts[oldest]
                self._full.discard(oldest)
                self.forgotten += 1
            known = self._vhosts[name] = VhostBindings(self._watched.get(name, frozenset()))
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

    def _trim(self, vhost: str, known: VhostBindings) -> bool:
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
