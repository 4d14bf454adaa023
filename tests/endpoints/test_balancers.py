from __future__ import annotations

import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.endpoints.balancers.ip_hash import IpHash
from sidecar.endpoints.balancers.table import NAMES, create
from sidecar.endpoints.endpoint import Endpoint
from support.examples import examples


def make(*weights: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint("10.0.0.1", 8000 + i, weight) for i, weight in enumerate(weights))


@pytest.mark.parametrize("name", NAMES)
@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    active=st.lists(st.integers(0, 3), min_size=6),
    n=st.data(),
)
@settings(max_examples=examples(40), deadline=None)
def test_always_one_of_those_handed_in(name: str, weights: list[int], active: list[int], n: st.DataObject) -> None:
    endpoints = make(*weights)
    for endpoint, count in zip(endpoints, active, strict=False):
        endpoint.active = count
    balancer = create(name, Random(1))
    balancer.update(endpoints)
    for i in range(4):
        some = n.draw(st.lists(st.sampled_from(endpoints), min_size=1, unique=True))
        assert balancer.pick(some, str(i)) in some
        assert balancer.pick(endpoints, str(i)) in endpoints


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"no balancer 'fastest'.*round_robin, least_connections"):
        create("fastest", Random(1))


def test_round_robin_takes_each_in_its_turn() -> None:
    endpoints = make(1, 1, 1)
    balancer = create("round_robin", Random(1))
    picks = [balancer.pick(endpoints, "") for _ in range(9)]
    assert set(picks[:3]) == set(endpoints)
    assert picks[:3] == picks[3:6] == picks[6:]


def test_round_robin_does_not_start_everywhere_with_the_same() -> None:
    endpoints = make(1, 1, 1, 1)
    first = Counter(create("round_robin", Random(seed)).pick(endpoints, "").port for seed in range(100))
    assert len(first) == 4


def test_least_connections_takes_the_idlest() -> None:
    endpoints = make(1, 1, 1)
    balancer = create("least_connections", Random(1))
    for endpoint, active in zip(endpoints, (3, 1, 2), strict=True):
        endpoint.active = active
    assert {balancer.pick(endpoints, "") for _ in range(10)} == {endpoints[1]}


def test_least_connections_takes_turns_among_equals() -> None:
    for active in (0, 2):
        endpoints = make(1, 1, 1)
        for endpoint in endpoints:
            endpoint.active = active
        balancer = create("least_connections", Random(1))
        assert Counter(balancer.pick(endpoints, "").port for _ in range(30)) == {8000: 10, 8001: 10, 8002: 10}


def test_least_connections_fills_up_by_weight() -> None:
    endpoints = make(4, 2, 1)
    balancer = create("least_connections", Random(1))
    for _ in range(70):
        balancer.pick(endpoints, "").begin()
    assert [e.active for e in endpoints] == pytest.approx([40, 20, 10], abs=2)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=8), st.integers(0, 100))
def test_least_connections_is_never_beaten(loads: list[tuple[int, int]], seed: int) -> None:
    endpoints = make(*[weight for weight, _ in loads])
    for endpoint, (_, active) in zip(endpoints, loads, strict=True):
        endpoint.active = active
    best = create("least_connections", Random(seed)).pick(endpoints, "")
    assert best.active / best.weight == min(e.active / e.weight for e in endpoints)


def test_weighted_is_smooth_as_in_nginx() -> None:
    endpoints = make(5, 1, 1)
    balancer = create("weighted", Random(1))
    assert "".join("abc"[balancer.pick(endpoints, "").port - 8000] for _ in range(14)) == "aabacaa" * 2


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any))
def test_weighted_shares_are_exact_over_a_cycle(weights: list[int]) -> None:
    endpoints = make(*weights)
    balancer = create("weighted", Random(1))
    picks = Counter(balancer.pick(endpoints, "").port - 8000 for _ in range(sum(weights)))
    assert [picks[i] for i in range(len(weights))] == weights


def test_weighted_with_no_weight_at_all_still_spreads() -> None:
    endpoints = make(0, 0, 0)
    balancer = create("weighted", Random(1))
    assert len({balancer.pick(endpoints, "") for _ in range(50)}) == 3


def test_random_is_even() -> None:
    endpoints = make(1, 9, 1)
    balancer = create("random", Random(1))
    picks = Counter(balancer.pick(endpoints, "").port for _ in range(3000))
    assert all(900 < n < 1100 for n in picks.values())


def test_ip_hash_sends_a_key_to_the_same_place_and_spreads_keys_by_weight() -> None:
    endpoints = make(1, 1, 2)
    balancer = create("ip_hash", Random(1))
    balancer.update(endpoints)
    keys = [f"10.1.{i // 256}.{i % 256}" for i in range(4000)]
    picks = [balancer.pick(endpoints, key) for key in keys]
    assert picks == [balancer.pick(endpoints, key) for key in keys]
    assert picks == [balancer.pick(list(endpoints), key) for key in keys]
    counts = Counter(e.port for e in picks)
    assert [counts[p] for p in (8000, 8001, 8002)] == pytest.approx([1000, 1000, 2000], rel=0.1)


def test_ip_hash_moves_only_the_keys_of_the_one_that_left() -> None:
    endpoints = make(1, 1, 1, 1)
    balancer = create("ip_hash", Random(1))
    keys = [f"10.1.0.{i}" for i in range(256)]
    before = [balancer.pick(endpoints, key) for key in keys]
    left = endpoints[:2] + endpoints[3:]
    after = [balancer.pick(left, key) for key in keys]
    assert [a for a, b in zip(after, before, strict=True) if b is not endpoints[2]] == [
        b for b in before if b is not endpoints[2]
    ]
    assert len({a for a, b in zip(after, before, strict=True) if b is endpoints[2]}) == 3


def test_ip_hash_follows_a_changed_set_and_remembers_only_so_many_keys() -> None:
    endpoints = make(1, 1)
    balancer = IpHash()
    balancer.update(endpoints)
    for i in range(balancer.REMEMBERED + 10):
        balancer.pick(endpoints, str(i))
    assert len(balancer._chosen) <= balancer.REMEMBERED
    balancer.update(endpoints[:1])
    assert {balancer.pick(endpoints[:1], str(i)) for i in range(50)} == {endpoints[0]}


def test_ip_hash_is_the_same_in_every_process() -> None:
    program = (
        "from random import Random; from sidecar.endpoints.balancers.table import create;"
        "from sidecar.endpoints.endpoint import Endpoint;"
        "b = create('ip_hash', Random()); e = [Endpoint('h', i) for i in range(9)];"
        "print([b.pick(e, str(k)).port for k in range(20)])"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    endpoints = [Endpoint("h", i) for i in range(9)]
    balancer = create("ip_hash", Random(1))
    assert outputs == {f"{[balancer.pick(endpoints, str(k)).port for k in range(20)]}\n"}
