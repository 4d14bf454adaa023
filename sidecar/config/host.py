"""What this machine (or container) is called, and where others reach it."""

from __future__ import annotations

import re
import socket

# TEST-NET-1 and the IPv6 documentation prefix (RFC 5737, RFC 3849): routed like any other, and nobody is there.
_FAR = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def hostname() -> str:
    """This host's name with only the characters of a service id in it; the first label of a longer name."""
    name = re.sub("[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])
    return name[:64] or "localhost"


def address() -> str:
    """The address this host uses to reach others: that of its default route, else what its name resolves to, else
    127.0.0.1. Nothing is sent."""
    for family, far in _FAR:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))  # for UDP this only looks up the route and the source address
                found: str = probe.getsockname()[0]
        except OSError:
            continue
        if found not in ("0.0.0.0", "::"):
            return found
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def default_id(service: str, port: int | None) -> str:
    """``service.id`` where none is given; ``port`` is the inbound one, if there is any."""
    return f"{service}-{hostname()}" + ("" if port is None else f"-{port}")
