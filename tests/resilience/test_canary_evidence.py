"""What sidecars tell each other of a canary: put together in any order, and believed no more than it has to be."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.resilience.canary_counts import Known, Side
from sidecar.resilience.canary_evidence import (
    LATENCIES,
    MAX_SIZE,
    Evidence,
    Step,
    cut,
    decode,
    encode,
    together,
)
from sidecar.resilience.rollout import Unreadable
from sidecar.simulate.scenarios import canary

STEP = Step(1, 10, 1.8e9, 0.01, 0.1)
COUNT = st.integers(0, 1_000_000)
GAIN = st.floats(-100, 100)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    new, timed, old = draw(COUNT), draw(COUNT), draw(COUNT)
    most = min(100.0, 14.0 * (new + timed + old))
    gain = st.floats(-most, most).map(lambda it: round(it, 4))
    return Evidence(
        new, draw(st.integers(0, new)), timed, draw(st.integers(0, timed)), old, draw(st.integers(0, old)),
        draw(gain), draw(gain), draw(gain), draw(gain),
    )  # fmt: skip


def known_of(answers: int, seed: int = 1) -> Known:
    side, known = Side(), Known()
    canary._answer(Random(seed), side, canary.OLD, answers)
    known.add(side.answers, side.bad, side.latencies)
    return known


@given(evidences(), st.dictionaries(st.integers(0, 900), st.integers(1, 10_000), max_size=LATENCIES))
def test_what_is_told_is_what_is_read(evidence: Evidence, latencies: dict[int, int]) -> None:
    known = Known()
    known.add(7, 2, latencies)
    data = encode(STEP, evidence, known)
    assert len(data) <= MAX_SIZE
    step, found, there = decode(data)
    assert (step, found) == (STEP, evidence)
    assert (there.answers, there.bad, there.timed) == (7, 2, sum(latencies.values()))
    assert there.latencies == latencies


@given(st.lists(evidences(), max_size=6), st.randoms(use_true_random=False))
def test_the_order_does_not_matter_and_more_is_more(found: list[Evidence], rng: Random) -> None:
    other = list(found)
    rng.shuffle(other)
    assert together(other) == together(found)
    assert together([together(found[:2]), together(found[2:])]) == pytest.approx(together(found))
    for less in range(len(found)):
        counts, all_of_them = together(found[:less])[:6], together(found)[:6]
        assert all(few <= many for few, many in zip(counts, all_of_them, strict=True))


def test_nothing_is_no_evidence() -> None:
    assert together([]) == Evidence()


def test_it_is_small_and_its_p99_is_that_of_all() -> None:
    for answers in (300, 5_000, 100_000):
        known = known_of(answers)
        data = encode(STEP, Evidence(300, 3, 300, 3, 2700, 4, 1.2, -3.4, 2.2, 0.1), known)
        assert len(data) < 600
        assert decode(data).known.p99() == known.p99()


def test_the_fastest_answers_are_told_in_one() -> None:
    known = Known()
    known.add(1000, 0, dict.fromkeys(range(1000), 1))
    told = cut(known)
    assert (len(told.latencies), told.timed, told.answers) == (LATENCIES, 1000, 1000)
    assert (min(told.latencies), told.latencies[1000 - LATENCIES]) == (1000 - LATENCIES, 1001 - LATENCIES)
    assert told.p99() == known.p99()


def test_what_is_not_known_is_ignored() -> None:
    said = json.loads(encode(STEP, Evidence(), Known()))
    assert decode(json.dumps(said | {"more": {"x": [1]}}).encode())[:2] == (STEP, Evidence())


@pytest.mark.parametrize(
    "change",
    [
        {"step": [1, 10, 0.0, 0.1]}, {"step": "x"}, {"step": [1, 10, 1e300, 0.1, 0.1]}, {"counts": [0] * 7},
        {"counts": [-1, 0, 0, 0, 0, 0]}, {"counts": [1.5, 0, 0, 0, 0, 0]}, {"counts": [True, 0, 0, 0, 0, 0]},
        {"counts": [0, 1, 0, 0, 0, 0]}, {"counts": [0, 0, 0, 1, 0, 0]}, {"counts": [0, 0, 0, 0, 0, 1]},
        {"counts": [1 << 60, 0, 0, 0, 0, 0]}, {"evidence": [0, 0, 0]}, {"evidence": [2.0, 0, 0, 0]},
        {"evidence": [0, 0, float("nan"), 0]}, {"evidence": [float("inf"), 0, 0, 0]}, {"evidence": None},
        {"known": [1]}, {"known": [1, 2]}, {"latencies": [1]}, {"latencies": [1001, 1]}, {"latencies": [1, -1]},
        {"latencies": [900, 1, 200, 1]}, {"latencies": [0, 1] * (LATENCIES + 1)}, {"latencies": {}},
    ],
)  # fmt: skip
def test_what_cannot_be_is_no_evidence(change: dict[str, Any]) -> None:
    said = json.loads(encode(STEP, Evidence(), Known()))
    with pytest.raises(Unreadable):
        decode(json.dumps(said | change).encode())


@pytest.mark.parametrize(
    "most",
    [
        {"step": [1, 10, 2.0**53, 0.01, 0.1], "counts": [0, 0, 0, 0, 1 << 53, 0]},
        {"counts": [1, 1, 1, 1, 1, 1], "evidence": [43.0, -43.0, 0, 0]},
        {"latencies": [1001 - LATENCIES, 1, *[1, 1] * (LATENCIES - 1)], "known": [1, 1]},
    ],
)
def test_the_most_that_can_be_is_read(most: dict[str, Any]) -> None:
    said = json.loads(encode(STEP, Evidence(), Known())) | most
    step, evidence, known = decode(json.dumps(said).encode())
    assert list(step) == said["step"]
    assert [*evidence] == [*said["counts"], *said["evidence"]]
    assert max(known.latencies, default=1000) == 1000


def test_what_is_told_is_four_digits_behind_the_point() -> None:
    told = json.loads(encode(STEP, Evidence(errors=1 / 3, slower=-2 / 3), Known()))
    assert told["evidence"] == [0.3333, -0.6667, 0.0, 0.0]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[" * 4000, b"\xff", b" " * (MAX_SIZE + 1), b"1e999"])
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


@given(st.binary(max_size=300))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except Unreadable:
        pass
