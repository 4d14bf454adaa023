"""An app whose capacity doubles, falls to a quarter, and doubles again, with more to do than it can all the time.

The sidecar beside it has an adaptive limit. Where the scenario ``adaptive`` asks how near the limit is to the slots of
many kinds of servers, this one asks how long it takes when the change is a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

#: Seconds of a request; when the app can do how many at once.
TAKES: Final = 0.05
CAPACITIES: Final = ((0.0, 20), (40.0, 40), (80.0, 10), (120.0, 20))
UNTIL: Final = 160.0
#: Times what the app can do that it is asked for.
EXCESSES: Final = (1.5, 2.0)
#: The limit is near when its mean over so many seconds is within that share of the slots; and how soon it has to be.
NEAR: Final = 0.2
OVER: Final = 3.0
WITHIN: Final = 10.0
#: Seconds between two looks at it.
LOOK: Final = 0.25


class Outcome(NamedTuple):
    """The limit by time, and the seconds after each change until it was near (inf: it was not)."""

    series: Sequence[tuple[float, float]]
    near_after: tuple[float, float, float, float]


def simulate(seed: int, excess: float) -> Outcome:
    """Change the capacity, and follow the limit."""
    world = World(seed)
    app = Server(world, exponential(world.random("app"), TAKES), slots=CAPACITIES[0][1]).at("10.0.0.1")
    port = Port(world, "app", "bulkhead: {adaptive: {}}\n", inbound=True)
    port.leads_to([("10.0.0.1", 80)])
    for at, slots in CAPACITIES[1:]:
        world.at(at, app.resize, slots)
    adaptive: Any = port.filter("bulkhead").limiter.adaptive
    series: list[tuple[float, float]] = []

    def look() -> None:
        series.append((world.now, adaptive.estimate))
        if world.now < UNTIL:
            world.loop.call_later(LOOK, look)

    look()
    Clients(world, port, lambda now: excess * app.slots / TAKES, UNTIL)
    world.run(UNTIL)
    ends = [at for at, _ in CAPACITIES[1:]] + [UNTIL]
    first, more, less, again = [
        _near(series, begin, end, slots) for (begin, slots), end in zip(CAPACITIES, ends, strict=True)
    ]
    return Outcome(series, (first, more, less, again))


def _near(series: Sequence[tuple[float, float]], begin: float, end: float, slots: int) -> float:
    """The seconds from ``begin`` until the limit was near so many slots."""
    values = [value for at, value in series if begin <= at < end]
    width = round(OVER / LOOK)
    for n in range(len(values) - width + 1):
        if abs(sum(values[n : n + width]) / width / slots - 1) <= NEAR:
            return n * LOOK
    return inf


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for excess in EXCESSES:
        found = simulate(seed, excess)
        rows.append([f"{excess:g} × what it can do", *map(_after, found.near_after)])
        lines.append(Line(f"limit, at {excess:g} ×", found.series))
        for (_, before), (_, slots), after in zip(CAPACITIES, CAPACITIES[1:], found.near_after[1:], strict=False):
            if slots == 2 * before:
                what = f"at {excess:g} ×, {before} → {slots} slots: the limit is within 20 % in {WITHIN:.0f} s"
                report.law(what, after <= WITHIN, _after(after))
    report.table(["asked for", "20 slots", "20 → 40", "40 → 10", "10 → 20"], rows)
    ends = [at for at, _ in CAPACITIES[1:]] + [UNTIL]
    steps = [
        (at, float(slots))
        for (begin, slots), end in zip(CAPACITIES, ends, strict=True)
        for at in (begin, end)
    ]  # fmt: skip
    report.plot(
        Plot("capacity", "The limit that is found, and the slots of the app", "seconds", "requests at once",
             [*lines, Line("slots", steps)])
    )  # fmt: skip
    return report


def _after(value: float) -> str:
    return "not in 40 s" if value == inf else seconds(value)
