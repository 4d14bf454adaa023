"""Derives what each room is told from the configuration, which they do not know."""

from __future__ import annotations

from sidecar import registry
from sidecar.config.host import default_id
from sidecar.config.schema import Config
from sidecar.endpoints.health import AppCheck


def of_registry(config: Config, port: int) -> registry.Settings:
    """Return a registry's settings. ``port`` is where the inbound listener really listens (0: there is none): others
    must be told the one that the system chose, where it was to choose."""
    it, consul = config.registry, config.consul
    return registry.Settings(
        kind=it.kind,
        address=it.address or registry.CONSUL,
        tls=it.tls,
        path=it.path,
        token=consul.token,
        datacenter=consul.datacenter,
        workload=_workload(config, port) if port else None,
    )


def _workload(config: Config, port: int) -> registry.Workload:
    service = config.service
    assert config.inbound is not None
    named = config.inbound.bind.port or service.id != default_id(service.name, 0)
    return registry.Workload(
        name=service.name,
        id=service.id if named else default_id(service.name, port),
        address=service.address,
        port=port,
        tags=service.tags,
        meta=service.meta,
        passing_weight=service.weights.passing,
        warning_weight=service.weights.warning,
        check_interval=service.check.interval,
        deregister_after=service.check.deregister_critical_service_after,
    )


def of_app_check(config: Config) -> AppCheck:
    """Return how the app is checked."""
    check = config.service.check
    return AppCheck(http=check.http, host=check.host, interval=check.interval, timeout=check.timeout)
