"""What the agent hands to the admin API: commands, families of metrics, and operations that other rooms contribute."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidecar.admin.auth import Access
from sidecar.admin.commands import Commands, ReloadRefused
from sidecar.admin.probes import start_probes
from sidecar.admin.server import start_admin
from sidecar.admin.snapshots import PeerSnapshot, UpstreamSnapshot
from sidecar.agent import changes, holds, peers, plan_report, shared_limits, snapshots
from sidecar.agent.cache_api import Caches
from sidecar.agent.canary_operations import CanaryOperations
from sidecar.agent.diagnosis import Diagnosis
from sidecar.agent.draining import drain_inbound
from sidecar.agent.fault_operations import FaultOperations
from sidecar.agent.findings import Finding
from sidecar.agent.process import memory_limit
from sidecar.agent.rehearsal.operation import Rehearse
from sidecar.agent.tap import Tap
from sidecar.config.agent import AccessKind
from sidecar.config.chosen import chosen
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.load import value_of
from sidecar.config.show import effective
from sidecar.core.events import EVENTS
from sidecar.core.metrics import Family, Source, gauge
from sidecar.core.operations import Contribution
from sidecar.endpoints import metrics as endpoint_metrics
from sidecar.http_queue import metrics as queue_metrics
from sidecar.registry import metrics as registry_metrics
from sidecar.resilience import metrics as breaker_metrics
from sidecar.telemetry import span_metrics
from sidecar.telemetry.metrics import Metrics, Shared, own_families
from sidecar.why.operations import Api as WhyApi
from sidecar.why.peers import Peers

if TYPE_CHECKING:
    from sidecar.agent.clusters import RunningUpstream
    from sidecar.agent.lifecycle import Agent
    from sidecar.agent.listening import Listening
    from sidecar.amqp.views.protocols import AmqpView
    from sidecar.telemetry.logs import LogWriter


async def start(agent: Agent, log: LogWriter, listening: Listening) -> None:
    """Serve on ``admin.bind`` and ``probes.bind``. Raises :class:`ListenerError` when one cannot be bound."""
    handed, config = commands(agent, log), agent.config
    agent.context.faults.watch(agent.listeners)
    await listening.add("admin", config.admin.bind, start_admin(handed, contributed(agent), config.admin.bind))
    if config.probes is not None:
        for_all = replace(handed, metrics=Shared(handed.metrics).page)
        await listening.add("probes", config.probes.bind, start_probes(for_all, config.probes.bind))


def commands(agent: Agent, log: LogWriter) -> Commands:
    """Return what the admin API may ask of this agent, and of its log."""
    page = metrics(agent)

    async def reload() -> Sequence[str]:
        try:
            return await agent.reload()
        except ConfigError as error:
            raise _refused(error) from error

    async def rehearse() -> Mapping[str, Any]:
        try:
            found = await agent.rehearse()
        except ConfigError as error:
            raise _refused(error) from error
        return {"text": list(plan_report.lines(found)), **plan_report.as_dict(found)}

    def set_log_level(level: str, by: str) -> None:
        log.set_level(level)
        changes.setting("log.level", level, by)

    def set_access_log(wanted: object, by: str) -> object:
        kind = AccessKind()
        try:
            access = value_of(kind, wanted, "access")
        except ConfigError as error:
            raise ValueError("; ".join(_in_a_line(problem) for problem in error.problems)) from error
        agent.access_log.set_mode(access.mode, access.sample, access.slow)
        shown: object = kind.show(access)
        changes.setting("log.access", shown if isinstance(shown, str) else json.dumps(shown), by)
        return shown

    async def others() -> Sequence[PeerSnapshot]:
        probes = agent.listening.addresses.get("probes")
        return await peers.others(agent.registry, agent.config.service.address, probes.port if probes else 0)

    return Commands(
        access=lambda: Access(agent.config.admin.bind.host, agent.config.admin.token),
        snapshot=lambda: snapshots.of_sidecar(agent),
        upstreams=lambda: tuple(agent.upstreams),
        inbound=lambda: next((it for it in agent.stats if it.direction == "inbound"), None),
        upstream_stats=lambda name: agent.upstreams[name].stats,
        upstream=lambda name: _upstream(agent, agent.upstreams[name]),
        config=lambda: effective(agent.config),
        chosen=lambda: chosen(agent.config),
        metrics=page.page,
        check_app=lambda: agent.check_app(),
        probe=lambda name: agent.probe(name),
        force_breakers=lambda name, mode, wish: holds.force(name, agent.upstreams[name].breakers, mode, wish),
        reload=reload,
        rehearse=rehearse,
        drain=agent.drain,
        drain_inbound=functools.partial(drain_inbound, agent),
        events=EVENTS.since,
        set_log_level=set_log_level,
        set_access_log=set_access_log,
        peers=others,
    )


def _in_a_line(it: Problem) -> str:
    found = f", found {it.found}" if it.found else ""
    return f"{it.path} {it.message}{found}" + (f"; allowed: {it.allowed}" if it.allowed else "")


def _refused(error: ConfigError) -> ReloadRefused:
    return ReloadRefused(str(error), [(it.path, it.message) for it in error.problems])


def contributed(agent: Agent) -> Sequence[Contribution]:
    """Return the operations of other rooms. They are there whether a protocol is in use or not."""
    from sidecar.amqp.views.operations import Api

    service = agent.config.service.name
    next_ones = Peers(lambda: agent.config.admin.token, time.time)

    def names() -> Sequence[str]:
        return [listener.name for listener in agent.listeners()]

    async def examine(upstream: str) -> Sequence[Finding]:
        from sidecar.agent import checklist  # what it takes is of no use otherwise

        return await checklist.examine(agent, upstream)

    return (
        Api(lambda: _ports(agent)).contribution(),
        Rehearse(agent.context.decisions, lambda: effective(agent.config)).contribution(),
        agent.redirection.contribution(),
        FaultOperations(agent.context.faults, agent.listeners).contribution(),
        WhyApi(agent.ring, service, next_ones).contribution(),
        Diagnosis(service, agent.config.service.id, lambda: tuple(agent.upstreams), examine).contribution(),
        Tap(agent.access_log, service, names, lambda: agent.phase == "stopped").contribution(),
        Caches(agent.listeners).contribution(),
        CanaryOperations(lambda: {name: it.canary for name, it in agent.upstreams.items()}).contribution(),
    )


def metrics(agent: Agent) -> Metrics:
    """Return the metrics of this agent, with the families of everything that it runs."""

    def upstreams() -> Iterable[Family]:
        yield _info(agent)
        yield from breaker_metrics.families({name: it.breakers for name, it in agent.upstreams.items()})
        endpoints = {name: it.endpoints for name, it in agent.upstreams.items()}
        yield from endpoint_metrics.families(endpoints)
        yield from endpoint_metrics.endpoint_families(endpoints)
        yield from endpoint_metrics.overflow_families({name: it.balancer for name, it in agent.upstreams.items()})
        divided = {
            name: [(it, part) for it, _, part in up.subsets] for name, up in agent.upstreams.items() if up.subsets
        }
        if divided:
            yield from endpoint_metrics.subset_families(divided)
        canaries = {name: it.canary for name, it in agent.upstreams.items() if it.canary is not None}
        if canaries:
            yield from endpoint_metrics.canary_families(
                {name: it.weight for name, it in canaries.items()}, {name: it.sidecars for name, it in canaries.items()}
            )
        yield from endpoint_metrics.ejection_families({name: it.ejections for name, it in agent.upstreams.items()})

    def amqp() -> Iterable[Family]:
        ports = _ports(agent)
        if not ports:
            return ()
        from sidecar.amqp.metrics import amqp_families

        return amqp_families(ports)

    sources: Sequence[Source] = (
        lambda: queue_metrics.families(agent.stats),
        upstreams,
        amqp,
        lambda: shared_limits.families(agent.shared),
        lambda: registry_metrics.families(agent.registry) if agent.registry is not None else (),
        changes.families,
        lambda: agent.last_reload.families(),
        agent.redirection.families,
        lambda: endpoint_metrics.lookup_families(agent.lookups),
        agent.lag.families,
        lambda: own_families(agent.config.service.name, agent.log_lines_dropped, memory_limit()),
        lambda: span_metrics.families(agent.spans, agent.spans_withheld),
    )
    return Metrics(lambda: agent.stats, sources)


def _upstream(agent: Agent, running: RunningUpstream) -> UpstreamSnapshot:
    return snapshots.of_upstream(running, agent.context.faults.active_at(running.listener))


def _info(agent: Agent) -> Family:
    """Which service an upstream stands for: the name that the app's port has may be another."""
    info = gauge("sidecar_upstream_info", "What an upstream is.", ("upstream", "service", "protocol", "balancer"))
    for name, it in agent.upstreams.items():
        discover = it.config.discover
        info.add((name, discover.service if discover else "", it.config.protocol, it.config.balancer), 1)
    return info


def _ports(agent: Agent) -> Mapping[str, AmqpView]:
    return {name: view for name, it in agent.upstreams.items() if (view := it.amqp) is not None}
