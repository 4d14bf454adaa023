"""What one sidecar has found out about a canary in a step, for the others: its evidence, and the counts behind it.

Evidence is a bet (:mod:`sidecar.resilience.sequential_test`), and bets of sidecars that see different requests are
multiplied: while the hypothesis holds, no factor is worth more than 1 on average, whatever came of the others. So the
logarithms are added up. Counts are not added up for the test, as sidecars may send the two versions different shares of
their requests, and have different rates of errors: a sum of such counts can say the opposite of each of them (Simpson's
paradox). Counts serve to know the old version, to choose what is bet on, and for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import accumulate
from math import fsum, isfinite
from typing import Any, Final, NamedTuple

from sidecar.resilience.canary_counts import Known
from sidecar.resilience.rollout import Unreadable, read

#: Bytes of one sidecar's evidence at most; steps of latencies in it, the slowest ones: up to twenty times p99 and more.
MAX_SIZE: Final = 4096
LATENCIES: Final = 120
#: The highest count that is read, and the highest step of latencies: some hours.
_MOST: Final = 1 << 53
_SLOWEST: Final = 1000
#: What a single answer can be worth at most, as a logarithm: rates are kept a millionth from 0 and 1.
_WORTH: Final = 14.0


class Step(NamedTuple):
    """What evidence is about. It is told to others with it, and only evidence of the same step is put together:
    attempt, percent, Unix time since when it is so, and what the guard allows."""

    attempt: int
    weight: int
    since: float
    error_rate: float
    p99: float


class Evidence(NamedTuple):
    """Answers of the new version and the old one in a step, and how many were errors; of the new one's that were
    judged by time, how many were slow. The logarithms of what is bet against "it has no more errors", "it is not
    slower", "it has more errors by what is allowed", "it is slower by that"."""

    new: int = 0
    new_bad: int = 0
    timed: int = 0
    slow: int = 0
    old: int = 0
    old_bad: int = 0
    errors: float = 0.0
    slower: float = 0.0
    no_errors: float = 0.0
    not_slower: float = 0.0


_COUNTS: Final = 6


class Note(NamedTuple):
    """What a sidecar tells the others: its evidence of a step, and what it knows of the old version, also from steps
    before."""

    step: Step
    evidence: Evidence
    known: Known


def together(all_of_them: Iterable[Evidence]) -> Evidence:
    """That of several sidecars; the same in any order, to the last bit."""
    columns = list(zip(*all_of_them, strict=True))
    return Evidence(*map(sum, columns[:_COUNTS]), *map(fsum, columns[_COUNTS:]))


def encode(step: Step, evidence: Evidence, known: Known) -> bytes:
    """As it is kept."""
    flat: list[int] = []
    at = 0
    for number, count in sorted(cut(known).latencies.items()):
        flat += (number - at, count)
        at = number
    said = {
        "step": step,
        "counts": evidence[:_COUNTS],
        "evidence": [round(it, 4) for it in evidence[_COUNTS:]],
        "known": [known.answers, known.bad],
        "latencies": flat,
    }
    return json.dumps(said, separators=(",", ":")).encode()


def decode(data: bytes) -> Note:
    """What :func:`encode` made, believed no more than it has to be; fields that are not known are ignored. Raises
    :class:`Unreadable`."""
    found = read(data, MAX_SIZE)
    attempt, weight, *rest = _numbers(found, "step", 5)
    counts, gains = _counts(found, "counts", _COUNTS), _numbers(found, "evidence", 4)
    new, new_bad, timed, slow, old, old_bad = counts
    # More are timed than have answered where hedges have outrun some.
    if new_bad > new or old_bad > old or slow > timed:
        raise Unreadable("more of its answers are bad than there are")
    if max(map(abs, gains)) > _WORTH * (new + timed + old) + 1:
        raise Unreadable("its answers cannot be worth so much")
    return Note(Step(int(attempt), int(weight), *rest), Evidence(*counts, *gains), _known(found))


def cut(known: Known) -> Known:
    """As it is told: with the slowest steps of latencies alone, and all that is faster in the first of them."""
    kept = sorted(known.latencies, reverse=True)[:LATENCIES]
    found = {number: known.latencies[number] for number in kept}
    if kept:
        found[kept[-1]] += known.timed - sum(found.values())
    told = Known()
    told.add(known.answers, known.bad, found)
    return told


def _known(found: dict[str, Any]) -> Known:
    answers, bad = _counts(found, "known", 2)
    flat = found.get("latencies")
    if not isinstance(flat, list) or len(flat) > 2 * LATENCIES or len(flat) % 2:
        raise Unreadable("its latencies are none")
    counts = _counts(found, "latencies", len(flat))
    if bad > answers or sum(counts[::2]) > _SLOWEST:
        raise Unreadable("what it knows of the old version cannot be")
    known = Known()
    known.add(answers, bad, dict(zip(accumulate(counts[::2]), counts[1::2], strict=True)))
    return known


def _counts(found: dict[str, Any], name: str, many: int) -> list[int]:
    values = found.get(name)
    if not isinstance(values, list) or len(values) != many or any(type(it) is not int for it in values):
        raise Unreadable(f"its {name} are no {many} counts")
    if any(not 0 <= it <= _MOST for it in values):
        raise Unreadable(f"its {name} are not in their range")
    return values


def _numbers(found: dict[str, Any], name: str, many: int) -> list[float]:
    values = found.get(name)
    if not isinstance(values, list) or len(values) != many or any(type(it) not in (int, float) for it in values):
        raise Unreadable(f"its {name} are no {many} numbers")
    if any(abs(it) > _MOST or not isfinite(it) for it in values):
        raise Unreadable(f"its {name} are not in their range")
    return values
