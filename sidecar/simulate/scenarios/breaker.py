"""The circuit breaker's numbers: one upstream dies and comes back, with the defaults and with others.

What the reports ask for (5 failures, 60 s, 3 trial calls) is compared with shorter times: how many calls reach what is
down, how many clients are told at once, and how long it takes until all is well after it is back.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

RATE: Final = 100.0
DOWN: Final = (10.0, 70.0)
UNTIL: Final = 200.0
_BASE: Final = "timeout: {request: 2s}\nretry: off\ncircuit_breaker: {%s}\n"
POLICIES: Final[dict[str, str]] = {
    "5 failures, 60 s, 3 trials": "failure_threshold: 5, reset_timeout: 60s, half_open_requests: 3",
    "5 failures, 30 s, 3 trials": "failure_threshold: 5, reset_timeout: 30s, half_open_requests: 3",
    "5 failures, 10 s, 3 trials": "failure_threshold: 5, reset_timeout: 10s, half_open_requests: 3",
    "5 failures, 1 s, 3 trials": "failure_threshold: 5, reset_timeout: 1s, half_open_requests: 3",
    "1 failure, 10 s, 1 trial": "failure_threshold: 1, reset_timeout: 10s, half_open_requests: 1",
}


class Outcome(NamedTuple):
    """What came of it: calls that hung at what is down, the longest that a client waited there, seconds until it was
    used again after it was back, and how often it opened by mistake while 1 % of the answers are 500."""

    hung: int
    told: int
    back: float
    mistaken: int


def simulate(seed: int, numbers: str, down: tuple[float, float] = DOWN, until: float = UNTIL) -> Outcome:
    """Run it with such a breaker."""
    world = World(seed)
    random = world.random("server times")
    server = Server(world, exponential(random, 0.01), slots=1000).at("10.0.0.1")
    server.broken = 0.01
    port = Port(world, "there", _BASE % numbers)
    port.leads_to([("10.0.0.1", 80)])
    clients = Clients(world, port, RATE, until)
    world.run(down[0])
    mistaken = world.breaker_changes
    server.hangs = True
    before = server.asked
    world.run(down[1])
    server.hangs = False
    hung = server.asked - before
    world.run(until + 5)
    measured = clients.measured
    good = [at for at, status in zip(measured.began, measured.status, strict=True) if status == 200 and at > down[1]]
    return Outcome(hung, measured.errors["circuit_open"], min(good, default=until) - down[1], mistaken)


def run(seed: int) -> Report:
    report = Report()
    rows = []
    for name, numbers in POLICIES.items():
        found = simulate(seed, numbers)
        rows.append([name, f"{found.hung}", f"{found.told}", seconds(found.back), f"{found.mistaken}"])
    report.table(
        ["breaker", "calls that hung", "told at once", "in use again after", "opened by mistake in 10 s"], rows
    )
    return report
