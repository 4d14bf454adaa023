"""The registry loses half of the instances of a service, and finds them again.

Who chooses by a key wants each key to stay where it is: its endpoint has what belongs to it in memory. Of twenty
endpoints ten go and come back; also, a single one goes. Then traffic with a few popular keys goes through, and at every
pick the load of the endpoint that was taken is compared with the bound.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from random import Random
from typing import Final, NamedTuple

from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.simulate.port import Port
from sidecar.simulate.report import Report, share, times
from sidecar.simulate.world import World

ENDPOINTS: Final = 20
KEYS: Final = 10_000
#: More than the least that have to move.
SLACK: Final = 0.05
_HASH: Final = 'balancer: consistent_hash\nhash: {by: "header:x-agent-id", balance_factor: %s}\n'
POLICIES: Final[dict[str, str]] = {
    "ip_hash": "balancer: ip_hash\n",
    "consistent_hash": _HASH % "1.25",
}
#: Bounds that are compared.
FACTORS: Final = ("0", "1.1", "1.25", "1.5", "2")


class Moves(NamedTuple):
    """Of the keys: the share that moved when one endpoint went, though theirs had not; the same when half of them went;
    and the share that is not where it was when all were back."""

    one: float
    half: float
    after: float
    #: The share that moved in all, when one endpoint went.
    total: float


class Bound(NamedTuple):
    """The most that an endpoint had of its share, the share of picks that went elsewhere, and how often one was above
    the bound."""

    worst: float
    elsewhere: float
    broken: int


def addresses(numbers: range) -> list[tuple[str, int]]:
    """Those of the endpoints with these numbers."""
    return [(f"10.0.0.{number}", 80) for number in numbers]


def moves(seed: int, policies: str, keys: int = KEYS, endpoints: int = ENDPOINTS) -> Moves:
    """Let them go and come back, and see where keys are."""
    port = Port(World(seed), "there", policies)
    cluster = port.cluster
    names = [f"agent-{number}" for number in range(keys)]

    def places() -> list[str]:
        return [_pick(cluster, name).address for name in names]

    port.leads_to(addresses(range(endpoints)))
    at_first = places()
    port.leads_to(addresses(range(1, endpoints)))
    one = places()
    port.leads_to(addresses(range(endpoints // 2, endpoints)))
    half = places()
    port.leads_to(addresses(range(endpoints)))
    after = places()
    return Moves(
        _moved(at_first, one), _moved(at_first, half), _moved(at_first, after),
        sum(a != b for a, b in zip(at_first, one, strict=True)) / keys,
    )  # fmt: skip


def bound(seed: int, factor: float, picks: int = 20_000, endpoints: int = ENDPOINTS) -> Bound:
    """Let traffic with popular keys through, and look at each pick. ``factor`` 0: there is no bound."""
    world = World(seed)
    port = Port(world, "there", _HASH % f"{factor:g}")
    port.leads_to(addresses(range(endpoints)))
    cluster, random = port.cluster, world.random("keys")
    busy: list[Endpoint] = []
    worst, elsewhere, broken = 0.0, 0, 0
    exact = Fraction(factor)  # rounding must not be taken for one too many
    homes: dict[str, Endpoint] = {}
    for _ in range(picks):
        name = f"agent-{_popular(random)}"
        if name not in homes:
            homes[name] = _home(cluster, name, busy)
        endpoint = _pick(cluster, name)
        endpoint.begin()
        busy.append(endpoint)
        elsewhere += endpoint is not homes[name]
        fair = len(busy) / endpoints
        if len(busy) >= 10 * endpoints:
            worst = max(worst, endpoint.active / fair)
        broken += bool(factor) and endpoint.active > ceil(exact * len(busy) / endpoints)
        if len(busy) > 20 * endpoints or random.random() < 0.3:
            done = busy.pop(random.randrange(len(busy)))
            done.end()
    return Bound(worst, elsewhere / picks, broken)


def _popular(random: Random) -> int:
    """A key: the tenth is asked for a tenth as often as the first (Zipf)."""
    return int(10_000 ** random.random())


def _home(cluster: Cluster, name: str, busy: list[Endpoint]) -> Endpoint:
    """Where a key goes when nothing is under way."""
    before = [endpoint.active for endpoint in cluster.endpoints]
    for endpoint in cluster.endpoints:
        endpoint.active = 0
    home = _pick(cluster, name)
    for endpoint, active in zip(cluster.endpoints, before, strict=True):
        endpoint.active = active
    return home


def _pick(cluster: Cluster, name: str) -> Endpoint:
    endpoint = cluster.pick(name)
    assert endpoint is not None
    return endpoint


def _moved(before: list[str], now: list[str]) -> float:
    """The share of keys that are elsewhere now, though their endpoint is still there."""
    there = set(now)
    return sum(a != b and a in there for a, b in zip(before, now, strict=True)) / len(before)


def run(seed: int) -> Report:
    report = Report()
    rows = []
    for name, policies in POLICIES.items():
        found = moves(seed, policies)
        rows.append([name, share(found.total), share(found.one), share(found.half), share(found.after)])
        if name == "consistent_hash":
            most = 1 / ENDPOINTS + SLACK
            report.law(
                f"one of {ENDPOINTS} goes: at most 1/n + 5 % of all keys move", found.total <= most, share(found.total)
            )
            report.law("half of them go: no key moves whose endpoint stays", found.half == 0.0, share(found.half))
            report.law("they are back: every key is where it was", found.after == 0.0, share(found.after))
    report.table(
        ["balancer", "moved in all, one went", "moved needlessly, one went", "moved needlessly, half went",
         "elsewhere after their return"], rows,
    )  # fmt: skip
    rows = []
    for factor in FACTORS:
        it = bound(seed, float(factor))
        rows.append([factor, times(it.worst), share(it.elsewhere)])
        if float(factor):
            report.law(f"balance_factor {factor}: no pick goes above the bound", it.broken == 0, f"{it.broken} did")
    report.table(["balance_factor", "the most that one had of its share", "keys that went elsewhere"], rows)
    return report
