"""A short overload that retries would keep alive.

Five sidecars send 300 requests per second to an app that does 400. For three seconds 900 come. Each try is given up
after half a second and made again, and the app works on what was given up all the same: so the queue that the burst has
left is work for nobody, and each piece of it brings another one. (Bronson and others, "Metastable Failures in
Distributed Systems", HotOS 2021.)

Two things end it. A budget bounds what each piece brings, so that the queue is worked off with what is left of the
app's capacity. A sidecar beside the app has the queue in its own hands: one whose client has left is not begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final, NamedTuple

from sidecar.simulate.clients import Clients
from sidecar.simulate.measure import Measured, Window
from sidecar.simulate.plot import Line, Plot
from sidecar.simulate.port import Port, beside
from sidecar.simulate.report import Report
from sidecar.simulate.server import Server, exponential
from sidecar.simulate.world import World

CAPACITY: Final = 400.0
SLOTS: Final = 20
RATE: Final = 300.0
BURST: Final = 900.0
SIDECARS: Final = 5
TRIGGER: Final = (10.0, 13.0)
WITHIN: Final = 5.0
UNTIL: Final = 50.0
#: Of the requests of a second that is well.
WELL: Final = 0.99
_RETRY: Final = "max_attempts: 4, per_try_timeout: 500ms, initial_delay: 50ms, max_delay: 200ms"
_BASE: Final = "timeout: {request: 3s, connect: 500ms}\ncircuit_breaker: off\n"
_ALONE: Final = _BASE + f"bulkhead: off\nretry: {{{_RETRY}, budget: off}}\n"
_DEFAULTS: Final = _BASE + f"retry: {{{_RETRY}}}\n"


class Policy(NamedTuple):
    """Policies of those who ask, and of the sidecar beside the app (``None``: there is none); whether it has to be well
    again in time."""

    asks: str
    beside: str | None
    has_to: bool = False


POLICIES: Final[dict[str, Policy]] = {
    "retries alone": Policy(_ALONE, None),
    "a budget of 20 %": Policy(_BASE + f"bulkhead: off\nretry: {{{_RETRY}}}\n", None),
    "a breaker of 10 s": Policy(
        f"{_ALONE}circuit_breaker: {{reset_timeout: 10s}}\n".replace("circuit_breaker: off\n", ""), None
    ),
    "a sidecar beside the app": Policy(_ALONE, ""),
    "budget, a sidecar beside the app": Policy(_DEFAULTS, ""),
    "no budget, adaptive beside the app": Policy(_ALONE, "bulkhead: {adaptive: {}}\n"),
    "budget, adaptive beside the app": Policy(_DEFAULTS, "bulkhead: {adaptive: {}}\n", True),
}


class Outcome(NamedTuple):
    """What a policy came to: seconds from the end of the burst until all went well again (inf: never), by the second,
    and what the app did for nobody."""

    recovered: float
    windows: Sequence[Window]
    wasted: int


def simulate(seed: int, policy: Policy, until: float = UNTIL, trigger: tuple[float, float] = TRIGGER) -> Outcome:
    """Run it with one policy."""
    world = World(seed)
    app = Server(world, exponential(world.random("app"), SLOTS / CAPACITY), slots=SLOTS).at("10.0.0.1")
    address = ("10.0.0.1", 80) if policy.beside is None else beside(world, "10.0.0.1", policy.beside)
    clients = []
    for number in range(SIDECARS):
        port = Port(world, "app", policy.asks)
        port.leads_to([address], sidecars=policy.beside is not None)
        clients.append(
            Clients(
                world, port, lambda now: (BURST if trigger[0] <= now < trigger[1] else RATE) / SIDECARS, until,
                name=f"clients {number}",
            )
        )  # fmt: skip
    world.run(until + 5)
    windows = Measured.of([it.measured for it in clients]).windows(until)
    recovered = inf
    # From the last second that was not well, backwards.
    for it in reversed(windows):
        if it.good < WELL * it.asked:
            break
        recovered = max(0.0, it.at - trigger[1])
    return Outcome(recovered, windows, app.wasted)


def run(seed: int) -> Report:
    report = Report()
    rows, lines = [], []
    for name, policy in POLICIES.items():
        found = simulate(seed, policy)
        word = f"not within {UNTIL - TRIGGER[1]:.0f} s" if found.recovered == inf else f"{found.recovered:.0f} s"
        rows.append([name, word, f"{found.wasted}"])
        lines.append(Line(name, [(it.at, it.good) for it in found.windows]))
        if policy.has_to:
            report.law(f"{name}: well again within {WITHIN:.0f} s", found.recovered <= WITHIN, word)
    report.table(["policy", "well again after", "answers for nobody"], rows)
    report.plot(
        Plot("metastable", "Requests that went well; three times as many come from second 10 to 13", "seconds",
             "per second", lines, shade=TRIGGER)
    )  # fmt: skip
    return report
