"""By reports the hot come last and the quickest wins; without them it is peak_ewma; none outdoes what is seen."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sidecar.endpoints.balancers.prequal import EVERY, FEW, FRESH, WINDOW, Prequal, in_flight
from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.load import Report
from support.balancing import make, shares
from support.clock import Clock


def of(count: int) -> tuple[Clock, Prequal, tuple[Endpoint, ...]]:
    clock = Clock()
    return clock, Prequal(Random(1), clock), make(*[1] * count)


def test_the_quickest_by_its_own_report_wins() -> None:
    _, balancer, endpoints = of(2)
    for endpoint, latency in zip(endpoints, (0.3, 0.01), strict=True):
        balancer.reported(endpoint, Report(4, latency))
    assert shares(balancer, endpoints) == [0.0, 1.0]


def test_a_hot_one_comes_last_however_quick() -> None:
    _, balancer, endpoints = of(2)
    for _ in range(WINDOW):
        balancer.reported(endpoints[1], Report(5, 0.5))
    for _ in range(EVERY):
        balancer.reported(endpoints[0], Report(50, 0.001))
    assert shares(balancer, endpoints) == [0.0, 1.0]
    for _ in range(EVERY):
        balancer.reported(endpoints[1], Report(60, 0.5))
    assert shares(balancer, endpoints) == [1.0, 0.0]  # both are hot: the less busy one


def test_old_reports_are_not_believed() -> None:
    clock, balancer, endpoints = of(2)
    for endpoint, latency in zip(endpoints, (0.3, 0.01), strict=True):
        balancer.reported(endpoint, Report(4, latency))
    balancer.told(endpoints[0], 0.005, 200, "")
    clock.now += FRESH + 0.001
    balancer.told(endpoints[1], 0.2, 200, "")
    assert shares(balancer, endpoints) == [1.0, 0.0]


def test_a_report_does_not_outdo_what_is_seen() -> None:
    _, balancer, endpoints = of(2)
    for endpoint, latency in zip(endpoints, (0.0, 0.02), strict=True):
        balancer.reported(endpoint, Report(0, latency))
    balancer.told(endpoints[0], 0.0001, 500, "")  # it fails at once, and says that it is quick
    assert shares(balancer, endpoints) == [0.0, 1.0]


def test_what_has_begun_since_a_report_is_added_to_it() -> None:
    _, balancer, endpoints = of(1)
    endpoint = endpoints[0]
    endpoint.active = 2
    balancer.reported(endpoint, Report(10, 0.1))
    assert in_flight(endpoint) == 10
    endpoint.active = 5
    assert in_flight(endpoint) == 13
    endpoint.active = 0
    assert in_flight(endpoint) == 8


def test_three_of_many_are_compared() -> None:
    _, balancer, endpoints = of(5)
    for n, endpoint in enumerate(endpoints):
        balancer.reported(endpoint, Report(1, 0.01 * (n + 1)))
    found = shares(balancer, endpoints)
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.45  # with two it is 0.4
    assert found[-1] == 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6), st.floats(0.0, 600.0)), max_size=300))
def test_whatever_is_reported_one_is_chosen_and_the_memory_bounded(reports: list[tuple[int, int, float]]) -> None:
    clock, balancer, endpoints = of(4)
    for n, flying, latency in reports:
        clock.now += 0.01
        balancer.reported(endpoints[n], Report(flying, latency))
        assert balancer.pick(endpoints, "") in endpoints
    assert len(balancer._seen) < WINDOW + EVERY


def test_what_it_knows() -> None:
    clock, balancer, endpoints = of(2)
    balancer.reported(endpoints[0], Report(3, 0.0501))
    balancer.told(endpoints[0], 0.06, 200, "")
    clock.now += 0.25
    assert balancer.known(endpoints[0]) == {
        "ewma_ms": 58.5,
        "reported": {"in_flight": 3, "latency_ms": 50.1, "age_ms": 250},
    }
    assert balancer.known(endpoints[1]) == {}


def test_where_little_is_under_way_none_is_hot() -> None:
    _, balancer, endpoints = of(2)
    for _ in range(WINDOW):
        balancer.reported(endpoints[0], Report(0, 0.5))
    for _ in range(EVERY):
        balancer.reported(endpoints[1], Report(int(FEW), 0.02))
    assert shares(balancer, endpoints) == [0.0, 1.0]
    for _ in range(EVERY):
        balancer.reported(endpoints[1], Report(int(FEW) + 1, 0.02))
    assert shares(balancer, endpoints) == [1.0, 0.0]
