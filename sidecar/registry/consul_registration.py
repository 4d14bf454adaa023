"""Keeps one workload registered with the local Consul agent, and its health reported."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
from collections.abc import Callable
from typing import Any

from consul import ConsulException, NotFound

from sidecar.registry.consul_health import ADMIN, SIDECAR
from sidecar.registry.consul_watch import backoff
from sidecar.registry.link import Link, describe
from sidecar.registry.pace import Pace
from sidecar.registry.settings import Workload

log = logging.getLogger("sidecar.registry")

#: Seconds that a workload which is not well has before it is registered nevertheless (as critical), so that
#: operators see it.
GRACE = 10.0
#: Longest time between two reports of an unchanged health, seconds.
KEEP_ALIVE = 10.0
#: Seconds between two comparisons of what the agent has with what it should have.
RECONCILE = 60.0
#: Seconds that one call may take.
CALL = 5.0
#: Seconds that the deregistration may take, waiting for a call under way included.
LEAVE = 2.0
#: Consul accepts no less.
SHORTEST_DEREGISTRATION = 60.0


class ConsulRegistration:
    """Registered with the first health that is not critical, or after :data:`GRACE` seconds with a critical one.

    The agent gets a TTL check, renewed at least every :data:`KEEP_ALIVE` seconds, so a sidecar that hangs is
    noticed within three of its intervals. A change of the status is reported at once, a flapping one every
    second. When the agent does not know the check any more (it was restarted without its data) the workload is
    registered again, but not while it is critical: then it is Consul that removed it
    (``deregister_critical_service_after``), and it comes back once it is well.
    """

    def __init__(self, workload: Workload, client: Callable[[], Any], link: Link, clock: Callable[[], float]) -> None:
        self._workload = workload
        self._client = client
        self._link = link
        self._clock = clock
        self.source = f"registration of {workload.id}"
        self._check_id = f"service:{workload.id}"
        self._interval = min(max(workload.check_interval, 1.0), KEEP_ALIVE)
        self._pace = Pace(1.0, 4, clock)  # never slower than the renewals
        self._wake = asyncio.Event()
        self._stopping = False
        self._status = "critical"
        self._output = "not checked yet"
        self._grace_ends = clock() + GRACE
        #: Whether a registration may have reached the agent, so that one has to be taken back.
        self._attempted = False
        self._accepted = False
        self._calling = False
        self._registered = False
        self._reported = ""
        self._report_at = 0.0
        self._reconcile_at = 0.0
        self._failures = 0
        self._task = asyncio.create_task(self._run(), name="consul registration")

    def set_health(self, status: str, output: str) -> None:
        """The workload's health: ``passing``, ``warning`` or ``critical``, and why."""
        self._output = output[:300]  # it travels in the query string
        if status != self._status:
            self._status = status
            self._wake.set()

    def confirm(self) -> None:
        """Look now whether the agent still knows the workload: it was away."""
        self._report_at = 0.0
        self._wake.set()

    def change(self, workload: Workload) -> None:
        """Register it so from now on; name, id, address and port stay."""
        if workload != self._workload:
            self._workload = workload
            self.renew()

    def renew(self) -> None:
        """Register again, also while it is critical, if it is registered."""
        if self._registered:
            self._registered = self._accepted = False
            self._grace_ends = self._clock()
        self._wake.set()

    async def leave(self) -> None:
        """Take the workload out; at most :data:`LEAVE` seconds, never raises."""
        await self.stop(deregister=True)

    async def stop(self, *, deregister: bool) -> None:
        """End it and, when asked to, take the workload out; at most :data:`LEAVE` seconds, never raises."""
        self._stopping = True
        self._wake.set()
        try:
            async with asyncio.timeout(LEAVE):
                if deregister and self._calling:  # a registration under way must not overtake the deregistration
                    await asyncio.wait({self._task}, timeout=LEAVE / 2)
                self._task.cancel()
                await asyncio.wait({self._task})
                if deregister and self._attempted:
                    await self._leave()
        except Exception as error:
            log.warning(
                "could not deregister %s: %s; Consul takes it out when its check was critical for %.0f s",
                self._workload.id, describe(error), self._deregister_after,
            )  # fmt: skip
        self._task.cancel()
        self._link.gone(self.source)

    @property
    def _deregister_after(self) -> float:
        return max(SHORTEST_DEREGISTRATION, self._workload.deregister_after)

    async def _run(self) -> None:
        while not self._stopping:
            await self._pace.turn()
            self._wake.clear()
            self._calling = True
            try:
                async with asyncio.timeout(CALL):
                    await self._sync()
                delay = self._due()
                if delay == math.inf:
                    self._link.gone(self.source)
            except Exception as error:
                self._failures += 1
                self._link.failed(self.source, error, away=not isinstance(error, ConsulException))
                delay = backoff(self._failures, error)
            finally:
                self._calling = False
            await self._sleep(delay)

    async def _sleep(self, delay: float) -> None:
        try:
            async with asyncio.timeout(delay if delay < math.inf else None):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _due(self) -> float:
        """Seconds until there is something to do; infinite when only a change of health can bring it."""
        if self._registered:
            due = 0.0 if self._status != self._reported else min(self._report_at, self._reconcile_at)
        elif self._status != "critical":
            due = 0.0
        else:
            due = math.inf if self._accepted else self._grace_ends
        return max(0.0, due - self._clock())

    async def _sync(self) -> None:
        """Bring the agent to what it should know. Raises when a call fails."""
        if self._registered and self._clock() >= self._reconcile_at and not await self._known_to_agent():
            self._registered = False
        if self._registered and (self._status != self._reported or self._clock() >= self._report_at):
            self._registered = await self._report()
            if not self._registered:
                log.warning("Consul does not know %s any more", self._workload.id)
        if not self._registered and self._due() <= 0:
            await self._register()
            if not await self._report():
                raise ConsulException("the agent forgot the registration at once")

    async def _register(self) -> None:
        workload, status = self._workload, self._status
        self._attempted = True
        accepted = await self._client().agent.service.register(
            workload.name,
            service_id=workload.id,
            address=workload.address,
            port=workload.port,
            tags=list(workload.tags),
            meta=_meta(workload),
            weights={"Passing": workload.passing_weight, "Warning": workload.warning_weight},
            check={
                "CheckID": self._check_id,
                "Name": f"{workload.name} as its sidecar sees it",
                "TTL": f"{3 * self._interval:.3f}s",
                "Status": status,  # without it a running service would be critical for a moment
                "DeregisterCriticalServiceAfter": f"{self._deregister_after:.0f}s",
            },
            replace_existing_checks=True,
        )
        if not accepted:
            raise ConsulException("the registration was not accepted")
        self._accepted = self._registered = True
        self._reconcile_at = self._clock() + RECONCILE * random.uniform(0.9, 1.1)
        log.info("registered %s with Consul as %s, %s", workload.id, workload.name, status)

    async def _report(self) -> bool:
        """Renew the check; False when the agent does not know it."""
        status = self._status
        check = self._client().agent.check
        renew = {"passing": check.ttl_pass, "warning": check.ttl_warn}.get(status, check.ttl_fail)
        try:
            known = bool(await renew(self._check_id, notes=self._output))
        except ConsulException as error:
            # 404 since 1.11; before that a 500 with one of these texts
            if not isinstance(error, NotFound) and not any(
                text in str(error) for text in ("does not have associated TTL", "Unknown check")
            ):
                raise
            known = False
        self._failures = 0
        self._link.ok(self.source)
        self._reported = status
        self._report_at = self._clock() + self._interval * random.uniform(0.9, 1.0)
        return known

    async def _known_to_agent(self) -> bool:
        """Whether the agent has this workload as it should be; somebody may have registered over it."""
        wanted = self._workload
        services = await self._client().agent.services(filter_expr=f"ID == {json.dumps(wanted.id, ensure_ascii=False)}")
        self._reconcile_at = self._clock() + RECONCILE * random.uniform(0.9, 1.1)
        found = (services or {}).get(wanted.id) if isinstance(services, dict | None) else None
        return isinstance(found, dict) and _as_said(found) == {
            "Service": wanted.name,
            "Address": wanted.address,
            "Port": self._workload.port,
            "Tags": sorted(wanted.tags),
            "Meta": _meta(wanted),
            "Weights": {"Passing": wanted.passing_weight, "Warning": wanted.warning_weight},
        }

    async def _leave(self) -> None:
        try:
            await self._client().agent.service.deregister(self._workload.id)
        except ConsulException as error:
            if "Unknown service" not in str(error):
                raise
        log.info("deregistered %s from Consul", self._workload.id)


def _meta(workload: Workload) -> dict[str, str]:
    """What it is registered with: that a sidecar stands before it, too, if one does."""
    if not workload.fronted:
        return workload.meta
    admin = {ADMIN: str(workload.admin)} if workload.admin else {}
    return {**workload.meta, SIDECAR: "1", **admin}


def _as_said(found: dict[str, Any]) -> dict[str, Any]:
    """What an agent says of a service, in the form of what it was told. The types are whatever they are."""
    tags = found.get("Tags") or []
    return {
        "Service": found.get("Service"),
        "Address": found.get("Address"),
        "Port": found.get("Port"),
        "Tags": sorted(tags, key=str) if isinstance(tags, list) else tags,
        "Meta": found.get("Meta") or {},
        "Weights": found.get("Weights"),
    }
