"""Every key of the configuration file: its kind, its range, a line about it, and an example.

Filters declare theirs beside themselves, and :func:`declare` enters them here. Other defaults are those of
:mod:`sidecar.config.model` and stand nowhere else. This table drives loading, error messages, :func:`json_schema` and
:func:`sidecar.config.show.effective`. What spans several keys is in ``rules``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sidecar.config import cross_schema, model
from sidecar.config.addresses import Host, HostPort, RegistryUrl
from sidecar.config.agent_schema import ADMIN, CONSUL, DNS, DRAIN, LOG, TRACING
from sidecar.config.amqp_schema import AMQP
from sidecar.config.containers import Fields, ListOf, MapOf, Policy, Section, Short
from sidecar.config.declared import Declared, UsedFilter, declared
from sidecar.config.document import Node
from sidecar.config.keys import Key
from sidecar.config.kinds import BROKEN, Place
from sidecar.config.model import INHERIT
from sidecar.config.values import (
    HEADER,
    HOST_FIELD,
    NAME,
    NOT_BUILT,
    Boolean,
    Duration,
    Enum,
    Integer,
    Method,
    Size,
    Text,
)
from sidecar.core.amqp_settings import Amqp

_METHOD = Method()
_HTTP = ("http",)

LIMITS = Section(
    model.Limits,
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
)

MATCH = Section(
    model.Match,
    "Which requests a route is for; a part left out matches everything.",
    {
        "path": Key(
            Text("a glob that begins with / or *, as /api/*", r"[/*][^\x00-\x20\x7f#]{0,2047}"),
            "Glob of the path without the query: * is any run of characters, slashes too; ? is one character.",
            "/api/v1/tasks/*",
        ),
        "methods": Key(ListOf(_METHOD, maximum=64), "Any of these methods.", ["POST"]),
        "headers": Key(
            MapOf(HEADER, Text("a glob of the header's value"), maximum=32),
            "All of these headers, with a value that the glob matches.",
            {"x-priority": "low"},
        ),
    },
)

_ROUTE = {
    "match": Key(MATCH, "Which requests.", required=True),
    "filters": Key(ListOf(UsedFilter(), maximum=32), "In place of the listener's."),
}
INBOUND_ROUTE = Section(
    model.Route,
    "A part of the traffic with policies of its own. The first route that matches wins.",
    dict(_ROUTE),
)
UPSTREAM_ROUTE = Section(
    model.Route,
    INBOUND_ROUTE.doc,
    dict(_ROUTE),
)


class _Port(Section):
    """The section of a port: each filter has to be one for such a port, and those that are left out may have settings
    all the same."""

    side = "outbound"

    def read(self, node: Node, at: Place) -> Any:
        fields = super().read(node, at)
        if isinstance(fields, Fields):
            if (protocol := fields.value("protocol")) is not BROKEN:
                _check_filters(fields, protocol, self.side)
            for route in fields.get("routes", ()):
                if isinstance(route, Fields):
                    _check_filters(route, "http", self.side)
        return fields

    def policies(self, value: Any, built: dict[str, Any]) -> dict[str, Any]:
        protocol = value.get("protocol", self.defaults["protocol"])
        found = {}
        for name in built:
            it = DECLARED[name]
            if protocol in it.filter.protocols:
                found[name] = it.build(value[name], protocol) if name in value else it.standard(protocol)
        return found

    def schema(self) -> dict[str, Any]:
        schema = super().schema()
        return schema | {"allOf": [*cross_schema.listener(not_for), *schema.get("allOf", ())]}


class _Inbound(_Port):
    side = "inbound"


def _check_filters(fields: Fields, protocol: str, side: str) -> None:
    for it, given, place in (used for used in fields.get("filters", ()) if used is not BROKEN):
        if problem := it.problem(protocol, side):
            place.report(problem)
        if it.filter.settings_class is not None:
            it.filter.settings_class.check([given], protocol)


INBOUND = _Inbound(
    model.Inbound,
    "The port that others dial; its address is the one that gets registered.",
    {
        "bind": Key(HostPort(system_port=True), "Where to listen.", "0.0.0.0:10030", required=True),
        "protocol": Key(
            Enum(
                "http",
                "tcp",
                unbuilt=("grpc",),
                refused={"amqp": "is for upstreams: a broker needs no sidecar of its own"},
            ),
            "What is spoken there.",
        ),
        "limits": Key(LIMITS, "What clients may send."),
        "filters": Key(
            ListOf(UsedFilter(), maximum=32), "Filters of other packages: use is the name, the rest is their own."
        ),
        "routes": Key(
            ListOf(INBOUND_ROUTE, maximum=1000), "Parts of the traffic with policies of their own.", protocols=_HTTP
        ),
    },
)

DISCOVER = Section(
    model.Discover,
    "Which instances to ask the registry for.",
    {
        "service": Key(NAME, "Name of the service.", "ollama", default="the upstream's name"),
        "tag": Key(Text("a tag", empty=True), "Only instances with this tag.", "gpu"),
    },
    complete=lambda arguments: arguments.setdefault("service", ""),
    short="service",
)

ENDPOINT = Section(
    model.StaticEndpoint,
    "One address, with its share of the traffic.",
    {
        "address": Key(HostPort(), "Where it is.", "10.0.0.7:11434", required=True),
        "weight": Key(Integer(1, 65535), "Its share, relative to the others.", 3),
        "sidecar": Key(Boolean(), "A sidecar listens there: what it says of its app's state is believed.", True),
    },
)


def _complete_upstream(arguments: dict[str, Any]) -> None:
    """Without endpoints, an upstream's instances are those of the service with its own name. An AMQP one has all of
    that protocol's settings, be it their defaults."""
    if arguments.get("protocol") == "amqp":
        arguments.setdefault("amqp", Amqp())
    discover: model.Discover | None = arguments.get("discover")
    if discover is None and "endpoints" not in arguments:
        arguments["discover"] = model.Discover(service=arguments["name"])
    elif discover is not None and not discover.service:
        arguments["discover"] = dataclasses.replace(discover, service=arguments["name"])


