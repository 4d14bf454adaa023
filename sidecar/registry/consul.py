"""Consul as the registry, through py-consul and one pooled session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidecar.core.instance import Instance, OnChange
from sidecar.core.secret import Secret
from sidecar.registry import consul_catalog, consul_notes
from sidecar.registry.consul_client import Client
from sidecar.registry.consul_registration import ConsulRegistration
from sidecar.registry.consul_shared import ConsulValue
from sidecar.registry.consul_watch import ANSWER, WAIT, BlockingQuery, ConsulWatch
from sidecar.registry.link import Link
from sidecar.registry.settings import Settings, Workload
from sidecar.registry.shared_value import Found, OnValue, checked

#: Connections to the agent. Each watch holds one; an agent accepts 200 from one address by default.
CONNECTIONS = 190


class ConsulRegistry:
    """See :class:`sidecar.registry.api.Registry`. Talks to the local agent, never to the catalog itself."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._token = settings.token
        self._clock = clock
        self._address = settings.address
        self._client: Any = None
        self._watches: dict[tuple[str, str], ConsulWatch] = {}
        self._values: list[ConsulValue] = []
        self._ending: set[asyncio.Task[None]] = set()
        #: All, that of the settings' workload included.
        self._registrations: list[ConsulRegistration] = []
        self._registration: ConsulRegistration | None = None
        self._health: tuple[str, str] | None = None
        self._link = Link(f"consul://{self._address}", clock, self._returned)

    @property
    def up(self) -> bool:
        return self._link.up

    @property
    def age(self) -> float:
        return self._link.age

    def watch(self, service: str, tag: str, on_change: OnChange) -> Callable[[], None]:
        key = (service, tag)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = ConsulWatch(service, tag, self._connect, self._link, self._clock)
        unsubscribe = watch.subscribe(on_change)

        def cancel() -> None:
            unsubscribe()
            if not watch.wanted and self._watches.get(key) is watch:
                del self._watches[key]
                self._end(asyncio.create_task(watch.stop()))

        return cancel

    def share(self, name: str, on_value: OnValue) -> ConsulValue:
        def closed(value: ConsulValue) -> None:
            self._values.remove(value)
            self._end(value.query.task)

        value = ConsulValue(checked(name), self._connect, self._link, self._clock, on_value, closed)
        self._values.append(value)
        return value

    async def exchange(self, name: str, who: str, data: bytes | None) -> Mapping[str, Found]:
        return await consul_notes.exchange(self._connect(), checked(name), who, data)

    async def erase(self, name: str, notes: Mapping[str, object]) -> None:
        await consul_notes.erase(self._connect(), checked(name), notes)

    async def answered(self) -> None:
        for it in self._followed():
            await it.answered.wait()

    async def sidecars(self) -> Sequence[Instance]:
        return await consul_catalog.sidecars(self._connect())

    async def services(self) -> Mapping[str, frozenset[str]]:
        return await consul_catalog.services(self._connect())

    def enroll(self, workload: Workload) -> ConsulRegistration:
        registration = ConsulRegistration(workload, self._connect, self._link, self._clock)
        self._registrations.append(registration)
        return registration

    def register(self) -> None:
        """A workload without an inbound port has nothing that others could dial and is not registered."""
        workload = self._settings.workload
        if self._registration is None and workload is not None:
            self._registration = self.enroll(workload)
            if self._health is not None:
                self._registration.set_health(*self._health)

    def set_health(self, status: str, output: str) -> None:
        self._health = (status, output)
        if self._registration is not None:
            self._registration.set_health(status, output)

    def use_token(self, token: Secret) -> None:
        """The agent keeps the one that a service was registered with, so that is done anew; queries ask again, as the
        old token may be worth nothing by now."""
        self._token = token
        if self._client is not None:
            self._client.token = token.reveal() or None
        for it in self._followed():
            it.restart()
        for registration in self._registrations:
            registration.renew()

    async def deregister(self) -> None:
        registration, self._registration = self._registration, None
        if registration is not None:
            self._registrations.remove(registration)
            await registration.leave()

    async def close(self) -> None:
        """Registrations stay; call :meth:`deregister`, and ``leave`` of each, before to take them out."""
        self._registration = None
        await asyncio.gather(*(registration.stop(deregister=False) for registration in self._registrations))
        self._registrations.clear()
        watches = tuple(self._watches.values())
        self._watches.clear()
        for value in tuple(self._values):
            value.close()
        await asyncio.gather(*(watch.stop() for watch in watches), *self._ending, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _followed(self) -> list[BlockingQuery]:
        return [*(it.query for it in self._watches.values()), *(it.query for it in self._values)]

    def _end(self, task: asyncio.Task[None]) -> None:
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _connect(self) -> Any:
        """The client, made at the first use because its session belongs to the running event loop."""
        if self._client is None:
            self._client = Client(
                self._address.host if ":" not in self._address.host else f"[{self._address.host}]",
                self._address.port,
                tls=self._settings.tls,
                datacenter=self._settings.datacenter or None,
                connections=CONNECTIONS,
                # aiohttp's own limit of 300 s would cut blocking queries; every call has a timeout of its own.
                timeout=WAIT * 17 / 16 + 2 * ANSWER,
            )
            # After, not in the call: there CONSUL_HTTP_TOKEN from the environment would win over the configuration.
            self._client.token = self._token.reveal() or None
        return self._client

    def _returned(self, source: str) -> None:
        """Consul answers again after it could not be reached: let no other loop sleep out its backoff or wait on a
        dead connection, and find out whether registrations survived."""
        for it in self._followed():
            if it.source != source:
                it.restart()
        for registration in self._registrations:
            if registration.source != source:
                registration.confirm()
