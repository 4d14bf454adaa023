"""A limit that is found: servers with a known number of slots, under twice what they can do, whose capacity changes.

Each server is asked through an inbound port. From second 25 it has twice its slots (and clients ask for twice as much),
from second 50 what it had. What the limit should be is the number of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, share, times
from sidecar.simulate.server import Server
from sidecar.simulate.world import World

STEP: Final = 25.0
#: The limit has to be right within so many seconds, by so much.
WITHIN: Final = 10.0
BAND: Final = 0.2
FIXED: Final = "bulkhead: {max_requests: 100}\n"
FOUND: Final = "bulkhead: {adaptive: {min: 4, max: 1000}}\n"

Times = Callable[[Random, float], Callable[[], float]]


def _always(random: Random, mean: float) -> Callable[[], float]:
    return lambda: mean


def _exponential(random: Random, mean: float) -> Callable[[], float]:
    return lambda: random.expovariate(1 / mean)


def _bimodal(random: Random, mean: float) -> Callable[[], float]:
    return lambda: mean * (0.5 if random.random() < 0.9 else 5.5)


def _heavy(random: Random, mean: float) -> Callable[[], float]:
    return lambda: min(100 * mean, mean * 1.2 / 2.2 * random.paretovariate(2.2))


class Case(NamedTuple):
    """A server: how its times are distributed, the mean, its slots; and whether the laws have to hold for it."""

    name: str
    times: Times
    mean: float
    slots: int
    has_to: bool = True


CASES: Final = (
    Case("8 slots, always 50 ms", _always, 0.05, 8),
    Case("8 slots, always 20 ms", _always, 0.02, 8),
    Case("40 slots, always 50 ms", _always, 0.05, 40),
    Case("8 slots, exponential, 20 ms", _exponential, 0.02, 8),
    Case("40 slots, exponential, 50 ms", _exponential, 0.05, 40),
    Case("8 slots, exponential, 50 ms", _exponential, 0.05, 8, has_to=False),
    Case("8 slots, one in ten eleven times as long, 20 ms", _bimodal, 0.02, 8, has_to=False),
    Case("8 slots, Pareto (2.2), 20 ms", _heavy, 0.02, 8, has_to=False),
)


class Outcome(NamedTuple):
    """What came of it. For each of the three stretches, from ``WITHIN`` seconds after its beginning on: the limit's
    mean, in terms of the slots, and the share of the time in which it was within ``BAND``. Likewise, in the last one:
    what was answered of what could be, p99 in terms of p99 at half the load. The limit by time."""

    means: Sequence[float]
    inside: Sequence[float]
    goodput: float
    p99: float
    limits: Sequence[tuple[float, float]]


def simulate(seed: int, case: Case, policies: str = FOUND, step: float = STEP) -> Outcome:
    """Run it with one server."""
    world = World(seed)
    most = case.slots / case.mean
    server = Server(world, case.times(world.random("server times"), case.mean), slots=case.slots, queue=100_000)
    port = Port(world, "app", policies, inbound=True)
    server.at("10.0.0.1")
    port.leads_to([("10.0.0.1", 80)])
    until = 3 * step
    clients = Clients(world, port, lambda now: most * (4 if step <= now < 2 * step else 2), until)
    world.at(step, server.resize, 2 * case.slots)
    world.at(2 * step, server.resize, case.slots)
    limits: list[tuple[float, float]] = []

    def look() -> None:
        limits.append((world.now, float(port.listener.stats.limit)))
        if world.now < until:
            world.loop.call_later(0.25, look)

    look()
    world.run(until)
    means, inside = [], []
    for number, slots in enumerate((case.slots, 2 * case.slots, case.slots)):
        found = [limit / slots for at, limit in limits if number * step + WITHIN <= at < (number + 1) * step]
        means.append(sum(found) / len(found))
        inside.append(sum(1 for it in found if abs(it - 1) <= BAND) / len(found))
    measured = clients.measured
    ended = sum(
        1
        for at, took, status in zip(measured.began, measured.seconds, measured.status, strict=True)
        if status == 200 and 2 * step + WITHIN <= at + took < until
    )
    last = measured.within(2 * step + WITHIN, until)
    return Outcome(means, inside, ended / (step - WITHIN) / most, last.p99 / _baseline(seed, case), limits)


def _baseline(seed: int, case: Case) -> float:
    """p99 at half the load, without a limit."""
    world = World(seed)
    server = Server(world, case.times(world.random("server times"), case.mean), slots=case.slots).at("10.0.0.1")
    port = Port(world, "app", "bulkhead: off\n", inbound=True)
    port.leads_to([("10.0.0.1", 80)])
    clients = Clients(world, port, 0.5 * case.slots / case.mean, 20.0)
    world.run(25.0)
    assert server.done
    return clients.measured.within(0.0, 20.0).p99


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for case in CASES:
        found = simulate(seed, case)
        rows.append([
            case.name, *(f"{mean:.2f}" for mean in found.means), *(share(it) for it in found.inside),
            share(found.goodput), times(found.p99),
        ])  # fmt: skip
        if case in (CASES[0], CASES[3], CASES[5]):
            lines.append(Line(case.name, found.limits))
        if case.has_to:
            worst = max(found.means, key=lambda mean: abs(mean - 1))
            report.law(f"{case.name}: the limit is within 20 % of the slots", abs(worst - 1) <= BAND, times(worst))
            report.law(f"{case.name}: goodput at twice the load", found.goodput >= 0.9, share(found.goodput))
            report.law(f"{case.name}: p99 of that, of p99 at half the load", found.p99 <= 2, times(found.p99))
    fixed = simulate(seed, CASES[0], FIXED)
    rows.append([
        f"{CASES[0].name}; max_requests: 100", *["-"] * 6, share(fixed.goodput), times(fixed.p99),
    ])  # fmt: skip
    report.table(
        ["server", "limit / slots", "slots × 2", "slots × 1", "time within 20 %", "slots × 2", "slots × 1", "goodput",
         "p99 / baseline"], rows,
    )  # fmt: skip
    report.plot(
        Plot("adaptive", "The limit that is found; there are 8 slots, and 16 from second 25 to 50", "seconds",
             "requests at once", lines, shade=(STEP, 2 * STEP))
    )  # fmt: skip
    return report
