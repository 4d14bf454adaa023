"""Balancers that are told what begins and ends choose as if they looked at all endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.instance import Instance
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.balancers.consistent_hash import LONGEST_KEY, MOST_KEYS, ConsistentHash, slot_of
from sidecar.endpoints.balancers.least_connections import LeastConnections
from sidecar.endpoints.balancers.table import create
from sidecar.endpoints.balancers.weighted import Weighted
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.subsets import Selector, Subsets
from support.balancing import have, make
from support.clock import Clock
from support.examples import examples

#: What happens, and a number that says where or to what.
STEPS = st.lists(
    st.tuples(st.sampled_from(["pick", "pick", "pick", "retry", "begin", "end", "update"]), st.integers(0, 10**6)),
    max_size=80,
)
WEIGHTS = st.lists(st.sampled_from([0, 1, 1, 1, 2, 3, 7, 65535]), min_size=1, max_size=8)


class Play:
    """Endpoints of a balancer and what is under way at them. ``expected(endpoints, key)`` chooses by the definition."""

    def __init__(self, balancer: Balancer, weights: list[int]) -> None:
        self.balancer = balancer
        self.all = make(*weights)
        self.usual = self.all
        self.under_way: list[Endpoint] = []
        balancer.update(self.usual)

    def expected(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        raise NotImplementedError

    def run(self, steps: list[tuple[str, int]]) -> None:
        for what, n in steps:
            getattr(self, what)(n)

    def pick(self, n: int, endpoints: Sequence[Endpoint] = ()) -> None:
        endpoints = endpoints or self.usual
        key = f"key-{n % 5}"
        expected = self.expected(endpoints, key)
        picked = self.balancer.pick(endpoints, key)
        assert picked is expected
        self._begin(picked)

    def retry(self, n: int) -> None:
        self.pick(n, [it for it in self.usual if it is not self.usual[n % len(self.usual)]])

    def begin(self, n: int) -> None:
        """Somebody else's, at any of them, be it in the rotation or not."""
        self._begin(self.all[n % len(self.all)])

    def end(self, n: int) -> None:
        if self.under_way:
            self.under_way.pop(n % len(self.under_way)).end()

    def update(self, n: int) -> None:
        random = Random(n)
        for endpoint in self.all:
            if random.random() < 0.2:
                endpoint.weight = random.randrange(4)
        self.usual = tuple(random.sample(self.all, random.randint(1, len(self.all))))
        self.balancer.update(self.usual)

    def _begin(self, endpoint: Endpoint) -> None:
        endpoint.begin()
        self.under_way.append(endpoint)


