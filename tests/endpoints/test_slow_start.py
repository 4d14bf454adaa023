from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from sidecar.core.instance import Instance
from sidecar.endpoints.balancers.table import NAMES, create
from sidecar.endpoints.cluster import START, Cluster
from sidecar.endpoints.endpoint import Checked
from support.clock import Clock

WINDOW = 30.0
TRIES = 10_000


def cluster_of(size: int, clock: Clock, balancer: str = "round_robin", weight: int = 1) -> Cluster:
    cluster = Cluster("up", create(balancer, Random(1)), clock, Random(2))
    cluster.configure(slow_start=WINDOW)
    update(cluster, size, weight)
    return cluster


def update(cluster: Cluster, size: int, weight: int = 1) -> None:
    cluster.update(Instance(host="10.0.0.1", port=n, weight=weight) for n in range(size))


def shares(cluster: Cluster, tries: int = TRIES) -> Counter[int]:
    picked: Counter[int] = Counter()
    for n in range(tries):
        endpoint = cluster.pick(f"k{n}")
        assert endpoint is not None
        picked[endpoint.port] += 1
    return picked


@pytest.mark.parametrize("balancer", NAMES)
def test_a_new_one_gets_a_tenth_of_its_share_and_then_more_with_every_balancer(balancer: str) -> None:
    clock = Clock()
    cluster = cluster_of(3, clock, balancer)
    clock.advance(START + 1)
    update(cluster, 4)
    before = None
    for seconds, part in ((0.0, 0.1), (WINDOW / 2, 0.5), (WINDOW * 0.4, 0.9)):
        clock.advance(seconds)
        got = shares(cluster)
        fair = TRIES / (3 + part) * part
        if not cluster.balancer.hashes:
            assert got[3] == pytest.approx(fair, rel=0.1)
            assert min(got[n] for n in range(3)) > 0.8 * TRIES / (3 + part)
        else:  # it goes by its share of the keys
            assert got[3] == pytest.approx(TRIES / 4 * part, rel=0.15)
        assert before is None or got[3] > before
        before = got[3]
    clock.advance(WINDOW)
    assert shares(cluster)[3] == pytest.approx(TRIES / 4, rel=0.1)
    assert cluster._next_change == float("inf"), "nothing is left to be looked at"


def test_keys_move_once() -> None:
    clock = Clock()
    cluster = cluster_of(3, clock, "ip_hash")
    keys = [f"k{n}" for n in range(500)]
    clock.advance(START + 1)
    before = {key: cluster.pick(key) for key in keys}
    update(cluster, 4)
    new = cluster.endpoints[3]
    moved: set[str] = set()
    for _ in range(40):
        clock.advance(1.0)
        for key in keys:
            picked = cluster.pick(key)
            if picked is new:
                moved.add(key)
            else:
                assert key not in moved, "it went back"
                assert picked is before[key]
    assert 60 < len(moved) < 200


def test_nothing_is_slow_at_the_start_of_the_sidecar() -> None:
    clock = Clock()
    cluster = cluster_of(2, clock)
    clock.advance(START / 2)
    update(cluster, 3)
    assert [e.share for e in cluster.endpoints] == [1.0, 1.0, 1.0]
    assert shares(cluster, 300) == {0: 100, 1: 100, 2: 100}


def test_all_new_ones_together_share_alike() -> None:
    clock = Clock()
    cluster = cluster_of(1, clock)
    clock.advance(START + 1)
    cluster.update(Instance(host="10.0.0.2", port=n) for n in range(3))
    assert shares(cluster, 300) == {0: 100, 1: 100, 2: 100}


def test_weights_count_where_they_do_otherwise() -> None:
    clock = Clock()
    cluster = cluster_of(3, clock, "weighted", weight=2)
    clock.advance(START + 1)
    cluster.update(
        [*(Instance(host="10.0.0.1", port=n, weight=2) for n in range(3)), Instance(host="h", port=9, weight=6)]
    )
    got = shares(cluster)
    assert got[9] == pytest.approx(TRIES * 0.6 / 6.6, rel=0.05)
    assert got[0] == pytest.approx(TRIES * 2 / 6.6, rel=0.05)


def test_one_that_comes_back_from_an_ejection_or_from_ill_health_begins_slowly() -> None:
    clock = Clock()
    cluster = cluster_of(3, clock)
    one = cluster.endpoints[0]
    cluster.failed(one, hard=True)
    clock.advance(2)
    got = shares(cluster, 3000)
    assert got[0] == pytest.approx(3000 / 2.1 * 0.1, rel=0.1)
    clock.advance(WINDOW)
    assert shares(cluster, 300)[0] == pytest.approx(100, abs=10)
    two = cluster.endpoints[1]
    cluster.checked(two, Checked("unhealthy", "GET /: 500", 0.0, 3), down=True)
    assert shares(cluster, 300)[1] == 0
    cluster.checked(two, Checked("healthy", "GET /: 200", 0.0, 2), down=False)
    assert shares(cluster, 3000)[1] == pytest.approx(3000 / 2.1 * 0.1, rel=0.1)


def test_a_retry_goes_to_a_slow_one_only_when_nothing_else_is_left() -> None:
    clock = Clock()
    cluster = cluster_of(2, clock)
    clock.advance(START + 1)
    update(cluster, 3)
    zero, one, new = cluster.endpoints
    assert cluster.pick("", [zero]) is one
    assert cluster.pick("", [zero, one]) is new


def test_off_and_on_again() -> None:
    clock = Clock()
    cluster = cluster_of(2, clock)
    clock.advance(START + 1)
    update(cluster, 3)
    assert cluster.endpoints[2].share == 0.1
    cluster.configure()
    assert cluster.endpoints[2].share == 1.0
    assert shares(cluster, 300) == {0: 100, 1: 100, 2: 100}
    cluster.configure(slow_start=5.0)
    update(cluster, 4)
    assert cluster.endpoints[3].share == 0.1


def test_hundreds_at_once() -> None:
    clock = Clock()
    cluster = cluster_of(500, clock)
    clock.advance(START + 1)
    update(cluster, 1000)
    got = shares(cluster, 11_000)
    new = sum(n for port, n in got.items() if port >= 500)
    assert new == pytest.approx(1000, rel=0.1)
    assert max(n for port, n in got.items() if port >= 500) <= 4


def test_a_balancer_hears_of_another_set_and_not_of_each_step() -> None:
    """A consistent hash forgets what it has worked out when it hears of a set; it knows one by its identity."""
    clock = Clock()
    cluster = cluster_of(3, clock, "consistent_hash")
    clock.advance(START + 1)
    update(cluster, 4)
    offered = cluster._offered
    for _ in range(40):
        clock.advance(1.0)
        cluster.pick("key")
        assert cluster._offered is offered
    assert cluster.endpoints[3].share == 1.0
    update(cluster, 4, weight=2)
    assert cluster._offered is not offered
