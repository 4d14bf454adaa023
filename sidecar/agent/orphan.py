"""Notices that the sidecar's network has gone.

A container that shares the network of another one keeps it when that one is replaced: then there is only a loopback
left, and nobody reaches it ever again. It looks alive, and is of no use; ended, its engine starts it anew.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Final

#: Seconds between two looks, and how many looks in a row must find nothing.
EVERY: Final = 1.0
LOOKS: Final = 2


class Orphaned(Exception):
    """Only the loopback is left of the network that there was."""


def interfaces() -> frozenset[str]:
    """The names of this network namespace's interfaces, without the loopback."""
    return without_loopback(name for _, name in socket.if_nameindex())


def without_loopback(names: Iterable[str]) -> frozenset[str]:
    """Those that lead to others. Tunnels that the kernel makes in each namespace are never up, and no way out."""
    return frozenset(name for name in names if name != "lo" and name not in _KERNELS)


#: Made by modules of the kernel in each namespace, used or not.
_KERNELS: Final = frozenset(
    ("tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0")
)


async def watch(look: Callable[[], frozenset[str]] = interfaces, every: float = EVERY) -> None:
    """Raise :class:`Orphaned` once there were other interfaces than the loopback and there are none any more. Return
    if there are none from the beginning, or if that cannot be found out: there is nothing to lose then."""
    try:
        before = look()
        missing = 0
        while before:
            await asyncio.sleep(every)
            missing = 0 if look() else missing + 1
            if missing >= LOOKS:
                raise Orphaned(
                    f"the network has gone ({', '.join(sorted(before))}), only the loopback is left: the container "
                    "that it was shared with has been replaced. Let both join a third one (docs/attach.md)"
                )
    except OSError:
        return