UPSTREAM = _Port(
    model.Upstream,
    "One thing the app dials, and where its instances are: discover or endpoints.",
    {
        "bind": Key(HostPort(system_port=True), "The address the app dials.", "127.0.0.1:11434", required=True),
        "protocol": Key(Enum("http", "tcp", "amqp", unbuilt=("grpc",)), "What is spoken there."),
        "discover": Key(
            DISCOVER,
            "Instances from the registry.",
            {"service": "ollama", "tag": "gpu"},
            default="{service: the upstream's name}, unless there are endpoints",
        ),
        "endpoints": Key(
            ListOf(Short(ENDPOINT, "address"), minimum=1),
            "Fixed instances.",
            ["10.0.0.7:11434", {"address": "10.0.0.8:11434", "weight": 3}],
        ),
        "balancer": Key(
            Enum(
                *("round_robin", "least_connections", "weighted", "random", "ip_hash"),
                unbuilt=("peak_ewma", "consistent_hash"),
            ),
            "Which instance gets the next request.",
        ),
        "limits": Key(LIMITS, "What the app and the instances may send."),
        "filters": Key(
            ListOf(UsedFilter(), maximum=32), "Filters of other packages: use is the name, the rest is their own."
        ),
        "routes": Key(
            ListOf(UPSTREAM_ROUTE, maximum=1000), "Parts of the traffic with policies of their own.", protocols=_HTTP
        ),
        "amqp": Key(AMQP, AMQP.doc),
    },
    complete=_complete_upstream,
    cross=cross_schema.upstream(),
)

CHECK = Section(
    model.Check,
    "How the sidecar finds out whether its app is well: a request, or else a TCP connection.",
    {
        "http": Key(Text("a path that begins with /", r"/[^\x00-\x20\x7f#]{0,2047}"), "Path to get.", "/health"),
        "host": Key(
            HOST_FIELD,
            "Host to ask for, where the app answers to some only (Django's ALLOWED_HOSTS).",
            "app.example",
            default="the address of service.app",
        ),
        "tcp": Key(Boolean(), "Connect only; what happens without http too."),
        "interval": Key(Duration("10ms", "24h"), "From one check to the next.", "10s"),
        "timeout": Key(Duration(), "The longest a check may take.", "5s"),
        "deregister_critical_service_after": Key(
            Duration("1s", "720h"),
            "Take it out of the registry when it was unwell for so long (Consul: 1m or more).",
            "1m",
        ),
    },
    refused={"grpc": f"{NOT_BUILT}; supported: http, tcp"},
    short="http",
    cross=cross_schema.check(),
)

WEIGHTS = Section(
    model.Weights,
    "The share of traffic this instance asks for.",
    {
        "passing": Key(Integer(1, 65535), "While it is healthy."),
        "warning": Key(Integer(1, 65535), "While its check warns."),
    },
)


def _to_be_named(arguments: dict[str, Any]) -> None:
    """The loader fills these in: they depend on inbound and on the host."""
    arguments.setdefault("id", "")
    arguments.setdefault("address", "")


