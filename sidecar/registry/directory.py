"""A folder as the registry, shared by the sidecars of one host (a volume): discovery without a server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sidecar.core.instance import Instance, OnChange
from sidecar.core.secret import Secret
from sidecar.registry.directory_folder import Folder
from sidecar.registry.directory_record import check_size
from sidecar.registry.directory_registration import DirectoryRegistration
from sidecar.registry.directory_root import Root
from sidecar.registry.directory_shared import FolderValue, SharedFiles, in_turn
from sidecar.registry.link import Link
from sidecar.registry.outage_grace import Hold
from sidecar.registry.settings import Settings, Workload
from sidecar.registry.shared_value import Found, OnValue, checked
from sidecar.registry.watch import Watch

log = logging.getLogger("sidecar.registry")

#: Seconds between two looks into the folder.
POLL = 0.4
#: Seconds between two clean-ups.
TIDY = 60.0

T = TypeVar("T")


class _FolderWatch(Watch):
    def __init__(self, service: str, tag: str, clock: Callable[[], float]) -> None:
        super().__init__(service, tag)
        self._hold = Hold(clock)

    def away(self) -> None:
        self._hold.outage()

    def found(self, instances: tuple[Instance, ...]) -> None:
        tag = self.tag
        usable = self._hold.apply(tuple(i for i in instances if not tag or tag in i.tags))
        if usable != self.known:
            self.publish(usable)


class DirectoryRegistry:
    """See :class:`sidecar.registry.api.Registry`. One thread does all the disk's work, so a slow disk never holds
    up traffic. Raises :class:`sidecar.registry.errors.RegistryError` when the folder cannot be used."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._workload = settings.workload
        self._clock = clock
        self._folder = Folder(Path(settings.path), clock=clock)
        self._folder.prepare()
        self._files = SharedFiles(Root(Path(settings.path)))
        self._values: list[FolderValue] = []
        if settings.workload is not None:
            check_size(settings.workload)
        self._link = Link(f"directory://{settings.path}", clock)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._watches: dict[tuple[str, str], _FolderWatch] = {}
        self._poll: asyncio.Task[None] | None = None
        #: All, that of the settings' workload included.
        self._registrations: list[DirectoryRegistration] = []
        self._registration: DirectoryRegistration | None = None
        self._health: tuple[str, str] | None = None
        self._tidy_at = clock()
        self._closed = False

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
            watch = self._watches[key] = _FolderWatch(service, tag, self._clock)
        unsubscribe = watch.subscribe(on_change)
        self._look_on()

        def cancel() -> None:
            unsubscribe()
            if not watch.wanted and self._watches.get(key) is watch:
                del self._watches[key]
                watch.answered.set()

        return cancel

    def share(self, name: str, on_value: OnValue) -> FolderValue:
        value = FolderValue(checked(name), self._files, on_value, self._in_thread, self._values.remove)
        self._values.append(value)
        self._look_on()
        return value

    async def exchange(self, name: str, who: str, data: bytes | None) -> Mapping[str, Found]:
        found: dict[str, Found] = await in_turn(self._in_thread, self._files.exchange, checked(name), who, data)
        return found

    async def erase(self, name: str, notes: Mapping[str, object]) -> None:
        await in_turn(self._in_thread, self._files.erase, checked(name), notes)

    async def answered(self) -> None:
        for first in [it.answered for it in self._watches.values()] + [it.answered for it in self._values]:
            await first.wait()

    async def sidecars(self) -> Sequence[Instance]:
        """From every file that is there: one that is killed leaves its own behind."""
        return await self._in_thread(self._folder.sidecars)

    async def services(self) -> Mapping[str, frozenset[str]]:
        return await self._in_thread(self._folder.services)

    def enroll(self, workload: Workload) -> DirectoryRegistration:
        registration = DirectoryRegistration(workload, self._folder, self._in_thread, self._link, self._clock)
        self._registrations.append(registration)
        return registration

    def register(self) -> None:
        """A workload without an inbound port has nothing that others could dial and is not registered."""
        if self._registration is None and self._workload is not None:
            self._registration = self.enroll(self._workload)
            if self._health is not None:
                self._registration.set_health(*self._health)

    def set_health(self, status: str, output: str) -> None:
        self._health = (status, output)
        if self._registration is not None:
            self._registration.set_health(status, output)

    def use_token(self, token: Secret) -> None:
        """A folder knows users and groups, not tokens."""

    async def deregister(self) -> None:
        registration, self._registration = self._registration, None
        if registration is not None:
            self._registrations.remove(registration)
            await registration.leave()

    async def close(self) -> None:
        """Registrations stay until they are stale; call :meth:`deregister`, and ``leave`` of each, before to take them
        out."""
        self._registration = None
        await asyncio.gather(*(registration.stop() for registration in self._registrations))
        self._registrations.clear()
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.cancel()
            await asyncio.wait({poll})
        for watch in self._watches.values():
            watch.answered.set()
        self._watches.clear()
        for value in tuple(self._values):
            value.close()
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        """Raises OSError when the registry is closed, and what the call raises."""
        if self._closed:
            raise OSError("the registry is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def _look_on(self) -> None:
        if self._poll is None:
            self._poll = asyncio.create_task(self._keep_looking(), name="registry poll")

    async def _keep_looking(self) -> None:
        while True:
            try:
                error = await self._look() if self._watches else None
                error = await self._look_at_values() or error
            except Exception as failure:
                error = failure
                for watch in self._watches.values():
                    watch.away()
            if error is not None:
                self._link.failed("discovery", error)
            elif self._watches or self._values:
                self._link.ok("discovery")
            await asyncio.sleep(POLL)

    async def _look(self) -> Exception | None:
        """Look once; what went wrong with single services. Raises OSError when the registry cannot be read at all."""
        services = {service for service, _ in self._watches}
        found, failed = await self._in_thread(self._read, services)
        for watch in tuple(self._watches.values()):
            if watch.service in found:
                watch.found(found[watch.service])
            elif watch.service in failed:
                watch.away()
        return next(iter(failed.values()), None)

    async def _look_at_values(self) -> Exception | None:
        """Look at what is shared; what went wrong with one. What somebody has spoiled there spoils no discovery."""
        failed: Exception | None = None
        for value in tuple(self._values):
            try:
                value.found(await self._in_thread(self._files.read, value.name))
            except ValueError as error:  # what is there is no value
                value.found(b"")
                failed = error
            except OSError as error:
                value.answered.set()
                failed = error
        return failed

    def _read(self, services: set[str]) -> tuple[dict[str, tuple[Instance, ...]], dict[str, OSError]]:
        self._folder.keep(services)
        if self._clock() >= self._tidy_at:
            self._tidy_at = self._clock() + TIDY
            self._folder.tidy()
        found: dict[str, tuple[Instance, ...]] = {}
        failed: dict[str, OSError] = {}
        for service in services:
            try:
                found[service] = self._folder.read(service)
            except OSError as error:  # a folder that others have spoiled is so for its own service only
                failed[service] = error
        if failed:
            self._folder.check()
        return found, failed
