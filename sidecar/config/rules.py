"""What has to fit together in a configuration: the rules that span several keys.

Each rule looks at what was read (:class:`~sidecar.config.containers.Fields`) before the model is built, and passes over
whatever could not be read, so that one run finds as many problems as there are and none that follows from another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final, NamedTuple

from sidecar.config import amqp_rules, balancing, canary, fallback_rules, faults, health, redirect, subsets
from sidecar.config.addresses import Registry, is_wildcard
from sidecar.config.agent import Admin
from sidecar.config.containers import Fields
from sidecar.config.kinds import BROKEN, Place
from sidecar.config.schema import DECLARED, not_for
from sidecar.core.address import Address, is_loopback

#: What there is in place of a key, for a protocol that has no use for it.
_OTHER_MEANS: Final = {
    ("wait", "amqp"): ": publishes wait by amqp.hold, and outlive their broker by amqp.spool",
    ("fallback", "amqp"): ": messages outlive their broker by amqp.spool",
    ("fallback", "tcp"): ": it answers requests; connections can wait",
}


class Listener(NamedTuple):
    """A port that the sidecar opens."""

    place: Place
    address: Address


def check(root: Fields) -> None:
    """Apply every rule, reporting what does not fit."""
    for rule in _RULES:
        rule(root)


def upstreams(root: Fields) -> Iterator[Fields]:
    """The upstreams that could be read."""
    yield from (upstream for upstream in root.get("upstreams", {}).values() if isinstance(upstream, Fields))


def traffic(root: Fields) -> Iterator[Fields]:
    """Inbound and the upstreams."""
    if inbound := root.section_of("inbound"):
        yield inbound
    yield from upstreams(root)


def _policies(listener: Fields) -> Iterator[Fields]:
    """A listener and its routes: what can have policies."""
    yield listener
    yield from (route for route in listener.get("routes", ()) if isinstance(route, Fields))


def _listeners(root: Fields) -> Iterator[Listener]:
    for fields in traffic(root):
        if isinstance(address := fields.get("bind"), Address):
            yield Listener(fields.places["bind"], address)
    admin = root.section_of("admin")
    if admin is not None and "bind" in admin.places:
        if isinstance(address := admin.get("bind"), Address):
            yield Listener(admin.places["bind"], address)
    else:
        yield Listener(root.place.at("admin", 0).at("bind", 0), Admin().bind)
    probes = root.section_of("probes")
    if probes is not None and isinstance(address := probes.get("bind"), Address):
        yield Listener(probes.places["bind"], address)
    yield from _captures(root)


def _captures(root: Fields) -> Iterator[Listener]:
    """Where redirected connections arrive."""
    section = root.section_of("redirect")
    if section is None:
        return
    for side, host in (("outbound", "localhost"), ("inbound", "::")):
        capture = section.section_of(side)
        if capture is not None and isinstance(port := capture.value("port"), int):
            yield Listener(capture.places.get("port", capture.place), Address(host, port))


def _listeners_apart(root: Fields) -> None:
    """No two listeners on one port of one address."""
    seen: dict[int, list[Listener]] = {}
    for listener in _listeners(root):
        others = seen.setdefault(listener.address.port, [])
        for other in others:
            if _overlap(listener.address, other.address):
                # The default of admin.bind has no line: the problem is then shown at the other one.
                here, there = (listener, other) if listener.place.line else (other, listener)
                here.place.report(
                    f"is the same port as {there.place.path}",
                    found=f"{here.address}, and {there.address} there",
                    allowed="one listener on a port",
                )
                break
        others.append(listener)


def _overlap(one: Address, other: Address) -> bool:
    """Whether both cannot be listened on at once. ``::`` is both families, ``0.0.0.0`` is IPv4 alone."""
    if one.port != other.port or one.port == 0:
        return False
    return _covers(one.host, other.host) or _covers(other.host, one.host) or bool(_hosts(one.host) & _hosts(other.host))


def _covers(wildcard: str, host: str) -> bool:
    """Whether that is a wildcard of which the other address, or one of them, is a part."""
    if not is_wildcard(wildcard):
        return False
    if ":" in wildcard:
        return True
    return any(":" not in each for each in _hosts(host))


def _hosts(host: str) -> set[str]:
    if host.rstrip(".").lower() == "localhost":
        return {"127.0.0.1", "::1"}
    try:
        return {str(ipaddress.ip_address(host))}
    except ValueError:
        return {host.rstrip(".").lower()}


def _nobody_dials_itself(root: Fields) -> None:
    """Neither the app nor an endpoint is at an address that the sidecar itself listens on."""
    service = root.section_of("service")
    if service and isinstance(app := service.get("app"), Address):
        for listener in _listeners(root):
            if _reaches(app, listener.address):
                service.places["app"].report(
                    f"is where the sidecar itself listens, {listener.place.path}",
                    found=str(app),
                    allowed="the address at which the app listens",
                )
                break
    outbound = [
        Listener(upstream.places["bind"], bind)
        for upstream in upstreams(root)
        if isinstance(bind := upstream.get("bind"), Address)
    ]
    for upstream in upstreams(root):
        for endpoint in upstream.get("endpoints", ()):
            address = endpoint.get("address") if isinstance(endpoint, Fields) else None
            if not isinstance(address, Address):
                continue
            for listener in outbound:
                if _reaches(address, listener.address):
                    own = listener.place is upstream.places.get("bind")
                    endpoint.places["address"].report(
                        f"is {'this upstream' if own else listener.place.path.removesuffix('.bind')}'s own bind: the "
                        "sidecar would dial itself",
                        found=str(address),
                        allowed="the address of an instance",
                    )
                    break


def _reaches(dialled: Address, bind: Address) -> bool:
    """Whether dialling an address is sure to end at a listener of this machine."""
    if dialled.port != bind.port or bind.port == 0:
        return False
    local = is_loopback(dialled.host) or is_wildcard(dialled.host)
    return bool(_hosts(dialled.host) & _hosts(bind.host)) or (local and is_wildcard(bind.host))


def _inbound_needs_app(root: Fields) -> None:
    """Inbound traffic goes to ``service.app``."""
    service = root.section_of("service")
    if "inbound" in root.places and service is not None and "app" not in service.places:
        service.place.at("app", service.place.line).report(
            "is missing: inbound has to know where the app listens", allowed=service.section.keys["app"].kind.allowed
        )


def _drain_knows_the_app(root: Fields) -> None:
    """Who waits until the app has ended, has to know where it listens."""
    drain = root.section_of("drain")
    if drain is not None and drain.value("outbound") == "until_app_ends" and "inbound" not in root.places:
        drain.places["outbound"].report(
            "cannot be seen without inbound and service.app", found="until_app_ends", allowed="drained"
        )


def _one_source_of_endpoints(root: Fields) -> None:
    """An upstream discovers its instances, for which it needs a registry, or has ``endpoints``."""
    registry = root.value("registry")
    for upstream in upstreams(root):
        if "discover" in upstream.places and "endpoints" in upstream.places:
            upstream.place.report(
                "says twice where its instances are", found="discover and endpoints", allowed="one of the two"
            )
            continue
        discover = upstream.section_of("discover")
        if discover is not None and ("sentinel" in discover.places or "at" in discover.places):
            _a_master(upstream, discover)
        elif "endpoints" not in upstream.places and isinstance(registry, Registry) and registry.kind == "none":
            upstream.places.get("discover", upstream.place).report(
                "cannot discover its instances without a registry",
                found="registry: none",
                allowed="endpoints: [host:port], or registry: consul://… or directory:///…",
            )


def _a_master(upstream: Fields, discover: Fields) -> None:
    """Sentinel is asked for a name, somewhere, by a port that takes any protocol; then there is no service."""
    for key, other in (("sentinel", "at"), ("at", "sentinel")):
        if key in discover.places and other not in discover.places:
            discover.places[key].report(f"takes {other} beside it", allowed="sentinel: NAME and at: [host:port]")
    for key in ("service", "tag"):
        if key in discover.places:
            discover.places[key].report("is not for a master that Sentinel tells", allowed="sentinel and at alone")
    if upstream.known("protocol") and upstream.value("protocol") != "tcp":
        discover.place.report(
            "is a Redis server, for which the port has to be tcp", found=f"protocol: {upstream.value('protocol')}",
            allowed="protocol: tcp",
        )  # fmt: skip


def _endpoints_differ(root: Fields) -> None:
    """No address twice in one upstream."""
    for upstream in upstreams(root):
        seen: set[Address] = set()
        for endpoint in upstream.get("endpoints", ()):
            address = endpoint.get("address") if isinstance(endpoint, Fields) else None
            if isinstance(address, Address):
                if address in seen:
                    endpoint.places["address"].report("is given twice", found=str(address), allowed="each address once")
                seen.add(address)


def _target_fits_head(root: Fields) -> None:
    """``limits.target`` is not above ``limits.head``."""
    for fields in traffic(root):
        limits = fields.section_of("limits")
        if limits is None or not limits.known("target", "head"):
            continue
        target, head = limits.value("target"), limits.value("head")
        if target > head and "target" in limits:
            limits.places["target"].report(
                "is above limits.head, of which the target is a part",
                found=f"{target} bytes",
                allowed=f"at most {head}",
            )


def _one_check(root: Fields) -> None:
    """A check is either by HTTP or by TCP, and Consul's reaper has a minimum."""
    service = root.section_of("service")
    check = service.section_of("check") if service else None
    if check is None:
        return
    if check.get("http") and check.get("tcp") is True:
        check.place.report("is two checks at once", found="http and tcp", allowed="one of http: /path and tcp: true")
    if check.get("host") and "http" not in check.places:
        check.places["host"].report("means nothing without http", allowed="http: /path beside it, or leave it out")
    registry, after = root.value("registry"), check.get("deregister_critical_service_after")
    if isinstance(registry, Registry) and registry.kind == "consul" and after is not None and after < 60:
        check.places["deregister_critical_service_after"].report(
            "is below what Consul does", found=f"{after:g} s", allowed="1m or more"
        )


