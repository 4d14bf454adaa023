"""The whole file: what was declared, put together.

Each key is declared once, beside its user: those of filters in their files, the others in ``agent``, ``service``,
``traffic`` and ``amqp_schema``. This drives loading, error messages, :func:`json_schema` and
:func:`sidecar.config.show.effective`. What spans several keys is in ``rules``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from sidecar.config import cross_schema
from sidecar.config.addresses import Registry, RegistryUrl
from sidecar.config.agent import Admin, Consul, Dns, Drain, Log, Probes, Rehearsal, Tracing, Why
from sidecar.config.containers import Fields, MapOf, Section
from sidecar.config.declared import Declared, Settings, declared, key, section, section_as
from sidecar.config.document import Node
from sidecar.config.keys import INHERIT, Key
from sidecar.config.kinds import BROKEN, Place
from sidecar.config.policy import Policy
from sidecar.config.redirect import Redirect
from sidecar.config.redis import Redis
from sidecar.config.service import Service
from sidecar.config.traffic import INBOUND_ROUTE, UPSTREAM_ROUTE, Inbound, Upstream
from sidecar.config.values import NAME


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
                if name == value.get("profile") and name not in value:
                    found[name] = it.section.build({})
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
        it.check([given], protocol)


INBOUND: Final = section_as(_Inbound, Inbound)
UPSTREAM: Final = section_as(_Port, Upstream)
_SERVICE, _CONSUL, _ADMIN, _PROBES = section(Service), section(Consul), section(Admin), section(Probes)
_TRACING, _LOG, _DRAIN, _DNS = section(Tracing), section(Log), section(Drain), section(Dns)
_WHY: Final = section(Why)
_REDIS: Final = section(Redis)
_REHEARSAL: Final = section(Rehearsal)
_REDIRECT: Final = section(Redirect)


class Config(Settings):
    """Configuration of one sidecar."""

    free = True
    cross = cross_schema.root()

    service: Service = key(_SERVICE, _SERVICE.doc)
    registry: Registry = key(
        RegistryUrl(),
        "Where instances are found, and this one is registered.",
        default=Registry(),
        example="consul://127.0.0.1:8500",
    )
    consul: Consul = key(_CONSUL, _CONSUL.doc, default=Consul())
    inbound: Inbound | None = key(INBOUND, INBOUND.doc, default=None)
    upstreams: dict[str, Upstream] = key(
        MapOf(NAME, UPSTREAM, maximum=1000, named=True), "What the app dials, by name.", default={}
    )
    admin: Admin = key(_ADMIN, _ADMIN.doc, default=Admin())
    probes: Probes | None = key(_PROBES, _PROBES.doc, default=None)
    tracing: Tracing = key(_TRACING, _TRACING.doc, default=Tracing())
    log: Log = key(_LOG, _LOG.doc, default=Log())
    why: Why = key(_WHY, _WHY.doc, default=Why())
    rehearsal: Rehearsal = key(_REHEARSAL, _REHEARSAL.doc, default=Rehearsal())
    drain: Drain = key(_DRAIN, _DRAIN.doc, default=Drain())
    dns: Dns = key(_DNS, _DNS.doc, default=Dns())
    redis: Redis | None = key(_REDIS, _REDIS.doc, default=None)
    redirect: Redirect | None = key(_REDIRECT, _REDIRECT.doc, default=None)


CONFIG: Final = section(Config)


#: Filters of our own that have declared their settings, by name.
DECLARED: dict[str, Declared] = {}


def declare(filter_class: Any) -> None:
    """Add the key of a filter of our own to the sections where it may stand, and to others the reason why not."""
    it = declared(filter_class)
    DECLARED[it.name] = it
    docs = {"route": "In place of the listener's; off: none.", **filter_class.key_docs}
    of_route = _of_route(it, docs["route"])
    for port, route in ((INBOUND, INBOUND_ROUTE), (UPSTREAM, UPSTREAM_ROUTE)):
        routed = filter_class.setting is None or filter_class.routed
        sections = [port, route] if "http" in filter_class.protocols and routed else [port]
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
    if it.filter.setting is not None:
        return Key(it.kind, doc)
    refused = {name: key.route for name, key in it.section.keys.items() if key.route}
    section = it.section.without(refused) if refused else it.section
    return Key(Policy(section) if it.filter.optional else section, doc)


def not_for(protocol: str) -> dict[str, frozenset[str]]:
    """What a port of a protocol has no use for: its keys, or, where there are such, keys inside them."""
    found = {}
    for name, it in (INBOUND.keys | UPSTREAM.keys).items():
        kind = it.kind.section if isinstance(it.kind, Policy) else it.kind
        if it.protocols and protocol not in it.protocols:
            found[name] = frozenset[str]()
        elif isinstance(kind, Section):
            inside = (inner for inner, it in kind.keys.items() if it.protocols and protocol not in it.protocols)
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
