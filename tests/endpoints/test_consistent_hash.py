"""Keys stay where they are, shares follow the weights, and nobody has more than the bound."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.endpoints.balancers.consistent_hash import FACTOR, MOST_IN_ORDERS, SLOTS, ConsistentHash, slot_of
from sidecar.endpoints.endpoint import Endpoint
from support.balancing import have, make
from support.examples import examples

KEYS = [f"agent-{n}" for n in range(3000)]


def of(endpoints: tuple[Endpoint, ...], factor: float = FACTOR) -> ConsistentHash:
    balancer = ConsistentHash(Random(1), factor)
    balancer.update(endpoints)
    return balancer


def where(balancer: ConsistentHash, endpoints: tuple[Endpoint, ...], keys: list[str] = KEYS) -> list[Endpoint]:
    balancer.update(endpoints)
    return [balancer.pick(endpoints, key) for key in keys]


def test_all_sidecars_choose_alike_in_whatever_order_they_know_the_endpoints() -> None:
    endpoints = make(1, 2, 1, 1)
    turned = endpoints[::-1]
    assert where(of(endpoints), endpoints) == where(ConsistentHash(Random(7)), turned)
    # No seed of this process: the number of a key is a fixed one.
    assert [slot_of(key) for key in ("", "agent-1", "ü")] == [45566, 27725, 64305]


def test_shares_follow_the_weights() -> None:
    endpoints = make(1, 1, 2, 4)
    keys = [f"{n}" for n in range(16000)]
    counts = Counter(it.port - 8000 for it in where(of(endpoints), endpoints, keys))
    assert [counts[n] for n in range(4)] == pytest.approx([2000, 2000, 4000, 8000], rel=0.08)


def test_one_that_has_no_weight_has_no_key_unless_nobody_has() -> None:
    endpoints = make(0, 1, 0)
    assert {it.port for it in where(of(endpoints), endpoints)} == {8001}
    endpoints = make(0, 0, 0)
    assert len(set(where(of(endpoints), endpoints))) == 3


@given(st.integers(2, 12), st.data())
@settings(max_examples=30, deadline=None)
def test_no_key_moves_but_those_of_an_endpoint_that_came_or_went(count: int, data: st.DataObject) -> None:
    endpoints = make(*[data.draw(st.integers(1, 3)) for _ in range(count)])
    gone = set(data.draw(st.lists(st.sampled_from(endpoints), min_size=1, max_size=count - 1, unique=True)))
    left = tuple(it for it in endpoints if it not in gone)
    keys = KEYS[:200]
    balancer = of(endpoints)
    before = where(balancer, endpoints, keys)
    meanwhile = where(balancer, left, keys)
    assert all(now is then for now, then in zip(meanwhile, before, strict=True) if then not in gone)
    assert where(balancer, endpoints, keys) == before


def test_half_of_the_instances_flap() -> None:
    """The endpoints of a registry are new objects when they come back, and the keys are where they were."""
    endpoints = make(*[1] * 10)
    balancer = of(endpoints)
    before = [it.address for it in where(balancer, endpoints)]
    meanwhile = [it.address for it in where(balancer, endpoints[::2])]
    moved = sum(1 for now, then in zip(meanwhile, before, strict=True) if now != then) / len(KEYS)
    assert moved == pytest.approx(0.5, abs=0.05)  # only what has to
    after = [it.address for it in where(balancer, make(*[1] * 10))]
    assert after == before


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.sampled_from([1.05, 1.25, 2.0]),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=120),
)
@settings(max_examples=examples(60), deadline=None)
def test_nobody_has_more_than_the_bound_at_any_step(
    weights: list[int], factor: float, steps: list[tuple[bool, int]]
) -> None:
    """Few keys, so that they are hot; requests begin, and end in any order."""
    endpoints = make(*weights)
    balancer = of(endpoints, factor)
    under_way: list[Endpoint] = []
    for begins, n in steps:
        if begins or not under_way:
            total = len(under_way) + 1
            chosen = balancer.pick(endpoints, f"key-{n}")
            chosen.begin()
            under_way.append(chosen)
            # Active + 1 is at most the share, times the factor, rounded up.
            assert chosen.active - 1 < factor * total * chosen.weight / sum(weights)
        else:
            under_way.pop(n % len(under_way)).end()


def test_a_hot_key_overflows_always_to_the_same_ones() -> None:
    endpoints = make(1, 1, 1, 1)
    balancer = of(endpoints)
    chosen = []
    for _ in range(40):
        endpoint = balancer.pick(endpoints, "hot")
        endpoint.begin()
        chosen.append(endpoint)
    assert max(it.active for it in endpoints) <= 13  # 1.25 x 10, rounded up
    assert balancer.overflows > 0
    first = chosen[0]
    assert chosen[:2] == [first, next(it for it in chosen if it is not first)]
    for it in endpoints:
        have(it, 0)
    assert balancer.pick(endpoints, "hot") is first


def test_without_a_bound_a_key_stays() -> None:
    endpoints = make(1, 1)
    balancer = of(endpoints, 0.0)
    for _ in range(20):
        balancer.pick(endpoints, "hot").begin()
    assert sorted(it.active for it in endpoints) == [0, 20]


def test_without_a_key_it_is_the_less_busy_one_of_two() -> None:
    endpoints = make(1, 1, 1)
    balancer = of(endpoints)
    assert len({balancer.pick(endpoints, "") for _ in range(50)}) == 3
    for _ in range(300):
        balancer.pick(endpoints, "").begin()
    assert max(it.active for it in endpoints) - min(it.active for it in endpoints) <= 3


def test_a_retry_goes_to_the_next_one_of_the_keys_order() -> None:
    endpoints = make(1, 1, 1, 1)
    balancer = of(endpoints)
    for key in KEYS[:100]:
        first = balancer.pick(endpoints, key)
        rest = [it for it in endpoints if it is not first]
        second = balancer.pick(rest, key)
        have(first, 10)
        assert balancer.pick(endpoints, key) is second
        have(first, 0)


def test_what_is_remembered_is_bounded() -> None:
    endpoints = make(*[1] * 2000)
    balancer = of(endpoints, 1.05)
    for endpoint in endpoints[::10]:
        have(endpoint, 0)
    for endpoint in set(endpoints) - set(endpoints[::10]):
        have(endpoint, 10)
    for n in range(110):
        balancer.pick(endpoints, f"{n}")
        assert len(balancer._orders) * 2000 <= MOST_IN_ORDERS
    assert balancer.overflows > 80
    assert len(balancer._first) <= SLOTS


def test_what_it_knows() -> None:
    endpoints = make(1, 3)
    balancer = of(endpoints)
    assert [balancer.known(it) for it in endpoints] == [{"hash_share": 0.25}, {"hash_share": 0.75}]
    assert balancer.known(Endpoint("10.0.0.9", 1)) == {}


@pytest.mark.parametrize(("factor", "busiest", "home"), [(0.0, 3.6, 1.0), (1.25, 1.4, 0.79), (2.0, 2.0, 0.97)])
def test_what_a_bound_costs(factor: float, busiest: float, home: float) -> None:
    """As docs/resilience.md has it: few keys that many want, 50 requests under way at ten endpoints."""
    endpoints = make(*[1] * 10)
    unbounded, balancer = of(endpoints, 0.0), of(endpoints, factor)
    keys = [f"agent-{n}" for n in range(1000)]
    random = Random(2)
    under_way: list[Endpoint] = []
    worst = at_home = 0
    for key in random.choices(keys, [(n + 1) ** -0.9 for n in range(1000)], k=4000):
        while len(under_way) >= 50:
            under_way.pop(random.randrange(len(under_way))).end()
        chosen = balancer.pick(endpoints, key)
        at_home += chosen is unbounded.pick(endpoints, key)
        chosen.begin()
        under_way.append(chosen)
        worst = max(worst, chosen.active)
    assert worst / 5 <= busiest
    assert at_home / 4000 == pytest.approx(home, abs=0.03)
