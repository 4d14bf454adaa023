"""Reads from Consul's catalog which sidecars are registered as services of their own, the critical ones included."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
from consul import ConsulException
from consul.callback import CB

from sidecar.core.instance import SIDECAR_SUFFIX, SIDECAR_TAG, Instance
from sidecar.registry import validate

logger = logging.getLogger("sidecar.registry")

#: How many such services are looked at, and how many at once.
MOST: Final = 5000
AT_ONCE: Final = 8
#: Seconds for all of it.
SECONDS: Final = 5.0


async def services(client: Any) -> dict[str, frozenset[str]]:
    """The names of all services, with the tags that any of their instances has. Raises OSError or TimeoutError."""
    async with asyncio.timeout(SECONDS):
        return await _names(client)


async def sidecars(client: Any) -> Sequence[Instance]:
    """Ask for them. Raises OSError or TimeoutError."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def entries(name: str) -> Any:
        """Those of one service; none if what Consul says of it cannot be used: others have theirs all the same."""
        try:
            async with turn:
                return await _ask(client, f"/v1/catalog/service/{name}")
        except OSError as error:
            broken[name] = str(error)
            return []

    broken: dict[str, str] = {}

    async with asyncio.timeout(SECONDS):
        names = await _names(client)
        wanted = sorted(name for name, tags in names.items() if name.endswith(SIDECAR_SUFFIX) and SIDECAR_TAG in tags)
        lists = await asyncio.gather(*(entries(name) for name in wanted[:MOST] if _plain(name)))
    if broken:
        name, text = next(iter(broken.items()))
        logger.warning("%d services of sidecars cannot be read from Consul, %s for one: %s", len(broken), name, text)
        if len(broken) == len(lists):
            raise OSError(text)
    return [found for entries in lists for found in read(entries)][:MOST]


async def _ask(client: Any, path: str) -> Any:
    params = [("dc", client.dc)] if client.dc else []
    try:
        return await client.http.get(CB.json(), path, params=params, headers=client.prepare_headers())
    except (ConsulException, aiohttp.ClientError) as error:
        raise OSError(str(error)[:200] or type(error).__name__) from error


async def _names(client: Any) -> dict[str, frozenset[str]]:
    names = await _ask(client, "/v1/catalog/services")
    if not isinstance(names, dict):
        raise OSError("Consul's answer is no list of services")
    return {
        name: frozenset(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else frozenset()
        for name, tags in names.items()
    }


def read(entries: Any) -> list[Instance]:
    """The instances of an answer of ``/v1/catalog/service/:service``; those that make no sense are left out."""
    found = []
    for entry in entries[:MOST] if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        try:
            it = validate.instance(
                host_=entry.get("ServiceAddress") or entry.get("Address"),
                port=entry.get("ServicePort"),
                id_=entry.get("ServiceID") or "",
                weight=1,
                state="healthy",
                tags=entry.get("ServiceTags") or [],
                meta=entry.get("ServiceMeta") or {},
            )
        except ValueError:
            continue
        if SIDECAR_TAG in it.tags:
            found.append(it)
    return found


def _plain(name: str) -> bool:
    """Whether it can stand in a path as it is."""
    return name.isascii() and all(c.isalnum() or c in "-_." for c in name)
