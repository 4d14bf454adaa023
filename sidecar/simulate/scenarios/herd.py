"""Five hundred sidecars lose the same upstream in the same second, and get it back.

Their breakers open together, so they try again together. Each breaker lets three trial calls through, and when these go
well all of its traffic: what counts is how many calls fall upon the upstream in the first moments, when it has just
started and does a tenth of what it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import PerSecond
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

SIDECARS: Final = 500
#: Requests per second of each; what the upstream can do in all.
RATE: Final = 0.5
DOWN: Final = (20.0, 50.0)
UNTIL: Final = 130.0
_BASE: Final = "timeout: {request: 2s}\n"
POLICIES: Final[dict[str, str]] = {
    "no breaker": _BASE + "circuit_breaker: off\n",
    "breaker, 60 s": _BASE,
    "breaker, 10 s": _BASE + "circuit_breaker: {reset_timeout: 10s}\n",
}


class Outcome(NamedTuple):
    """What a policy came to: the most calls in one second at the upstream while it was down and after it, by the
    second; requests that failed after it was back, and when the last one did."""

    worst_down: float
    worst_after: float
    series: Sequence[float]
    failed: int
    last: float


def simulate(
    seed: int, policies: str, sidecars: int = SIDECARS, down: tuple[float, float] = DOWN, until: float = UNTIL
) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    server = Server(world, exponential(world.random("server"), 0.02), slots=round(sidecars * RATE * 0.05) + 1)
    server.at("10.0.0.1")
    tries = PerSecond(lambda: world.now)
    clients = []
    for number in range(sidecars):
        port = Port(world, "there", policies)
        port.on_try = tries
        port.leads_to([("10.0.0.1", 80)])
        clients.append(Clients(world, port, RATE, until, name=f"clients {number}"))
    world.at(down[0], server.stop)
    world.at(down[1], server.start)
    world.run(until + 5)
    series = tries.series(until)
    failed = [
        at
        for it in clients
        for at, status in zip(it.measured.began, it.measured.status, strict=True)
        if status != 200 and at >= down[1]
    ]
    return Outcome(
        max(series[int(down[0]) + 1 : int(down[1])]), max(series[int(down[1]) :]), series, len(failed),
        max(failed, default=down[1]) - down[1],
    )  # fmt: skip


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    usual = SIDECARS * RATE
    for name, policies in POLICIES.items():
        found = simulate(seed, policies)
        rows.append([
            name, f"{found.worst_down:.0f}/s", f"{found.worst_after:.0f}/s", f"{found.failed}", seconds(found.last),
        ])  # fmt: skip
        lines.append(Line(name, [(n, value) for n, value in enumerate(found.series)]))
        report.law(
            f"{name}: no second after it is back has more than twice the usual {usual:.0f} calls",
            found.worst_after <= 2 * usual, f"{found.worst_after:.0f}/s",
        )  # fmt: skip
    report.table(
        ["policy of each sidecar", "most calls, down", "most calls, after", "failed after it was back", "the last one"],
        rows,
    )
    report.plot(
        Plot("herd", f"Calls of {SIDECARS} sidecars to one upstream, which is down from second 20 to 50", "seconds",
             "per second", lines, shade=DOWN)
    )  # fmt: skip
    return report
