"""Three hops, each of which tries three times, and the last service is down for 20 s under 300 requests per second.

``web → api → store → disk``: web, api and store have a sidecar each, the disk is what dies. Every app passes on what it
got from below as an error of its own. Without bounds each try of a hop is three tries of the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import PerSecond
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, times
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

RATE: Final = 300.0
BEGIN: Final = 10.0
#: Each try waits for its answer so long: what is down does not answer, as when a host has gone.
_BASE: Final = "timeout: {request: 10s, connect: 250ms}\n"
_RETRY: Final = "max_attempts: 3, initial_delay: 50ms, max_delay: 1s"
_BARE: Final = _BASE + "circuit_breaker: off\n"
_UNBOUNDED: Final = "bulkhead: off\n"
#: Name → policies of every hop, and whether the law has to hold.
POLICIES: Final[dict[str, tuple[str, bool]]] = {
    "retries alone": (_BARE + _UNBOUNDED + f"retry: {{{_RETRY}}}\n", False),
    "and bulkheads": (_BARE + f"retry: {{{_RETRY}}}\n", False),
    "and breakers": (_BASE + f"retry: {{{_RETRY}}}\n", False),
}


class Outcome(NamedTuple):
    """What a policy came to: requests of clients and tries at the last service while it was down, the same in the ten
    seconds after, the most that waited there, requests that went well, and tries by the second."""

    asked: int
    tries: int
    asked_after: int
    tries_after: int
    backlog: int
    good: float
    series: Sequence[float]


def simulate(seed: int, policies: str, down: float = 20.0, begin: float = BEGIN, rest: float = 20.0) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    end, until = begin + down, begin + down + rest

    def server(name: str, mean: float, calls: Port | None = None) -> Server:
        random = world.random(name)
        return Server(world, exponential(random, mean), slots=400, calls=calls, name=name)

    disk = server("disk", 0.010).at("10.0.4.1")
    ports: list[Port] = []
    place = ("10.0.4.1", 80)
    for number, name in enumerate(("store", "api", "web"), 1):
        port = Port(world, name, policies)
        port.leads_to([place])
        ports.append(port)
        place = (f"10.0.{4 - number}.1", 80)
        if name != "web":
            server(name, 0.002, port).at(*place)
    last, first = ports[0], ports[-1]
    tries = PerSecond(lambda: world.now)
    last.on_try = tries
    clients = Clients(world, first, RATE, until)
    world.at(begin, disk.stop)
    world.at(end, disk.start)
    backlog = 0

    def look() -> None:
        nonlocal backlog
        backlog = max(backlog, disk.backlog)
        if world.now < until:
            world.loop.call_later(0.05, look)

    world.at(end, look)
    world.run(until + 15)
    measured = clients.measured
    down_, after = measured.within(begin, end), measured.within(end, end + 10)
    return Outcome(
        down_.asked, tries.between(begin, end), after.asked, tries.between(end, end + 10), backlog,
        after.good / max(1, after.asked), tries.series(until),
    )  # fmt: skip


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for name, (policies, has_to) in POLICIES.items():
        found = simulate(seed, policies)
        factor = found.tries / found.asked
        rows.append([
            name, f"{found.asked}", f"{found.tries}", times(factor), times(found.tries_after / found.asked_after),
            f"{found.backlog}", f"{found.good:.1%}",
        ])  # fmt: skip
        lines.append(Line(name, [(n, value) for n, value in enumerate(found.series)]))
        if has_to:
            report.law(f"{name}: tries at the last service while it is down", factor <= 1.3, times(factor))
    report.table(
        ["policy of each hop", "requests while down", "tries at the last service", "factor", "factor in the 10 s after",
         "most waiting there", "well in the 10 s after"], rows,
    )  # fmt: skip
    report.plot(
        Plot("amplification", "Tries at the last of three services, which is down from second 10 to 30", "seconds",
             "tries per second", lines, shade=(BEGIN, BEGIN + 20))
    )  # fmt: skip
    return report
