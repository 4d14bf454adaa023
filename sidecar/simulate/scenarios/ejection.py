"""The numbers of ejection: how soon it finds what is unwell, and how often it takes out what is well.

Of five endpoints under round robin one becomes slower, or fails a part of its requests; there are 20 per second, so
that each has 40 in a window. And all are equal, with latencies of which some are very long (Pareto, 1.5) and one error
in ten answers: then each ejection is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from sidecar.simulate.clients import Clients
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

RATE: Final = 20.0
BEGIN: Final = 10.0
LASTS: Final = 60.0
_BASE: Final = "circuit_breaker: off\nbulkhead: off\nretry: off\n"
DEFAULT: Final = "eject: {}, its defaults"
RULES: Final[dict[str, str]] = {
    DEFAULT: "{}",
    "no section": "",
    "latency: 2": "{latency: 2}",
    "latency: 5": "{latency: 5}",
    "min_requests: 5": "{min_requests: 5}",
    "min_requests: 50": "{min_requests: 50}",
    "window: 30s": "{window: 30s}",
    "error_rate: 30%": "{error_rate: 30%}",
    "error_rate: 70%": "{error_rate: 70%}",
    "consecutive: 3": "{consecutive: 3}",
    "consecutive: 0": "{consecutive: 0}",
}


#: What becomes of one of them → what is done to it.
PLIGHTS: Final[dict[str, Callable[[Server], None]]] = {
    "twice as slow": lambda server: setattr(server, "slow", 2.0),
    "four times as slow": lambda server: setattr(server, "slow", 4.0),
    "500 ms slower": lambda server: setattr(server, "extra", 0.5),
    "fails 40 %": lambda server: server.fail(0.4),
    "fails 60 %": lambda server: server.fail(0.6),
}


def found_after(seed: int, rules: str, plight: str, lasts: float = LASTS) -> float:
    """Have the first of five endpoints be unwell. Return the seconds until it was ejected; inf: it was not."""
    world = World(seed)
    port, servers = _five(world, rules, lambda host: exponential(world.random(host), 0.010, 0.010))
    first: list[float] = []

    def look() -> None:
        if not first and world.now >= BEGIN and port.cluster.endpoints[0].ejected_until:
            first.append(world.now - BEGIN)

    port.on_try = look
    Clients(world, port, RATE, BEGIN + lasts)
    world.at(BEGIN, PLIGHTS[plight], servers[0])
    while not first and world.now < BEGIN + lasts:
        world.run(world.now + 1.0)
    return first[0] if first else inf


def mistakes(seed: int, rules: str, lasts: float = 600.0) -> int:
    """How many ejections there are among five endpoints that are equally well."""
    world = World(seed)

    def uneven(host: str) -> Callable[[], float]:
        random = world.random(host)
        return lambda: min(20.0, 0.010 * random.paretovariate(1.5))

    port, servers = _five(world, rules, uneven)
    for server in servers:
        server.broken = 0.1
    Clients(world, port, RATE, lasts)
    world.run(lasts + 5)
    return sum(port.cluster.ejections.values())


def _five(world: World, rules: str, times: Callable[[str], Callable[[], float]]) -> tuple[Port, list[Server]]:
    port = Port(world, "there", _BASE + (f"health: {{eject: {rules}}}\n" if rules else ""))
    hosts = [f"10.0.0.{number}" for number in range(1, 6)]
    servers = [Server(world, times(host), name=host).at(host) for host in hosts]
    port.leads_to([(host, 80) for host in hosts])
    return port, servers


def run(seed: int) -> Report:
    report = Report()
    rows = []
    for name, rules in RULES.items():
        found = {plight: found_after(seed, rules, plight) for plight in PLIGHTS}
        wrong = mistakes(seed, rules)
        rows.append([name, *map(_after, found.values()), f"{wrong}"])
        if name == DEFAULT:
            slow, fails = found["500 ms slower"], found["fails 60 %"]
            report.law("defaults: one that is 500 ms slower is found within 10 s", slow <= 10, _after(slow))
            report.law("defaults: one that fails 60 % is found within 10 s", fails <= 10, _after(fails))
            report.law("defaults: mistakes in ten minutes", wrong <= 1, f"{wrong}")
    report.table(["eject", *PLIGHTS, "well ones ejected in 10 min"], rows)
    return report


def _after(value: float) -> str:
    return "not found" if value == inf else seconds(value)
