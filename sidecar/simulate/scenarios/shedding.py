"""Who is shed: by priority, and by the order in which a queue is served under an overload.

An app with 8 slots of 50 ms is asked for twice what it can do. Clients wait for a second, and do not say when they have
left: the app works for them all the same. So what is served late is work for nobody.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from sidecar.simulate.measure import percentile
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, seconds, share
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

SLOTS: Final = 8
MEAN: Final = 0.05
CAPACITY: Final = SLOTS / MEAN
UNTIL: Final = 40.0
#: It counts from then on: the limit is found.
BEGIN: Final = 10.0
PRIORITY: Final = 'priority: "header:x-priority"'
FIXED: Final = "bulkhead: {max_requests: 8}\n"
FOUND: Final = f"bulkhead: {{adaptive: {{min: 4, max: 1000}}, {PRIORITY}}}\n"
POLICIES: Final[dict[str, str]] = {
    "8 at once, as they came": FIXED,
    "8 at once, as they came, none waits longer than 50 ms": FIXED.replace("}", ", pending_timeout: 50ms}"),
    "8 at once, by priority": f"bulkhead: {{max_requests: 8, {PRIORITY}}}\n",
    "found, by priority, the newest first in an overload": FOUND,
}
#: Of ten requests.
MIX: Final = ("critical",) * 2 + ("normal",) * 4 + ("low",) * 4


class Outcome(NamedTuple):
    """What a policy came to: requests that were answered before their client left, of what could be; how long they
    took, the wait included; and of each priority the share that was refused or came too late."""

    goodput: float
    p50: float
    p99: float
    lost: dict[str, float]


def simulate(seed: int, policies: str, patience: float = 1.0, factor: float = 2.0, until: float = UNTIL) -> Outcome:
    """Run it with one policy. Clients wait so long; so many times the capacity is asked for."""
    world = World(seed)
    Server(world, exponential(world.random("server times"), MEAN), SLOTS).at("10.0.0.1")
    port = Port(world, "app", policies, inbound=True)
    port.leads_to([("10.0.0.1", 80)])
    random = world.random("clients")
    took: list[float] = []
    asked: Counter[str] = Counter()
    good: Counter[str] = Counter()

    def ask() -> None:
        wait = random.expovariate(factor * CAPACITY)
        if world.now + wait < until:
            world.loop.call_later(wait, ask)
        began, priority = world.now, random.choice(MIX)
        request = b"GET / HTTP/1.1\r\nhost: app\r\nx-priority: %b\r\n\r\n" % priority.encode()
        if began >= BEGIN:
            asked[priority] += 1

        def answered(answer: bytes) -> None:
            late = world.now - began
            if answer[9:12] == b"200" and late <= patience and began >= BEGIN:
                good[priority] += 1
                took.append(late)

        port.ask(request, answered)

    ask()
    world.run(until + 10)
    lost = {priority: 1 - good[priority] / asked[priority] for priority in ("critical", "normal", "low")}
    took.sort()
    goodput = len(took) / (until - BEGIN) / CAPACITY
    return Outcome(goodput, percentile(took, 0.5), percentile(took, 0.99), lost)


def run(seed: int) -> Report:
    report = Report()
    rows = []
    for name, policies in POLICIES.items():
        found = simulate(seed, policies)
        rows.append(
            [
                name,
                share(found.goodput),
                seconds(found.p50),
                seconds(found.p99),
                *(f"{it:.2%}" for it in found.lost.values()),
            ]
        )
        if policies is FOUND:
            report.law(f"{name}: goodput", found.goodput >= 0.9, share(found.goodput))
            report.law(
                f"{name}: critical requests lost", found.lost["critical"] < 0.001, f"{found.lost['critical']:.3%}"
            )
    report.table(["bulkhead", "goodput", "p50 of that", "p99", "critical lost", "normal lost", "low lost"], rows)
    return report
