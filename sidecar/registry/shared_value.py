"""Small values that all sidecars of a registry have in common: each is read by all, and changed by whoever has seen it
as it is (compare-and-set), so that of two changes at once one is made."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

log = logging.getLogger("sidecar.registry")

#: How a value may be called.
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


#: Notes beside a value that are read, and bytes of one.
MAX_NOTES: Final = 512
MAX_NOTE: Final = 4096
#: Who has written a note beside a value.
_WHO: Final = re.compile(r"[0-9a-f]{16}")


class Found(NamedTuple):
    """A value (None: there is none), and what tells this one from earlier and later ones."""

    data: bytes | None
    version: object


OnValue = Callable[[Found], None]


class SharedValue(Protocol):
    """A value under its name."""

    async def put(self, data: bytes, seen: object) -> Found | None:
        """Have this in place of the one whose version was ``seen``. Returns what is there then; None: it was another
        one by now, and nothing has changed. Raises OSError or TimeoutError when the registry cannot be asked, or does
        not say what came of it: it may be there all the same."""
        ...

    def close(self) -> None:
        """Follow it no more."""
        ...


class LocalValue:
    """The same without a registry: this sidecar is alone. See :class:`SharedValue`."""

    def __init__(self, on_value: OnValue, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._on_value: OnValue | None = on_value
        self._found = Found(None, 0)
        (later or asyncio.get_running_loop().call_soon)(self._tell)

    async def put(self, data: bytes, seen: object) -> Found | None:
        if seen != self._found.version:
            return None
        self._found = Found(data, self._found.version + 1 if isinstance(self._found.version, int) else 1)
        return self._found

    def close(self) -> None:
        self._on_value = None

    def _tell(self) -> None:
        if self._on_value is not None:
            self._on_value(self._found)


def checked(name: str) -> str:
    """The name of a value, which can stand in a path as it is. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"no name of a shared value: {name[:80]!a}")
    return name


def is_who(text: str) -> bool:
    """Whether this is a name of somebody who writes notes beside values: 16 hexadecimal digits."""
    return _WHO.fullmatch(text) is not None


def tell(on_value: OnValue, found: Found) -> None:
    """Hand it over; whoever fails then does not end what follows the registry."""
    try:
        on_value(found)
    except Exception:
        log.exception("a listener to a shared value failed")
