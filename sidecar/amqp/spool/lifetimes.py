"""For how long messages may be in the spool, by what is known of where they lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import Route
    from sidecar.amqp.topology.bindings import Topology

#: Routes whose answer is remembered; with more, it is begun anew.
_MOST: Final = 10_000


class Lifetime:
    """``kept``: seconds for which its queues keep a message (0: for ever, or nobody knows). ``lasting``: one that is
    persistent would outlive the broker there, as far as is known. ``fleeting``: see :meth:`.Topology.fleeting`."""

    __slots__ = ("fleeting", "kept", "lasting")

    def __init__(self, kept: float, lasting: bool, fleeting: bool) -> None:
        self.kept = kept
        self.lasting = lasting
        self.fleeting = fleeting


class Lifetimes:
    """What is known of one port's routes."""

    __slots__ = ("_found", "_topology", "_version")

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._version = -1
        self._found: dict[Route, Lifetime] = {}

    def find(self, route: Route) -> Lifetime:
        """That of what takes this route."""
        topology = self._topology
        if self._version != topology.version or len(self._found) >= _MOST:
            self._version = topology.version
            self._found.clear()
        found = self._found.get(route)
        if found is None:
            kept, transient = topology.life(route.vhost, route.exchange, route.routing_key)
            fleeting = not kept and topology.fleeting(route.vhost, route.exchange, route.routing_key)
            found = self._found[route] = Lifetime(kept, not (transient or fleeting), fleeting)
        return found
