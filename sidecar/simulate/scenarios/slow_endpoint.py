"""One of five endpoints becomes slower by 500 ms, under 200 requests per second.

Nothing fails, so that counting failures never notices. By ejection it is compared with the others; balancers that go by
latency leave it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import Window
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds, times
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

#: Name → policies, and whether p99 has to come back.
POLICIES: Final[dict[str, tuple[str, bool]]] = {
    "round robin alone": ("balancer: round_robin\n", False),
    "least connections": ("balancer: least_connections\n", False),
}
#: When it becomes slow, by how much, and the rate of requests.
TRIGGER: Final = 20.0
SLOWER: Final = 0.5
RATE: Final = 200.0
#: p99 has to be back below this much of the baseline, within so many seconds.
FACTOR: Final = 1.2
WITHIN: Final = 5.0


class Outcome(NamedTuple):
    """What a policy came to: p99 before, p99 from ``WITHIN`` seconds after the trigger on, and by the second; requests
    that the slow endpoint still got."""

    baseline: float
    after: float
    windows: Sequence[Window]
    share: float


def simulate(seed: int, policies: str, until: float = 60.0, trigger: float = TRIGGER) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    port = Port(world, "there", policies)
    servers = []
    for number in range(5):
        random = world.random(f"server {number}")
        servers.append(Server(world, exponential(random, 0.010, 0.010), slots=64).at(f"10.0.0.{number}"))
    port.leads_to((f"10.0.0.{number}", 80) for number in range(5))
    clients = Clients(world, port, RATE, until)

    def slow() -> None:
        servers[0].extra = SLOWER

    world.at(trigger, slow)
    world.run(trigger + WITHIN)
    before = servers[0].asked
    world.run(until + 5)
    measured = clients.measured
    return Outcome(
        measured.within(2.0, trigger).p99, measured.within(trigger + WITHIN, until).p99, measured.windows(until),
        (servers[0].asked - before) / max(1, measured.within(trigger + WITHIN, until).asked),
    )  # fmt: skip


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for name, (policies, has_to) in POLICIES.items():
        found = simulate(seed, policies)
        back = found.after / found.baseline
        rows.append([name, seconds(found.baseline), seconds(found.after), times(back), f"{found.share:.1%}"])
        lines.append(Line(name, [(it.at, it.p99 * 1000) for it in found.windows if it.asked]))
        if has_to:
            report.law(f"{name}: p99 below {FACTOR} × its baseline from {WITHIN:.0f} s on", back < FACTOR, times(back))
    report.table(
        ["policy", "p99 before", f"p99 from {WITHIN:.0f} s after on", "factor", "still sent to the slow one"], rows
    )
    report.plot(
        Plot("slow_endpoint", "p99 of each second; one of five endpoints is slower from second 20 on", "seconds", "ms",
             lines, log=True, shade=(TRIGGER, TRIGGER + WITHIN))
    )  # fmt: skip
    return report
