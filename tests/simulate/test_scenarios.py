"""What scenarios call laws, in short runs of them."""

from __future__ import annotations

import pytest

from sidecar.simulate.scenarios import (
    amplification,
    breaker,
    budget,
    callers,
    ejection,
    ejection_guard,
    fleet,
    hedge,
    herd,
    metastable,
    registry_flap,
    slow_endpoint,
)

pytestmark = pytest.mark.costly


@pytest.mark.parametrize("name", [name for name, (_, has_to) in slow_endpoint.POLICIES.items() if has_to])
def test_p99_is_back_soon_after_an_endpoint_has_become_slow(name: str) -> None:
    found = slow_endpoint.simulate(1, slow_endpoint.POLICIES[name][0], trigger=3.0, well=12.0, until=12.0)
    assert found.after < slow_endpoint.FACTOR * found.baseline
    assert found.share < 0.03


def test_round_robin_alone_goes_on_asking_it() -> None:
    found = slow_endpoint.simulate(1, slow_endpoint.POLICIES["round robin"][0], trigger=0.5, well=6.5, until=6.5)
    assert found.after > 5 * found.baseline
    assert found.share == pytest.approx(0.2, abs=0.02)


def test_slow_endpoints_get_less_from_callers() -> None:
    assert callers.simulate(1, "prequal", until=2.0).slow < 0.23  # by turns 0.3


def test_retries_of_each_hop_multiply_where_nothing_bounds_them() -> None:
    found = amplification.simulate(1, amplification.POLICIES["without"], down=0.8, begin=0.2, rest=0.0)
    assert found.series[-1] > 4 * amplification.RATE


@pytest.mark.parametrize("name", [name for name, it in amplification.POLICIES.items() if it.has_to])
def test_the_last_of_three_hops_is_asked_hardly_more_than_clients_ask(name: str) -> None:
    found = amplification.simulate(1, amplification.POLICIES[name], down=2.0, begin=0.2, rest=0.3)
    assert found.tries <= amplification.MOST * found.asked


def test_a_budget_bounds_an_outage_and_leaves_retries_their_use() -> None:
    it = budget.BUDGETS[budget.DEFAULT]
    assert budget.simulate(1, it, 1.0, 1, 100.0, lasts=4.0).factor <= 2.0  # a burst of what ten seconds allow
    assert budget.simulate(1, it, 0.05, 1, 100.0, lasts=4.0).failed <= 0.01
    assert budget.simulate(1, "off", 1.0, 1, 50.0, lasts=2.0).factor > 2.5


def test_retries_alone_keep_an_overload_alive() -> None:
    found = metastable.simulate(1, metastable.POLICIES["retries alone"], trigger=(1.0, 2.0), until=6.0)
    assert sum(it.good for it in found.windows[4:]) < 0.1 * metastable.RATE
    assert found.wasted > 500


def test_budget_and_an_adaptive_limit_end_an_overload_at_once() -> None:
    policy = metastable.POLICIES["budget, adaptive beside the app"]
    found = metastable.simulate(1, policy, trigger=(1.0, 2.0), until=6.0)
    assert found.recovered <= 2.0


def test_a_breaker_bounds_what_hangs_and_is_used_again_after_its_time() -> None:
    found = breaker.simulate(1, breaker.NUMBERS["5 failures, 10 s, 3 trials"], 5.0)
    assert found.hung <= 2.5 * breaker.RATE + 3  # what comes until the first five have timed out, and trial calls
    assert found.back < 11.0


def test_a_breaker_of_five_does_not_open_for_errors_that_come_now_and_then() -> None:
    assert breaker.mistaken(1, breaker.NUMBERS[breaker.DEFAULT], broken=0.05, lasts=30.0) == (0, 0.0)


@pytest.mark.parametrize("name", ejection_guard.PLIGHTS)
def test_ejection_leaves_some_in(name: str) -> None:
    found = ejection_guard.simulate(1, name, until=14.0)
    count, _, reached = ejection_guard.PLIGHTS[name]
    assert found.left >= 1
    assert found.ejected <= (max(1, count // 2) if reached else count - 1)


def test_breakers_that_open_together_do_not_fall_upon_the_upstream_together() -> None:
    found = herd.simulate(1, herd.POLICIES["breaker, 10 s"], sidecars=60, down=(4.0, 10.0), until=24.0)
    assert found.worst_after <= 2 * 60 * herd.RATE
    assert found.last <= 11.0


def test_an_endpoint_in_thirty_that_is_down_unseen_costs_next_to_nothing() -> None:
    found = fleet.simulate(1, fleet.POLICIES["three tries"], endpoints=300, rate=20.0, until=120.0)
    assert found.failed <= 0.001
    assert found.tries < 1.1 * found.asked


def test_keys_stay_where_they_are_when_others_endpoints_go_and_come() -> None:
    found = registry_flap.moves(1, registry_flap.POLICIES["consistent_hash"], keys=1000)
    assert (found.one, found.half, found.after) == (0.0, 0.0, 0.0)
    assert found.total <= 1 / registry_flap.ENDPOINTS + registry_flap.SLACK


@pytest.mark.parametrize("factor", [1.1, 1.25, 2.0])
def test_no_pick_goes_above_the_bound_of_load(factor: float) -> None:
    assert registry_flap.bound(1, factor, picks=2000).broken == 0


def test_without_a_bound_popular_keys_fill_their_endpoints() -> None:
    found = registry_flap.bound(1, 0.0, picks=2000)
    assert (found.elsewhere, found.worst > 2.0) == (0.0, True)


def test_the_rules_of_ejection_find_what_is_unwell_and_leave_what_is_well() -> None:
    rules = ejection.RULES[ejection.DEFAULT]
    assert ejection.found_after(1, rules, "500 ms slower") <= 10
    assert ejection.found_after(1, rules, "fails 60 %") <= 10
    assert ejection.mistakes(1, rules, lasts=30.0) == 0


def test_a_second_try_beside_a_slow_one_cuts_the_tail_for_a_few_more() -> None:
    none = hedge.simulate(1, hedge.POLICIES["none"], until=25.0)
    found = hedge.simulate(1, hedge.POLICIES[hedge.DEFAULT], until=25.0)
    assert found.p99 < none.p99 / 2
    assert found.more < 0.1
    assert found.failed == 0.0
