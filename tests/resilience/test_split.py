"""Which subset gets the next request: exact shares, keys that stay, weights that change."""

from __future__ import annotations

from collections import Counter
from math import gcd
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.split import Split
from support.examples import examples

NAMES = ("a", "b", "c", "d")
WEIGHTS = st.lists(st.integers(0, 100), min_size=1, max_size=4).map(lambda it: dict(zip(NAMES, it, strict=False)))


def split(weights: dict[str, int], seed: int = 1) -> Split:
    return Split(weights, Random(seed))


@given(WEIGHTS, st.integers(0, 1000))
@settings(max_examples=examples(60))
def test_shares_are_exact_from_wherever_it_begins(weights: dict[str, int], seed: int) -> None:
    total = sum(weights.values()) // (gcd(*weights.values()) or 1)
    it = split(weights, seed)
    found = Counter(it.pick(NAMES) for _ in range(2 * total))
    if not total:
        assert it.pick(NAMES) == ""
        return
    # The tuple that is handed in is another one than before: it goes on all the same.
    assert {name: n for name, n in found.items() if n} == {
        name: 2 * weight * total // sum(weights.values()) for name, weight in weights.items() if weight
    }


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 2000))
@settings(max_examples=examples(60))
def test_at_no_time_is_one_of_two_ahead_by_more_than_a_request(one: int, other: int, requests: int) -> None:
    it = split({"a": one, "b": other}, requests)
    usable = ("a", "b")
    start, found = Counter[str](), Counter[str]()
    for _ in range(requests):
        found[it.pick(usable)] += 1
    assert abs(found["a"] - start["a"] - requests * one / (one + other)) <= 1


def test_nine_of_ten() -> None:
    it = split({"stable": 90, "next": 10})
    usable = ("stable", "next")
    for _ in range(50):
        assert Counter(it.pick(usable) for _ in range(10)) == {"stable": 9, "next": 1}


def test_what_is_empty_leaves_its_share_to_the_others_in_proportion() -> None:
    it = split({"a": 60, "b": 20, "c": 20})
    usable, rest = ("a", "b", "c"), ("a", "b")
    assert Counter(it.pick(usable) for _ in range(5)) == {"a": 3, "b": 1, "c": 1}
    found = Counter(it.pick(rest) for _ in range(400))
    assert found["c"] == 0
    assert abs(found["a"] - 300) <= 1
    again = Counter(it.pick(usable) for _ in range(500))
    assert abs(again["c"] - 100) <= 1, "it is owed nothing for the time that it was empty"
    assert [it.part(name, rest) for name in usable] == [0.75, 0.25, 0.0]
    assert it.pick(()) == "" == it.pick_for("key", ())


def test_weights_are_set_while_it_runs() -> None:
    it = split({"stable": 100, "next": 0})
    usable = ("stable", "next")
    assert {it.pick(usable) for _ in range(100)} == {"stable"}
    it.set({"stable": 75, "next": 25})
    assert Counter(it.pick(usable) for _ in range(400)) == {"stable": 300, "next": 100}
    assert it.weights == {"stable": 75, "next": 25}
    assert it.part("next", usable) == 0.25


def test_sidecars_that_get_the_same_weights_do_not_begin_alike() -> None:
    firsts = Counter(split({"a": 1, "b": 1}, seed).pick(("a", "b")) for seed in range(50))
    assert min(firsts["a"], firsts["b"]) > 10


@given(WEIGHTS, st.text(max_size=20), st.integers(0, 3))
@settings(max_examples=examples(60))
def test_a_key_stays_where_it_is_whoever_asks(weights: dict[str, int], key: str, gone: int) -> None:
    here, there = split(weights, 1), split(weights, 2)
    first = here.pick_for(key, NAMES)
    assert first == there.pick_for(key, NAMES)
    assert not first or weights[first] > 0
    rest = tuple(name for n, name in enumerate(NAMES) if n != gone)
    if first in rest:
        assert here.pick_for(key, rest) == first, "only the keys of the one that is empty move"
    assert here.pick_for(key, NAMES) == first, "and they come back"


def test_keys_follow_the_weights_and_only_those_move_that_have_to() -> None:
    it = split({"stable": 90, "next": 10})
    usable = ("stable", "next")
    keys = [f"client-{n}" for n in range(2000)]
    first = {key: it.pick_for(key, usable) for key in keys}
    assert 140 < Counter(first.values())["next"] < 260
    it.set({"stable": 50, "next": 50})
    then = {key: it.pick_for(key, usable) for key in keys}
    assert 900 < Counter(then.values())["next"] < 1100
    assert all(then[key] == "next" for key in keys if first[key] == "next")


def test_the_others_the_heaviest_first() -> None:
    it = split({"a": 1, "b": 5, "c": 3, "d": 0})
    assert it.others("b", NAMES) == ["c", "a"]
    assert it.others("a", ("a", "c", "d")) == ["c"]
