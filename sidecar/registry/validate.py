"""What may come in from a registry: others write there, and what they write becomes endpoints, log lines and JSON."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Iterable
from typing import Final

from sidecar.core.instance import Instance
from sidecar.resilience.token_bucket import TokenBucket

log = logging.getLogger("sidecar.registry")

#: Instances of one service. More of them are an error of the registry, not a service.
MAX_INSTANCES: Final = 4096
#: Characters of an instance's id.
MAX_ID: Final = 512
#: Tags of an instance, its pairs of meta, and the characters of all of them together.
MAX_TAGS: Final = 1024
MAX_META: Final = 256
MAX_TEXT: Final = 65536
#: Consul's own bound, and that of SRV records (RFC 2782).
MAX_WEIGHT: Final = 65535
#: Instances that are named in one log line.
_NAMED: Final = 5

# RFC 1123, section 2.1, and the underscore that container names have. A last label of digits (or 0x…) would be read as
# an IPv4 address of an odd form.
_NAME: Final = re.compile(
    r"(?=.{1,254}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)
_NUMERIC: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
#: Half of a surrogate pair: JSON can say it, UTF-8 cannot.
_LONE: Final = re.compile(r"[\ud800-\udfff]")
#: That, and what a terminal or a log would not show as a character.
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SCOPE: Final = re.compile(r"[A-Za-z0-9._-]{1,15}")


def host(value: object) -> str:
    """Return ``value`` if it is a host that can be dialled: an IP address of one machine, or a host name.

    Raises ValueError, saying what it is instead.
    """
    if not isinstance(value, str) or not value:
        raise ValueError("host is not a text")
    if len(value) > 254:
        raise ValueError(f"host has {len(value)} characters")
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        if not _NAME.fullmatch(value) or _NUMERIC.fullmatch(value.rstrip(".").rpartition(".")[2]):
            raise ValueError(f"host is neither an address nor a name: {value[:80]!a}") from None
        return value
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"host is not the address of one machine: {value[:80]!a}")
    scope = getattr(address, "scope_id", None)
    if scope is not None and not _SCOPE.fullmatch(scope):
        raise ValueError(f"host has an odd scope: {value[:80]!a}")
    return value


def number(value: object, what: str, least: int, most: int) -> int:
    """Return ``value`` if it is an integer in that range. Raises ValueError."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} is not a number from {least} to {most}")
    return value


def text(value: object, what: str, most: int, odd: re.Pattern[str] = _LONE) -> str:
    """Return ``value`` if it is a text of at most ``most`` characters without an ``odd`` one. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is not a text")
    if len(value) > most:
        raise ValueError(f"{what} has {len(value)} characters, more than {most}")
    if odd.search(value):
        raise ValueError(f"{what} has characters that cannot be shown: {value[:80]!a}")
    return value


def instance(
    *,
    host_: object,
    port: object,
    id_: object,
    weight: object,
    state: str,
    tags: object,
    meta: object,
    sidecar: bool = False,
    admin: object = 0,
) -> Instance:
    """Make an instance of what a registry said about it. Raises ValueError, saying what is wrong."""
    if not isinstance(tags, list) or len(tags) > MAX_TAGS:
        raise ValueError(f"tags is not a list of at most {MAX_TAGS} texts")
    if not isinstance(meta, dict) or len(meta) > MAX_META:
        raise ValueError(f"meta is not an object of at most {MAX_META} texts")
    room = MAX_TEXT
    for what, values in (("tags", tags), ("meta", meta), ("meta", meta.values())):
        for value in values:
            room -= len(text(value, f"one of its {what}", room))
    return Instance(
        host=host(host_),
        port=number(port, "port", 1, 65535),
        id=text(id_, "id", MAX_ID, _UNSEEN),
        weight=number(weight, "weight", 0, MAX_WEIGHT),
        state=state,
        tags=tuple(tags),
        meta=dict(meta),
        sidecar=sidecar,
        admin=number(admin, "admin", 0, 65535) if sidecar else 0,
    )


class Refusals:
    """One log line when the instances of a service that are left out have changed, however often the registry repeats
    them, and a bounded number of lines when they change all the time. ``clock`` gives seconds."""

    def __init__(self, service: str, clock: Callable[[], float]) -> None:
        self._service = service
        self._clock = clock
        self._last: tuple[str, ...] = ()
        self._lines = TokenBucket(0.1, 6, clock())

    def report(self, problems: Iterable[str]) -> None:
        """These are left out now; an empty one: none."""
        now = tuple(problems)
        if now == self._last:
            return
        self._last = now
        if now:
            more = f"; and {len(now) - _NAMED} more" if len(now) > _NAMED else ""
            log.log(
                logging.DEBUG if self._lines.take(self._clock()) else logging.WARNING,
                "registry: %d of the instances of %s are left out: %s%s",
                len(now), self._service, "; ".join(now[:_NAMED]), more,
            )  # fmt: skip
