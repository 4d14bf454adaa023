"""What a peer may send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may send: bytes of a head, number of headers, bytes of a target, bytes of a body (0: any);
    ``body_rate`` is the least bytes per second of a body that is under way (0: any); ``connections`` is how many
    clients one listener holds. ``half_close``: clients may finish sending and still read their answer, whenever they
    do it."""

    head: int = 65536
    headers: int = 100
    target: int = 8192
    body: int = 0
    body_rate: int = 1024
    connections: int = 16384
    half_close: bool = False
    #: Those of a head together, as the scanner in C takes them.
    bounds: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", (self.head, self.headers, self.target))


#: Of a head that was measured when it came.
UNLIMITED: Final = Limits(head=1 << 31, headers=1 << 31, target=1 << 31, body=0)
