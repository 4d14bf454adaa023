"""Three hops, each of which tries three times, and the last service is down for 20 s under 300 requests per second.

``web → api → store → disk``: web calls api, api calls store, store calls the disk, each through its own sidecar to the
one beside the other. The disk dies: its sidecar says so. Every app in between makes an error of its own out of the one
that it has got. Without bounds each try of a hop is three tries of the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import PerSecond
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port, beside
from sidecar.simulate.report import Report, share, times
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

RATE: Final = 300.0
BEGIN: Final = 10.0
#: How often more than clients ask may the last hop be asked.
MOST: Final = 1.3
_BASE: Final = "timeout: {request: 10s}\n"
_RETRY: Final = "max_attempts: 3, initial_delay: 50ms, max_delay: 1s"
_BARE: Final = _BASE + "circuit_breaker: off\nbulkhead: off\n"


class Policy(NamedTuple):
    """Policies of every hop; whether the apps pass ids on; what the disk does while it is down: ``dies`` or ``fails``;
    whether the law has to hold."""

    policies: str
    passes_ids: bool = True
    down: str = "dies"
    has_to: bool = False


POLICIES: Final[dict[str, Policy]] = {
    "without": Policy(_BARE + f"retry: {{{_RETRY}, budget: off}}\n", passes_ids=False),
    "budget": Policy(_BARE + f"retry: {{{_RETRY}}}\n", passes_ids=False),
    "budget and one hop": Policy(_BARE + f"retry: {{{_RETRY}}}\n", has_to=True),
    "the same, it answers 503": Policy(_BARE + f"retry: {{{_RETRY}}}\n", down="fails", has_to=True),
    "all defaults": Policy(_BASE + f"retry: {{{_RETRY}}}\n", has_to=True),
}


class Outcome(NamedTuple):
    """What a policy came to: requests of clients and tries at the last service while it was down, the same in the ten
    seconds after, the most that were under way there at once after it was back, the share of requests that went well
    then, and tries by the second."""

    asked: int
    tries: int
    asked_after: int
    tries_after: int
    backlog: int
    good: float
    series: Sequence[float]


def simulate(seed: int, policy: Policy, down: float = 20.0, begin: float = BEGIN, rest: float = 12.0) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    end, until = begin + down, begin + down + rest
    disk = Server(world, exponential(world.random("disk"), 0.010), slots=50).at("disk")
    tries = PerSecond(lambda: world.now)
    place = beside(world, "disk", "bulkhead: off\n")
    for name in ("store", "api", "web"):
        sidecar = world.sidecar()
        port = Port(world, name, policy.policies, sidecar=sidecar)
        port.leads_to([place], sidecars=True)
        if name == "store":
            port.on_try = tries
        if name != "web":
            app = Server(
                world, exponential(world.random(name), 0.002), 10_000, calls=port, passes_ids=policy.passes_ids
            )
            app.at(name)
            place = beside(world, name, "bulkhead: off\n", sidecar)
    clients = Clients(world, port, RATE, until)
    _down(world, disk, policy.down, begin, end)
    most: list[int] = []

    def look() -> None:
        most.append(disk.active + disk.backlog)
        if world.now < until:
            world.loop.call_later(0.02, look)

    world.at(end, look)
    world.run(until + 15)
    measured = clients.measured
    while_down, after = measured.within(begin, end), measured.within(end, end + 10)
    return Outcome(
        while_down.asked, tries.between(begin, end), after.asked, tries.between(end, end + 10), max(most),
        after.good / max(1, after.asked), tries.series(until),
    )  # fmt: skip


def _down(world: World, disk: Server, how: str, begin: float, end: float) -> None:
    """Have the disk be down for that time."""
    if how == "dies":
        world.at(begin, disk.stop)
        world.at(end, disk.start)
    else:
        world.at(begin, disk.fail, 1.0)
        world.at(end, disk.fail, 0.0)


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for name, policy in POLICIES.items():
        found = simulate(seed, policy)
        factor = found.tries / found.asked
        rows.append([
            name, f"{found.asked}", f"{found.tries}", times(factor), times(found.tries_after / found.asked_after),
            f"{found.backlog}", share(found.good),
        ])  # fmt: skip
        lines.append(Line(name, [(n, value) for n, value in enumerate(found.series)]))
        if policy.has_to:
            report.law(f"{name}: at most {MOST} × the requests reach the last hop", factor <= MOST, times(factor))
    report.table(
        ["policy of each hop", "requests, down", "tries at the last hop", "factor", "in the 10 s after",
         "most at once there", "well in the 10 s after"], rows,
    )  # fmt: skip
    report.plot(
        Plot("amplification", "Tries at the last of three hops, which is down from second 10 to 30", "seconds",
             "per second", lines, log=True, shade=(BEGIN, BEGIN + 20))
    )  # fmt: skip
    return report
