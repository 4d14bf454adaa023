"""Why a connection could not be made, or brought no answer: one word for metrics, logs and machines, and a few for
people. The words are few and stay the same, so they may be labels."""

from __future__ import annotations

import errno
import socket
from typing import Final

from sidecar.core.text import printable

#: The longest text of an error, in characters.
MAX_WORDS: Final = 160

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
    "no_such_name": "there is no such name",
    "lookup_failed": "its name could not be looked up",
    "lookup_pending": "its name is still being looked up",
    "no_answer": "it did not answer in time",
    "malformed": "its answer was malformed",
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
    if isinstance(error, socket.gaierror | UnicodeError):
        return "no_such_name"
    if isinstance(error, OSError):
        found = _BY_NUMBER.get(error.errno or 0)
        if found is not None:
            return found
        if isinstance(error, ConnectionResetError):  # said without a number, as the next one
            return "reset"
        if isinstance(error, ConnectionRefusedError):
            return "refused"
    return "other"


def words_for(error: BaseException | None) -> str:
    """What is said of it to people; where there is no word for it, what the system says."""
    cause = cause_of(error)
    if cause != "other":
        return CAUSES[cause]
    said = error.strerror if isinstance(error, OSError) else None
    return printable(said or str(error) or type(error).__name__, MAX_WORDS)
