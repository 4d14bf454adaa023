"""When an endpoint is to leave the rotation, and for how long: the rules."""

from __future__ import annotations

from typing import Final, NamedTuple

#: Seconds: the first ejection of an endpoint that cannot be reached, and the longest of such a row, each twice as long
#: as the one before. A refused connection costs next to nothing, and an instance that restarts is back in a moment.
FIRST_EJECTION: Final = 1.0
LONGEST_EJECTION: Final = 30.0
#: Each length is stretched or shortened by up to this, so that sidecars that lost an endpoint together do not all come
#: back to it together.
JITTER: Final = 0.2
#: Tries after which an endpoint that was ejected for its share of failures or its latency is judged again. Until then
#: it gets a small share of its traffic.
TRIAL: Final = 5


class EjectionRules(NamedTuple):
    """``consecutive`` failures in a row (0: never); ``error_rate``, a share of at least ``min_requests`` within
    ``window`` seconds (0: never); ``latency``, so many times what is usual (0: never). ``first`` is the length of the
    first ejection in seconds, the n-th takes n times as long up to ``longest``. ``at_most`` of the endpoints are
    ejected, but always one may be. ``unreachable``: at once, when there is no connection. ``doubling``: failures in a
    row are treated as an endpoint that cannot be reached is, with its short times."""

    consecutive: int = 5
    error_rate: float = 0.0
    latency: float = 0.0
    min_requests: int = 20
    window: float = 10.0
    first: float = FIRST_EJECTION
    longest: float = LONGEST_EJECTION
    at_most: float = 1.0
    unreachable: bool = True
    doubling: bool = True

    @property
    def watches(self) -> bool:
        """Whether each try has to be looked at."""
        return self.error_rate > 0.0 or self.latency > 0.0

    def quick(self, reason: str) -> bool:
        """Whether such ejections are short ones, and forgotten as soon as a try goes well."""
        return self.doubling or reason == "unreachable"

    def length(self, reason: str, before: int) -> float:
        """Seconds of an ejection that had so many before it, without jitter."""
        if self.quick(reason):
            # The exponent is bounded because 2 to the power of a count that grows for days would overflow.
            return float(min(FIRST_EJECTION * 2.0 ** min(before, 16), LONGEST_EJECTION, self.longest))
        return min(self.first * (before + 1), self.longest)

    def most(self, endpoints: int) -> int:
        """How many of so many endpoints may be ejected at once."""
        return max(1, int(self.at_most * endpoints + 1e-9))

    def spare(self, reason: str, out: int, endpoints: int, last: bool, refuse: bool) -> bool:
        """Whether one of so many endpoints, of which ``out`` are ejected, has to stay; ``last``: no other is in the
        rotation. One that cannot be reached need not, as long as the last of them leaves the whole set in use (not
        ``refuse``): a try at it costs time and serves nobody."""
        if self.at_most >= 1.0 or (reason == "unreachable" and not refuse):
            return False
        return last or (reason != "unreachable" and out >= self.most(endpoints))


#: Without a section of its own: failures in a row and no connection, with short times. It takes no look at each try.
STANDARD: Final = EjectionRules()
#: Nothing is ever ejected.
OFF: Final = EjectionRules(consecutive=0, unreachable=False)
