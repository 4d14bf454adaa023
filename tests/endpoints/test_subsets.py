"""A cluster in parts: who is in which, what they know in common, what each has for itself."""

from __future__ import annotations

from random import Random

import pytest

from sidecar.core.events import EVENTS
from sidecar.core.instance import Instance
from sidecar.endpoints.balancers.table import NAMES, create
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.subsets import Selector, Subset, Subsets
from sidecar.resilience.ejection import EjectionRules
from support.clock import Clock

STABLE, NEXT = Selector(tag="v1"), Selector(tag="v2")


class Divided:
    """A cluster with ``stable`` instances of v1, and ``next`` ones of v2."""

    def __init__(self, stable: int = 3, next: int = 1, balancer: str = "round_robin") -> None:
        self.clock = Clock()
        rng = Random(1)
        self.whole = Cluster("tasks", create(balancer, rng, self.clock), self.clock, rng)
        self.subsets = Subsets(self.whole, lambda: create(balancer, rng, self.clock), self.clock, rng)
        self.whole.subsets = self.subsets
        self.subsets.configure({"stable": STABLE, "next": NEXT})
        self.update(stable, next)

    def update(self, stable: int, next: int) -> None:
        tags = ("v1",) * stable + ("v2",) * next
        self.whole.update(Instance(host="10.0.0.1", port=port, tags=(tag,)) for port, tag in enumerate(tags, 1))

    @property
    def next(self) -> Subset:
        return self.subsets.by_name["next"]

    @property
    def stable(self) -> Subset:
        return self.subsets.by_name["stable"]


def ports(endpoints: tuple[Endpoint, ...]) -> list[int]:
    return [endpoint.port for endpoint in endpoints]


def test_each_endpoint_is_in_the_first_that_takes_it() -> None:
    it = Divided()
    it.subsets.configure(
        {
            "other": Selector(service="tasks-next"),
            "gpu": Selector(tag="gpu"),
            "two": Selector(meta=(("version", "2"), ("zone", "b"))),
        }
    )
    it.whole.update(
        [
            Instance(host="10.0.0.1", port=1, tags=("gpu",), meta={"version": "2", "zone": "b"}),
            Instance(host="10.0.0.1", port=2, meta={"version": "2", "zone": "b", "rack": "1"}),
            Instance(host="10.0.0.1", port=3, meta={"version": "2", "zone": "a"}),
            Instance(host="10.0.0.1", port=4, tags=("gpu",), service="tasks-next"),
        ]
    )
    assert [endpoint.subset for endpoint in it.whole.endpoints] == ["gpu", "two", "", "other"]
    assert it.subsets.usable == ("other", "gpu", "two")
    assert it.subsets.of(it.whole.endpoints[2]) is it.whole


@pytest.mark.parametrize("balancer", NAMES)
def test_every_balancer_chooses_within_a_subset(balancer: str) -> None:
    it = Divided(3, 2, balancer)
    if balancer in ("round_robin", "weighted"):
        assert [it.next.pick() for _ in range(4)].count(it.whole.endpoints[3]) == 2
    for n in range(50):
        assert it.stable.pick(f"key-{n}").port in (1, 2, 3)  # type: ignore[union-attr]
        assert it.next.pick(f"key-{n}").port in (4, 5)  # type: ignore[union-attr]
        assert it.whole.pick(f"key-{n}") in it.whole.endpoints


def test_another_balancer_is_one_for_each() -> None:
    it = Divided(3, 2)
    it.whole.use(create("consistent_hash", Random(1), it.clock))
    it.subsets.use(lambda: create("consistent_hash", Random(1), it.clock))
    assert len({it.stable.balancer, it.next.balancer, it.whole.balancer}) == 3
    assert it.next.balancer.known(it.whole.endpoints[4]) == {"hash_share": 0.5}
    first = it.next.pick("key")
    assert {it.next.pick("key") for _ in range(10)} == {first}


