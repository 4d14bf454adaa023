"""Values that sidecars share in Consul's key-value store: ``sidecar/<name>``, changed by check-and-set on its
ModifyIndex, followed by a blocking query (https://developer.hashicorp.com/consul/api-docs/kv)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import aiohttp
from consul import ConsulException

from sidecar.registry.consul_client import BadAnswer
from sidecar.registry.consul_watch import ANSWER, WAIT, BlockingQuery, jittered
from sidecar.registry.link import Link
from sidecar.registry.shared_value import Found, OnValue, log, tell

#: Where they are: a token has to be allowed to read and write keys with this beginning.
PREFIX: Final = "sidecar/"
#: Seconds to find out the version of what was changed. The change is made by then.
VERSION: Final = 2.0


class ConsulValue:
    """One of them: see :class:`sidecar.registry.shared_value.SharedValue`. ``client`` gives the py-consul client."""

    def __init__(
        self, name: str, client: Callable[[], Any], link: Link, clock: Callable[[], float], on_value: OnValue,
        closed: Callable[[ConsulValue], None],
    ) -> None:  # fmt: skip
        self.name = name
        self.answered = asyncio.Event()
        self._key = PREFIX + name
        self._client = client
        self._link = link
        self._on_value: OnValue | None = on_value
        self._closed = closed
        self._told: Found | None = None
        self.query = BlockingQuery(f"shared value {name}", self._query, link, clock, self.answered)

    async def put(self, data: bytes, seen: object) -> Found | None:
        kv = self._client().kv
        try:
            async with asyncio.timeout(ANSWER):
                if await kv.put(self._key, data.decode(), cas=seen) is not True:
                    return None
        except (ConsulException, aiohttp.ClientError) as error:
            raise OSError(str(error)[:200] or type(error).__name__) from error
        try:
            async with asyncio.timeout(VERSION):
                _, found = _read(await kv.get(self._key, consistency="consistent"))
        except (ConsulException, aiohttp.ClientError, OSError) as error:
            log.debug("the version of %s, which was changed, is not known yet: %s", self._key, error)
            found = Found(data, 0)  # that replaces nothing; what it really is, the query tells
            if self._on_value is not None:
                self.query.restart()
        self._told = found
        return found

    def close(self) -> None:
        if self._on_value is not None:
            self._on_value = None
            self.answered.set()
            self.query.task.cancel()
            self._link.gone(self.query.source)
            self._closed(self)

    async def _query(self, index: int) -> int:
        """Ask once; returns the index to go on with."""
        wait = jittered(WAIT)
        async with asyncio.timeout(ANSWER + (wait * 17 / 16 if index else 0)):
            answer = await self._client().kv.get(self._key, index=index or None, wait=f"{wait:.0f}s")
        answered, found = _read(answer)
        self._link.ok(self.query.source)
        self.answered.set()
        if found != self._told and self._on_value is not None:
            self._told = found
            tell(self._on_value, found)
        return 0 if answered < index else answered


def _read(answer: Any) -> tuple[int, Found]:
    """The index and the value of what py-consul made of an answer. Raises :class:`BadAnswer`."""
    try:
        text, entry = answer
        index = max(1, int(text))
        if entry is None:
            return index, Found(None, 0)
        version, value = entry["ModifyIndex"], entry["Value"]
    except (TypeError, ValueError, KeyError) as error:
        raise BadAnswer(f"Consul's answer is no value: {type(error).__name__}") from error
    if not isinstance(version, int) or not isinstance(value, (bytes, type(None))):
        raise BadAnswer("Consul's answer is no value")
    return index, Found(value or b"", version)
