from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.core.instance import Instance
from sidecar.endpoints.balancers.table import NAMES, create
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.resilience.ejection import JITTER, LONGEST_EJECTION, STANDARD
from support.clock import Clock
from support.examples import examples


class Setup:
    """A cluster with what it reports."""

    def __init__(self, size: int = 3, balancer: str = "round_robin") -> None:
        self.clock = Clock()
        self.changes = 0
        self.removed: list[Endpoint] = []
        self.cluster = Cluster("up", create(balancer, Random(1)), self.clock, Random(2), self.changed)
        self.cluster.on_removed = self.removed.append
        if size:
            self.cluster.update([instance(i) for i in range(size)])
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    def picks(self, n: int = 30) -> set[int]:
        picked = [self.cluster.pick() for _ in range(n)]
        return {e.port for e in picked if e is not None}


def instance(port: int, state: str = "healthy", weight: int = 1) -> Instance:
    return Instance(host="10.0.0.1", port=port, id=f"i{port}", weight=weight, state=state)


def test_an_empty_cluster_picks_nothing() -> None:
    s = Setup(0)
    assert s.cluster.pick() is None
    assert s.cluster.pick("key", [Endpoint("h", 1)]) is None
    s.cluster.update([instance(1)])
    assert s.picks() == {1}
    s.cluster.update([])
    assert s.cluster.pick() is None


def test_endpoints_outlive_updates_as_long_as_their_address_stays() -> None:
    s = Setup(3)
    zero, one, two = s.cluster.endpoints
    one.active = 7
    s.cluster.update([instance(1, "warning", 3), instance(2), instance(4), instance(4, weight=9)])
    assert s.cluster.endpoints[0] is one
    assert s.cluster.endpoints[1] is two
    assert (one.active, one.state, one.weight, one.id) == (7, "warning", 3, "i1")
    assert [e.port for e in s.cluster.endpoints] == [1, 2, 4]
    assert s.removed == [zero]
    assert s.changes == 1
    assert s.picks() == {2, 4}


def test_the_set_is_new_when_the_removed_ones_are_reported() -> None:
    s = Setup(2)
    seen: list[int] = []
    s.cluster.on_removed = lambda endpoint: seen.append(len(s.cluster.endpoints))
    s.cluster.update([instance(7)])
    assert seen == [1, 1]


@pytest.mark.parametrize("balancer", NAMES)
def test_tried_ones_are_avoided_while_there_are_others(balancer: str) -> None:
    s = Setup(3, balancer)
    zero, one, _ = s.cluster.endpoints
    for key in map(str, range(20)):
        picked = s.cluster.pick(key, [zero, one])
        assert picked is not None
        assert picked.port == 2
        assert s.cluster.pick(key, s.cluster.endpoints) in s.cluster.endpoints


def test_a_warning_one_is_better_than_one_that_was_tried() -> None:
    s = Setup(0)
    s.cluster.update([instance(0), instance(1, "warning"), instance(2, "warning", weight=0)])
    healthy, warning, _ = s.cluster.endpoints
    assert s.picks() == {0}
    assert s.cluster.pick("", {healthy}) is warning
    assert s.cluster.pick("", {healthy, warning}) is healthy


def test_warning_ones_get_their_weight_where_weights_count() -> None:
    s = Setup(0, "weighted")
    s.cluster.update([instance(0, weight=9), instance(1, "warning", weight=1), instance(2, "warning", weight=0)])
    picked = [s.cluster.pick() for _ in range(100)]
    assert Counter(e.port for e in picked if e) == {0: 90, 1: 10}


@pytest.mark.parametrize("balancer", NAMES)
def test_warning_ones_serve_when_nobody_is_healthy(balancer: str) -> None:
    s = Setup(0, balancer)
    s.cluster.update([instance(0, "warning"), instance(1, "warning", weight=0)])
    assert s.picks() == {0}
    s.cluster.update([instance(1, "warning", weight=0)])
    assert s.picks() == {1}


def test_a_hard_failure_ejects_at_once_and_for_about_a_second() -> None:
    s = Setup(3)
    one = s.cluster.endpoints[1]
    s.cluster.failed(one, hard=True)
    assert s.changes == 1
    assert one not in s.cluster.eligible
    assert s.picks() == {0, 2}
    s.clock.advance(1 - JITTER - 0.01)
    assert s.picks() == {0, 2}
    s.clock.advance(2 * JITTER + 0.02)
    assert s.picks() == {0, 1, 2}
    assert s.changes == 2
    assert one.ejected_until == 0


def test_soft_failures_eject_only_in_a_row() -> None:
    s = Setup(3)
    one = s.cluster.endpoints[1]
    for _ in range(STANDARD.consecutive - 1):
        s.cluster.failed(one, hard=False)
    s.cluster.succeeded(one)
    for _ in range(STANDARD.consecutive - 1):
        s.cluster.failed(one, hard=False)
    assert one in s.cluster.eligible
    s.cluster.failed(one, hard=False)
    assert one not in s.cluster.eligible


def test_each_ejection_in_a_row_is_twice_as_long_up_to_a_limit() -> None:
    s = Setup(2)
    one = s.cluster.endpoints[0]
    for n in range(200):
        s.cluster.failed(one, hard=True)
        length = one.ejected_until - s.clock.now
        nominal = min(2.0**n, LONGEST_EJECTION)
        assert nominal * (1 - JITTER) <= length <= nominal * (1 + JITTER)
        s.clock.now = one.ejected_until
        s.cluster.refresh()
        assert one in s.cluster.eligible
    s.cluster.succeeded(one)
    s.cluster.failed(one, hard=True)
    assert one.ejected_until - s.clock.now <= 1 + JITTER


