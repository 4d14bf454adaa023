"""How many endpoints each balancer picks in a second, and how long a new set of endpoints takes it.

    python -m bench.picks [SECONDS]

Each balancer picks out of 100 endpoints as a cluster has it do that: a few requests are under way at each of them, and
answers have come. Then it is handed 1000 endpoints, of which none is known to it. Interpreted and compiled builds
differ: the first line says which one this is.
"""

from __future__ import annotations

import sys
import time
from random import Random

from sidecar.core.instance import Instance
from sidecar.endpoints.balancers import basic
from sidecar.endpoints.balancers.table import NAMES, create
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.load import Report

ENDPOINTS = 100
MANY = 1000
#: Keys that hashing balancers are asked for, each again and again.
KEYS = [f"agent-{n}" for n in range(1000)]


def picks(name: str, seconds: float, *, busy: bool) -> float:
    """Picks in a second of CPU time; ``busy``: requests are under way at all endpoints."""
    rng = Random(1)
    cluster = Cluster(name, create(name, rng, time.monotonic), time.monotonic, rng)
    cluster.update(Instance(host="10.0.0.1", port=1000 + n) for n in range(ENDPOINTS))
    balancer = cluster.balancer
    for endpoint in cluster.endpoints:
        endpoint.active = rng.randrange(1, 4) if busy else 0
        balancer.told(endpoint, rng.uniform(0.001, 0.1), 200, "")
        balancer.reported(endpoint, Report(rng.randrange(10), rng.uniform(0.001, 0.1)))
    pick = cluster.pick
    for key in KEYS:
        pick(key)
    done = 0
    began = time.process_time()
    while True:
        for key in KEYS:
            pick(key)
        done += len(KEYS)
        took = time.process_time() - began
        if took >= seconds:
            return done / took


def snapshot(name: str) -> float:
    """Seconds of CPU that a cluster needs for a set of endpoints all of which are new, and for the first pick."""
    rng = Random(1)
    instances = [Instance(host=f"10.1.{n // 250}.{n % 250}", port=80, weight=1 + n % 3) for n in range(MANY)]
    best = 1e9
    for _ in range(5):
        cluster = Cluster(name, create(name, rng, time.monotonic), time.monotonic, rng)
        began = time.process_time()
        cluster.update(instances)
        cluster.pick("agent-1")
        best = min(best, time.process_time() - began)
    return best


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    compiled = not basic.__file__.endswith(".py")
    print(f"{'compiled' if compiled else 'interpreted'}; {ENDPOINTS} endpoints; a set of {MANY} new ones")
    print(f"{'balancer':20} {'idle, picks/s':>16} {'busy, picks/s':>16} {'new set':>12}")
    for name in NAMES:
        idle, busy = (picks(name, seconds, busy=each) for each in (False, True))
        print(f"{name:20} {idle:16,.0f} {busy:16,.0f} {snapshot(name) * 1000:9.1f} ms")


if __name__ == "__main__":
    main()
