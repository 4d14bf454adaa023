"""Notes that sidecars put beside a shared value in Consul's key-value store: ``sidecar/<name>/<who>``.

All are read at once, as they are at one index of Consul's: so everybody who looks has seen the same course of events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from consul import ConsulException

from sidecar.registry.consul_client import BadAnswer
from sidecar.registry.consul_shared import PREFIX
from sidecar.registry.shared_value import MAX_NOTE, MAX_NOTES, Found, is_who

#: Seconds that an exchange may take: what comes later is old.
PATIENCE: Final = 5.0


async def exchange(client: Any, name: str, who: str, data: bytes | None) -> dict[str, Found]:
    """See :meth:`sidecar.registry.api.Registry.exchange`."""
    prefix = f"{PREFIX}{name}/"
    try:
        async with asyncio.timeout(PATIENCE):
            if data is not None:
                await client.kv.put(prefix + who, data.decode())
            return read(await client.values(prefix), prefix)
    except (ConsulException, aiohttp.ClientError) as error:
        raise OSError(str(error)[:200] or type(error).__name__) from error


async def erase(client: Any, name: str, notes: Mapping[str, object]) -> None:
    """See :meth:`sidecar.registry.api.Registry.erase`."""
    try:
        async with asyncio.timeout(PATIENCE):
            for who, version in notes.items():
                await client.kv.delete(f"{PREFIX}{name}/{who}", cas=version)
    except (ConsulException, aiohttp.ClientError) as error:
        raise OSError(str(error)[:200] or type(error).__name__) from error


def read(answer: Any, prefix: str) -> dict[str, Found]:
    """The notes of what py-consul made of an answer; keys that are no note's are left out. One that is too large, or
    empty, says nothing, and can be removed like others. Raises :class:`BadAnswer`."""
    try:
        _, entries = answer
        found: dict[str, Found] = {}
        for entry in entries or ():
            who, version, value = entry["Key"].removeprefix(prefix), entry["ModifyIndex"], entry["Value"]
            if is_who(who) and isinstance(version, int) and len(found) < MAX_NOTES:
                small = isinstance(value, bytes) and len(value) <= MAX_NOTE
                found[who] = Found(value if small else b"", version)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadAnswer(f"Consul's answer is no list of values: {type(error).__name__}") from error
    return found
