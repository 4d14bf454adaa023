"""Section 3: each balancer picks as it should, a dead instance costs no request, and the mesh has somebody to pick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from sidecar.cli.validate.findings import Section
from sidecar.cli.validate.lab import WEIGHTS, Lab, seen
from sidecar.cli.validate.peers import objects
from sidecar.cli.validate.run import Run
from sidecar.core.text import counted
from sidecar.endpoints.balancers.table import NAMES as BALANCERS

#: Requests to one balancer: three turns of each instance's weight and of each instance.
REQUESTS: Final = 36


def _even(shares: list[int]) -> bool:
    return max(shares) - min(shares) <= 1


def _by_weight(shares: list[int]) -> bool:
    return all(abs(n - REQUESTS * w / sum(WEIGHTS)) <= 2 for n, w in zip(shares, WEIGHTS, strict=True))


def _any(shares: list[int]) -> bool:
    return sum(1 for n in shares if n) > 1  # all 36 to one of three: once in 10^17


def _one(shares: list[int]) -> bool:
    return sorted(shares)[:-1] == [0] * (len(shares) - 1)


#: What the shares of a balancer must be, and that in words. Others, which may be added, have to answer everything.
EXPECTED: Final[Mapping[str, tuple[Callable[[list[int]], bool], str]]] = {
    "round_robin": (_even, "each in its turn"),
    "least_connections": (_even, "each in its turn while none is busy"),
    "weighted": (_by_weight, "by weight"),
    "random": (_any, "any"),
    "ip_hash": (_one, "one client, one instance"),
    "consistent_hash": (_one, "one client, one instance"),
}


async def check(run: Run, section: Section) -> None:
    """First the given sidecars, by reading; then real picks of the validation's own."""
    for peer, upstream in await run.upstreams(section):
        endpoints = list(objects(upstream.get("endpoints")))
        used = [it for it in endpoints if it.get("ejected") is False and it.get("state") != "unhealthy"]
        label = f"{peer.name}: {upstream.get('name')}"
        if not endpoints:
            section.none("rotation", f"{label} has no endpoint")
        elif used:
            section.good("rotation", f"{label}: {len(used)} of {counted(len(endpoints), 'endpoint')} in use")
        else:
            errors = [it["last_error"] for it in endpoints if isinstance(it.get("last_error"), dict)]
            why = errors[0].get("text") if errors else "ejected"
            section.bad("rotation", f"{label}: every endpoint has failed: {why}",
                        f"sidecar diagnose {upstream.get('name')} --admin {peer.url}")  # fmt: skip
    lab = await run.lab(section)
    if lab is None:
        return
    names = {it.name for it in lab.instances}
    for upstream_name in BALANCERS:
        run.doing(f"asking through {upstream_name}")
        if await seen(lambda name=upstream_name: _knows(lab, name, names)) is None:  # type: ignore[misc]
            section.bad(upstream_name, "it did not come to know all instances", "see service_discovery")
            continue
        await _picks(lab, upstream_name, section)
    await _dead(run, lab, section)


async def _knows(lab: Lab, upstream: str, names: set[str]) -> bool:
    known = await lab.known(upstream)
    return len(known) == len(names) if lab.lookup is None else known == names


async def _picks(lab: Lab, name: str, section: Section) -> None:
    answers = [await lab.call(name) for _ in range(REQUESTS)]
    failed = Counter(error or str(status) for status, error, _ in answers if status != 200)
    shares = Counter(body for status, _, body in answers if status == 200)
    found = [shares[it.name] for it in lab.instances]
    right, words = EXPECTED.get(name, (lambda shares: True, "all answered"))
    evidence = f"{REQUESTS} requests: {' / '.join(map(str, found))} ({words})"
    if failed:
        section.bad(name, f"{failed.total()} of {REQUESTS} requests failed: {dict(failed)}", "see the sidecar's log")
    elif not right(found):
        section.bad(name, f"{evidence}: that it is not", "the balancer does not do what it says: a fault to report")
    else:
        section.good(name, evidence)


async def _dead(run: Run, lab: Lab, section: Section) -> None:
    """An instance that is registered, and refuses connections."""
    dead = lab.instances[1]
    run.doing("asking while an instance is dead")
    await dead.shut()
    try:
        answers = [await lab.call("round_robin") for _ in range(REQUESTS)]
    finally:
        await dead.listen()
    failed = [error or str(status) for status, error, _ in answers if status != 200]
    if failed:
        section.bad("dead instance", f"{len(failed)} of {REQUESTS} requests failed: {failed[0]}",
                    "another instance should have been tried")  # fmt: skip
    else:
        section.good("dead instance", f"{REQUESTS} requests while one of three refuses connections: none failed")
