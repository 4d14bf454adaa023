"""For how long messages may be in the spool, by what is known of where they lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.topology.bindings import Bindings

#: Routes whose answer is remembered; with more, it is begun anew.
_MOST: Final = 10_000


class Lifetime:
    """``ttl``: seconds for which its queues keep a message (0: for ever, or nobody knows). ``lasting``: one that is
    persistent would outlive the broker there, as far as is known. ``fleeting``: see :meth:`.Bindings.fleeting`."""

    __slots__ = ("fleeting", "lasting", "ttl")

    def __init__(self, ttl: float, lasting: bool, fleeting: bool) -> None:
        self.ttl = ttl
        self.lasting = lasting
        self.fleeting = fleeting


class Lifetimes:
    """What is known of one port's routes."""

    __slots__ = ("_bindings", "_found", "_version")

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings
        self._version = -1
        self._found: dict[PublishRoute, Lifetime] = {}

    def find(self, route: PublishRoute) -> Lifetime:
        """That of what takes this route."""
        bindings = self._bindings
        if self._version != bindings.version or len(self._found) >= _MOST:
            self._version = bindings.version
            self._found.clear()
        found = self._found.get(route)
        if found is None:
            ttl, transient = bindings.life(route.vhost, route.exchange, route.routing_key)
            fleeting = not ttl and bindings.fleeting(route.vhost, route.exchange, route.routing_key)
            found = self._found[route] = Lifetime(ttl, not (transient or fleeting), fleeting)
        return found
