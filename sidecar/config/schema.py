"""Every key of the configuration file: its kind, its range, a line about it, and an example.

Defaults are those of :mod:`sidecar.config.model` and stand nowhere else. This table drives loading, error messages,
:func:`json_schema` and :func:`sidecar.config.show.effective`. What spans several keys is in ``rules``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from sidecar.config import cross_schema, model
from sidecar.config.agent_schema import ADMIN, CONSUL, DNS, DRAIN, LOG, TRACING
from sidecar.config.amqp_schema import AMQP
from sidecar.config.containers import Fields, ListOf, MapOf, Policy, Section, Short
from sidecar.config.declared import Declared, UsedFilter, declared
from sidecar.config.document import Node
from sidecar.config.keys import Key
from sidecar.config.kinds import BROKEN, Place
from sidecar.config.model import INHERIT
from sidecar.config.values import (
    NAME,
    NOT_BUILT,
    Boolean,
    Duration,
    Enum,
    Failure,
    Host,
    HostPort,
    Integer,
    Method,
    Rate,
    RateKey,
    RegistryUrl,
    Size,
    Text,
)
from sidecar.core.amqp_settings import Amqp

# A token of RFC 9110, section 5.6.2.
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}"
_METHOD = Method()
_HEADER = Text("a header name", _TOKEN, convert=str.lower)
# RFC 9110, section 7.2: uri-host [":" port]; those of RFC 3986 that anybody uses.
_HOST = Text(
    "a host name or an address, with a port or without",
    r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?",
    empty=True,
)
_COUNT = Integer(0, 1_000_000)

RATE_LIMIT = Section(
    model.RateLimit,
    "At most so many requests (tcp, amqp: connections) in a time; more are answered 429 (tcp, amqp: closed).",
    {
        "rate": Key(Rate(), "How fast tokens come back.", "100/s", required=True),
        "burst": Key(Integer(1, 1_000_000), "The most tokens there can be.", 200, default="one second's worth"),
        "key": Key(RateKey(), "What has a bucket of its own: all together, each client, each path, each header value."),
    },
    complete=lambda arguments: arguments.setdefault("burst", max(1, math.ceil(arguments["rate"]))),
    short="rate",
)

BULKHEAD = Section(
    model.Bulkhead,
    "How much may be under way at once, and how much may wait.",
    {
        "max_connections": Key(
            _COUNT,
            "Most connections; 0: no limit, and for amqp as many as there are descriptors for, two each.",
            default="100; for protocol amqp 0",
        ),
        "max_requests": Key(
            _COUNT, "Most requests in flight; 0: no limit. For tcp and amqp, max_connections counts alone.", 20
        ),
        "max_pending": Key(_COUNT, "Most requests that wait for their turn; 0: none waits."),
        "max_tunnels": Key(
            _COUNT, "Most WebSockets and other upgraded connections, which none of the others counts; 0: no limit."
        ),
        "pending_timeout": Key(Duration(zero=True), "The longest one waits for its turn.", "5s"),
    },
    short="max_requests",
)


def _complete_timeout(arguments: dict[str, Any]) -> None:
    if "request" in arguments:
        arguments.setdefault("connect", min(model.Timeout().connect, arguments["request"]))


TIMEOUT = Section(
    model.Timeout,
    "How long each phase may take.",
    {
        "connect": Key(Duration(), "To connect.", "1s", default="1s, or request where that is shorter"),
        "request": Key(
            Duration(),
            "Until the head of the answer, waiting and retries included. While an upload keeps to limits.body_rate, "
            "from its latest byte on.",
            "30s",
        ),
        "idle": Key(
            Duration(zero=True),
            "The longest silence in either direction; a peer that still reads what it was sent is not silent. 0: any.",
            "5m",
            default="5m; for protocol tcp 0",
        ),
        "total": Key(Duration(zero=True), "The whole exchange; off by default, so that long streams live."),
        "head": Key(
            Duration(zero=True),
            "For a client to send its request head, from the first byte on; amqp: to finish its handshake.",
        ),
        "keepalive": Key(Duration(zero=True), "How long an unused connection to an endpoint is kept."),
    },
    short="request",
    complete=_complete_timeout,
)
ROUTE_TIMEOUT = TIMEOUT.without(
    {
        "head": "is not for a route: which route it is, is known only after the head",
        "keepalive": "is not for a route: connections are kept by the listener",
    }
)

LIMITS = Section(
    model.Limits,
    "What a peer may send.",
    {
        "head": Key(Size("256B", "1MiB"), "Size of a head.", "64KiB"),
        "headers": Key(Integer(1, 10_000), "Number of headers."),
        "target": Key(Size("16B", "1MiB"), "Size of the target (path and query).", "8KiB"),
        "body": Key(Size("1B", "1024TiB", zero=True), "Size of a body.", "10MiB"),
        "body_rate": Key(
            Size("1B", "1GiB", zero=True),
            "The least bytes per second: of an upload, on average after timeout.request; of what a client reads of its "
            "answer, lest it count as silence. 0: any.",
            "1KiB",
        ),
        "connections": Key(Integer(1, 1_000_000), "How many clients this listener holds."),
        "half_close": Key(
            Boolean(),
            "Clients may finish sending and go on reading. Else one that does so while its answer streams, or speaks "
            "HTTP/1.0, has left, and the call is cancelled. For http only: tcp passes a half-close on.",
        ),
    },
)

CIRCUIT_BREAKER = Section(
    model.CircuitBreaker,
    "Stop calling what keeps failing, and try it again later.",
    {
        "failure_threshold": Key(Integer(1, 10_000), "So many failures in a row open it."),
        "timeout_duration": Key(Duration(), "A call without an answer's head after this is cut and is a failure.", 30),
        "reset_timeout": Key(Duration(), "From open to half-open.", 60),
        "half_open_requests": Key(Integer(1, 10_000), "So many trial calls, all of which have to go well to close it."),
        "failure_on": Key(
            ListOf(Failure("connect", "timeout", "reset", "5xx"), minimum=1, maximum=64, into=frozenset),
            "What is a failure.",
            ["connect", "timeout", 503],
        ),
    },
    short="failure_threshold",
)

RETRY = Section(
    model.Retry,
    "Try again, later and elsewhere.",
    {
        "max_attempts": Key(Integer(1, 20), "Most tries, the first included."),
        "backoff_type": Key(Enum("exponential", "linear", "constant"), "How the delays grow."),
        "initial_delay": Key(Duration(zero=True), "Before the second try.", 1),
        "max_delay": Key(Duration(zero=True), "The longest delay.", "30s"),
        "jitter": Key(Boolean(), "Spread the delays at random, so that clients do not come back all at once."),
        "on": Key(
            ListOf(Failure("connect", "reset", "timeout", "5xx"), minimum=1, maximum=64, into=frozenset),
            "What is tried again.",
            ["connect", "reset", 502, 503, 504],
        ),
        "methods": Key(
            ListOf(_METHOD, minimum=1, maximum=64, into=frozenset), "Methods that may be repeated.", ["GET"]
        ),
    },
    short="max_attempts",
)

QUEUE = Section(
    model.Queue,
    "Requests are stored on disk and answered 202 with a location to ask for the outcome, and delivered later.",
    {
        "spool": Key(Boolean(), "Store them on disk; there is no other way yet.", True),
        "path": Key(
            Text("an absolute path, as /var/lib/sidecar/queue", r"/[^\x00-\x1f\x7f]{0,1023}"),
            "The directory, on a local disk, the same for all routes; it is made when there is none.",
            "/var/lib/sidecar/queue",
        ),
        "when": Key(
            Enum("unavailable", "always"),
            "unavailable: what could not be delivered, once it was tried as ever; always: everything, at once.",
        ),
        "methods": Key(
            ListOf(_METHOD, minimum=1, maximum=64, into=frozenset), "Requests with these methods only.", ["POST"]
        ),
        "max_body": Key(
            Size("1B", "16MiB"), "Requests with a larger body are not stored; of an answer, no more is kept.", "1MiB"
        ),
        "max_bytes": Key(
            Size("1MiB", "1024TiB"), "The most that waits; and the most of outcomes that is kept.", "256MiB"
        ),
        "expires": Key(Duration("1s", "3650d"), "What could not be delivered for so long has failed.", "1h"),
        "attempts": Key(
            Integer(0, 1000),
            "So many tries that may have reached the app, and it has failed; 0: any number. Tries that certainly "
            "did not reach it do not count.",
        ),
        "keep": Key(Duration("1s", "3650d"), "How long an outcome can be asked for.", "1h"),
        "concurrency": Key(Integer(1, 1000), "Most that are delivered at once."),
        "in_order": Key(Boolean(), "Deliver one after the other; while some wait, whatever comes queues behind them."),
        "scope": Key(
            ListOf(_HEADER, maximum=64, into=frozenset),
            "Headers that say who asks. An Idempotency-Key belongs to clients that send the same values of all these.",
            ["authorization", "x-api-key"],
        ),
    },
    cross=cross_schema.queue(),
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
            MapOf(_HEADER, Text("a glob of the header's value"), maximum=32),
            "All of these headers, with a value that the glob matches.",
            {"x-priority": "low"},
        ),
    },
)

_SHARED_ROUTE = {
    "match": Key(MATCH, "Which requests.", required=True),
    "rate_limit": Key(Policy(RATE_LIMIT), "In place of the listener's; off: none."),
    "bulkhead": Key(Policy(BULKHEAD), "In place of the listener's; off: none."),
    "timeout": Key(ROUTE_TIMEOUT, "In place of the listener's."),
    "queue": Key(Policy(QUEUE), "In place of the listener's; off: none."),
    "filters": Key(ListOf(UsedFilter(), maximum=32), "In place of the listener's."),
}
_NOT_INBOUND = "is for upstreams only: a failing app is not called less, or again, by its own sidecar"
INBOUND_ROUTE = Section(
    model.Route,
    "A part of the traffic with policies of its own. The first route that matches wins.",
    dict(_SHARED_ROUTE),
    refused={"circuit_breaker": _NOT_INBOUND, "retry": _NOT_INBOUND},
)
UPSTREAM_ROUTE = Section(
    model.Route,
    INBOUND_ROUTE.doc,
    _SHARED_ROUTE
    | {
        "circuit_breaker": Key(Policy(CIRCUIT_BREAKER), "In place of the listener's, with a state of its own."),
        "retry": Key(Policy(RETRY), "In place of the listener's; off: none."),
    },
)


class _Port(Section):
    """The section of a port. Over TCP, silence is no fault unless ``timeout.idle`` says so: subscribers wait, and
    queries take their time. An AMQP port takes as many connections as a broker would."""

    side = "outbound"

    def read(self, node: Node, at: Place) -> Any:
        fields = super().read(node, at)
        if isinstance(fields, Fields):
            self._check_filters(fields, fields.value("protocol"))
            for route in fields.get("routes", ()):
                if isinstance(route, Fields):
                    self._check_filters(route, "http")
        return fields

    def _check_filters(self, fields: Fields, protocol: Any) -> None:
        """Each filter has to be one for such a port."""
        if protocol is BROKEN:
            return
        found = [(it, place) for it, _, place in (u for u in fields.get("filters", ()) if u is not BROKEN)]
        found += [(DECLARED[name], fields.places[name]) for name in fields.section.declared if name in fields]
        for it, place in found:
            if problem := it.problem(protocol, self.side):
                place.report(problem)

    def build(self, value: Any, **more: Any) -> Any:
        if value.get("protocol") == "tcp":
            more["timeout"] = TIMEOUT.build({"idle": 0.0, **value.get("timeout", {})})
        bulkhead = value.get("bulkhead", {})
        if value.get("protocol") == "amqp" and bulkhead is not None:
            more["bulkhead"] = BULKHEAD.build({"max_connections": 0, **bulkhead})
        return super().build(value, **more)


class _Inbound(_Port):
    side = "inbound"


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
        "rate_limit": Key(Policy(RATE_LIMIT), "Admission by rate; there is none unless it is given."),
        "bulkhead": Key(Policy(BULKHEAD), "Admission by what is under way."),
        "timeout": Key(TIMEOUT, "How long each phase may take; connect is to the app."),
        "limits": Key(LIMITS, "What clients may send."),
        "queue": Key(Policy(QUEUE), "There is none unless it is given, here or for a route."),
        "filters": Key(
            ListOf(UsedFilter(), maximum=32), "Filters of other packages: use is the name, the rest is their own."
        ),
        "routes": Key(ListOf(INBOUND_ROUTE, maximum=1000), "Parts of the traffic with policies of their own."),
    },
    refused={"circuit_breaker": _NOT_INBOUND, "retry": _NOT_INBOUND},
    cross=cross_schema.listener(),
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
        "host": Key(
            _HOST, "Host that endpoints are asked for.", "api.example", default="the one that the app asked for"
        ),
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
        "timeout": Key(TIMEOUT, "How long each phase may take."),
        "circuit_breaker": Key(Policy(CIRCUIT_BREAKER), CIRCUIT_BREAKER.doc),
        "retry": Key(Policy(RETRY), RETRY.doc),
        "bulkhead": Key(Policy(BULKHEAD), BULKHEAD.doc),
        "rate_limit": Key(Policy(RATE_LIMIT), "There is none unless it is given."),
        "limits": Key(LIMITS, "What the app and the instances may send."),
        "queue": Key(Policy(QUEUE), "There is none unless it is given, here or for a route."),
        "filters": Key(
            ListOf(UsedFilter(), maximum=32), "Filters of other packages: use is the name, the rest is their own."
        ),
        "routes": Key(ListOf(UPSTREAM_ROUTE, maximum=1000), "Parts of the traffic with policies of their own."),
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
            _HOST,
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
    """Add the key of a filter of our own to the sections where it may stand."""
    it = declared(filter_class)
    DECLARED[it.name] = it
    doc = it.section.doc
    for port, route in ((INBOUND, INBOUND_ROUTE), (UPSTREAM, UPSTREAM_ROUTE)):
        if port.side in it.filter.sides:
            port.declare(it.name, Key(Policy(it.section), doc), None)
            if "http" in it.filter.protocols:
                route.declare(it.name, Key(Policy(it.section), "In place of the listener's; off: none."), INHERIT)


def json_schema() -> dict[str, Any]:
    """The file's JSON Schema (draft 2020-12), for editors. Of the rules that span keys it has what such a schema can
    say; the rest is found by ``sidecar check`` only."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sidecar",
    } | CONFIG.schema()
