"""Host names as text, and the file of those that need no server."""

from __future__ import annotations

import ipaddress
import logging
import re
from pathlib import Path
from typing import Final

log = logging.getLogger("sidecar.names")

#: The most of a hosts file that is read, bytes: it is read on the event loop.
MAX_HOSTS_FILE: Final = 1 << 20
#: RFC 1123 §2.1, with the underscores that Docker's names have. A label is up to 63 octets, a name up to 253.
_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
                          r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*")  # fmt: skip
#: As a last label, a piece of an IPv4 address in an odd form.
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LOOPBACK: Final = ("127.0.0.1", "::1")


class BadName(ValueError):
    """A text that is no host name; the message says why, but not the text."""


def is_address(host: str) -> bool:
    """Whether ``host`` is an IPv4 or IPv6 address (without brackets; a scope id is fine)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_one_host(address: str) -> bool:
    """Whether an address is that of one host. ``0.0.0.0`` stands for blocked names in places, and means this host."""
    ip = ipaddress.ip_address(address)
    return not (ip.is_unspecified or ip.is_multicast)


def normal(host: str) -> str:
    """A host name in lower case, its final dot kept: that one means that no search domain is to be tried. Raises
    :class:`BadName`."""
    bare = host.removesuffix(".")
    if not _NAME.fullmatch(bare) or _NUMBER.fullmatch(bare.rpartition(".")[2]):
        raise BadName("is neither an address nor a host name")
    return host.lower()


def is_local(name: str) -> bool:
    """Whether a name means this host whatever any server says (RFC 6761 §6.3)."""
    bare = name.removesuffix(".")
    return bare == "localhost" or bare.endswith(".localhost")


class HostsFile:
    """``/etc/hosts`` or one like it, read again when it has changed. One that cannot be read is empty."""

    def __init__(self, path: str | Path = "/etc/hosts") -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[str, tuple[str, ...]] = {}

    def find(self, name: str) -> tuple[str, ...]:
        """The addresses of a name in lower case, in the file's order; empty when it has none. ``localhost`` always has
        some."""
        self._refresh()
        name = name.removesuffix(".")
        return self._names.get(name) or (_LOOPBACK if is_local(name) else ())

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen == self._seen:
                return
            with self._path.open("rb") as file:
                text = file.read(MAX_HOSTS_FILE)
        except OSError:
            self._seen = None
            self._names = {}
            return
        if found.st_size > MAX_HOSTS_FILE:
            log.warning("%s is too large; only its first %d bytes are read", self._path, MAX_HOSTS_FILE)
        self._seen = seen
        self._names = _parse(text.decode("utf-8", "replace"))


def _parse(text: str) -> dict[str, tuple[str, ...]]:
    names: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) > 1 and is_address(fields[0]) and is_one_host(fields[0]):
            for name in fields[1:]:
                names.setdefault(name.lower().removesuffix("."), {})[fields[0]] = None
    return {name: tuple(addresses) for name, addresses in names.items()}