def test_one_that_comes_back_and_fails_again_is_out_at_once() -> None:
    s = Setup(2)
    one = s.cluster.endpoints[0]
    for _ in range(STANDARD.consecutive):
        s.cluster.failed(one, hard=False)
    s.clock.now = one.ejected_until
    assert s.picks() == {0, 1}
    s.cluster.failed(one, hard=False)
    assert one not in s.cluster.eligible
    assert one.ejections == 2


def test_what_was_begun_before_an_ejection_changes_nothing() -> None:
    s = Setup(2)
    one = s.cluster.endpoints[0]
    s.cluster.failed(one, hard=True)
    until = one.ejected_until
    s.cluster.failed(one, hard=True)
    s.cluster.succeeded(one)
    assert (one.ejected_until, one.ejections) == (until, 1)
    assert one not in s.cluster.eligible


def test_when_all_are_ejected_all_are_tried_and_the_first_success_is_back() -> None:
    s = Setup(3)
    for endpoint in s.cluster.endpoints:
        s.cluster.failed(endpoint, hard=True)
    assert s.cluster.eligible == s.cluster.endpoints
    assert s.picks() == {0, 1, 2}
    s.cluster.succeeded(s.cluster.endpoints[1])
    assert s.picks() == {1}
    s.clock.advance(2)
    assert s.picks() == {0, 1, 2}


def test_a_single_endpoint_always_serves() -> None:
    s = Setup(1)
    [only] = s.cluster.endpoints
    for _ in range(50):
        s.cluster.failed(only, hard=True)
        assert s.cluster.pick() is only
        assert s.cluster.pick("", [only]) is only
        s.clock.advance(0.3)


def test_outcomes_of_endpoints_that_are_gone_are_ignored() -> None:
    s = Setup(2)
    gone, stays = s.cluster.endpoints
    s.cluster.failed(gone, hard=False)
    s.cluster.update([instance(1)])
    changes = s.changes
    for _ in range(10):
        s.cluster.failed(gone, hard=True)
    s.cluster.succeeded(gone)
    assert s.changes == changes
    assert s.cluster.eligible == (stays,)
    s.cluster.update([instance(0), instance(1)])
    assert s.cluster.endpoints[0] is not gone


def test_an_ejected_endpoint_stays_ejected_through_an_update() -> None:
    s = Setup(3)
    s.cluster.failed(s.cluster.endpoints[0], hard=True)
    s.cluster.update([instance(i) for i in range(4)])
    assert s.picks() == {1, 2, 3}
    s.clock.advance(2)
    assert s.picks() == {0, 1, 2, 3}


def test_the_clock_is_not_asked_while_nobody_is_ejected() -> None:
    def clock() -> float:
        raise AssertionError("asked")

    cluster = Cluster("up", create("round_robin", Random(1)), clock, Random(2))
    cluster.update([instance(0), instance(1)])
    picked = cluster.pick()
    assert picked is not None
    cluster.succeeded(picked)
    cluster.failed(picked, hard=False)


class ClusterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.s = Setup(0)

    @rule(ports=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["healthy", "warning"]), st.integers(0, 2))))
    def update(self, ports: list[tuple[int, str, int]]) -> None:
        before = set(self.s.cluster.endpoints)
        self.s.removed.clear()
        self.s.cluster.update([instance(*p) for p in ports])
        assert {e.port for e in self.s.cluster.endpoints} == {p[0] for p in ports}
        assert set(self.s.removed) == before - set(self.s.cluster.endpoints)

    @precondition(lambda self: self.s.cluster.endpoints)
    @rule(data=st.data(), hard=st.booleans())
    def fail(self, data: st.DataObject, hard: bool) -> None:
        self.s.cluster.failed(data.draw(st.sampled_from(self.s.cluster.endpoints)), hard)

    @precondition(lambda self: self.s.cluster.endpoints)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        endpoint = data.draw(st.sampled_from(self.s.cluster.endpoints))
        serving = endpoint in self.s.cluster.eligible
        self.s.cluster.succeeded(endpoint)
        if serving:
            assert (endpoint.failures, endpoint.ejections, endpoint.ejected_until) == (0, 0, 0.0)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.s.clock.advance(seconds)
        self.s.cluster.refresh()

    @invariant()
    def somebody_serves_and_everybody_comes_back(self) -> None:
        cluster = self.s.cluster
        now = self.s.clock.now
        assert bool(cluster.eligible) == bool(cluster.endpoints)
        assert (cluster.pick() is None) == (not cluster.endpoints)
        assert set(cluster.eligible) <= set(cluster.endpoints)
        out = [e for e in cluster.endpoints if e.ejected_until]
        assert all(now < e.ejected_until <= now + LONGEST_EJECTION * (1 + JITTER) for e in out)
        if any(e.weight and not e.ejected_until for e in cluster.endpoints):
            assert not any(e.ejected_until or not e.weight for e in cluster.eligible)
        picked = cluster.pick("", cluster.endpoints[:1])
        if len(cluster.eligible) > 1:
            assert picked is not cluster.endpoints[0]


ClusterMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
TestClusterMachine = ClusterMachine.TestCase
