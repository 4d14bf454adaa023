"""Takes snapshots of a running sidecar, for the admin API: plain data, made of the objects that are at work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sidecar.admin.snapshots import (
    BreakerSnapshot,
    EjectionSnapshot,
    EndpointSnapshot,
    NameSnapshot,
    RegistrySnapshot,
    SidecarSnapshot,
    SubsetSnapshot,
    UpstreamSnapshot,
)
from sidecar.config.traffic import Upstream
from sidecar.filters.faults import told

if TYPE_CHECKING:
    from sidecar.agent.clusters import RunningUpstream
    from sidecar.agent.faults import Active
    from sidecar.agent.lifecycle import Agent
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.endpoints.names import Name
    from sidecar.endpoints.subsets import Subset
    from sidecar.resilience.breaker import CircuitBreaker

#: By :attr:`sidecar.resilience.breaker.CircuitBreaker.state`.
BREAKER_STATES: Final = ("closed", "half_open", "open")


def of_sidecar(agent: Agent) -> SidecarSnapshot:
    """How the sidecar is, without its upstreams."""
    service, registry = agent.config.service, agent.registry
    return SidecarSnapshot(
        service=service.name,
        id=service.id,
        phase=agent.phase,
        waiting_for=agent.waiting_for,
        app=agent.app_health(),
        registry=None if registry is None else RegistrySnapshot(str(agent.config.registry), registry.up, registry.age),
        faults=[f"{it.where}: {told(it.fault, brief=True)}" for it in agent.context.faults.active()],
    )


def of_upstream(running: RunningUpstream, faults: Sequence[Active] = ()) -> UpstreamSnapshot:
    """How an upstream is; ``faults`` are on there."""
    config, amqp = running.config, running.amqp
    broken, doubts, summary = "", [], None
    if amqp is not None:
        from sidecar.amqp.views import port

        broken, doubts, summary = port.broken(amqp), port.doubts(amqp), port.summary(amqp)
    canary = None
    if running.canary is not None:
        from sidecar.agent import canary_view

        canary = canary_view.view_of(running.canary)
        doubts = [*doubts, *canary_view.doubts(canary)]
    own, of_routes = _breakers(config, running.breakers)
    return UpstreamSnapshot(
        name=config.name,
        bind=str(config.bind),
        protocol=config.protocol,
        balancer=config.balancer,
        endpoints=[
            _endpoint(it, running.listener.clock(), running.balancer_of(it).known(it)) for it in running.endpoints
        ],
        names=[_name(name) for name in running.names],
        problem=running.problem,
        breaker=own,
        route_breakers=of_routes,
        stats=running.stats,
        broken=broken,
        doubts=doubts,
        amqp=summary,
        service=config.discover.service if config.discover else "",
        faults=[told(it.fault, brief=True) for it in faults],
        subsets=[_subset(*it) for it in running.subsets],
        canary=canary,
    )


def _subset(subset: Subset, weight: int, share: float) -> SubsetSnapshot:
    return SubsetSnapshot(
        name=subset.label,
        weight=weight,
        share=share,
        endpoints=len(subset.endpoints),
        usable=len(subset.eligible) if subset.usable else 0,
        requests=dict(subset.requests),
        p50=subset.duration.quantile(0.5),
        p99=subset.duration.quantile(0.99),
    )


def _breakers(
    config: Upstream, breakers: Sequence[CircuitBreaker]
) -> tuple[BreakerSnapshot | None, list[BreakerSnapshot]]:
    """The upstream's own, and those of routes that have one for themselves."""
    rest = list(breakers)
    own = _breaker(rest.pop(0)) if rest and config.policies.get("circuit_breaker", True) else None
    routes = [it for it in config.routes if it.policies.get("circuit_breaker")]
    return own, [_breaker(breaker, route.match.path) for route, breaker in zip(routes, rest, strict=False)]


def _breaker(breaker: CircuitBreaker, path: str = "") -> BreakerSnapshot:
    breaker.look()
    return BreakerSnapshot(
        path=path,
        state=BREAKER_STATES[breaker.state],
        forced=breaker.forced,
        failures=breaker.failures,
        open_seconds=breaker.open_seconds(),
        retry_after=breaker.retry_after(),
        held=breaker.held,
    )


def _endpoint(endpoint: Endpoint, now: float, known: Mapping[str, Any] | None = None) -> EndpointSnapshot:
    ejection = None
    if endpoint.ejected_until:
        until = time.time() + endpoint.ejected_until - now
        ejection = EjectionSnapshot(endpoint.ejected_for, endpoint.ejection, until)
    return EndpointSnapshot(
        host=endpoint.host,
        address=endpoint.address,
        hostname=endpoint.hostname,
        id=endpoint.id,
        weight=endpoint.weight,
        state=endpoint.state,
        ejected=bool(endpoint.ejected_until),
        active=endpoint.active,
        failures=endpoint.failures,
        last_error=endpoint.last_error,
        ejection=ejection,
        share=0.0 if ejection is not None or endpoint.down else endpoint.share,
        check=endpoint.checked,
        known=known or {},
        admin=endpoint.admin,
        subset=endpoint.subset,
    )


def _name(name: Name) -> NameSnapshot:
    return NameSnapshot(name=name.name, addresses=name.addresses, age=name.age, error=name.error, cause=name.cause)
