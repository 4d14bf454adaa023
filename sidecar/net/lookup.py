"""What there is to say about a host name: its addresses, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """A name's addresses and for how many seconds they may be used."""

    addresses: tuple[str, ...]
    ttl: float


class LookupFailed(Exception):
    """No addresses. The text says why; ``missing``: a server says that there are none."""

    def __init__(self, text: str, *, missing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing


class Resolver(Protocol):
    """Finds the addresses of names. Lookups do not wait for each other."""

    def known(self, name: str) -> Answer | None:
        """What can be said at once, without asking anybody; None: nothing."""
        ...

    async def resolve(self, name: str) -> Answer:
        """Ask. Bounded in time; raises :class:`LookupFailed`."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...