SERVICE = Section(
    model.Service,
    "The workload that this sidecar is attached to.",
    {
        "name": Key(NAME, "Name others find it by.", "task-decomposition", required=True),
        "id": Key(
            Text(
                "a name of letters, digits, . _ - (at most 255, not starting with a dot)",
                r"(?!\.)[A-Za-z0-9._-]{1,255}",
            ),
            "Name of this one instance.",
            "task-decomposition-1",
            default="<name>-<host>-<inbound port>",
        ),
        "address": Key(
            Host(),
            "Host that others dial.",
            "10.0.0.5",
            default="that of inbound.bind, or this host's outgoing address",
        ),
        "app": Key(HostPort(), "Where the app itself listens; needed for inbound.", "127.0.0.1:8080"),
        "tags": Key(
            ListOf(Text("a tag", r"[^\x00-\x1f\x7f]{1,255}"), maximum=256), "Tags in the registry.", ["ai", "v1"]
        ),
        "meta": Key(
            # Consul's own bounds: 64 pairs, keys of 128 characters, values of 512.
            MapOf(
                Text("letters, digits, _ - (at most 128)", r"[A-Za-z0-9_-]{1,128}"),
                Text("text of at most 512 characters", r"[^\x00-\x1f\x7f]{0,512}", empty=True),
                maximum=64,
            ),
            "Key-value pairs in the registry.",
            {"version": "1.0"},
        ),
        "weights": Key(WEIGHTS, WEIGHTS.doc),
        "check": Key(CHECK, CHECK.doc),
    },
    complete=_to_be_named,
    short="name",
)

CONFIG = Section(
    model.Config,
    "Configuration of one sidecar.",
    {
        "service": Key(SERVICE, SERVICE.doc, required=True),
        "registry": Key(
            RegistryUrl(), "Where instances are found, and this one is registered.", "consul://127.0.0.1:8500"
        ),
        "consul": Key(CONSUL, CONSUL.doc),
        "inbound": Key(INBOUND, INBOUND.doc),
        "upstreams": Key(MapOf(NAME, UPSTREAM, maximum=1000, named=True), "What the app dials, by name."),
        "admin": Key(ADMIN, ADMIN.doc),
        "tracing": Key(TRACING, TRACING.doc),
        "log": Key(LOG, LOG.doc),
        "drain": Key(DRAIN, DRAIN.doc),
        "dns": Key(DNS, DNS.doc),
    },
    free=True,
    cross=cross_schema.root(),
)


#: Filters of our own that have declared their settings, by name.
DECLARED: dict[str, Declared] = {}


def declare(filter_class: Any) -> None:
    """Add the key of a filter of our own to the sections where it may stand, and to others the reason why not."""
    it = declared(filter_class)
    DECLARED[it.name] = it
    docs = {"route": "In place of the listener's; off: none.", **filter_class.key_docs}
    of_route = _of_route(it, docs["route"])
    for port, route in ((INBOUND, INBOUND_ROUTE), (UPSTREAM, UPSTREAM_ROUTE)):
        sections = [port, route] if "http" in filter_class.protocols and filter_class.setting is None else [port]
        if port.side not in filter_class.sides:
            if filter_class.refused:
                for section in sections:
                    section.refused[it.name] = filter_class.refused
            continue
        port.declare(it.name, _key(it, docs.get(port.side, it.section.doc)), it.standard("http"))
        if len(sections) == 2:
            route.declare(it.name, of_route, INHERIT)


def _key(it: Declared, doc: str) -> Key:
    protocols: tuple[str, ...] = it.filter.protocols
    if it.filter.setting is not None:
        setting: Key = it.filter.setting
        return dataclasses.replace(setting, protocols=protocols)
    return Key(it.kind, doc, protocols=protocols)


def _of_route(it: Declared, doc: str) -> Key:
    refused = {name: key.route for name, key in it.section.keys.items() if key.route}
    section = it.section.without(refused) if refused else it.section
    return Key(Policy(section) if it.filter.optional else section, doc)


def not_for(protocol: str) -> dict[str, frozenset[str]]:
    """What a port of a protocol has no use for: its keys, or, where there are such, keys inside them."""
    found = {}
    for name, key in (INBOUND.keys | UPSTREAM.keys).items():
        section = key.kind.section if isinstance(key.kind, Policy) else key.kind
        if key.protocols and protocol not in key.protocols:
            found[name] = frozenset[str]()
        elif isinstance(section, Section):
            inside = (inner for inner, it in section.keys.items() if it.protocols and protocol not in it.protocols)
            if names := frozenset(inside):
                found[name] = names
    return found


def json_schema() -> dict[str, Any]:
    """The file's JSON Schema (draft 2020-12), for editors. Of the rules that span keys it has what such a schema can
    say; the rest is found by ``sidecar check`` only."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sidecar",
    } | CONFIG.schema()
