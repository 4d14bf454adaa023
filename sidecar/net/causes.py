"""Why a connection could not be made, or broke: one word for metrics, logs and machines, and a few for people."""

from __future__ import annotations

import errno
from typing import Final

#: Each word, and how it is said.
CAUSES: Final = {
    "refused": "connection refused: nothing listens there",
    "no_route": "no route to it",
    "timeout": "it was silent",
    "reset": "it closed the connection",
    "denied": "a firewall on this host forbids it",
    "no_descriptors": "this host is out of descriptors",
    "no_ports": "this host is out of local ports",
    "no_memory": "this host is out of memory for sockets",
    "other": "it failed",
}
_BY_NUMBER: Final = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "no_route",
    errno.ENETUNREACH: "no_route",
    errno.EHOSTDOWN: "no_route",
    errno.ENETDOWN: "no_route",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.EPIPE: "reset",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
    errno.EADDRNOTAVAIL: "no_ports",
    errno.ENOBUFS: "no_memory",
    errno.ENOMEM: "no_memory",
}


def cause_of(error: BaseException | None) -> str:
    """The word for an error of a connection; ``None``: it was silent until its time was over."""
    if error is None or isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, OSError):
        found = _BY_NUMBER.get(error.errno or 0)
        if found is not None:
            return found
        if isinstance(error, ConnectionResetError):  # said without a number
            return "reset"
    return "other"
