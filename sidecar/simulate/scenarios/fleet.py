"""Two thousand endpoints, any of which dies about once an hour, for an hour.

Each is down for two minutes on average, so that about 66 are at any time, and the registry does not know. Half of them
refuse connections, half are silent. An endpoint gets a request every 80 seconds: too few to count failures by.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

ENDPOINTS: Final = 2000
RATE: Final = 25.0
UNTIL: Final = 3600.0
#: Seconds from one death of an endpoint to the next, and how long it is down.
LIVES: Final = 3600.0
DOWN: Final = 120.0
_BASE: Final = "timeout: {request: 5s, connect: 250ms}\n"
POLICIES: Final[dict[str, str]] = {
    "one try": _BASE + "retry: off\n",
    "three tries": _BASE + "retry: {initial_delay: 50ms}\n",
}


class Outcome(NamedTuple):
    """What a policy came to: requests, the share of them that failed, p99, tries, and the most that were out of the
    rotation at once."""

    asked: int
    failed: float
    p99: float
    tries: int
    ejections: int


def simulate(seed: int, policies: str, endpoints: int = ENDPOINTS, rate: float = RATE, until: float = UNTIL) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    port = Port(world, "there", policies)
    random = world.random("deaths")
    addresses = [(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", 80) for n in range(1, endpoints + 1)]
    times = exponential(world.random("times"), 0.01)

    def dies(server: Server) -> None:
        server.stop()
        if random.random() < 0.5:
            server.accepts = None
        world.loop.call_later(random.expovariate(1 / DOWN), lives, server)

    def lives(server: Server) -> None:
        server.start()
        world.loop.call_later(random.expovariate(1 / LIVES), dies, server)

    for host, _ in addresses:
        lives(Server(world, times).at(host))
    port.leads_to(addresses)
    clients = Clients(world, port, rate, until)
    world.run(until + 10)
    measured, found = clients.measured, clients.measured.within(0.0, until)
    tries = sum(endpoint.tries for endpoint in port.cluster.endpoints)
    return Outcome(
        measured.asked, 1 - measured.good / measured.asked, found.p99, tries, sum(port.cluster.ejections.values())
    )


def run(seed: int) -> Report:
    report = Report()
    rows = []
    for name, policies in POLICIES.items():
        found = simulate(seed, policies)
        rows.append([
            name, f"{found.asked}", f"{found.tries}", f"{found.failed:.3%}", seconds(found.p99), f"{found.ejections}",
        ])  # fmt: skip
        if name != "one try":
            report.law(f"{name}: at most 0.1 % of the requests fail", found.failed <= 0.001, f"{found.failed:.3%}")
    report.table(["policy", "requests", "tries", "failed", "p99", "ejections"], rows)
    return report
