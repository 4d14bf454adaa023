"""One of five endpoints becomes slower by 500 ms for 40 seconds, under 200 requests per second.

Nothing fails, so that counting failures never notices. By ejection it is compared with the others; balancers that go by
latency leave it alone. Before each endpoint stands its own sidecar, which reports load to those that ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import PerSecond, Window
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port, beside
from sidecar.simulate.report import Report, seconds, share, times
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

#: Name → policies, and whether p99 has to come back.
POLICIES: Final[dict[str, tuple[str, bool]]] = {
    "round robin": ("balancer: round_robin\n", False),
    "least connections": ("balancer: least_connections\n", False),
    "round robin, with ejection": ("balancer: round_robin\nhealth: {eject: {}}\n", True),
    "peak EWMA": ("balancer: peak_ewma\n", True),
    "prequal": ("balancer: prequal\n", True),
}
#: When it becomes slow, by how much, and the rate of requests.
TRIGGER: Final = 20.0
SLOWER: Final = 0.5
RATE: Final = 200.0
#: When it is well again, and the end.
WELL: Final = 60.0
UNTIL: Final = 100.0
#: p99 has to be back below this much of the baseline, within so many seconds.
FACTOR: Final = 1.2
WITHIN: Final = 5.0
ENDPOINTS: Final = 5


class Outcome(NamedTuple):
    """What a policy came to: p99 before the trigger, and from :data:`WITHIN` seconds after it on; the share of these
    later requests that the slow endpoint still got; how many answers were slow after the trigger; seconds from the
    time at which it is well again until it has half of its share (inf: it has not); and all by the second."""

    baseline: float
    after: float
    share: float
    slow: int
    returned: float
    windows: Sequence[Window]


def simulate(seed: int, policies: str, trigger: float = TRIGGER, well: float = WELL, until: float = UNTIL) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    port = Port(world, "there", policies)
    hosts = [f"10.0.0.{number}" for number in range(1, ENDPOINTS + 1)]
    servers = [Server(world, exponential(world.random(host), 0.010, 0.010), slots=64).at(host) for host in hosts]
    port.leads_to([beside(world, host) for host in hosts], sidecars=True)
    clients = Clients(world, port, RATE, until)

    counts = servers[0].on_asked = PerSecond(lambda: world.now)
    world.at(trigger, setattr, servers[0], "extra", SLOWER)
    world.at(well, setattr, servers[0], "extra", 0.0)
    world.run(trigger + WITHIN)
    before = servers[0].asked
    world.run(well)
    asked = servers[0].asked - before
    world.run(until + 5)
    measured = clients.measured
    baseline, after = measured.within(1.0, trigger), measured.within(trigger + WITHIN, well)
    half = RATE / ENDPOINTS / 2
    again = [second - well for second in range(ceil(well), int(until)) if counts.counts[second] >= half]
    return Outcome(
        baseline.p99, after.p99, asked / max(1, after.asked), sum(took > SLOWER for took in measured.seconds),
        min(again, default=inf), measured.windows(until),
    )  # fmt: skip


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for name, (policies, has_to) in POLICIES.items():
        found = simulate(seed, policies)
        factor = found.after / found.baseline
        rows.append(
            [
                name,
                seconds(found.baseline),
                seconds(found.after),
                times(factor),
                f"{found.slow}",
                share(found.share),
                _returned(found.returned),
            ]
        )
        lines.append(Line(name, [(it.at, it.p99 * 1000) for it in found.windows if it.asked]))
        if has_to:
            what = f"{name}: p99 is below {FACTOR} × its baseline from {WITHIN:.0f} s after the change on"
            report.law(what, factor < FACTOR, times(factor))
    report.table(
        [
            "policy",
            "p99 before",
            "p99 from 5 s after on",
            "factor",
            "slow answers",
            "still sent to the slow one",
            "its share again after",
        ],
        rows,
    )
    report.plot(
        Plot("slow_endpoint", "p99 of each second; one of five is slower from second 20 to 60", "seconds", "ms",
             lines, log=True, shade=(TRIGGER, WELL))
    )  # fmt: skip
    return report


def _returned(value: float) -> str:
    return f"not in {UNTIL - WELL:.0f} s" if value == inf else f"{value:.0f} s"
