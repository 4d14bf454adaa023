"""The circuit breaker's numbers: one upstream hangs for 5, 20 or 60 seconds, and is well again.

What the reports ask for (5 failures, 60 s, 3 trial calls) is the default. It is compared with others: how many calls
hang before it opens, how long it takes until the upstream is used again after it is back, and how often it opens for
nothing when every fifth answer is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

RATE: Final = 20.0
BEGIN: Final = 5.0
#: How long it hangs, in each of a few runs 1.7 s longer than in the one before.
OUTAGES: Final = (5.0, 20.0, 60.0)
RUNS: Final = 4
_BASE: Final = "timeout: {request: 2s}\nretry: off\nhealth: {eject: off}\ncircuit_breaker: {%s}\n"


class Numbers(NamedTuple):
    """A breaker: failures, seconds, trial calls; and what stands beside it in the configuration."""

    threshold: int
    reset: float
    trials: int
    more: str = ""


DEFAULT: Final = "5 failures, 60 s, 3 trials: the default"
NUMBERS: Final[dict[str, Numbers]] = {
    DEFAULT: Numbers(5, 60, 3),
    "the same, with wait: 1s": Numbers(5, 60, 3, "wait: {timeout: 1s}\n"),
    "5 failures, 30 s, 3 trials": Numbers(5, 30, 3),
    "5 failures, 10 s, 3 trials": Numbers(5, 10, 3),
    "5 failures, 1 s, 3 trials": Numbers(5, 1, 3),
    "5 failures, 10 s, 1 trial": Numbers(5, 10, 1),
    "3 failures, 10 s, 3 trials": Numbers(3, 10, 3),
    "10 failures, 10 s, 3 trials": Numbers(10, 10, 3),
}


class Outcome(NamedTuple):
    """Calls that hung at what is down, and the seconds until it was in use again after it was back."""

    hung: int
    back: float


def policies(numbers: Numbers) -> str:
    """The configuration of such a breaker."""
    threshold, reset, trials, more = numbers
    own = f"failure_threshold: {threshold}, reset_timeout: {reset:g}s, half_open_requests: {trials}"
    return _BASE % own + more


def simulate(seed: int, numbers: Numbers, outage: float, rate: float = RATE) -> Outcome:
    """Let it hang for so long."""
    world = World(seed)
    server = Server(world, exponential(world.random("server"), 0.01)).at("10.0.0.1")
    port = Port(world, "there", policies(numbers))
    port.leads_to([("10.0.0.1", 80)])
    until = BEGIN + outage + numbers.reset + 10
    clients = Clients(world, port, rate, until)
    world.run(BEGIN)
    server.hangs = True
    before = server.asked
    world.run(BEGIN + outage)
    server.hangs = False
    hung = server.asked - before
    world.run(until + 5)
    it = clients.measured
    good = [at for at, status in zip(it.began, it.status, strict=True) if status == 200 and at > BEGIN + outage]
    return Outcome(hung, min(good, default=until) - BEGIN - outage)


def mistaken(seed: int, numbers: Numbers, broken: float = 0.2, lasts: float = 600.0) -> tuple[int, float]:
    """How often it opens in ten minutes in which such a share of the answers are errors, and the share of the requests
    that it refuses for that."""
    world = World(seed)
    server = Server(world, exponential(world.random("server"), 0.01)).at("10.0.0.1")
    server.broken = broken
    port = Port(world, "there", policies(numbers))
    port.leads_to([("10.0.0.1", 80)])
    opened: list[float] = []
    world.on_breaker = lambda _, breaker: opened.append(world.now) if breaker.state == 2 else None
    clients = Clients(world, port, RATE, lasts)
    world.run(lasts + 5)
    return len(opened), clients.measured.errors["circuit_open"] / clients.measured.asked


def _row(seed: int, name: str, numbers: Numbers) -> Sequence[str]:
    hung: list[int] = []
    back: list[str] = []
    for outage in OUTAGES:
        found = [simulate(seed + run, numbers, outage + 1.7 * run) for run in range(RUNS)]
        hung += [it.hung for it in found]
        back.append(seconds(mean(it.back for it in found)))
    times, refused = mistaken(seed, numbers)
    return [name, f"{mean(hung):.0f}", *back, f"{times}", f"{refused:.1%}"]


def run(seed: int) -> Report:
    report = Report()
    report.table(
        [
            "breaker",
            "calls that hung",
            "back, of 5 s",
            "of 20 s",
            "of 60 s",
            "opened for nothing",
            "refused so",
        ],
        [_row(seed, name, numbers) for name, numbers in NUMBERS.items()],
    )
    worst = simulate(seed, NUMBERS[DEFAULT], 60.0)
    report.law("default: calls that hang in a minute", worst.hung <= 120, f"{worst.hung} of 1200")
    return report
