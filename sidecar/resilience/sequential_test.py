"""Whether one of two fails more often than the other, looked at as often as one likes: evidence as a bet that is worth
nothing on average while the hypothesis holds.

For each block of answers the evidence against a hypothesis is multiplied by an e-value: how much likelier the block is
under what is feared than under the point of the hypothesis that explains it best. All is chosen before the block is
seen. If the hypothesis holds, the product exceeds 1/a at any time with probability a at most (Ville's inequality), so
it may be looked at after every block, and a test may go on for as long as it takes. That holds whatever the true rates
are, and however many answers each of the two has in a block: Turner, Ly and Grünwald, "Generic E-variables for exact
sequential k-sample tests that allow for optional stopping", Journal of Statistical Planning and Inference 230 (2024);
for "worse by at least so much": Turner and Grünwald, "Exact anytime-valid confidence intervals for contingency tables
and beyond", Statistics & Probability Letters 198 (2023).
"""

from __future__ import annotations

from math import exp, inf, log
from typing import Final, NamedTuple

#: Rates are kept this far from 0 and 1.
_LEAST: Final = 1e-6
#: Steps of the search for the point that explains a block best.
_HALVINGS: Final = 24
#: What the first beginning weighs.
_FIRST: Final = 0.75
#: The most beginnings that are followed at once.
_MOST: Final = 24


class Block(NamedTuple):
    """What came in between two looks: answers of the old and of the new one, and how many of each were bad."""

    old: int
    old_bad: int
    new: int
    new_bad: int


def against_equal(block: Block, old: float, new: float) -> float:
    """The logarithm of the evidence that a block holds against "the new one is not worse", if it is feared that the
    rates are ``old`` and ``new``, the latter the larger one."""
    count = block.old + block.new
    if not count:
        return 0.0
    null = _inside((block.old * old + block.new * new) / count)
    return _gain(block.old, block.old_bad, old, null) + _gain(block.new, block.new_bad, new, null)


def against_worse(block: Block, rate: float, by: float) -> float:
    """The same against "the new one is worse by ``by`` or more", if both are hoped to have this rate."""
    if not block.old or not block.new or rate + by >= 1.0:
        return 0.0
    low, high = max(_LEAST, rate - by), rate
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        there = _inside(middle + by)
        slope = block.old * (middle - rate) / (middle * (1 - middle)) + block.new * (there - rate) / (
            there * (1 - there)
        )
        if slope > 0:
            high = middle
        else:
            low = middle
    return _gain(block.old, block.old_bad, rate, low) + _gain(block.new, block.new_bad, rate, _inside(low + by))


def against_rate(block: Block, rate: float, null: float) -> float:
    """The same of the new one alone, against "its rate is ``null``, or beyond it as seen from ``rate``"."""
    return _gain(block.new, block.new_bad, rate, null)


def _gain(count: int, bad: int, rate: float, null: float) -> float:
    rate, null = _inside(rate), _inside(null)
    found = bad * log(rate / null) if bad else 0.0
    return found + (count - bad) * log((1 - rate) / (1 - null))


def _inside(rate: float) -> float:
    return min(1 - _LEAST, max(_LEAST, rate))


class Alarm:
    """Evidence that may begin at any time: what was well for long must not outweigh what is not now. It begins anew
    with each :meth:`begin`, and all beginnings are followed. The first one weighs 3/4, as most that is bad is so from
    the first; the n-th one after it 1/4n(n+1). So all of them together are one bet, and the probability that it ever
    rings without reason stays below ``risk``."""

    __slots__ = ("_began", "_begun", "_threshold")

    def __init__(self, risk: float) -> None:
        self._threshold = -log(risk)
        #: Of each beginning, the logarithm of what its part of the bet is worth.
        self._begun: list[float] = []
        self._began = 0
        self.begin()

    def begin(self) -> None:
        """Look at what comes from now on for itself, too."""
        self._began += 1
        if len(self._begun) == _MOST:
            self._begun.remove(min(self._begun))  # what is thrown away can win nothing
        n = self._began - 1
        self._begun.append(log(_FIRST if not n else (1 - _FIRST) / (n * (n + 1))))

    def add(self, gain: float) -> None:
        """A block has this much evidence."""
        self._begun = [it + gain for it in self._begun]

    @property
    def evidence(self) -> float:
        """The part of what is needed, from 0 to 1, as far as it goes: logarithms are compared."""
        most = max(self._begun)
        total = most + log(sum([exp(it - most) for it in self._begun]))
        return max(0.0, total / self._threshold)

    @property
    def rings(self) -> bool:
        """Whether it is more than chance explains."""
        return self.evidence >= 1.0


class Proof:
    """Evidence for something: that its opposite does not hold. It is mistaken with a probability below ``risk``; once
    found it stays."""

    __slots__ = ("_most", "_sum", "_threshold")

    def __init__(self, risk: float) -> None:
        self._threshold = -log(risk)
        self._sum = 0.0
        self._most = -inf

    def add(self, gain: float) -> None:
        """A block has this much evidence."""
        self._sum += gain
        self._most = max(self._most, self._sum)

    @property
    def evidence(self) -> float:
        """The part of what is needed, from 0 to 1."""
        return min(1.0, max(0.0, self._most / self._threshold))

    @property
    def found(self) -> bool:
        """Whether it is proven."""
        return self._most >= self._threshold
