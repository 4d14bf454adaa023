"""Ejection by failures and by latency, with the real cluster and a clock of the test's own."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.health import Eject, Health
from sidecar.core.instance import Instance
from sidecar.endpoints.balancers.table import NAMES, create
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Checked, Endpoint
from sidecar.resilience.ejection import JITTER, OFF, TRIAL, EjectionRules
from support.clock import Clock
from support.examples import examples
from support.http import Stage

#: As `eject: {}` has them.
RULES = EjectionRules(error_rate=0.5, latency=3.0, first=10.0, longest=300.0, at_most=0.5, doubling=False)


class World:
    """Endpoints that answer in so many seconds, under an even load; with time that passes at once."""

    def __init__(self, size: int = 5, rules: EjectionRules = RULES, balancer: str = "round_robin") -> None:
        self.clock = Clock()
        self.rng = Random(7)
        self.cluster = Cluster("up", create(balancer, self.rng), self.clock, self.rng, wall=self.clock)
        self.cluster.configure(rules)
        self.cluster.update(Instance(host="10.0.0.1", port=n) for n in range(size))
        #: How long an endpoint takes, and with which status it answers.
        self.latency: Callable[[Endpoint], float] = lambda endpoint: self.rng.lognormvariate(math.log(0.01), 0.3)
        self.status: Callable[[Endpoint], int] = lambda endpoint: 200
        #: (begun, seconds, port) of every try.
        self.took: list[tuple[float, float, int]] = []
        self._under_way: list[tuple[float, int, Endpoint, float, int]] = []
        self._n = 0

    def run(self, seconds: float, rate: float = 200.0) -> None:
        begin, end = self.clock.now, self.clock.now + seconds
        for n in range(int(seconds * rate)):
            at = begin + n / rate
            self._finish(at)
            self.clock.now = at
            endpoint = self.cluster.pick()
            assert endpoint is not None
            endpoint.begin()
            endpoint.tries += 1
            took = self.latency(endpoint)
            self._n += 1
            heapq.heappush(self._under_way, (at + took, self._n, endpoint, took, self.status(endpoint)))
        self._finish(end)
        self.clock.now = end

    def _finish(self, until: float) -> None:
        while self._under_way and self._under_way[0][0] <= until:
            self.clock.now, _, endpoint, took, status = heapq.heappop(self._under_way)
            endpoint.end()
            self.took.append((self.clock.now - took, took, endpoint.port))
            for watch in self.cluster.watchers:
                watch(endpoint, took, status, "")
            if status >= 500:
                self.cluster.failed(endpoint, False, "status", f"it answered {status}")
            else:
                self.cluster.succeeded(endpoint)

    def p99(self, since: float, until: float) -> float:
        found = sorted(took for at, took, _ in self.took if since <= at < until)
        return found[int(len(found) * 0.99)]

    def out(self) -> dict[int, str]:
        return {e.port: e.ejected_for for e in self.cluster.endpoints if e.ejected_until}


def test_one_of_five_that_becomes_slow_is_ejected_and_p99_is_back_within_five_seconds() -> None:
    world = World()
    world.run(30)
    usual = world.p99(0.0, world.clock.now)
    slow_one = world.cluster.endpoints[2]
    usually = world.latency
    world.latency = lambda endpoint: usually(endpoint) + (0.5 if endpoint is slow_one else 0.0)
    began = world.clock.now
    world.run(120)
    assert world.out() == {2: "latency"}
    assert world.p99(began, began + 5) > 0.5
    # It comes back and is sent away again meanwhile, each time for longer.
    assert world.p99(began + 5, began + 120) < 1.2 * usual
    for second in range(5, 120, 10):
        assert world.p99(began + second, began + second + 10) < 1.2 * usual, second
    assert slow_one.relapses > 2
    world.latency = usually
    world.run(200)
    assert not world.out()
    assert sum(1 for at, _, port in world.took if port == 2 and at > world.clock.now - 10) > 300, "its whole share"
    assert set(world.cluster.ejections) == {"latency"}


def test_nobody_is_ejected_when_all_become_slow_alike() -> None:
    world = World()
    world.run(15)
    world.latency = lambda endpoint: world.rng.lognormvariate(math.log(0.8), 0.5)
    world.run(30)
    assert world.cluster.ejections == {}


def test_two_endpoints_say_nothing_about_what_is_usual() -> None:
    world = World(2)
    world.latency = lambda endpoint: 0.5 if endpoint.port else 0.01
    world.run(30)
    assert world.cluster.ejections == {}


def test_an_endpoint_that_fails_fast_makes_nobody_look_slow() -> None:
    """Three of five fail at once in nearly half of the cases: too little for an ejection, and no sign of speed."""
    world = World(rules=RULES._replace(error_rate=0.9, consecutive=0))
    world.latency = lambda endpoint: 0.05
    world.run(5)
    for _ in range(100):
        for endpoint in world.cluster.endpoints[:3]:
            for watch in world.cluster.watchers:
                watch(endpoint, 0.0001, 503, "")
                watch(endpoint, 0.0001, 0, "reset")
                watch(endpoint, 0.0001, 429, "")
                watch(endpoint, 0.05, 200, "")
                watch(endpoint, 0.05, 200, "")
        world.run(0.05)
    assert world.cluster.ejections == {}


def test_one_that_others_are_quicker_than_has_not_failed_but_is_slow() -> None:
    by_failures, by_latency = World(rules=RULES._replace(latency=0.0)), World()
    for each in (by_failures, by_latency):
        each.latency = lambda endpoint: 0.05
        for _ in range(100):
            for watch in each.cluster.watchers:
                for _ in range(4):
                    watch(each.cluster.endpoints[0], 0.5, 0, "hedged")
            each.run(0.05)
    assert (by_failures.out(), by_latency.out()) == ({}, {0: "latency"})


def test_a_share_of_failures_ejects_and_fewer_do_not() -> None:
    world = World(rules=RULES._replace(consecutive=0))
    world.status = lambda endpoint: 500 if endpoint.port == 1 and world.rng.random() < 0.7 else 200
    world.run(5)
    assert world.out() == {1: "error_rate"}
    assert "failed within 10 s" in world.cluster.endpoints[1].ejection
    world = World(rules=RULES._replace(consecutive=0))
    world.status = lambda endpoint: 500 if endpoint.port == 1 and world.rng.random() < 0.2 else 200
    world.run(30)
    assert world.cluster.ejections == {}


def test_too_few_requests_are_no_share() -> None:
    world = World(rules=RULES._replace(consecutive=0))
    world.status = lambda endpoint: 500
    world.run(10, rate=9)
    assert world.cluster.ejections == {}


def test_what_was_given_up_counts_as_slow() -> None:
    world = World()
    for _ in range(30):
        for endpoint in world.cluster.endpoints:
            for watch in world.cluster.watchers:
                if endpoint.port == 4:
                    watch(endpoint, 2.0, 0, "timeout")
                    watch(endpoint, 0.01, 200, "")
                    watch(endpoint, 2.0, 0, "timeout")
                else:
                    watch(endpoint, 0.01, 200, "")
        world.clock.advance(0.1)
    assert world.out()


def test_clients_that_leave_do_not_hide_a_slow_endpoint() -> None:
    world = World()
    world.run(3)
    outliers = world.cluster.outliers
    assert outliers is not None
    for _ in range(40):
        outliers.abandoned(world.cluster.endpoints[0], 0.02)  # they never wait for long
        outliers.abandoned(world.cluster.endpoints[1], 1.0)
    world.run(2)
    assert world.out() == {1: "latency"}
    outliers.abandoned(world.cluster.endpoints[1], 1.0)


def test_a_request_whose_client_leaves_counts_for_its_endpoint() -> None:
    it = Stage(retry=None, circuit_breaker=None, endpoints=3, health=Health(eject=Eject(min_requests=4)))
    hangs = it.listener.cluster.endpoints[1]
    for n in range(40):
        client = it.asks()
        upstream = it.upstream()
        upstream.hears()
        if hangs.active and n > 20:
            it.advance(1.0)
            client.breaks()
        else:
            it.advance(0.02)
            upstream.answers(200)
            assert client.gets().status == 200
            it.advance(0.2)
    assert hangs.ejected_for == "latency"
    it.over()


def test_a_trial_after_an_ejection_takes_a_few_tries_and_little_traffic() -> None:
    world = World(rules=RULES._replace(consecutive=0))
    sick = world.cluster.endpoints[0]
    world.status = lambda endpoint: 500 if endpoint is sick else 200
    world.run(3)
    assert world.out() == {0: "error_rate"}
    until = sick.ejected_until
    world.run(until - world.clock.now + 5)
    tried = [at for at, _, port in world.took if port == 0 and at > until]
    assert TRIAL <= len(tried) <= TRIAL + 1
    assert sick.relapses == 2
    world.status = lambda endpoint: 200
    until = sick.ejected_until
    world.run(until - world.clock.now + 10)
    assert not world.out()
    assert (sick.trial, sick.share) == (0, 1.0)
    assert world.cluster.eligible == world.cluster.endpoints


def test_lengths_grow_and_shrink_again_with_time_in_the_rotation() -> None:
    world = World()
    one = world.cluster.endpoints[0]
    lengths = []
    for _ in range(4):
        assert world.cluster.eject(one, "latency", "slow")
        lengths.append(one.ejected_until - world.clock.now)
        world.clock.now = one.ejected_until
        world.cluster.refresh()
    for n, length in enumerate(lengths, 1):
        assert 10 * n * (1 - JITTER) <= length <= 10 * n * (1 + JITTER)
    world.clock.advance(25)
    assert world.cluster.eject(one, "latency", "slow")
    assert one.relapses == 3
    world.clock.now = one.ejected_until
    world.cluster.refresh()
    world.clock.advance(1000)
    assert world.cluster.eject(one, "latency", "slow")
    assert one.relapses == 1


def test_at_most_so_many_are_ejected_and_those_that_are_gone_do_not_count() -> None:
    world = World(5)
    ends = world.cluster.endpoints
    assert [world.cluster.eject(e, "latency", "") for e in ends] == [True, True, False, False, False]
    world.cluster.update(Instance(host="10.0.0.1", port=n) for n in range(2, 5))
    assert not world.cluster.eject(ends[0], "latency", "")
    assert [world.cluster.eject(e, "latency", "") for e in ends[2:]] == [True, False, False]


def test_without_limit_the_last_one_may_be_ejected_and_all_are_used_then() -> None:
    world = World(2, RULES._replace(at_most=1.0))
    assert all(world.cluster.eject(e, "error_rate", "") for e in world.cluster.endpoints)
    assert world.cluster.eligible == world.cluster.endpoints
    world.cluster.succeeded(world.cluster.endpoints[0])
    assert len(world.out()) == 2, "one success does not end what a share of failures began"
    world.cluster.configure(RULES._replace(at_most=1.0), refuse=True)
    assert world.cluster.eligible == ()
    assert world.cluster.pick() is None


def test_off_ejects_nothing() -> None:
    world = World(2, OFF)
    for _ in range(50):
        for endpoint in world.cluster.endpoints:
            world.cluster.failed(endpoint, hard=True)
    assert world.cluster.ejections == {}
    assert world.cluster.watchers == ()


def watchers(world: World) -> int:
    return len(world.cluster.watchers)


def remembered(endpoint: Endpoint) -> bool:
    return endpoint.outcomes is not None


def test_other_rules_keep_ejections_and_forget_what_was_counted() -> None:
    world = World()
    world.run(3)
    one, two = world.cluster.endpoints[:2]
    world.cluster.eject(one, "latency", "")
    world.cluster.configure(RULES)
    assert remembered(two), "these are the same rules"
    world.cluster.configure(RULES._replace(window=20.0))
    assert not remembered(two)
    assert world.out() == {0: "latency"}
    assert watchers(world) == 1
    world.cluster.configure()
    assert watchers(world) == 0


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data(), size=st.integers(1, 8), refuse=st.booleans(), at_most=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_ejection_never_empties_a_cluster_unless_that_is_configured(
    data: st.DataObject, size: int, refuse: bool, at_most: float
) -> None:
    clock = Clock()
    cluster = Cluster("up", create(data.draw(st.sampled_from(NAMES)), Random(1)), clock, Random(2))
    cluster.configure(RULES._replace(at_most=at_most), data.draw(st.sampled_from([0.0, 30.0])), refuse)
    cluster.update(Instance(host="10.0.0.1", port=n) for n in range(size))
    events = st.tuples(
        st.integers(0, size - 1), st.sampled_from(["hard", "soft", "ok", "500", "slow", "wait"]), st.integers(1, 30)
    )
    for port, what, times in data.draw(st.lists(events, max_size=25)):
        endpoint = cluster.endpoints[port]
        for _ in range(times):
            if what in ("hard", "soft"):
                cluster.failed(endpoint, what == "hard")
            elif what == "ok":
                cluster.succeeded(endpoint)
            elif what == "wait":
                clock.advance(0.5)
                cluster.refresh()
            else:
                for watch in cluster.watchers:
                    watch(endpoint, 1.0 if what == "slow" else 0.01, 500 if what == "500" else 200, "")
            judged = [e for e in cluster.endpoints if e.ejected_until and e.ejected_for != "unreachable"]
            if at_most < 1.0:
                assert len(judged) <= max(1, int(at_most * size))
                assert cluster.eligible
            if not refuse:
                assert cluster.eligible
                assert cluster.pick("key") in cluster.eligible
    clock.advance(400)
    cluster.refresh()
    assert cluster.eligible == cluster.endpoints


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data(), size=st.integers(1, 6), refuse=st.booleans())
def test_whatever_happens_picks_are_of_the_rotation(data: st.DataObject, size: int, refuse: bool) -> None:
    """Checks, failures, sets that come and go, slow starts: who is picked is in, and who is in is usable unless none
    is."""
    clock = Clock()
    cluster = Cluster("up", create(data.draw(st.sampled_from(NAMES)), Random(1)), clock, Random(2))
    cluster.configure(RULES, 5.0, refuse)
    cluster.update(Instance(host="10.0.0.1", port=n) for n in range(size))
    clock.advance(60)
    steps = st.tuples(st.sampled_from(["hard", "down", "up", "slow", "fail", "wait", "set"]), st.integers(0, 5))
    for what, n in data.draw(st.lists(steps, max_size=30)):
        if what == "wait":
            clock.advance(n * 1.5)
        elif what == "set":
            cluster.update(Instance(host="10.0.0.1", port=port) for port in range(n % 3, 1 + n))
        elif cluster.endpoints:
            endpoint = cluster.endpoints[n % len(cluster.endpoints)]
            if what in ("down", "up"):
                cluster.checked(
                    endpoint, Checked("unhealthy" if what == "down" else "healthy", "", 0.0, 1), what == "down"
                )
            elif what == "hard":
                cluster.failed(endpoint, hard=True)
            else:
                for _ in range(25):
                    for watch in cluster.watchers:
                        watch(endpoint, 1.0 if what == "slow" else 0.01, 500 if what == "fail" else 200, "")
        picked = [cluster.pick(f"k{n}") for n in range(12)]
        usable = {e for e in cluster.endpoints if not e.down and not e.ejected_until}
        if usable:
            assert set(picked) <= usable
            assert set(cluster.eligible) <= usable
        else:
            assert set(picked) <= ({None} if refuse or not cluster.endpoints else set(cluster.endpoints))
        assert all(0.1 <= e.share <= 1.0 for e in cluster.endpoints)


@pytest.mark.parametrize("refuse", [False, True])
def test_the_last_one_that_can_be_reached_stays_where_none_would_be_refused(refuse: bool) -> None:
    world = World(3)
    world.cluster.configure(RULES, refuse=refuse)
    for endpoint in world.cluster.endpoints:
        world.cluster.failed(endpoint, hard=True)
    assert len(world.out()) == (2 if refuse else 3)
    assert len(world.cluster.eligible) == (1 if refuse else 3)
