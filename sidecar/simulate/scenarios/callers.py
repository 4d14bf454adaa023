"""Twenty sidecars call ten endpoints that do four requests at once each, at 85 % of what these can do. Three of the
endpoints are half as quick as the others.

Each sidecar knows its own requests alone, a twentieth of all. Before each endpoint stands its own sidecar, which
reports load to those that ask for it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import Measured
from sidecar.simulate.port import Port, beside
from sidecar.simulate.report import Report, seconds, share
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

CALLERS: Final = 20
ENDPOINTS: Final = 10
SLOW: Final = 3
SLOTS: Final = 4
#: Seconds of work on average; requests per second of each caller: the endpoints can do 1133 in all.
WORK: Final = 0.030
RATE: Final = 48.0
BALANCERS: Final = ("random", "round_robin", "least_connections", "peak_ewma", "prequal")
#: Seconds until balancers know what there is to know.
SETTLED: Final = 3.0


class Outcome(NamedTuple):
    """What a balancer came to, in seconds, and the share of requests that the slow ones got."""

    p50: float
    p99: float
    slow: float


def simulate(seed: int, balancer: str, until: float = 20.0) -> Outcome:
    """Run it with one balancer."""
    world = World(seed)
    hosts = [f"10.0.0.{number}" for number in range(1, ENDPOINTS + 1)]
    servers = [Server(world, exponential(world.random(host), WORK), slots=SLOTS).at(host) for host in hosts]
    for server in servers[:SLOW]:
        server.slow = 2.0
    places = [beside(world, host) for host in hosts]
    callers = []
    for number in range(CALLERS):
        port = Port(world, "there", f"balancer: {balancer}\nretry: off\ncircuit_breaker: off\n")
        port.leads_to(places, sidecars=True)
        callers.append(Clients(world, port, RATE, until, name=f"clients {number}"))
    world.run(until + 5)
    found = Measured.of(it.measured for it in callers).within(SETTLED, until)
    asked = [server.asked for server in servers]
    return Outcome(found.p50, found.p99, sum(asked[:SLOW]) / sum(asked))


def run(seed: int) -> Report:
    report = Report()
    found = {balancer: simulate(seed, balancer) for balancer in BALANCERS}
    rows = [[name, seconds(it.p50), seconds(it.p99), share(it.slow)] for name, it in found.items()]
    report.table(["balancer", "p50", "p99", "sent to the three slow ones"], rows)
    for name in ("peak_ewma", "prequal"):
        better = found[name].p99 < found["least_connections"].p99
        report.law(f"{name}: p99 is below that of least_connections", better, seconds(found[name].p99))
    return report
