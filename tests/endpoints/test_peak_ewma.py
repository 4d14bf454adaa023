"""What is slow, busy or failing is not chosen; what is new is tried; nothing is given up for ever."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.endpoints.balancers.peak_ewma import LONGEST_PENALTY, PENALTY
from sidecar.endpoints.balancers.table import create
from sidecar.endpoints.load import DECAY, FLOOR, Load
from support.balancing import make, shares
from support.clock import Clock

_TIMES = st.floats(0.0, 100.0)


def test_an_estimate_goes_up_at_once_and_down_slowly() -> None:
    load = Load()
    load.measured(0.01, 0.0)
    load.measured(0.5, 1.0)
    assert load.seconds(1.0) == 0.5
    load.measured(0.01, 1.0 + DECAY)
    assert load.seconds(1.0 + DECAY) == pytest.approx(0.5 / 2.71828 + 0.01 * (1 - 1 / 2.71828), rel=1e-3)
    assert load.seconds(1e6) == FLOOR


@given(st.lists(st.tuples(_TIMES, st.floats(0.0, 1000.0)), min_size=1, max_size=30))
def test_an_estimate_is_never_above_the_longest_nor_below_the_last(samples: list[tuple[float, float]]) -> None:
    load, now = Load(), 0.0
    for seconds, later in samples:
        now += later
        load.measured(seconds, now)
        longest = max(it for it, _ in samples)
        assert max(seconds, FLOOR) * (1 - 1e-9) <= load.seconds(now) <= max(longest, FLOOR) * (1 + 1e-9)


def test_a_slow_one_gets_nothing_until_its_estimate_has_faded() -> None:
    clock, endpoints = Clock(), make(1, 1, 1, 1, 1)
    balancer = create("peak_ewma", Random(1), clock)
    for n, endpoint in enumerate(endpoints):
        balancer.told(endpoint, 0.505 if n == 0 else 0.005, 200, "")
    assert shares(balancer, endpoints)[0] == 0.0
    clock.now += 60.0
    for endpoint in endpoints[1:]:
        balancer.told(endpoint, 0.005, 200, "")
    assert shares(balancer, endpoints)[0] > 0.1


def test_a_busy_one_gets_less_though_it_is_quick() -> None:
    clock, endpoints = Clock(), make(1, 1)
    balancer = create("peak_ewma", Random(1), clock)
    balancer.told(endpoints[0], 0.01, 200, "")
    balancer.told(endpoints[1], 0.05, 200, "")
    assert shares(balancer, endpoints) == [1.0, 0.0]
    endpoints[0].active = 5
    assert shares(balancer, endpoints) == [0.0, 1.0]


@pytest.mark.parametrize(("status", "failure"), [(500, ""), (503, ""), (429, ""), (0, "connect"), (0, "reset")])
def test_one_that_fails_fast_draws_no_traffic(status: int, failure: str) -> None:
    clock, endpoints = Clock(), make(1, 1, 1)
    balancer = create("peak_ewma", Random(1), clock)
    for endpoint in endpoints[1:]:
        balancer.told(endpoint, 0.2, 200, "")
    balancer.told(endpoints[0], 0.0001, status, failure)
    assert endpoints[0].load.seconds(clock()) == PENALTY
    assert shares(balancer, endpoints)[0] == 0.0


def test_a_race_for_a_kept_connection_and_a_clients_error_are_no_failures() -> None:
    clock, endpoints = Clock(), make(1, 1)
    balancer = create("peak_ewma", Random(1), clock)
    balancer.told(endpoints[0], 0.0, 0, "race")
    balancer.told(endpoints[1], 0.01, 404, "")
    assert (endpoints[0].load.measured_at, endpoints[1].load.seconds(clock())) == (-1.0, 0.01)


def test_one_that_another_try_was_quicker_than_has_taken_as_long_as_that() -> None:
    clock, endpoints = Clock(), make(1)
    create("peak_ewma", Random(1), clock).told(endpoints[0], 0.3, 0, "hedged")
    assert endpoints[0].load.seconds(clock()) == 0.3


def test_one_that_asks_to_be_left_alone_is() -> None:
    clock, endpoints = Clock(), make(1)
    balancer = create("peak_ewma", Random(1), clock)
    for asked, counts in ((1.0, PENALTY), (60.0, 60.0), (1e9, LONGEST_PENALTY)):
        balancer.asked_to_wait(endpoints[0], asked)
        assert endpoints[0].load.seconds(clock()) == counts


def test_clients_that_leave_do_not_hide_a_slow_one() -> None:
    clock, endpoints = Clock(), make(1, 1)
    balancer = create("peak_ewma", Random(1), clock)
    known, new = endpoints
    balancer.told(known, 0.01, 200, "")
    balancer.abandoned(known, 0.005)  # an answer would have come later: that is nothing new
    balancer.abandoned(new, 0.005)
    assert (known.load.seconds(clock()), new.load.measured_at) == (0.01, -1.0)
    balancer.abandoned(new, 2.0)
    assert shares(balancer, endpoints) == [1.0, 0.0]
    balancer.abandoned(known, 3.0)
    assert shares(balancer, endpoints) == [0.0, 1.0]


def test_new_ones_have_their_share_at_once_and_not_more_than_they_answer() -> None:
    clock, endpoints = Clock(), make(1, 1, 1)
    balancer = create("peak_ewma", Random(1), clock)
    assert all(it > 0.25 for it in shares(balancer, endpoints))
    for endpoint in endpoints[1:]:
        balancer.told(endpoint, 0.005, 200, "")
    assert shares(balancer, endpoints)[0] > 0.25
    endpoints[0].active = 3  # it has not answered those
    assert shares(balancer, endpoints)[0] == 0.0


def test_weights_divide_the_cost() -> None:
    clock = Clock()
    endpoints = make(3, 1)
    balancer = create("peak_ewma", Random(1), clock)
    for endpoint in endpoints:
        balancer.told(endpoint, 0.01, 200, "")
    for _ in range(40):
        balancer.pick(endpoints, "").begin()
    assert [it.active for it in endpoints] == [30, 10]


def test_what_it_knows() -> None:
    clock, endpoints = Clock(), make(1)
    balancer = create("peak_ewma", Random(1), clock)
    assert balancer.known(endpoints[0]) == {}
    balancer.told(endpoints[0], 0.0123, 200, "")
    assert balancer.known(endpoints[0]) == {"ewma_ms": 12.3}
