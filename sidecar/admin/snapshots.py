"""What the admin API is told about a running sidecar: plain data of one moment. The agent takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.core.health import Health
from sidecar.core.stats import ListenerStats
from sidecar.resilience.breaker import Hold


@dataclass(frozen=True, slots=True)
class EjectionSnapshot:
    """Why an endpoint is out of the rotation, in a word and in words, and until when (Unix time)."""

    reason: str
    text: str
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSnapshot:
    """An endpoint, ejected ones too; ``hostname`` is the name that ``host`` was found for, or empty; ``last_error`` is
    its Unix time, its word and its text; ``share`` the part of its traffic that it gets; ``check`` the last result of
    its active checks, if it has any: status, a line, Unix time, and how many of the kind there were in a row; ``known``
    what the balancer goes by (:meth:`sidecar.endpoints.balancers.balancer.Balancer.known`); ``admin`` the port of the
    admin API of the sidecar that stands there (0: none is known); ``subset`` the one that it is in, or empty."""

    host: str
    address: str
    hostname: str
    id: str
    weight: int
    state: str
    ejected: bool
    active: int
    failures: int
    last_error: tuple[float, str, str] | None = None
    ejection: EjectionSnapshot | None = None
    share: float = 1.0
    admin: int = 0
    check: tuple[str, str, float, int] | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    subset: str = ""

    @property
    def out(self) -> bool:
        """It is not in the rotation, unless all are out and all are used."""
        return self.ejected or self.state == "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetSnapshot:
    """A subset: its ``weight`` in the upstream's own split (0: none), the ``share`` of the requests that it gets, its
    endpoints, and those of them that are in the rotation; its tries by status, and the seconds to their answers."""

    name: str
    weight: int
    share: float
    endpoints: int
    usable: int
    requests: Mapping[int, int]
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSnapshot:
    """A host name of which endpoints come; ``age`` is the seconds since it was last looked up well, ``error`` why the
    last lookup failed, or empty, and ``cause`` the word for that."""

    name: str
    addresses: Sequence[str]
    age: float | None
    error: str
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSnapshot:
    """``state`` is ``closed``, ``half_open`` or ``open``; ``path`` that of the route that has this breaker for itself,
    empty for the upstream's own; ``held`` an operator's decision about it; the rest as
    :class:`sidecar.resilience.breaker.CircuitBreaker` has it."""

    path: str
    state: str
    forced: str
    failures: int
    open_seconds: float
    retry_after: float
    held: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSnapshot:
    """One upstream. ``problem`` says what is wrong with its host names, where one has no address; ``broken`` why its
    protocol lets nothing through; both are empty when nothing is. ``doubts`` are the protocol's, too, a phrase each.
    ``breaker`` is None when it is switched off; ``amqp`` has what an AMQP port counts, in short."""

    name: str
    bind: str
    protocol: str
    balancer: str
    endpoints: Sequence[EndpointSnapshot]
    names: Sequence[NameSnapshot]
    problem: str
    breaker: BreakerSnapshot | None
    route_breakers: Sequence[BreakerSnapshot]
    stats: ListenerStats
    broken: str = ""
    doubts: Sequence[str] = ()
    amqp: Mapping[str, int] | None = None
    #: The service that the registry finds for it, or empty.
    service: str = ""
    #: What is injected there on purpose, a phrase each.
    faults: Sequence[str] = ()
    subsets: Sequence[SubsetSnapshot] = ()
    #: What is tried there, as plain JSON.
    canary: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RegistrySnapshot:
    """``age`` is the seconds since it last answered."""

    url: str
    up: bool
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSnapshot:
    """The sidecar without its upstreams. ``phase`` is ``starting``, ``ready``, ``draining`` or ``stopped``;
    ``waiting_for`` what another process has in use, so that this one does not serve yet, or empty; ``app`` the last
    result of the app's own check."""

    service: str
    id: str
    phase: str
    waiting_for: str
    app: Health
    registry: RegistrySnapshot | None
    #: What is injected on purpose, and where, a phrase each; those of upstreams, too.
    faults: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSnapshot:
    """Another sidecar, as it is registered: ``admin`` is where its admin API can be asked (empty: nowhere), ``calls``
    are the services that it has upstreams for."""

    service: str
    id: str
    admin: str
    calls: Sequence[str] = ()
