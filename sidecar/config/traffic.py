"""The keys of ports and their routes, without those of filters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from sidecar.config import cross_schema
from sidecar.config.addresses import HostPort
from sidecar.config.amqp_schema import AMQP
from sidecar.config.balancing import BALANCERS, Hash
from sidecar.config.canary import CanarySettings
from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.declared import Settings, Used, UsedFilter, key, section
from sidecar.config.health import HEALTH, Health
from sidecar.config.hints import PROTOCOLS
from sidecar.config.keys import INHERIT, Inherit, Key
from sidecar.config.llm import PROFILES
from sidecar.config.policy import Short
from sidecar.config.redirect import DIALLED
from sidecar.config.subsets import Select, Sticky, SubsetsKind
from sidecar.config.values import HEADER, NAME, Boolean, Enum, Integer, Method, Size, Text
from sidecar.core.address import Address
from sidecar.core.amqp_settings import Amqp
from sidecar.core.limits import Limits

_HTTP: Final = ("http",)
_FILTERS: Final = ListOf(UsedFilter(), maximum=32)


def _no_more_than_the_head(limits: Limits) -> Sequence[str]:
    """The default of ``target`` may be above a head that is given, of which it is a part."""
    return ("target",) if limits.target > limits.head else ()


_LIMITS: Final = Section(
    Limits,
    "What a peer may send.",
    {
        "head": Key(Size("256B", "1MiB"), "Size of a head.", "64KiB", protocols=_HTTP),
        "headers": Key(Integer(1, 10_000), "Number of headers.", protocols=_HTTP),
        "target": Key(Size("16B", "1MiB"), "Size of the target (path and query).", "8KiB", protocols=_HTTP),
        "body": Key(Size("1B", "1024TiB", zero=True), "Size of a body.", "10MiB", protocols=_HTTP),
        "body_rate": Key(
            Size("1B", "1GiB", zero=True),
            "The least bytes per second: of an upload, on average after timeout.request; of what a client reads of its "
            "answer, lest it count as silence. 0: any.",
            "1KiB",
            protocols=_HTTP,
        ),
        "connections": Key(Integer(1, 1_000_000), "How many clients this listener holds."),
        "half_close": Key(
            Boolean(),
            "Clients may finish sending and go on reading. Else one that does so while its answer streams, or speaks "
            "HTTP/1.0, has left, and the call is cancelled. For http only: tcp passes a half-close on.",
            protocols=_HTTP,
        ),
    },
    left_out=_no_more_than_the_head,
)


class Match(Settings):
    """Which requests a route is for; a part left out matches everything."""

    path: str = key(
        Text("a glob that begins with / or *, as /api/*", r"[/*][^\x00-\x20\x7f#]{0,2047}"),
        "Glob of the path without the query: * is any run of characters, slashes too; ? is one character.",
        default="*",
        example="/api/v1/tasks/*",
    )
    methods: tuple[str, ...] = key(ListOf(Method(), maximum=64), "Any of these methods.", default=(), example=["POST"])
    headers: dict[str, str] = key(
        MapOf(HEADER, Text("a glob of the header's value"), maximum=32),
        "All of these headers, with a value that the glob matches.",
        default={},
        example={"x-priority": "low"},
    )


class Route(Settings):
    """A part of the traffic with policies of its own. The first route that matches wins."""

    match: Match = key(section(Match), "Which requests.")
    filters: tuple[Used, ...] | Inherit = key(_FILTERS, "In place of the listener's.", default=INHERIT)
    #: The settings of our own filters, by name (``None``: off), as far as they differ from the port's.
    policies: dict[str, Any] = dataclasses.field(default_factory=dict)


#: Which filters a route may have, depends on the side.
INBOUND_ROUTE: Final = section(Route)
UPSTREAM_ROUTE: Final = section(Route)


class Inbound(Settings):
    """The port that others dial; its address is the one that gets registered."""

    bind: Address = key(HostPort(system_port=True), "Where to listen.", example="0.0.0.0:10030")
    protocol: str = key(
        Enum(
            "http",
            "tcp",
            unbuilt=("grpc",),
            refused={"amqp": "is for upstreams: a broker needs no sidecar of its own"},
            meant={name: it for name, it in PROTOCOLS.items() if it != "amqp"},
        ),
        "What is spoken there.",
        default="http",
    )
    limits: Limits = key(_LIMITS, "What clients may send.", default=Limits())
    filters: tuple[Used, ...] = key(
        _FILTERS, "Filters of other packages: use is the name, the rest is their own.", default=()
    )
    routes: tuple[Route, ...] = key(
        ListOf(INBOUND_ROUTE, maximum=1000),
        "Parts of the traffic with policies of their own.",
        default=(),
        protocols=_HTTP,
    )
    #: The settings of our own filters, by name. One that is left out is at its default.
    policies: dict[str, Any] = dataclasses.field(default_factory=dict)


class Discover(Settings):
    """Which instances to ask the registry for, or which master Redis Sentinel."""

    short = "service"
    cross = cross_schema.discover()

    service: str = key(NAME, "Name of the service.", example="ollama", told="the upstream's name")
    tag: str = key(Text("a tag", empty=True), "Only instances with this tag.", default="", example="gpu")
    sentinel: str | None = key(
        Text("a name of letters, digits, . _ -", r"[A-Za-z0-9._-]{1,128}"),
        "For tcp: the master that Redis Sentinel has under this name, in place of a service.", default=None,
        example="mymaster",
    )  # fmt: skip
    at: tuple[Address, ...] = key(
        ListOf(HostPort(), minimum=1, maximum=16), "Where the sentinels are.", default=(), example=["127.0.0.1:26379"]
    )

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        given.setdefault("service", "")

    def left_out(self) -> Sequence[str]:
        return () if self.sentinel is None else ("service", "tag")


class StaticEndpoint(Settings):
    """One address, with its share of the traffic."""

    address: Address = key(HostPort(), "Where it is.", example="10.0.0.7:11434")
    weight: int = key(Integer(1, 65535), "Its share, relative to the others.", default=1, example=3)
    sidecar: bool = key(
        Boolean(), "A sidecar listens there: what it says of its app's state is believed.", default=False, example=True
    )
    tags: tuple[str, ...] = key(
        ListOf(Text("a tag"), maximum=64), "As a registry would have them, for subsets.", default=(), example=["v1"]
    )
    meta: dict[str, str] = key(
        MapOf(Text("a key of a service's meta"), Text("its value", empty=True), maximum=64),
        "Likewise.",
        default={},
        example={"version": "2"},
    )


class Upstream(Settings):
    """One thing the app dials, and where its instances are: discover or endpoints."""

    cross = cross_schema.upstream()

    bind: Address = key(HostPort(system_port=True), "The address the app dials.", example="127.0.0.1:11434")
    protocol: str = key(
        Enum("http", "tcp", "amqp", unbuilt=("grpc",), meant=PROTOCOLS), "What is spoken there.", default="http"
    )
    profile: str | None = key(
        Enum(*PROFILES),
        "What it is, where that asks for policies of its own. llm: it runs language models; llm has the numbers.",
        default=None,
        example="llm",
        told="nothing in particular",
        protocols=_HTTP,
    )
    discover: Discover | None = key(
        section(Discover),
        "Instances from the registry.",
        default=None,
        example={"service": "ollama", "tag": "gpu"},
        told="{service: the upstream's name}, unless there are endpoints",
    )
    endpoints: tuple[StaticEndpoint, ...] = key(
        ListOf(Short(section(StaticEndpoint), "address"), minimum=1),
        "Fixed instances.",
        default=(),
        example=["10.0.0.7:11434", {"address": "10.0.0.8:11434", "weight": 3}],
    )
    redirect: tuple[Address, ...] = key(
        DIALLED,
        "What the app dials elsewhere and is this upstream, besides its endpoints: for redirect.outbound.",
        default=(),
        example=["ollama:11434", "*:11434"],
    )
    balancer: str = key(
        Enum(*BALANCERS),
        "Which instance gets the next request.",
        default="round_robin",
    )
    hash: Hash | None = key(
        section(Hash), " ".join((Hash.__doc__ or "").split()), default=None, told="by the client's address"
    )
    health: Health = key(HEALTH, HEALTH.doc, default=Health())
    subsets: dict[str, Select] = key(
        SubsetsKind(),
        "Its instances by kinds, for split: each is in the first one that fits.",
        default={},
        example={"stable": {"tag": "v1"}, "next": {"tag": "v2"}},
        protocols=("http", "tcp"),
    )
    sticky: str | None = key(
        Sticky(),
        "With split: what has the same of this goes to one subset, as long as that is not empty; what has none, by the "
        "weights.",
        default=None,
        example="header:x-session",
        told="each request is chosen for by itself",
        protocols=("http", "tcp"),
    )
    canary: CanarySettings | None = key(
        section(CanarySettings),
        " ".join((CanarySettings.__doc__ or "").split()),
        default=None,
        told="weights stay as they are",
        protocols=("http", "tcp"),
    )
    limits: Limits = key(_LIMITS, "What the app and the instances may send.", default=Limits())
    filters: tuple[Used, ...] = key(
        _FILTERS, "Filters of other packages: use is the name, the rest is their own.", default=()
    )
    routes: tuple[Route, ...] = key(
        ListOf(UPSTREAM_ROUTE, maximum=1000),
        "Parts of the traffic with policies of their own.",
        default=(),
        protocols=_HTTP,
    )
    #: Set for that protocol and no other.
    amqp: Amqp | None = key(AMQP, AMQP.doc, default=None)
    #: The name that the file has for it.
    name: str = dataclasses.field()
    #: As for inbound.
    policies: dict[str, Any] = dataclasses.field(default_factory=dict)

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        """Without endpoints, an upstream's instances are those of the service with its own name. An AMQP one has all
        of that protocol's settings, be it their defaults."""
        if given.get("protocol") == "amqp":
            given.setdefault("amqp", Amqp())
        discover: Discover | None = given.get("discover")
        if discover is None and "endpoints" not in given:
            given["discover"] = Discover(service=given["name"])
        elif discover is not None and not discover.service:
            given["discover"] = dataclasses.replace(discover, service=given["name"])
