"""Section 5: how fast instances are found, picked, and the topology made."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sidecar.cli.validate.findings import Section
from sidecar.cli.validate.lab import Lab
from sidecar.cli.validate.lookup import Lookup, LookupFailed
from sidecar.cli.validate.peers import PeerError
from sidecar.cli.validate.run import Run

#: What a mesh must do at least: questions to the registry and picks, per second; and at most: seconds for a topology.
DISCOVERY: Final = 100.0
SELECTIONS: Final = 1000.0
TOPOLOGY: Final = 0.5
#: The best of several windows counts, as hosts are busy with other things, too: seconds of one, and of all.
WINDOW: Final = 0.3
MOST: Final = 5.0
#: Connections that picks are asked for on, and requests on their way on each.
_CONNECTIONS: Final = 8
_BATCH: Final = 25

_SLOW: Final = "is this host, or the registry's, busy? measure again, or allow for it with --degraded-ok"


async def check(run: Run, section: Section) -> None:
    """The best of several windows is the figure."""
    section.figures |= {
        "discovery_calls_per_second": None,
        "load_balancer_selections_per_second": None,
        "topology_generation_seconds": None,
    }
    lab = await run.lab(section)
    if lab is not None:
        if lab.lookup is None:
            section.none("discovery", "there is no registry to ask")
        else:
            run.doing("asking the registry as fast as it goes")
            await _discovery(lab.lookup, lab.sample, section)
        run.doing("picking as fast as it goes")
        rate = await _selections(lab)
        section.figures["load_balancer_selections_per_second"] = round(rate, 1)
        _least(section, "selections", rate, SELECTIONS, "picks per second: requests through one sidecar")
    await _topology(run, section)


def _least(section: Section, check: str, rate: float, least: float, what: str) -> None:
    evidence = f"{rate:.0f} {what} (at least {least:.0f})"
    if rate >= least:
        section.good(check, evidence)
    else:
        section.bad(check, evidence, _SLOW, degraded=True)


async def _discovery(lookup: Lookup, service: str, section: Section) -> None:
    best = 0.0
    ends = time.perf_counter() + MOST
    try:
        while best < DISCOVERY and time.perf_counter() < ends:
            calls = 0
            began = time.perf_counter()
            while (took := time.perf_counter() - began) < WINDOW:
                await lookup.instances(service)
                calls += 1
            best = max(best, calls / took)
    except LookupFailed as error:
        section.bad("discovery", str(error), "the registry has stopped answering meanwhile")
        return
    section.figures["discovery_calls_per_second"] = round(best, 1)
    _least(section, "discovery", best, DISCOVERY, "questions to the registry per second, one after the other")


async def _selections(lab: Lab) -> float:
    """Answered requests per second; requests follow each other without waiting for answers, so that it is the sidecar
    that is measured."""
    done = 0
    stop = False
    request = f"GET / HTTP/1.1\r\nhost: 127.0.0.1:{lab.port('round_robin')}\r\n\r\n".encode()

    async def ask() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port("round_robin"))
        try:
            while not stop:
                writer.write(request * _BATCH)
                for _ in range(_BATCH):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(_length(head))
                    done += head.startswith(b"HTTP/1.1 200 ")
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # what is not answered does not count
        finally:
            writer.close()

    tasks = [asyncio.create_task(ask()) for _ in range(_CONNECTIONS)]
    best = 0.0
    ends = time.perf_counter() + MOST
    while best < SELECTIONS and time.perf_counter() < ends:
        before, began = done, time.perf_counter()
        await asyncio.sleep(WINDOW)
        best = max(best, (done - before) / (time.perf_counter() - began))
    stop = True
    await asyncio.wait(tasks, timeout=MOST)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return best


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("an answer without a length")


async def _topology(run: Run, section: Section) -> None:
    """From the sidecars, which gather it; from the registry, if none of them can."""
    for peer in run.peers:
        try:
            found = [await peer.get("/mesh") for _ in range(3)]
        except PeerError as error:
            section.bad("topology", f"{peer.name}: {error}", "is this sidecar running?")
            continue
        if found[0].status == 404:
            continue
        best = min(it.seconds for it in found)
        try:
            services = found[-1].json().get("services")
        except PeerError as error:
            section.bad("topology", f"{peer.name}: /mesh answers {found[-1].status}: {error}", "see its log")
            continue
        if found[-1].status != 200:
            section.bad("topology", f"{peer.name}: /mesh answers {found[-1].status}",
                        "an admin token is needed: --token-file FILE, or SIDECAR_ADMIN_TOKEN")  # fmt: skip
            continue
        _made(section, best, f"{peer.name}: a mesh of {len(services) if isinstance(services, list) else 0} services")
        return
    if run.lookup is None or run.registry_away:
        section.none("topology", "no sidecar and no registry tells it")
        return
    run.doing("reading the topology from the registry")
    best = float("inf")
    services = []
    try:
        for _ in range(3):
            began = time.perf_counter()
            services = await run.lookup.services()
            instances = [await run.lookup.instances(name) for name in services]
            best = min(best, time.perf_counter() - began)
    except LookupFailed as error:
        section.bad("topology", str(error), "the registry has stopped answering meanwhile")
        return
    _made(section, best, f"{len(services)} services, {sum(map(len, instances))} instances, from the registry")


def _made(section: Section, seconds: float, what: str) -> None:
    section.figures["topology_generation_seconds"] = round(seconds, 4)
    evidence = f"{what} in {seconds * 1000:.0f} ms (at most {TOPOLOGY * 1000:.0f} ms)"
    if seconds <= TOPOLOGY:
        section.good("topology", evidence)
    else:
        section.bad("topology", evidence, _SLOW, degraded=True)
