"""The keys about connections that are redirected to the sidecar, and what has to fit together in them."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

from sidecar.config.addresses import HostPort
from sidecar.config.containers import Fields, ListOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.document import Scalar
from sidecar.config.kinds import VARIABLE, Refused, ScalarKind
from sidecar.config.values import Enum, Integer
from sidecar.core.address import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Any address, in an upstream's ``redirect``.
ANY: Final = "*"
_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
#: Users are numbers of 32 bits; the last one means none.
_MOST_UID: Final = (1 << 32) - 2


class Ports(ScalarKind):
    """A port, or a range of them, as both its ends."""

    allowed = "a port from 1 to 65535, or a range such as 8000-8099"

    def parse(self, scalar: Scalar) -> tuple[int, int]:
        match = _RANGE.fullmatch(scalar.text)
        if not match:
            raise Refused("is no port, and no range of ports")
        low, high = int(match[1]), int(match[2] or match[1])
        if not 1 <= low <= high <= 65535:
            raise Refused(nearest=f"{high}-{low}" if 1 <= high < low <= 65535 else "")
        return low, high

    def show(self, value: tuple[int, int]) -> Any:
        low, high = value
        return low if low == high else f"{low}-{high}"

    def schema(self) -> dict[str, Any]:
        port = {"type": "integer", "minimum": 1, "maximum": 65535}
        return {"anyOf": [port, {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"}, VARIABLE]}


class NetworkKind(ScalarKind):
    """An address, or a network in CIDR notation."""

    allowed = "an IP address, or a network such as 10.0.0.0/8 or fd00::/8"

    def parse(self, scalar: Scalar) -> Network:
        try:
            return ipaddress.ip_network(scalar.text)
        except ValueError:
            pass
        try:
            like = str(ipaddress.ip_network(scalar.text, strict=False))
        except ValueError:
            raise Refused("is no address, and no network") from None
        raise Refused("has bits behind its mask", nearest=like)

    def show(self, value: Network) -> Any:
        return str(value.network_address) if value.prefixlen == value.max_prefixlen else str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


class Dialled(ScalarKind):
    """What an app dials: ``host:port``, ``[v6]:port``, or ``*:port`` for any address."""

    allowed = 'host:port, [ipv6]:port, or "*:port" for any address (in quotes)'

    def parse(self, scalar: Scalar) -> Address:
        if not scalar.text.startswith("*:"):
            return HostPort().parse(scalar)
        return Address(ANY, HostPort().parse(Scalar(f"any{scalar.text[1:]}", plain=False, line=scalar.line)).port)

    def show(self, value: Address) -> Any:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(\S+:[0-9]+|.*\$\{.*)$"}


class Outbound(Settings):
    """What the app dials elsewhere. An upstream gets what goes to its endpoints or its own redirect list; the rest is
    relayed as TCP to where it was going."""

    ports: tuple[tuple[int, int], ...] = key(
        ListOf(Ports(), minimum=1, maximum=256), "Connections to these ports are redirected.", example=[80, "8000-8099"]
    )
    port: int = key(
        Integer(1, 65535), "Where they arrive, on loopback. Nobody dials it: what does is reset.", default=15001
    )
    exclude: tuple[Network, ...] = key(
        ListOf(NetworkKind(), maximum=256),
        "Networks and addresses to which connections stay direct.",
        default=(),
        example=["169.254.169.254", "10.96.0.0/12"],
    )
    unknown: str = key(
        Enum("pass", "block"), "What becomes of connections that belong to no upstream; block: they are reset.",
        default="pass",
    )  # fmt: skip


class Inbound(Settings):
    """What others dial at the port of service.app: it arrives at the inbound listener."""

    port: int = key(
        Integer(1, 65535), "Where it arrives, on all addresses. Nobody dials it: what does is reset.", default=15006
    )


class Redirect(Settings):
    """Connections that the kernel leads through the sidecar though nobody dials it: `sidecar redirect` installs the
    rules. None unless given."""

    uid: int = key(
        Integer(0, _MOST_UID), "The sidecar's own user, as a number: what it dials is not redirected.", default=10001
    )
    app_uid: int | None = key(
        Integer(0, _MOST_UID), "The app's user, which has to be another one.", default=None, example=1000, told="any"
    )
    outbound: Outbound | None = key(section(Outbound), section(Outbound).doc, default=None)
    inbound: Inbound | None = key(section(Inbound), section(Inbound).doc, default=None)


#: The key of an upstream.
DIALLED: Final = ListOf(Dialled(), maximum=256)


def check(root: Fields) -> None:
    """Report what does not fit together."""
    redirect = root.section_of("redirect")
    _upstreams(root, redirect)
    if redirect is None:
        return
    if not {"outbound", "inbound"} & redirect.places.keys():
        redirect.place.report("redirects nothing", allowed="outbound: {ports: [80]}, or inbound: {}, or both")
    uid, app_uid = redirect.value("uid"), redirect.get("app_uid")
    if app_uid is not None and app_uid == uid:
        redirect.places["app_uid"].report(
            "is the sidecar's own user, whose connections are not redirected", found=str(app_uid),
            allowed="another user for the app, or for the sidecar (uid)",
        )  # fmt: skip
    if "inbound" in redirect.places and "inbound" not in root.places:
        redirect.places["inbound"].report(
            "has nowhere to lead", allowed="a section inbound, with service.app; or leave it out"
        )
    if redirect.section_of("inbound") is not None:
        _inbound(root, redirect)


def _inbound(root: Fields, redirect: Fields) -> None:
    """The app's port is no port of the sidecar's: those of operators must not be redirected."""
    service = root.section_of("service")
    app = service.get("app") if service is not None else None
    if not isinstance(app, Address):
        return
    for name in ("inbound", "admin", "probes"):
        listener = root.section_of(name)
        bind = listener.value("bind") if listener is not None else None
        if isinstance(bind, Address) and bind.port == app.port:
            redirect.places["inbound"].report(
                f"would redirect {name}.bind, too: it has the port of service.app", found=str(bind),
                allowed="another port for one of the two",
            )  # fmt: skip


def _upstreams(root: Fields, redirect: Fields | None) -> None:
    """What upstreams want is redirected at all, and each destination leads to one of them."""
    outbound = redirect.section_of("outbound") if redirect is not None else None
    known = redirect is None or "outbound" not in redirect.places or outbound is not None
    ports = [it for it in outbound.get("ports", ()) if isinstance(it, tuple)] if outbound is not None else []
    seen: dict[Address, str] = {}
    for name, upstream in root.get("upstreams", {}).items():
        if not isinstance(upstream, Fields):
            continue
        if name == NAME and outbound is not None:
            upstream.place.report("has a name that stands for what belongs to no upstream", allowed="another name")
        wanted = [it for it in upstream.get("redirect", ()) if isinstance(it, Address)]
        if wanted and outbound is None and known:
            upstream.places["redirect"].report(
                "needs a section redirect with outbound", allowed="redirect: {outbound: {ports: […]}} at the top"
            )
            continue
        for address in wanted:
            if ports and not any(low <= address.port <= high for low, high in ports):
                upstream.places["redirect"].report(
                    "has a port that is not redirected", found=str(address),
                    allowed="ports that are in redirect.outbound.ports",
                )  # fmt: skip
            if address in seen:
                upstream.places["redirect"].report(
                    f"has a destination of upstreams.{seen[address]}", found=str(address), allowed="each once"
                )
            seen.setdefault(address, name)


#: What metrics and logs call connections that belong to no upstream.
NAME: Final = "redirect"
