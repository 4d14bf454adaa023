"""Token buckets: so many per second on average, so many at once at most.

Kept as one number, the time at which the bucket will be full again (the "virtual scheduling" form of the generic
cell rate algorithm, ITU-T I.371, which is a token bucket seen from its other side): a bucket per client address then
costs a dictionary entry, and a bucket that is full is one whose time has passed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: The part of a token that may be missing, so that rounding never refuses what arithmetic would allow. It is owed,
#: not given: the average rate stays exact.
_SLACK: Final = 0.001

#: Longer keys are kept as a hash: what a peer sends must not decide how much is stored.
_LONGEST_KEY: Final = 64

#: How many buckets are looked at to find a full one.
_PROBES: Final = 8


class TokenBucket:
    """``rate`` tokens per second flow in, at most ``burst`` are kept, and it begins full. Raises :class:`ValueError`
    for a rate that is not above 0 or a burst below 1."""

    __slots__ = ("_full_at", "_interval", "_reach", "_tolerance")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._interval, self._reach, self._tolerance = _times(rate, burst)
        self._full_at = now

    def take(self, now: float) -> float:
        """Take a token: return 0.0, or the seconds until there is one. ``now`` must not go back."""
        full_at = self._full_at
        if full_at < now:
            full_at = now
        if full_at - now <= self._tolerance:
            self._full_at = full_at + self._interval
            return 0.0
        return full_at - now - self._reach

    def has(self, count: int, now: float) -> bool:
        """Whether there are so many tokens. ``now`` must not go back."""
        full_at = self._full_at
        if full_at < now:
            full_at = now
        return full_at + (count - 1) * self._interval - now <= self._tolerance

    def spend(self, count: int, now: float) -> None:
        """Take so many tokens, which are there."""
        full_at = self._full_at
        if full_at < now:
            full_at = now
        self._full_at = full_at + count * self._interval


class KeyedBuckets:
    """A token bucket per key (a client's address, a path, a header's value), at most ``max_keys`` of them.

    When a new key finds no room, a bucket that is full goes, because that one is no different from a new one; among
    the eight least recently used if none of those is full, the very oldest. A client with more keys than there is
    room for gets fresh buckets that way, but no more memory.
    """

    __slots__ = ("_clock", "_full_at", "_interval", "_reach", "_tolerance", "max_keys")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float], max_keys: int = 10_000) -> None:
        self._interval, self._reach, self._tolerance = _times(rate, burst)
        self._clock = clock
        self.max_keys = max_keys
        #: Key → when its bucket is full again; the least recently used first.
        self._full_at: OrderedDict[bytes | str | int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: bytes | str) -> float:
        """Take a token of the key's bucket: return 0.0, or the seconds until there is one."""
        name: bytes | str | int = key if len(key) <= _LONGEST_KEY else hash(key)
        now = self._clock()
        buckets = self._full_at
        full_at = buckets.get(name)
        if full_at is None:
            self._make_room(now)
            full_at = now
        else:
            buckets.move_to_end(name)
            if full_at < now:
                full_at = now
        if full_at - now <= self._tolerance:
            buckets[name] = full_at + self._interval
            return 0.0
        return full_at - now - self._reach

    def _make_room(self, now: float) -> None:
        """Make room for a new key: drop up to two old buckets that are full, so that the table shrinks after a crowd
        has gone. When there is no room, drop one bucket in any case."""
        buckets = self._full_at
        for _ in range(2):
            if not buckets or buckets[next(iter(buckets))] > now:
                break
            buckets.popitem(last=False)
        if len(buckets) < self.max_keys:
            return
        for key, _ in zip(buckets, range(_PROBES), strict=False):
            if buckets[key] <= now:
                del buckets[key]
                return
        buckets.popitem(last=False)


def _times(rate: float, burst: int) -> tuple[float, float, float]:
    """Return the seconds per token, how far ahead of now a bucket with one token left is full, and that plus the
    slack."""
    if not rate > 0 or burst < 1:
        raise ValueError(f"a token bucket needs a rate above 0 and a burst of at least 1, not {rate} and {burst}")
    interval = 1 / rate
    return interval, (burst - 1) * interval, (burst - 1 + _SLACK) * interval
