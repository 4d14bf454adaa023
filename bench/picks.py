"""How many endpoints each balancer picks in a second, and how long a new set of endpoints takes it.

    python -m bench.picks [SECONDS]

Each balancer picks out of 100 endpoints as a cluster has it do that, after answers have come: while nothing is under
way (idle), while a few requests are under way at each of them (busy), and while each pick begins an exchange and an
earlier one ends, with 300 under way (moving; what it costs to say so is in the figure). Then it is handed 1000
endpoints, of which none is known to it. Interpreted and compiled builds differ: the first line says which one it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from random import Random

from sidecar.core.instance import Instance
from sidecar.endpoints.balancers import basic
from sidecar.endpoints.balancers.table import NAMES, create
from sidecar.endpoints.cluster import START, Cluster
from sidecar.endpoints.load import Report
from sidecar.endpoints.outliers import LOOK
from sidecar.resilience.ejection import EjectionRules

ENDPOINTS = 100
MANY = 1000
#: Exchanges under way where loads move.
UNDER_WAY = 300
#: As ``health.eject: {}`` has them.
RULES = EjectionRules(error_rate=0.5, latency=3.0, first=10.0, longest=300.0, at_most=0.5, doubling=False)
#: Keys that hashing balancers are asked for, each again and again.
KEYS = [f"agent-{n}" for n in range(1000)]


class Clock:
    """Time that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def picks(name: str, seconds: float, how: str) -> float:
    """Picks in a second of CPU time: ``idle``, ``busy`` or ``moving``."""
    rng = Random(1)
    cluster = Cluster(name, create(name, rng, time.monotonic), time.monotonic, rng)
    cluster.update(Instance(host="10.0.0.1", port=1000 + n) for n in range(ENDPOINTS))
    balancer = cluster.balancer
    for endpoint in cluster.endpoints:
        for _ in range(rng.randrange(1, 4) if how == "busy" else 0):
            endpoint.begin()
        balancer.told(endpoint, rng.uniform(0.001, 0.1), 200, "")
        balancer.reported(endpoint, Report(rng.randrange(10), rng.uniform(0.001, 0.1)))
    once = moving(cluster, rng) if how == "moving" else standing(cluster)
    once()
    done = 0
    began = time.process_time()
    while True:
        once()
        done += len(KEYS)
        took = time.process_time() - began
        if took >= seconds:
            return done / took


def standing(cluster: Cluster) -> Callable[[], None]:
    """Picks for each key, which begin nothing."""
    pick = cluster.pick

    def once() -> None:
        for key in KEYS:
            pick(key)

    return once


def moving(cluster: Cluster, rng: Random) -> Callable[[], None]:
    """Picks for each key, each of which begins an exchange in the place of one that ends."""
    pick = cluster.pick
    under_way = []
    for n in range(UNDER_WAY):
        endpoint = pick(KEYS[n])
        assert endpoint is not None
        endpoint.begin()
        under_way.append(endpoint)
    places = [rng.randrange(UNDER_WAY) for _ in KEYS]

    def once() -> None:
        for key, place in zip(KEYS, places, strict=True):
            endpoint = pick(key)
            assert endpoint is not None
            endpoint.begin()
            under_way[place].end()
            under_way[place] = endpoint

    return once


def snapshot(name: str, *, health: bool = False) -> float:
    """Seconds of CPU that a cluster needs for a set of endpoints all of which are new, and for the first pick.
    ``health``: half of them had been there and have been tried, outliers are looked for, and the others start slowly.
    """
    rng = Random(1)
    instances = [Instance(host=f"10.1.{n // 250}.{n % 250}", port=80, weight=1 + n % 3) for n in range(MANY)]
    best = 1e9
    for _ in range(5):
        clock = Clock() if health else time.monotonic
        cluster = Cluster(name, create(name, rng, clock), clock, rng)
        if isinstance(clock, Clock):
            cluster.configure(RULES, slow_start=30.0)
            cluster.update(instances[: MANY // 2])
            clock.now += START + 1
            _try(cluster, 20)
        began = time.process_time()
        cluster.update(instances)
        cluster.pick("agent-1")
        best = min(best, time.process_time() - began)
    return best


def _try(cluster: Cluster, times: int) -> None:
    """Let each endpoint answer so often."""
    for _ in range(times):
        for endpoint in cluster.endpoints:
            for watch in cluster.watchers:
                watch(endpoint, 0.01, 200, "")


def watching() -> tuple[float, float]:
    """Seconds of CPU that looking for outliers costs each try, and each look at all of :data:`MANY` endpoints."""
    rng, clock = Random(1), Clock()
    cluster = Cluster("up", create("round_robin", rng), clock, rng)
    cluster.configure(RULES)
    cluster.update(Instance(host=f"10.1.{n // 250}.{n % 250}", port=80) for n in range(MANY))
    _try(cluster, 64)
    began = time.process_time()
    _try(cluster, 20)
    each = (time.process_time() - began) / (20 * MANY)
    clock.now += LOOK
    began = time.process_time()
    for watch in cluster.watchers:
        watch(cluster.endpoints[0], 0.01, 200, "")
    return each, time.process_time() - began


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    compiled = not basic.__file__.endswith(".py")
    print(f"{'compiled' if compiled else 'interpreted'}; {ENDPOINTS} endpoints; a set of {MANY} new ones")
    hows = ("idle", "busy", "moving")
    print(f"{'picks/s':20} {''.join(f'{how:>14}' for how in hows)} {'new set':>12}")
    for name in NAMES:
        found = "".join(f"{picks(name, seconds, how):14,.0f}" for how in hows)
        print(f"{name:20} {found} {snapshot(name) * 1000:9.1f} ms")
    half = snapshot("round_robin", health=True)
    print(f"a set of which half is new, with health.eject and slow_start: {half * 1000:.1f} ms")
    each, look = watching()
    print(f"health.eject costs each try {each * 1e6:.2f} us, and {look * 1000:.1f} ms once a second ({MANY} endpoints)")


if __name__ == "__main__":
    main()
