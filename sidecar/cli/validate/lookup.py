"""The mesh's registry, asked once at a time: what services there are, and the instances of one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote

from sidecar.core.instance import Instance
from sidecar.registry import Settings
from sidecar.registry.link import describe

#: Seconds that one question may take.
TIMEOUT: Final = 5.0

T = TypeVar("T")


class LookupFailed(Exception):
    """The registry did not answer, or not so that it can be understood; the text says why."""


class Lookup(Protocol):
    """Everything may raise :class:`LookupFailed`."""

    async def services(self) -> list[str]:
        """The names of all services, sorted."""
        ...

    async def instances(self, service: str) -> tuple[Instance, ...]:
        """Those that a sidecar could use: neither critical nor stale."""
        ...

    async def forget(self, service: str, id: str) -> None:
        """Take out what may be left of an instance."""
        ...

    async def close(self) -> None: ...


def lookup(settings: Settings) -> Lookup | None:
    """The registry of these settings; None when there is to be none."""
    if settings.kind == "consul":
        return ConsulLookup(settings)
    return FolderLookup(settings.path) if settings.kind == "directory" else None


class ConsulLookup:
    """Asks a Consul agent."""

    def __init__(self, settings: Settings) -> None:
        from sidecar.registry.consul_client import Client

        host = settings.address.host
        self._client: Any = Client(
            f"[{host}]" if ":" in host else host, settings.address.port, tls=settings.tls,
            datacenter=settings.datacenter or None, connections=10, timeout=TIMEOUT,
        )  # fmt: skip
        self._client.token = settings.token.reveal() or None

    async def services(self) -> list[str]:
        _, found = await _answer(self._client.catalog.services())
        if not isinstance(found, dict):
            raise LookupFailed("Consul's list of services is not an object")
        return sorted(str(name) for name in found)

    async def instances(self, service: str) -> tuple[Instance, ...]:
        from sidecar.registry.consul_health import read

        _, text = await _answer(self._client.instances(service, index=0, wait="", tag=""))
        try:
            return read(text)
        except ValueError as error:
            raise LookupFailed(str(error)) from error

    async def forget(self, service: str, id: str) -> None:
        if any(it.id == id for it in await self.instances(service)):
            await _answer(self._client.agent.service.deregister(id))

    async def close(self) -> None:
        await self._client.close()


class FolderLookup:
    """Looks into a folder, which is not made if it does not exist."""

    def __init__(self, path: str) -> None:
        from sidecar.registry.directory_folder import Folder

        self._path = Path(path)
        self._folder = Folder(self._path)

    async def services(self) -> list[str]:
        return await _answer(asyncio.to_thread(self._services))

    def _services(self) -> list[str]:
        with os.scandir(self._path) as found:
            return sorted(unquote(it.name) for it in found if it.is_dir(follow_symlinks=False) and it.name[0] != ".")

    async def instances(self, service: str) -> tuple[Instance, ...]:
        return await _answer(asyncio.to_thread(self._folder.read, service))

    async def forget(self, service: str, id: str) -> None:
        await _answer(asyncio.to_thread(self._folder.remove, service, id))

    async def close(self) -> None:
        pass


async def _answer(asked: Awaitable[T]) -> T:
    """What is answered in time. Raises :class:`LookupFailed`."""
    try:
        async with asyncio.timeout(TIMEOUT):
            return await asked
    except TimeoutError as error:
        raise LookupFailed(f"no answer within {TIMEOUT:g} s") from error
    except Exception as error:  # what py-consul raises has no common base with the rest
        raise LookupFailed(describe(error)) from error
