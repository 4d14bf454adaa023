"""The scenarios by name. Each is a function of a seed that returns a report; its module says what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sidecar.simulate.report import Report
from sidecar.simulate.scenarios import (
    adaptive,
    amplification,
    breaker,
    budget,
    callers,
    canary,
    capacity,
    ejection,
    ejection_guard,
    fleet,
    hedge,
    herd,
    metastable,
    registry_flap,
    shedding,
    slow_endpoint,
)


class Scenario(NamedTuple):
    """A scenario: what it is called, what it shows, and what runs it."""

    name: str
    summary: str
    run: Callable[[int], Report]


SCENARIOS: Final[dict[str, Scenario]] = {
    it.name: it
    for it in (
        Scenario("adaptive", "a limit that is found: servers of known capacity, which changes", adaptive.run),
        Scenario(
            "amplification", "three hops that try again, and the last service dies: what reaches it", amplification.run
        ),
        Scenario("breaker", "how soon a breaker opens, what it lets through, how soon it closes", breaker.run),
        Scenario("budget", "budgets of retries, in an outage and where some requests fail", budget.run),
        Scenario("canary", "a thousand good canaries and a thousand bad ones: which are rolled back", canary.run),
        Scenario("capacity", "an app whose capacity changes much: how soon the adaptive limit is there", capacity.run),
        Scenario("ejection_guard", "ten endpoints in several plights: how many ejection leaves", ejection_guard.run),
        Scenario(
            "ejection",
            "ejection's numbers: how soon it finds what is unwell, and its mistakes",
            ejection.run,
        ),
        Scenario("fleet", "an hour of two thousand endpoints that die and come back unseen", fleet.run),
        Scenario("hedge", "a second try beside a slow one: the tail, and what it costs", hedge.run),
        Scenario("herd", "five hundred sidecars whose breakers open together: what falls upon the upstream", herd.run),
        Scenario("callers", "twenty sidecars call ten unequal endpoints, by each balancer", callers.run),
        Scenario("metastable", "a short overload, and whether retries keep it alive", metastable.run),
        Scenario(
            "registry_flap",
            "half of the instances go and come back: which keys move, and the bound of load",
            registry_flap.run,
        ),
        Scenario("shedding", "an overload: who is shed, in which order the rest is served", shedding.run),
        Scenario("slow_endpoint", "one of five endpoints becomes slow: how soon p99 is back", slow_endpoint.run),
    )
}
