"""What no test of a canary can do better: one that knows both versions' rates beforehand, of all that are wrong in one
of a thousand cases at most. docs/rollout.md has its figures beside those of the sidecars."""

from __future__ import annotations

from math import comb, log

import pytest

#: Requests to the canary each second, of 200 with a step of 10 %; seconds of a window; after so many of them
#: there are ``min_requests``.
EACH, WINDOW, FIRST = 20, 60, 5
#: Errors of the old version, and its answers above the limit.
OLD = 0.001


def rung(line: float, rate: float, new: float) -> list[float]:
    """The probability that Wald's sequential test of ``OLD`` against ``new`` has crossed the line by each second, if
    ``rate`` is the true one."""
    good, bad = log((1 - new) / (1 - OLD)), log(new / OLD)
    block = [comb(EACH, it) * rate**it * (1 - rate) ** (EACH - it) for it in range(12)]
    still, crossed, found = {0: 1.0}, 0.0, []
    for second in range(1, WINDOW + 1):
        following: dict[int, float] = {}
        for before, p in still.items():
            for more, q in enumerate(block):
                following[before + more] = following.get(before + more, 0.0) + p * q
        if second >= FIRST:
            asked = EACH * second
            out = [it for it in following if it * bad + (asked - it) * good >= line]
            crossed += sum([following.pop(it) for it in out])
        still = following
        found.append(crossed)
    return found


@pytest.mark.parametrize(("new", "within", "median"), [(0.011, 969, 17), (0.010, 948, 22)])
def test_of_a_thousand_bad_canaries_so_many_can_be_found_within_the_window(
    new: float, within: int, median: int
) -> None:
    """1 % more errors; and a p99 longer by what is allowed, so that 1 % are above the limit."""
    low, high = 1.0, 8.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if rung(middle, OLD, new)[-1] <= 0.001 else (middle, high)
    found = rung(high, new, new)
    assert round(found[-1] * 1000) == within
    assert next(number for number, it in enumerate(found, 1) if it >= 0.5) == median
