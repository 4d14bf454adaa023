"""Ejection may take out what is unwell, and must not take out everything.

Ten endpoints (or two) in a number of plights, with ``eject: {}`` and with ``eject: off``: how many are out at once, how
many are left, and what it does for those who ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds, share
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

RATE: Final = 150.0
BEGIN: Final = 10.0
UNTIL: Final = 40.0
_BASE: Final = (
    "circuit_breaker: off\nbulkhead: off\ntimeout: {request: 5s, connect: 250ms}\n"
    "retry: {initial_delay: 50ms}\nhealth: {eject: %s}\n"
)

Plight = Callable[[Sequence[Server]], None]


def _fail(count: int, part: float) -> Plight:
    def plight(servers: Sequence[Server]) -> None:
        for server in servers[:count]:
            server.fail(part)

    return plight


def _slow(count: int, extra: float) -> Plight:
    def plight(servers: Sequence[Server]) -> None:
        for server in servers[:count]:
            server.extra = extra

    return plight


def _die(count: int) -> Plight:
    def plight(servers: Sequence[Server]) -> None:
        for server in servers[:count]:
            server.stop()

    return plight


#: What happens → of how many endpoints, what, and whether these can be reached.
PLIGHTS: Final[dict[str, tuple[int, Plight, bool]]] = {
    "one of ten answers 503": (10, _fail(1, 1.0), True),
    "six of ten answer 503": (10, _fail(6, 1.0), True),
    "all ten answer 503 to half": (10, _fail(10, 0.5), True),
    "all ten answer 503": (10, _fail(10, 1.0), True),
    "one of two answers 503": (2, _fail(1, 1.0), True),
    "three of ten are 500 ms slower": (10, _slow(3, 0.5), True),
    "all ten are 500 ms slower": (10, _slow(10, 0.5), True),
    "nine of ten refuse connections": (10, _die(9), False),
}


class Outcome(NamedTuple):
    """The most that were ejected at once, the fewest in the rotation, the share of requests that failed, and p99."""

    ejected: int
    left: int
    failed: float
    p99: float


def simulate(seed: int, name: str, eject: str = "{}", until: float = UNTIL) -> Outcome:
    """Run one plight."""
    count, plight, _ = PLIGHTS[name]
    world = World(seed)
    port = Port(world, "there", _BASE % eject)
    hosts = [f"10.0.0.{number}" for number in range(1, count + 1)]
    servers = [Server(world, exponential(world.random(host), 0.010, 0.010), name=host).at(host) for host in hosts]
    port.leads_to([(host, 80) for host in hosts])
    cluster = port.cluster
    ejected, left = [0], [count]

    def look() -> None:
        ejected.append(sum(1 for endpoint in cluster.endpoints if endpoint.ejected_until))
        left.append(len(cluster.eligible))

    port.on_try = look
    clients = Clients(world, port, RATE, until)
    world.at(BEGIN, plight, servers)
    world.run(until + 6)
    found = clients.measured.within(BEGIN, until)
    return Outcome(max(ejected), min(left), 1 - found.good / found.asked, found.p99)


def run(seed: int) -> Report:
    report = Report()
    rows = []
    for name, (count, _, reached) in PLIGHTS.items():
        found, off = simulate(seed, name), simulate(seed, name, "off")
        rows.append([
            name, f"{found.ejected}", f"{found.left}", share(found.failed), share(off.failed), seconds(found.p99),
            seconds(off.p99),
        ])  # fmt: skip
        most = max(1, count // 2) if reached else count - 1
        report.law(f"{name}: at most {most} are ejected, and some are left", found.ejected <= most and found.left > 0,
                   f"{found.ejected} and {found.left}")  # fmt: skip
    report.table(
        ["from second 10 on", "most ejected", "fewest left", "failed", "failed, eject: off", "p99", "p99, eject: off"],
        rows,
    )
    return report