class LeastPlay(Play):
    def __init__(self, weights: list[int]) -> None:
        Play.__init__(self, LeastConnections(Random(1)), weights)
        self.turn = Random(1).getrandbits(16)

    def expected(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        start = self.turn % len(endpoints)
        self.turn += 1
        return min([*endpoints[start:], *endpoints[:start]], key=load)


def load(endpoint: Endpoint) -> Fraction | float:
    if not endpoint.active:
        return 0.0
    return Fraction(endpoint.active, endpoint.weight) if endpoint.weight else inf


class WeightedPlay(Play):
    def __init__(self, weights: list[int]) -> None:
        Play.__init__(self, Weighted(Random(1)), weights)
        self.current = dict.fromkeys(self.all, 0)
        self.random = Random(1)

    def expected(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        total = sum(it.weight for it in endpoints)
        if not total:
            return endpoints[int(self.random.random() * len(endpoints))]
        for it in endpoints:
            self.current[it] += it.weight
        best = max(endpoints, key=lambda it: self.current[it])
        self.current[best] -= total
        return best


class HashPlay(Play):
    def __init__(self, weights: list[int]) -> None:
        Play.__init__(self, ConsistentHash(Random(1)), weights)

    def expected(self, endpoints: Sequence[Endpoint], key: str) -> Endpoint:
        anew = ConsistentHash(Random(1))
        return anew.pick(list(endpoints), key)  # which is not its usual set, so it counts


@pytest.mark.parametrize("play", [LeastPlay, WeightedPlay, HashPlay])
@given(weights=WEIGHTS, steps=STEPS)
@settings(max_examples=examples(600), deadline=None)
def test_picks_are_those_of_the_definition(
    play: type[LeastPlay | WeightedPlay | HashPlay], weights: list[int], steps: list[tuple[str, int]]
) -> None:
    play(weights).run(steps)


@pytest.mark.parametrize("play", [LeastPlay, WeightedPlay, HashPlay])
@pytest.mark.parametrize("weights", [[1] * 100, list(range(1, 101)), [5, 1] * 50], ids=["one", "each", "two"])
def test_so_are_they_of_many_for_long(play: type[LeastPlay | WeightedPlay | HashPlay], weights: list[int]) -> None:
    random = Random(3)
    it = play(weights)
    for n in range(800):
        it.pick(random.randrange(10**6))
        if n > 300:
            it.end(random.randrange(10**6))


def test_loads_that_nobody_has_are_forgotten() -> None:
    endpoints = make(1, 1, 1)
    balancer = LeastConnections(Random(1))
    balancer.update(endpoints)
    have(endpoints[0], 1)
    for n in range(1, 200):
        have(endpoints[1], n)
        have(endpoints[2], n)
        assert balancer.pick(endpoints, "") in endpoints
        assert sorted(balancer._loads) == sorted(balancer._levels)
        assert len(balancer._levels) <= 4 * 3
    have(endpoints[0], 300)
    assert {balancer.pick(endpoints, "") for _ in range(4)} == set(endpoints[1:])


@pytest.mark.parametrize("name", ["least_connections", "consistent_hash"])
def test_nothing_is_followed_before_a_pick_needs_it_nor_by_a_balancer_that_is_none_any_more(name: str) -> None:
    cluster = Cluster("up", create(name, Random(1)), Clock(), Random(2))
    instances = [Instance(host="10.0.0.1", port=port) for port in range(3)]
    cluster.update(instances)
    first = cluster.pick("key")
    assert first is not None
    endpoints = cluster.endpoints
    assert [it.followers for it in endpoints] == [()] * 3
    for endpoint in endpoints:
        have(endpoint, 2)
    cluster.pick("key")
    assert [it.followers for it in endpoints] == [(cluster.balancer,)] * 3
    cluster.update(instances[1:])
    cluster.pick("key")
    assert [it.followers for it in endpoints] == [(), (cluster.balancer,), (cluster.balancer,)]
    cluster.use(create(name, Random(1)))
    assert [it.followers for it in endpoints] == [()] * 3


def test_an_endpoint_is_followed_by_its_cluster_and_its_subset_as_long_as_there_is_one() -> None:
    rng, clock = Random(1), Clock()
    whole = Cluster("up", create("least_connections", rng), clock, rng)
    whole.subsets = subsets = Subsets(whole, lambda: create("least_connections", rng), clock, rng)
    every = Selector(tag="v1")
    subsets.configure({"stable": every})
    whole.update([Instance(host="10.0.0.1", port=port, tags=("v1",)) for port in range(2)])
    for endpoint in whole.endpoints:
        have(endpoint, 1)
    for cluster in (whole, subsets.by_name["stable"]):
        cluster.pick()
    both = (whole.balancer, subsets.by_name["stable"].balancer)
    assert [it.followers for it in whole.endpoints] == [both] * 2
    subsets.configure({"other": every})
    assert [it.followers for it in whole.endpoints] == [both[:1]] * 2
    subsets.by_name["other"].pick()
    subsets.leave()
    assert [it.followers for it in whole.endpoints] == [both[:1]] * 2


def test_slots_of_so_many_keys_are_remembered_and_of_no_long_ones() -> None:
    endpoints = make(1, 1)
    balancer = ConsistentHash(Random(1))
    balancer.update(endpoints)
    for n in range(MOST_KEYS + 10):
        key = f"key-{n}"
        assert balancer.pick(endpoints, key) is balancer.pick(endpoints, key)
        assert balancer._slots[key] == slot_of(key)
    assert len(balancer._slots) == 10
    balancer.pick(endpoints, "k" * (LONGEST_KEY + 1))
    assert len(balancer._slots) == 10
