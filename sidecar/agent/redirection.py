"""Redirected connections of a running sidecar: the ports at which they arrive, and which upstream each belongs to.

``sidecar redirect`` installs the rules that lead them here; this process changes none.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sidecar.agent.assembly import Assembly
from sidecar.config.redirect import ANY, NAME
from sidecar.config.schema import Config
from sidecar.config.traffic import Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance
from sidecar.core.json_schema import NUMBER, TEXT, array, record
from sidecar.core.metrics import Family, counter
from sidecar.core.operations import Answer, Call, Contribution, Operation
from sidecar.core.stats import ListenerStats
from sidecar.endpoints.balancers.table import create as balancer
from sidecar.endpoints.names import Expansion, Names
from sidecar.filters.request_id import new_request_id
from sidecar.filters.timeout import TimeoutSettings
from sidecar.net.listen import LOOPBACK
from sidecar.net.original import original_destination

if TYPE_CHECKING:
    from sidecar.agent.clusters import RunningUpstream
    from sidecar.agent.context import Context
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.listener import Listener
    from sidecar.tcp.capture import CaptureListener

#: Seconds to connect to where a connection was going: as long as a patient app would wait.
_CONNECT = 10.0

_Place = tuple[str, int]


def problem(config: Config, uid: int | None = None) -> str:
    """Why a process cannot serve what is redirected; empty when it can. ``uid``: its user, by default our own."""
    redirect = config.redirect
    own = os.geteuid() if uid is None else uid
    if redirect is None or redirect.outbound is None or own == redirect.uid:
        return ""
    return (
        f"redirect.uid is {redirect.uid}, but this runs as user {own}: what it dials would come back to it for ever. "
        "Run it as that user, or set redirect.uid and install the rules again (sidecar redirect)"
    )


class Redirection:
    """The capture ports that the configuration asks for; none without ``redirect``."""

    def __init__(self, config: Config, context: Context, names: Names, inbound: Callable[[], Listener | None]) -> None:
        self.listeners: list[CaptureListener] = []
        #: The one that relays what belongs to no upstream.
        self.passing: CaptureListener | None = None
        self._names = names
        self._upstreams: Mapping[str, RunningUpstream] = {}
        #: By upstream: what stands in its ``redirect``, its names looked up.
        self._dialled: dict[str, _Dialled] = {}
        #: By upstream: the endpoints of the last look, and their addresses.
        self._known: dict[str, tuple[Sequence[Endpoint], frozenset[_Place]]] = {}
        redirect = config.redirect
        if redirect is None:
            return
        if redirect.outbound is not None:
            it = _listener(context, NAME, Address(LOOPBACK, redirect.outbound.port))
            it.passes = redirect.outbound.unknown == "pass"
            it.belongs = self.belongs
            self.listeners.append(it)
            self.passing = it
        if redirect.inbound is not None:
            it = _listener(context, f"{NAME} inbound", Address("::", redirect.inbound.port))
            it.belongs = lambda host, port: inbound()
            self.listeners.append(it)

    @property
    def stats(self) -> list[ListenerStats]:
        """What is counted of connections that belong to no upstream."""
        return [self.passing.stats] if self.passing is not None else []

    def hold(self) -> None:
        """Accept nothing until :meth:`release`: it is not known yet what belongs to whom."""
        for listener in self.listeners:
            listener.hold()

    def release(self) -> None:
        """Accept."""
        for listener in self.listeners:
            listener.release()

    def follow(self, upstreams: Mapping[str, RunningUpstream]) -> None:
        """These are the upstreams from now on."""
        if self.passing is None:
            return
        before, self._upstreams, self._known = self._dialled, upstreams, {}
        self._dialled = {
            name: old if (old := before.get(name)) is not None and old.wanted == it.config.redirect
            else _Dialled(name, it.config.redirect, self._names)
            for name, it in upstreams.items()
            if it.config.redirect
        }  # fmt: skip
        for name, old in before.items():
            if self._dialled.get(name) is not old:
                old.close()

    def belongs(self, host: str, port: int) -> Listener | None:
        """The listener of the upstream that a destination belongs to. One that says so comes before one that has such
        an endpoint, and both before one that says so of any address; of several the first in the file."""
        place = (host, port)
        for name, it in self._dialled.items():
            if place in it.places:
                return self._upstreams[name].listener
        for name, running in self._upstreams.items():
            if place in self._endpoints(name, running):
                return running.listener
        for name, it in self._dialled.items():
            if (ANY, port) in it.places:
                return self._upstreams[name].listener
        return None

    def _endpoints(self, name: str, running: RunningUpstream) -> frozenset[_Place]:
        endpoints = running.listener.cluster.endpoints  # which is replaced, never edited
        known = self._known.get(name)
        if known is None or known[0] is not endpoints:
            known = self._known[name] = endpoints, frozenset((it.host, it.port) for it in endpoints)
        return known[1]

    def leave(self) -> None:
        """Look up no name any more."""
        for it in self._dialled.values():
            it.close()
        self._dialled = {}

    def families(self) -> Iterator[Family]:
        """What became of redirected connections."""
        if not self.listeners:
            return
        family = counter(
            "sidecar_redirected",
            "Redirected connections: handed to a listener, passed on as TCP, blocked (no upstream) or refused.",
            ["direction", "upstream", "outcome"],
        )
        for listener in self.listeners:
            for (how, name), n in list(listener.arrived.items()):
                family.add([listener.stats.direction, name, how], n)
        yield family

    def contribution(self) -> Contribution:
        """Return the operation that shows it, with the shape of its answer."""
        operation = Operation(
            "GET", "/redirect", "Redirected connections: where they arrive, what became of them, and whose they are",
            self._answer, {200: "nothing in it without a section redirect"}, "Redirect",
        )  # fmt: skip
        counted = record(outcome=TEXT, upstream=TEXT, count=NUMBER)
        port = record(direction=TEXT, bind=TEXT, connections=array(counted))
        upstream = record(name=TEXT, destinations=array(TEXT))
        return Contribution((operation,), {"Redirect": record(ports=array(port), upstreams=array(upstream))})

    async def _answer(self, call: Call) -> Answer:
        return Answer(self.view())

    def view(self) -> dict[str, Any]:
        """The ports with what became of connections there; and what upstreams say that is theirs, as addresses."""
        ports = [
            {
                "direction": it.stats.direction,
                "bind": str(it.address),
                "connections": [
                    {"outcome": how, "upstream": name, "count": n} for (how, name), n in it.arrived.items()
                ],
            }
            for it in self.listeners
        ]
        places = {name: sorted(str(Address(*place)) for place in it.places) for name, it in self._dialled.items()}
        return {"ports": ports, "upstreams": [{"name": name, "destinations": it} for name, it in places.items()]}


class _Dialled:
    """What an app dials and is one upstream, as addresses."""

    def __init__(self, name: str, wanted: Sequence[Address], names: Names) -> None:
        self.wanted = wanted
        self.places: frozenset[_Place] = frozenset()
        self._any = [(ANY, it.port) for it in wanted if it.host == ANY]
        self._expansion = Expansion(names, f"upstream {name}: redirect", self._found)
        self._expansion.update(Instance(host=it.host, port=it.port) for it in wanted if it.host != ANY)

    def _found(self, instances: Sequence[Instance]) -> None:
        # As the kernel writes them: a file may have an IPv6 address in another form.
        self.places = frozenset([*self._any, *((str(ip_address(it.host)), it.port) for it in instances)])

    def close(self) -> None:
        self._expansion.close()


def _listener(context: Context, name: str, bind: Address) -> CaptureListener:
    from sidecar.tcp.capture import CaptureListener, Destinations, destination_of

    direction = "outbound" if name == NAME else "inbound"
    stats = ListenerStats(direction, name, "tcp")
    cluster = Destinations(name, balancer("random", context.rng, context.clock), context.clock, context.rng)
    cluster.key_of = destination_of
    cluster.connect_failures = stats.connect_failures
    listener = CaptureListener(
        name=name, bind=bind, stats=stats, cluster=cluster, loop=context.loop, wheel=context.wheel,
        clock=context.clock, new_request_id=lambda: new_request_id(context.rng),
    )  # fmt: skip
    listener.arrived = defaultdict(int)
    listener.original = original_destination
    # What one destination does must not matter to others, so there is no breaker and no bulkhead. Who has dialled it
    # tries again, or does not: a connection that fails is told to have failed.
    policies = {
        "circuit_breaker": None,
        "bulkhead": None,
        "retry": None,
        "timeout": TimeoutSettings(connect=_CONNECT, idle=0.0),
    }
    listener.assembly = Assembly(context, name, stats)
    listener.assembly.apply(listener, Upstream(name=name, bind=bind, protocol="tcp", policies=policies))
    return listener
