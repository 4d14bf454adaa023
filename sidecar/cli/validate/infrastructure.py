"""Section 1: the sidecars answer and are ready, and the registry answers."""

from __future__ import annotations

import time
from typing import Any

from sidecar.cli.validate.findings import Section
from sidecar.cli.validate.lookup import LookupFailed
from sidecar.cli.validate.peers import Peer, PeerError
from sidecar.cli.validate.run import Run
from sidecar.core.text import counted


async def check(run: Run, section: Section) -> None:
    """The registry first: without it the other sections cannot do much."""
    await _registry(run, section)
    for peer in run.peers:
        run.doing(f"asking {peer.name}")
        await _sidecar(peer, section)


async def _registry(run: Run, section: Section) -> None:
    if run.settings is None:
        section.bad("registry", run.problem, "name the registry: --registry consul://HOST:PORT, or directory:///PATH")
        return
    if run.lookup is None:
        section.none("registry", "the mesh has none")
        return
    run.doing(f"asking {run.registry_url}")
    began = time.perf_counter()
    try:
        services = await run.lookup.services()
    except LookupFailed as error:
        run.registry_away = True
        step = "is it running, and does it let this host in (CONSUL_HTTP_TOKEN)? without it nothing new is found"
        section.bad("registry", f"{run.registry_url}: {error}", step, degraded=True)
        return
    took = (time.perf_counter() - began) * 1000
    section.good(
        "registry", f"{run.registry_url} answers in {took:.0f} ms: {counted(len(services), 'service')}",
        ", ".join(services[:50]),
    )  # fmt: skip


async def _sidecar(peer: Peer, section: Section) -> None:
    try:
        ready = await peer.ask("/ready")
        health = await peer.ask("/health")
        metrics = await peer.get("/metrics")
    except PeerError as error:
        section.bad(peer.name, str(error), "is this sidecar running, and is this its admin.bind? (--admin URL)")
        return
    phase = str(ready.get("phase"))
    label = f"{health.get('service')} ({health.get('id')})"
    if ready.get("ready") is True:
        section.good(peer.name, f"{label} is {phase}")
    else:
        section.bad(peer.name, f"{label} is {phase}, not ready", "wait until it has started, or see its log")
    _health(peer, health, section)
    if metrics.status == 200 and b"sidecar_build_info" in metrics.body:
        lines = sum(1 for line in metrics.body.splitlines() if line and not line.startswith(b"#"))
        section.good("metrics", f"{peer.name}: {lines} series for Prometheus")
    else:
        section.bad("metrics", f"{peer.name}: /metrics answers {metrics.status}, without sidecar_build_info",
                    "does something stand between here and the admin API?")  # fmt: skip


def _health(peer: Peer, health: dict[str, Any], section: Section) -> None:
    status = str(health.get("status"))
    app = health.get("app")
    output = str(app.get("output")) if isinstance(app, dict) else ""
    if status == "unhealthy":
        section.bad("health", f"{peer.name}: unhealthy: {output}", f"sidecar diagnose --admin {peer.url}")
    else:
        section.good("health", f"{peer.name}: {status}", output)
    registry = health.get("registry")
    if isinstance(registry, dict) and registry.get("up") is not True:
        evidence = f"{peer.name}: {registry.get('url')} has not answered it for {registry.get('age')} s"
        section.bad("its registry", evidence, "it goes on with what it knew; mend the registry", degraded=True)
