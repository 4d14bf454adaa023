"""Where a connection was going before the kernel redirected it to this process."""

from __future__ import annotations

import socket
from typing import Any, Final

#: Linux's options of the NAT of either family (linux/netfilter_ipv4.h, …_ipv6/ip6_tables.h), and what they fill in.
_ORIGINAL_DST: Final = 80
_SOCKADDR_IN: Final = 16
_SOCKADDR_IN6: Final = 28


def original_destination(sock: Any) -> tuple[str, int] | None:
    """The address and port that the peer dialled; ``None`` when nobody redirected it, so that it has dialled this very
    socket. ``sock`` is the accepted socket, or what an event loop has in its place."""
    try:
        if sock.family == socket.AF_INET6:
            found = sock.getsockopt(socket.IPPROTO_IPV6, _ORIGINAL_DST, _SOCKADDR_IN6)
            host = socket.inet_ntop(socket.AF_INET6, found[8:24])
        else:
            found = sock.getsockopt(socket.IPPROTO_IP, _ORIGINAL_DST, _SOCKADDR_IN)
            host = socket.inet_ntop(socket.AF_INET, found[4:8])
        port = int.from_bytes(found[2:4], "big")
        # With connection tracking, one that was not redirected has its own end as the original one.
        return None if (host, port) == tuple(sock.getsockname()[:2]) else (host, port)
    except OSError:  # no connection tracking, or the peer has left
        return None
