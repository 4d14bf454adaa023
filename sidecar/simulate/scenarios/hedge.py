"""A second try beside a slow one: what it does for the tail, and what it costs.

Five endpoints under 100 requests per second. Two of a hundred requests meet a pause of 300 ms, whichever endpoint they
go to: no balancer and no ejection can know. Then the same with endpoints that are nearly full, where a second try is
work that somebody else waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import percentile
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds, share
from sidecar.simulate.server import Server
from sidecar.simulate.world import World

RATE: Final = 100.0
UNTIL: Final = 100.0
#: It counts from then on: 95 % of what took how long is known.
BEGIN: Final = 10.0
PAUSE: Final = 0.3
RARE: Final = 0.02
_BASE: Final = "circuit_breaker: off\nbulkhead: off\nbalancer: least_connections\nretry: {%s}\n"
DEFAULT: Final = "hedge: {after: p95}"
POLICIES: Final[dict[str, str]] = {
    "none": "max_attempts: 3",
    DEFAULT: DEFAULT,
    "hedge: {after: 50ms}": "hedge: {after: 50ms}",
    "hedge: {after: 200ms}": "hedge: {after: 200ms}",
    "per_try_timeout: 100ms": "per_try_timeout: 100ms",
}


class Outcome(NamedTuple):
    """What a policy came to: percentiles in seconds, tries beyond the first as a share of requests, and the share of
    requests that failed."""

    p50: float
    p99: float
    p999: float
    more: float
    failed: float


def simulate(seed: int, policies: str, slots: int = 100, work: float = 0.010, until: float = UNTIL) -> Outcome:
    """Run it with one policy; endpoints have so many slots, and take so long on average."""
    world = World(seed)
    port = Port(world, "there", _BASE % policies)
    hosts = [f"10.0.0.{number}" for number in range(1, 6)]
    for host in hosts:
        Server(world, _times(world.random(host), work), slots=slots).at(host)
    port.leads_to([(host, 80) for host in hosts])
    clients = Clients(world, port, RATE, until)
    world.run(BEGIN)
    before = sum(endpoint.tries for endpoint in port.cluster.endpoints)
    world.run(until + 40)
    tries = sum(endpoint.tries for endpoint in port.cluster.endpoints) - before
    it = clients.measured
    found = [n for n, at in enumerate(it.began) if at >= BEGIN]
    good = sorted(it.seconds[n] for n in found if it.status[n] == 200)
    return Outcome(
        percentile(good, 0.5), percentile(good, 0.99), percentile(good, 0.999), tries / len(found) - 1,
        1 - len(good) / len(found),
    )  # fmt: skip


def _times(random: Random, work: float) -> Callable[[], float]:
    return lambda: work / 2 + random.expovariate(2 / work) + (PAUSE if random.random() < RARE else 0.0)


def run(seed: int) -> Report:
    report = Report()
    for title, slots, work in (("with room", 100, 0.010), ("nearly full", 2, 0.075)):
        rows = []
        none = None
        for name, policies in POLICIES.items():
            it = simulate(seed, policies, slots, work)
            none = none or it
            rows.append([name, seconds(it.p50), seconds(it.p99), seconds(it.p999), share(it.more), share(it.failed)])
            if name == DEFAULT and slots > 2:
                report.law(f"{name}: p99 is less than half", it.p99 < none.p99 / 2, seconds(it.p99))
            if name == DEFAULT:
                report.law(f"{name}, {title}: at most a tenth of the tries is more", it.more <= 0.1, share(it.more))
        report.table([f"endpoints {title}", "p50", "p99", "p99.9", "more tries", "failed"], rows)
    return report
