"""``GET /cache`` and ``DELETE /cache``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.agent.cache_api import Caches
from sidecar.config.cache import CacheSettings
from sidecar.core.operations import Answer, Call, Handler, NotKnown
from support.http import Stage


def stage(**policies: Any) -> Stage:
    it = Stage(retry=None, circuit_breaker=None, **policies)
    it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(200, b"kept", "cache-control: max-age=60")
    it.loop.settle()
    it.asks("GET /a")
    return it


async def _answer(handler: Handler, call: Call) -> Any:
    return await handler(call)


def asked(api: Caches, method: str, **query: str) -> Any:
    async def read() -> bytes:
        return b""

    (handler,) = [it.handler for it in api.contribution().operations if it.method == method]
    answer = asyncio.run(_answer(handler, Call({}, tuple(query.items()), "127.0.0.1", "", read)))
    assert isinstance(answer, Answer)
    return answer.data


def test_what_is_held_is_shown_and_forgotten() -> None:
    it, without = stage(cache=CacheSettings()), stage()
    api = Caches(lambda: [it.listener, without.listener])
    (shown,) = (asked(api, "GET"))["caches"]
    assert (shown["upstream"], shown["direction"], shown["entries"], shown["under_way"]) == ("up", "outbound", 1, 0)
    assert (shown["max_bytes"], shown["outcomes"]) == (64 << 20, {"miss": 1, "hit": 1})
    assert asked(api, "DELETE", upstream="up") == {"emptied": ["up"], "forgotten": 1}
    (shown,) = (asked(api, "GET", upstream="up"))["caches"]
    assert (shown["entries"], shown["bytes"]) == (0, 0)
    for stopped in (it, without):
        stopped.listener.drain()
        stopped.over()


def test_who_has_no_cache_is_not_known() -> None:
    it = stage()
    api = Caches(lambda: [it.listener])
    assert asked(api, "GET") == {"caches": []}
    with pytest.raises(NotKnown, match="these have one: none"):
        asked(api, "DELETE", upstream="up")
    it.over()
