"""Has clusters go by the ``health`` of their upstreams."""

from __future__ import annotations

from typing import Final

from sidecar.config.health import Eject
from sidecar.config.keys import INHERIT
from sidecar.config.traffic import Inbound, Upstream
from sidecar.endpoints.active_checks import EndpointCheck, Login
from sidecar.endpoints.cluster import Cluster
from sidecar.resilience.ejection import OFF, STANDARD, EjectionRules

#: The account, and the database, that every PostgreSQL has.
POSTGRES: Final = "postgres"


def configure(cluster: Cluster, config: Inbound | Upstream) -> None:
    """Have a cluster go by it from now on. Of the sidecar's own app there is but one."""
    if isinstance(config, Upstream):
        health = config.health
        cluster.unproven = health.check is not None and health.check.postgres is not None
        refuse = health.when_none == "refuse"
        cluster.configure(rules(health.eject, config.protocol, refuse), health.slow_start, refuse)


def checks(config: Upstream) -> EndpointCheck | None:
    """How its endpoints are asked whether they are well; None: they are not."""
    it = config.health.check
    if it is None:
        return None
    service = config.discover.service if config.discover else config.name
    return EndpointCheck(
        http=it.http or "",
        host=it.host,
        port=it.port,
        deep=service if it.deep else "",
        postgres=Login(it.user or POSTGRES, it.database or POSTGRES, it.password) if it.postgres else None,
        interval=it.interval,
        timeout=it.timeout,
        fall=it.fall,
        rise=it.rise,
    )


def rules(eject: Eject | object, protocol: str, refuse: bool = False) -> EjectionRules:
    """The rules of ejection for those keys. ``refuse``: nothing is used when nothing is eligible."""
    if eject is None:
        return OFF
    if not isinstance(eject, Eject):
        assert eject is INHERIT
        # Where an empty rotation serves nobody, ejections leave the last endpoint in.
        return STANDARD._replace(at_most=Eject().at_most) if refuse else STANDARD
    judged = protocol != "amqp"  # a connection to a broker says nothing about how it answers
    return EjectionRules(
        consecutive=eject.consecutive,
        error_rate=eject.error_rate if judged else 0.0,
        latency=eject.latency if judged else 0.0,
        min_requests=eject.min_requests,
        window=eject.window,
        first=eject.for_,
        longest=eject.max_for,
        at_most=eject.at_most,
        doubling=False,
    )