def _admin_is_guarded(root: Fields) -> None:
    """An admin API that others can reach needs a token."""
    admin = root.section_of("admin")
    if admin is None or not admin.known("bind", "token"):
        return
    bind = admin.value("bind")
    if not is_loopback(bind.host) and not admin.value("token"):
        admin.place.at("token", admin.places["bind"].line).report(
            "is missing or empty: it is needed when admin.bind is not a loopback address",
            found=f"admin.bind {bind}",
            allowed="a token, {file: /run/secrets/admin}; or bind: 127.0.0.1:15000",
        )


def _fits_the_protocol(root: Fields) -> None:
    """With ``protocol: tcp`` and ``amqp`` there are no requests, so what is about them is refused."""
    for listener in traffic(root):
        protocol = listener.value("protocol")
        if protocol in (BROKEN, "http"):
            continue
        wrong = f"is not for protocol {protocol}"
        for name, keys in not_for(protocol).items():
            section = listener.section_of(name)
            if not keys and (listener.get(name) or section is not None):
                other = _OTHER_MEANS.get((name, protocol), "")
                listener.places[name].report(wrong + other, allowed="protocol: http, or leave it out")
            for key in section.places if section else ():
                if section and key in keys:
                    rest = ", ".join(known for known in section.section.keys if known not in keys)
                    section.places[key].report(wrong, allowed=f"{rest}; or protocol: http")


