"""How long the map of a large mesh takes: ``python -m bench.mesh``."""

from __future__ import annotations

import random
import time

from sidecar.admin.mesh.merge import merge
from sidecar.admin.mesh.summary import Call, Flow, Summary
from sidecar.core.stats import BUCKETS

SERVICES = 1000
EDGES = 10_000
ROUNDS = 9


def summaries() -> list[Summary]:
    """A mesh of that size, each edge with figures of its own."""
    draw = random.Random(1)

    def flow() -> Flow:
        return Flow(draw.random() * 100, draw.random(), [draw.randrange(1000) for _ in range(len(BUCKETS) + 1)])

    def call(end: int) -> Call:
        return Call(f"service-{end}", "http", "healthy", "", flow())

    each = EDGES // SERVICES
    return [
        Summary(f"service-{n}", f"service-{n}-1", "10.0.0.1:15000", "healthy", "", flow(),
                [call(end) for end in draw.sample(range(SERVICES), each)])
        for n in range(SERVICES)
    ]  # fmt: skip


def main() -> None:
    """Print the CPU time of the best round, and of the one in the middle."""
    told = summaries()
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        merge(told)
        spent.append(time.process_time() - began)
    spent.sort()
    print(
        f"{SERVICES} services, {EDGES} edges: {spent[0] * 1000:.1f} ms of CPU, median {spent[ROUNDS // 2] * 1000:.1f}"
    )


if __name__ == "__main__":
    main()
