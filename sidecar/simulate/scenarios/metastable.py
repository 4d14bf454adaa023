"""A short overload that retries would keep alive.

A server does 400 requests per second and gets 300. For three seconds 900 come. Clients give up after half a second and
ask again, and what they have given up is worked on all the same: so the queue that the burst has left is made of work
for nobody, and each piece of it brings another one. (Bronson and others, "Metastable Failures in Distributed Systems",
HotOS 2021.)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import Window
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

CAPACITY: Final = 400.0
RATE: Final = 300.0
BURST: Final = 900.0
TRIGGER: Final = (10.0, 13.0)
WITHIN: Final = 5.0
_BASE: Final = (
    "timeout: {request: 3s, connect: 500ms}\nbulkhead: {max_requests: 0, max_connections: 0}\n"
    "circuit_breaker: {timeout_duration: 500ms, %s}\n"
    "retry: {max_attempts: 4, initial_delay: 50ms, max_delay: 200ms, on: [connect, reset, timeout, 503]}\n"
)
#: Name → policies, and whether it has to recover.
POLICIES: Final[dict[str, tuple[str, bool]]] = {
    "retries alone": (_BASE % "failure_threshold: 10000, reset_timeout: 1ms, half_open_requests: 10000", False),
    "with a breaker": (_BASE % "reset_timeout: 10s", False),
}


class Outcome(NamedTuple):
    """What a policy came to: seconds from the end of the burst until all went well again (inf: never), and by the
    second."""

    recovered: float
    windows: Sequence[Window]
    backlog: int


def simulate(seed: int, policies: str, until: float = 60.0) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    random = world.random("server times")
    slots = 20
    server = Server(world, exponential(random, slots / CAPACITY), slots=slots, queue=100_000).at("10.0.0.1")
    port = Port(world, "there", policies)
    port.leads_to([("10.0.0.1", 80)])
    clients = Clients(world, port, lambda now: BURST if TRIGGER[0] <= now < TRIGGER[1] else RATE, until)
    world.run(until)
    backlog = server.backlog
    world.run(until + 5)
    windows = clients.measured.windows(until)
    recovered = inf
    # From the last second that was not well, backwards.
    for it in reversed(windows):
        if it.good < 0.99 * it.asked:
            break
        recovered = max(0.0, it.at - TRIGGER[1])
    return Outcome(recovered, windows, backlog)


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for name, (policies, has_to) in POLICIES.items():
        found = simulate(seed, policies)
        word = "never" if found.recovered == inf else f"{found.recovered:.0f} s"
        rows.append([name, word, f"{found.backlog}"])
        lines.append(Line(name, [(it.at, it.good) for it in found.windows]))
        if has_to:
            report.law(f"{name}: well again within {WITHIN:.0f} s", found.recovered <= WITHIN, word)
    report.table(["policy", "well again after", "waiting at the end"], rows)
    report.plot(
        Plot("metastable", "Requests that went well; three times as many come from second 10 to 13", "seconds",
             "per second", lines, shade=TRIGGER)
    )  # fmt: skip
    return report