def _ejections_fit(root: Fields) -> None:
    """What :func:`sidecar.config.health.check` says of each upstream."""
    for upstream in upstreams(root):
        health.check(upstream)


def _balancers_fit(root: Fields) -> None:
    """A hash is for the balancer that has one, and a balancer for the protocol."""
    for upstream in upstreams(root):
        balancing.check(upstream)


def _subsets_fit(root: Fields) -> None:
    """Traffic is split among subsets that there are; another service is discovered in a registry."""
    registry = root.value("registry")
    for upstream in upstreams(root):
        subsets.check(upstream)
        canary.check(upstream)
        if isinstance(registry, Registry) and registry.kind == "none":
            for fields in upstream.get("subsets", {}).values():
                if isinstance(fields, Fields) and "service" in fields.places:
                    fields.places["service"].report(
                        "cannot be discovered without a registry", found="registry: none",
                        allowed="a tag or meta; or registry: consul://… or directory:///…",
                    )  # fmt: skip


def _mirrors_lead_elsewhere(root: Fields) -> None:
    """Copies go to another upstream of this sidecar."""
    named = root.get("upstreams", {})
    for name, upstream in named.items():
        if isinstance(upstream, Fields):
            for fields in _policies(upstream):
                mirror = fields.section_of("mirror")
                if mirror is not None and isinstance(target := mirror.get("upstream"), str):
                    fallback_rules.leads_there(name, target, mirror.places["upstream"], named)


def _shared_needs_redis(root: Fields) -> None:
    """Limits that sidecars share are kept in Redis."""
    if "redis" in root.places:
        return
    for listener in traffic(root):
        for fields in _policies(listener):
            limit = fields.section_of("rate_limit")
            if limit is not None and limit.get("shared") is True:
                limit.places["shared"].report(
                    "needs Redis, in which such limits are kept",
                    found="no section redis",
                    allowed='redis: {url: "redis://host:6379/0"} at the top of the file; or shared: false',
                )


def _filters_say(root: Fields) -> None:
    """What each filter has to say about its own settings."""
    for listener in traffic(root):
        protocol = listener.value("protocol")
        if protocol is BROKEN:
            continue
        for name in listener.section.declared:
            given = [found for fields in _policies(listener) if (found := fields.section_of(name)) is not None]
            if given:
                DECLARED[name].check(given, protocol)


_RULES = (
    _listeners_apart,
    _nobody_dials_itself,
    _inbound_needs_app,
    _drain_knows_the_app,
    _one_source_of_endpoints,
    _endpoints_differ,
    _target_fits_head,
    _one_check,
    _admin_is_guarded,
    _fits_the_protocol,
    _balancers_fit,
    _ejections_fit,
    _subsets_fit,
    _filters_say,
    fallback_rules.check,
    faults.check,
    _mirrors_lead_elsewhere,
    _shared_needs_redis,
    redirect.check,
    *amqp_rules.RULES,
)
