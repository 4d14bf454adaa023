"""Ports of this host that are free, and stay free for a process that is killed and comes back."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000
#: Those that this process has been given already, and perhaps not bound yet.
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return different free ports of 127.0.0.1, below the range from which the system takes the ports of outgoing
    connections: there, one of thousands of connections could take a port while its owner is away. No port is returned
    twice: until its owner binds it, it looks free."""
    try:
        highest = int(_RANGE.read_text().split()[0]) - 1
    except (OSError, ValueError, IndexError):
        highest = 32_767
    if highest - _LOWEST < 1000:  # an unusual range; then any free port has to do
        return _chosen_by_system(count)
    found: list[int] = []
    for port in random.sample(range(_LOWEST, highest + 1), 1000):
        if len(found) == count:
            return found
        if port in _given:
            continue
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        _given.add(port)
    return _chosen_by_system(count)


def _chosen_by_system(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
