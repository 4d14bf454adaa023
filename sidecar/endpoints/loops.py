"""Endpoints at which this sidecar itself listens for its app: a request to one would go round until something breaks.

Its own inbound port is no such loop: behind it is the app, which may well call itself through the mesh.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable

from sidecar.core.address import Address
from sidecar.core.instance import Instance

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def apart(
    instances: Iterable[Instance],
    listeners: Iterable[Address],
    local: Callable[[_Ip], bool] | None = None,
) -> tuple[list[Instance], list[Instance]]:
    """Split instances into those that may be dialled and those at which one of ``listeners`` would answer. A host name
    other than localhost passes: that is decided by the address it stands for. ``local`` says whether an address is one
    of this machine's."""
    binds: dict[int, list[str]] = {}
    for listener in listeners:
        binds.setdefault(listener.port, []).append(listener.host)
    good: list[Instance] = []
    loops: list[Instance] = []
    for instance in instances:
        hosts = binds.get(instance.port, ())
        looped = any(_answers(bind, ip, local or is_local) for bind in hosts for ip in _addresses(instance.host))
        (loops if looped else good).append(instance)
    return good, loops


def reaches(address: Address, listeners: Iterable[Address]) -> bool:
    """Whether one of the listeners answers at an address."""
    return bool(apart([Instance(host=address.host, port=address.port)], listeners)[1])


def is_local(ip: _Ip) -> bool:
    """Whether an address is one of this machine's, in this network namespace. Sends nothing."""
    if ip.is_loopback or ip.is_unspecified:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # What is sent to an address of one's own has it as its source, too. To try to bind would be no proof:
            # ip_nonlocal_bind allows that for any address.
            probe.connect((str(ip), 9))
            own = probe.getsockname()[0]
        except OSError:  # no way there
            return False
    return bool(ipaddress.ip_address(own) == ip)


def _answers(bind: str, ip: _Ip, local: Callable[[_Ip], bool]) -> bool:
    for listening in _addresses(bind):
        if listening == ip:
            return True
        # The IPv6 wildcard is taken to include IPv4, as it may.
        if listening.is_unspecified and (listening.version == 6 or ip.version == 4) and local(ip):
            return True
    return False


def _addresses(host: str) -> list[_Ip]:
    """The addresses that a host surely stands for."""
    if host.rstrip(".").lower() == "localhost":
        return [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")]
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return []
    return [getattr(ip, "ipv4_mapped", None) or ip]