def test_what_is_told_of_an_endpoint_takes_it_out_everywhere_and_brings_it_back() -> None:
    it = Divided(2, 1)
    seen = EVENTS.newest
    endpoint = it.next.pick()
    assert endpoint is not None
    it.next.failed(endpoint, True, "refused", "connection refused")
    assert (ports(it.whole.eligible), it.subsets.usable, it.next.usable) == ([1, 2], ("stable",), False)
    assert it.next.pick() is endpoint, "what is asked all the same goes there: use_all"
    told = [event for event in EVENTS.since(seen) if event.kind == "subset"]
    assert [event.details["subset"] for event in told] == ["next"]
    assert "its share goes to the others" in told[0].text
    it.clock.advance(2)
    it.stable.refresh()
    assert it.subsets.usable == ("stable", "next")
    assert [event.details["usable"] for event in EVENTS.since(told[0].id) if event.kind == "subset"] == [True]


def test_a_try_that_went_well_in_spite_of_an_ejection_ends_that() -> None:
    it = Divided(2, 1)
    endpoint = it.next.endpoints[0]
    it.next.failed(endpoint, True, "refused", "")
    it.next.succeeded(endpoint)
    assert (endpoint.ejected_until, it.next.usable) == (0.0, True)


def test_with_refuse_an_empty_subset_has_nothing() -> None:
    it = Divided(2, 1)
    it.whole.configure(refuse=True)
    it.next.failed(it.next.endpoints[0], True, "refused", "")
    assert it.next.pick() is None
    assert it.stable.pick() is not None


def test_without_instances_it_says_so() -> None:
    it = Divided(2, 0)
    assert it.next.pick() is None
    assert it.next.problem == "none of its 2 instances is in the subset next"
    assert (it.subsets.usable, it.subsets.present) == (("stable",), ("stable",))
    it.update(2, 1)
    assert (it.next.problem, it.subsets.present) == ("", ("stable", "next"))


def test_checks_and_slow_starts_count_in_subsets_too() -> None:
    it = Divided(2, 2)
    it.whole.configure(slow_start=30.0)
    it.clock.advance(20)
    it.update(2, 3)
    picked = [it.next.pick() for _ in range(40)]
    newest = it.whole.endpoints[4]
    assert 0 < picked.count(newest) < 8
    assert newest.share < 1
    it.clock.advance(31)
    assert [it.next.pick() for _ in range(30)].count(newest) == 10


def test_latencies_are_compared_among_those_of_a_kind() -> None:
    it = Divided(3, 1)
    it.whole.configure(EjectionRules(latency=3.0, min_requests=5, first=10.0, at_most=0.5, doubling=False))
    slow = it.next.endpoints[0]
    for _ in range(20):
        it.clock.advance(0.2)
        for endpoint in it.whole.endpoints:
            for watch in it.subsets.of(endpoint).watchers:
                watch(endpoint, 1.0 if endpoint is slow else 0.01, 200, "")
    assert it.whole.ejections == {}, "another version may take longer"
    late = it.stable.endpoints[0]
    for _ in range(40):
        it.clock.advance(0.2)
        for endpoint in it.stable.endpoints:
            for watch in it.stable.watchers:
                watch(endpoint, 1.0 if endpoint is late else 0.01, 200, "")
    assert it.whole.ejections == {"latency": 1}
    assert late.ejected_until


def test_each_counts_what_its_tries_came_to() -> None:
    it = Divided()
    endpoint = it.next.endpoints[0]
    for failure in ("timeout", "reset", "connect", "race", "hedged", ""):
        it.subsets.told(endpoint, 0.02, 0, failure)
    for status, failure in ((200, ""), (503, "")):
        it.subsets.told(endpoint, 0.02, status, failure)
    it.subsets.told(endpoint, 0.02, 299, "")
    assert it.next.requests == {200: 2, 503: 1, 504: 1, 502: 2, 2: 1}
    assert (it.next.duration.count(), it.stable.requests) == (4, {})


def test_what_is_counted_stays_when_the_subsets_are_others() -> None:
    it = Divided()
    it.subsets.told(it.next.endpoints[0], 0.02, 200, "")
    before = it.next
    it.subsets.configure({"next": NEXT, "rest": STABLE})
    assert it.next is before
    assert it.next.requests == {200: 1}
    assert ports(it.subsets.by_name["rest"].endpoints) == [1, 2, 3]
    it.subsets.leave()
    assert it.whole.subsets is None
    assert it.whole.watchers == ()
    assert {endpoint.subset for endpoint in it.whole.endpoints} == {""}
    it.update(1, 1)
    assert it.whole.pick() is not None
