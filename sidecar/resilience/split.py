"""Which of several gets the next request, by weights that may change while requests come.

Shares are exact: by smooth weighted round robin, as in nginx, each gets its part of every so many requests, evenly
spread. A client that is to stay with its choice has a key, and for a key the choice is by weighted rendezvous hashing
(Thaler, Ravishankar, "Using name-based mappings to increase hit rates", 1998): all sidecars choose alike, and of two
sets of weights the second moves only those keys that one of them has to give to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import gcd, log
from random import Random
from typing import Final

#: Steps that it may be ahead when it begins.
_MOST_AHEAD: Final = 1000


class Share:
    """One of those that are chosen from: its weight, and how much it is owed."""

    __slots__ = ("current", "name", "weight")

    def __init__(self, name: str, weight: int) -> None:
        self.name = name
        self.weight = weight
        self.current = 0


class Split:
    """``weights`` by name; a weight of 0 gets nothing. All that is chosen is chosen among ``usable``, a tuple that is
    replaced, and never edited: what the weights of the others would get is shared by those, in proportion.

    :meth:`set` is for whoever changes the weights of what runs; the next choice goes by them."""

    __slots__ = ("_live", "_rng", "_shares", "_total", "_usable")

    def __init__(self, weights: Mapping[str, int], rng: Random) -> None:
        self._rng = rng
        self._shares: tuple[Share, ...] = ()
        #: Those with a weight that are usable, as of the tuple that was handed in last; and the sum of their weights.
        self._live: list[Share] = []
        self._total = 0
        self._usable: Sequence[str] = ()
        self.set(weights)

    @property
    def weights(self) -> dict[str, int]:
        """As they are now."""
        return {it.name: it.weight for it in self._shares}

    def set(self, weights: Mapping[str, int]) -> None:
        """Go by these from now on. It begins anywhere in its cycle, so that many sidecars that get them at once do not
        all send their next request to the same."""
        self._shares = tuple([Share(name, weight) for name, weight in weights.items()])
        self._use(tuple(weights))
        cycle = self._total // (gcd(*weights.values()) or 1)
        for _ in range(int(self._rng.random() * min(cycle, _MOST_AHEAD))):
            self.pick(self._usable)

    def pick(self, usable: Sequence[str]) -> str:
        """The one that gets the next request; empty: none of those has a weight."""
        if usable is not self._usable:
            self._use(usable)
        live = self._live
        if not live:
            return ""
        best = live[0]
        for it in live:
            it.current += it.weight
            if it.current > best.current:
                best = it
        best.current -= self._total
        return best.name

    def pick_for(self, key: str, usable: Sequence[str]) -> str:
        """The one that gets all requests with that key; empty: none of those has a weight."""
        if usable is not self._usable:
            self._use(usable)
        best = ""
        lowest = -1.0
        for it in self._live:
            digest = blake2b(f"subset {it.name} {key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
            # 52 bits, so that the half that keeps it away from 0 and 1 is not rounded off.
            uniform = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 4503599627370496.0
            score = -log(uniform) / it.weight
            if lowest < 0 or score < lowest:
                lowest = score
                best = it.name
        return best

    def others(self, name: str, usable: Sequence[str]) -> list[str]:
        """Those that could be chosen in place of that one, the heaviest first."""
        found = [it for it in self._shares if it.weight and it.name != name and it.name in usable]
        found.sort(key=_weight, reverse=True)
        return [it.name for it in found]

    def part(self, name: str, usable: Sequence[str]) -> float:
        """The part of the requests that this one gets, from 0 to 1."""
        total = sum([it.weight for it in self._shares if it.name in usable])
        return sum([it.weight for it in self._shares if it.name == name and name in usable]) / total if total else 0.0

    def _use(self, usable: Sequence[str]) -> None:
        self._usable = usable
        self._live = [it for it in self._shares if it.weight and it.name in usable]
        self._total = sum([it.weight for it in self._live])


def _weight(share: Share) -> int:
    return share.weight
