"""Budgets of retries: what they let through in an outage, and what they leave of the use of retries.

A budget that is too small repeats too little when some requests fail; one that is too large multiplies an outage. Both
are asked for: an upstream that answers 503 to everything, and one that answers it to a part; from one sidecar with 100
requests per second, and from sixty with one each, where the floor of each adds up.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import Measured
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, share, times
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

_BASE: Final = "circuit_breaker: off\nbulkhead: off\nhealth: {eject: off}\nretry: {initial_delay: 50ms, budget: %s}\n"
DEFAULT: Final = "20 %, 3/s: the default"
BUDGETS: Final[dict[str, str]] = {
    "none": "off",
    "50 %, 3/s": "{ratio: 50%}",
    DEFAULT: "{ratio: 20%, min: 3/s}",
    "20 %, 1/s": "{ratio: 20%, min: 1/s}",
    "20 %, 30/m": "{ratio: 20%, min: 30/m}",
    "20 %, no floor": "{ratio: 20%, min: 0/s}",
    "10 %, 3/s": "{ratio: 10%}",
    "5 %, 3/s": "{ratio: 5%}",
}
BEGIN: Final = 10.0
LASTS: Final = 20.0


class Outcome(NamedTuple):
    """Tries in terms of requests, and the share of requests that failed."""

    factor: float
    failed: float


def simulate(seed: int, budget: str, failing: float, sidecars: int, rate: float, lasts: float = LASTS) -> Outcome:
    """Have that share of the tries fail for a time; so many sidecars ask so often each."""
    world = World(seed)
    server = Server(world, exponential(world.random("server"), 0.01)).at("10.0.0.1")
    every = []
    for number in range(sidecars):
        port = Port(world, "there", _BASE % budget)
        port.leads_to([("10.0.0.1", 80)])
        every.append(Clients(world, port, rate, BEGIN + lasts, name=f"clients {number}"))
    world.run(BEGIN)
    server.fail(failing)
    before = server.asked
    world.run(BEGIN + lasts)
    tries = server.asked - before
    world.run(BEGIN + lasts + 5)
    found = Measured.of([it.measured for it in every]).within(BEGIN, BEGIN + lasts)
    return Outcome(tries / found.asked, 1 - found.good / found.asked)


def run(seed: int) -> Report:
    report = Report()
    rows = []
    for name, budget in BUDGETS.items():
        one, sixty = simulate(seed, budget, 1.0, 1, 100.0), simulate(seed, budget, 1.0, 60, 1.0)
        few, many = simulate(seed, budget, 0.05, 1, 100.0), simulate(seed, budget, 0.2, 1, 100.0)
        rare = simulate(seed, budget, 0.2, 1, 1.0, lasts=300.0)
        rows.append([
            name, times(one.factor), times(sixty.factor), *(share(it.failed) for it in (few, many, rare)),
        ])  # fmt: skip
        if name == DEFAULT:
            report.law("one sidecar, the upstream is down: tries", one.factor <= 1.35, times(one.factor))
            report.law("5 % of the tries fail: requests that do", few.failed <= 0.003, share(few.failed))
    report.table(
        ["budget", "tries, down, 1 × 100/s", "tries, down, 60 × 1/s", "failed, of 5 %", "failed, of 20 %",
         "failed, of 20 %, 1/s"], rows,
    )  # fmt: skip
    return report
