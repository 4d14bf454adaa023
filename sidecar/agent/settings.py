"""Derives what each room is told from the configuration, which they do not know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar import __version__, registry
from sidecar.config.host import default_id
from sidecar.config.schema import Config
from sidecar.core.address import Address, is_loopback
from sidecar.core.instance import SIDECAR_SUFFIX, SIDECAR_TAG
from sidecar.endpoints.health import AppCheck

#: Characters of a value in the meta of a service (Consul's documentation of ``/v1/agent/service/register``).
MAX_META_VALUE: Final = 512


def of_registry(config: Config, port: int, admin: Address | None = None) -> registry.Settings:
    """Return a registry's settings. ``port`` is where the inbound listener really listens (0: there is none), ``admin``
    where the admin API does: others must be told the ones that the system chose, where it was to choose."""
    it, consul = config.registry, config.consul
    return registry.Settings(
        kind=it.kind,
        address=it.address or registry.CONSUL,
        tls=it.tls,
        path=it.path,
        token=consul.token,
        datacenter=consul.datacenter,
        workload=_workload(config, port, admin) if port else None,
    )


def _workload(config: Config, port: int, admin: Address | None) -> registry.Workload:
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
        admin=admin.port if admin is not None and _reached(config.admin.bind.host, service.address) else 0,
    )


def _reached(bind: str, address: str) -> bool:
    """Whether what listens at ``bind`` can be reached where others dial the workload: there, everywhere, or as both are
    on loopback."""
    return bind in (address, "0.0.0.0", "::") or (is_loopback(bind) and is_loopback(address))


def of_probes(config: Config, port: int, admin: Address | None = None) -> registry.Workload:
    """Return what the listener for machines at ``port`` is registered as: a service of its own, so that nobody takes it
    for an instance of the app's."""
    service = config.service
    name = f"{service.name}{SIDECAR_SUFFIX}"
    inbound = config.inbound.bind.port if config.inbound else None
    given = service.id != default_id(service.name, inbound)
    return registry.Workload(
        name=name,
        id=f"{service.id}{SIDECAR_SUFFIX}" if given else default_id(name, port),
        address=service.address,
        port=port,
        tags=(SIDECAR_TAG,),
        meta={
            "metrics_port": str(port),
            **({"admin_port": str(admin.port)} if admin and _reached(config.admin.bind.host, service.address) else {}),
            "calls": _listed(_services(config)),
            "service": service.name,
            "upstreams": _listed(config.upstreams),
            "version": __version__,
        },
        fronted=False,
    )


def _services(config: Config) -> Iterable[str]:
    """What its upstreams lead to: the service of the registry's, else the upstream's own name; each once."""
    return dict.fromkeys(it.discover.service if it.discover else name for name, it in config.upstreams.items())


def _listed(names: Iterable[str]) -> str:
    """Names behind commas; those that Consul's bound of a value leaves no room for are only counted, as ``+3``."""
    found = ",".join(names)
    if len(found) <= MAX_META_VALUE:
        return found
    shown = found[: MAX_META_VALUE - len(",+1000")].rpartition(",")[0]
    return f"{shown},+{found.count(',') - shown.count(',')}"


def of_app_check(config: Config) -> AppCheck:
    """Return how the app is checked."""
    check = config.service.check
    return AppCheck(http=check.http, host=check.host, interval=check.interval, timeout=check.timeout)
