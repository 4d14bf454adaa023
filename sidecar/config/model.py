"""The configuration, typed: what the rest of the program reads after a file was loaded and checked.

Every class is frozen: a running sidecar never edits its configuration, it swaps in another one. Durations are
seconds (float), sizes are bytes (int), rates are events per second (float). A policy that is switched off is
``None``. In a route, :data:`INHERIT` stands for "what the listener has" (and shares its state).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.core.address import Address as Address
from sidecar.core.amqp_settings import Amqp
from sidecar.core.limits import Limits as Limits
from sidecar.core.secret import NO_SECRET, Secret


class Inherit(enum.Enum):
    """The type of :data:`INHERIT`."""

    INHERIT = "inherit"

    def __repr__(self) -> str:
        return "INHERIT"


INHERIT: Final = Inherit.INHERIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How the sidecar finds out whether its own app is well. With neither ``http`` nor ``tcp``: a TCP connect. ``host``
    is the Host field that ``http`` sends; empty: where the app listens."""

    http: str | None = None
    host: str = ""
    tcp: bool = False
    interval: float = 10.0
    timeout: float = 5.0
    deregister_critical_service_after: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The share of traffic an instance asks for, by its health."""

    passing: int = 10
    warning: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The workload this sidecar is attached to."""

    name: str
    id: str
    address: str
    app: Address | None = None
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    weights: Weights = Weights()
    check: Check = Check()


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Where instances are found: ``consul`` (host, port, tls), ``directory`` (path) or ``none``."""

    kind: str = "none"
    address: Address | None = None
    tls: bool = False
    path: str = ""

    def __str__(self) -> str:
        if self.kind == "consul":
            return f"consul{'+tls' if self.tls else ''}://{self.address}"
        return f"directory://{self.path}" if self.kind == "directory" else "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consul:
    """What a Consul registry needs besides its address."""

    token: Secret = NO_SECRET
    datacenter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a route is for; an empty part matches everything. ``path`` is a glob in which ``*`` is any
    run of characters, slashes too, and ``?`` one character; it is matched against the path without the query,
    as it was sent. ``headers`` maps lower-case names to globs of the value."""

    path: str = "*"
    methods: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A part of a listener's traffic with filters of its own. ``policies`` are the settings of our own filters, by name
    (``None``: off), as far as they differ from the port's; ``filters`` holds a :class:`sidecar.config.declared.Used`
    for each one of other packages."""

    match: Match
    filters: tuple[Any, ...] | Inherit = INHERIT
    policies: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """The port others dial. ``protocol`` is ``http`` or ``tcp``. ``policies`` and ``filters`` are as for routes; what
    is left out of ``policies`` is at its default."""

    bind: Address
    protocol: str = "http"
    limits: Limits = field(default_factory=Limits)
    filters: tuple[Any, ...] = ()
    policies: dict[str, Any] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Discover:
    """Which instances to ask the registry for."""

    service: str
    tag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticEndpoint:
    """One configured endpoint. ``sidecar``: a sidecar listens there."""

    address: Address
    weight: int = 1
    sidecar: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One thing the app dials. Exactly one of ``discover`` and ``endpoints`` is set. ``protocol`` is ``http``, ``tcp``
    or ``amqp``; for the last two, ``retry.max_attempts`` counts connect attempts and there are no routes. ``amqp`` is
    set for that protocol and no other. ``policies`` and ``filters`` are as for inbound."""

    name: str
    bind: Address
    protocol: str = "http"
    discover: Discover | None = None
    endpoints: tuple[StaticEndpoint, ...] = ()
    balancer: str = "round_robin"
    limits: Limits = field(default_factory=Limits)
    filters: tuple[Any, ...] = ()
    policies: dict[str, Any] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    amqp: Amqp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """The admin API's address and, as soon as that is not loopback, its token."""

    bind: Address = Address("127.0.0.1", 15000)  # noqa: RUF009  # it is frozen
    token: Secret = NO_SECRET


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """``sample``: the share (0 to 1) of new traces that is recorded; ``otlp``: base URL of a collector, or empty;
    ``propagate``: ``w3c`` and/or ``b3``, or neither."""

    sample: float = 0.01
    otlp: str = ""
    propagate: tuple[str, ...] = ("w3c",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """``level``: debug, info, warning, error; ``format``: json or text; ``access``: which exchanges get a line:
    all, errors (5xx, and what the sidecar answered itself) or off."""

    level: str = "info"
    format: str = "json"
    access: str = "errors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns:
    """How host names of endpoints are looked up. ``min_ttl`` and ``max_ttl`` bound the time after which a name is
    looked up again; ``timeout`` is what a server has for its first answer. ``servers`` (addresses) stand for those of
    ``/etc/resolv.conf``."""

    min_ttl: float = 1.0
    max_ttl: float = 300.0
    timeout: float = 2.0
    servers: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How long running exchanges may take to finish after SIGTERM."""

    timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One workload's whole configuration."""

    service: Service
    registry: Registry = Registry()
    consul: Consul = Consul()
    inbound: Inbound | None = None
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    admin: Admin = Admin()
    tracing: Tracing = Tracing()
    log: Log = Log()
    drain: Drain = Drain()
    dns: Dns = Dns()
