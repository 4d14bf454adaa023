"""How old an answer is, and how long it is fresh (RFC 9111 §4.2), and what a request wants of it (§5.2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

from sidecar.cache import dates
from sidecar.cache.fields import directives, seconds, values

#: Statuses whose answers may be kept though they do not say for how long (RFC 9110 §15.1): those of them that nothing
#: of a mistake is kept with. The others are kept when they say so.
BY_DEFAULT: Final = frozenset({200, 203, 204, 300, 301, 308, 410})


def lifetime(status: int, said: Mapping[bytes, bytes], expires: bytes | None, date: float, ttl: float) -> float:
    """Seconds for which an answer is fresh, by its own word: ``s-maxage``, ``max-age``, else ``Expires`` less ``Date``
    (§4.2.1, §5.3: what is no date is past). Where it says nothing, ``ttl``."""
    for name in (b"s-maxage", b"max-age"):
        given = seconds(said.get(name))
        if given is not None:
            return given
    if expires is not None:
        at = dates.read(expires, date)
        return 0.0 if at is None else max(0.0, at - date)
    return ttl if status in BY_DEFAULT else 0.0


def initial_age(age: list[bytes], date: float | None, now: float, delay: float) -> float:
    """How old an answer was when it came (§4.2.3). ``age`` are the values of that field, of which the first counts
    (§5.1); ``date`` is its ``Date`` and ``now`` the time by the clock on the wall; ``delay`` is how long it took."""
    apparent = max(0.0, now - date) if date is not None else 0.0
    first = age[0].partition(b",")[0].strip(b" \t") if age else b""
    return max(apparent, (seconds(first) or 0.0) + delay)


class Wish:
    """What a request says of the answers that it takes. ``no_cache``: of what is kept, only what was validated;
    ``max_age``, ``min_fresh``, ``max_stale``: seconds; ``only_kept``: nobody is to be asked."""

    __slots__ = ("max_age", "max_stale", "min_fresh", "no_cache", "no_store", "only_kept")

    def __init__(self, control: bytes | None, pragma: bytes = b"") -> None:
        """``control``: its Cache-Control (``None``: it has none, and then ``pragma`` counts, §5.4)."""
        said = directives(control) if control is not None else {}
        self.no_store = b"no-store" in said
        self.no_cache = b"no-cache" in said or (control is None and b"no-cache" in directives(pragma))
        self.only_kept = b"only-if-cached" in said
        most = seconds(said.get(b"max-age"))
        self.max_age = inf if most is None else most
        self.min_fresh = seconds(said.get(b"min-fresh")) or 0.0
        stale = said.get(b"max-stale")
        self.max_stale = 0.0 if stale is None else inf if stale == b"" else seconds(stale) or 0.0

    @property
    def strict(self) -> bool:
        """Whether it wants something newer than what is simply fresh."""
        return self.no_cache or self.max_age != inf or self.min_fresh > 0.0


def wish_of(raw: bytes) -> Wish:
    """What the request with that head says."""
    control = values(raw, b"cache-control")
    return Wish(b",".join(control) if control else None, b",".join(values(raw, b"pragma")))


#: What a request says that says nothing.
ANY: Final = Wish(None)
