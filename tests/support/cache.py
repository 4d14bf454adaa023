"""A port with a cache, and what is kept there."""

from __future__ import annotations

from typing import Any

from sidecar.config.cache import CacheSettings
from support.http import Message, Stage

FRESH = "cache-control: max-age=60"
#: Answers by the JSON of a request.
JSON = CacheSettings(key="json", methods=frozenset({"POST"}), ttl=60.0)
TYPE = "content-type: application/json"


def stage(settings: CacheSettings | None = None, **more: Any) -> Stage:
    return Stage(**{"cache": settings or CacheSettings(), "retry": None, "circuit_breaker": None, **more})


def told(it: Stage, line: str, *fields: str, answer: tuple[str, ...] = (FRESH,), body: bytes = b"kept",
         status: int = 200, sent: bytes = b"") -> Message:  # fmt: skip
    """Such a request reaches the upstream, which answers so."""
    client = it.asks(line, *fields, body=sent)
    server = it.upstream()
    server.hears()
    server.answers(status, body, *answer)
    return client.gets()


def hit(it: Stage, line: str, *fields: str, sent: bytes = b"") -> Message | None:
    """The answer that such a request gets from memory; ``None``: it reaches the upstream, and is broken off there."""
    client = it.asks(line, *fields, body=sent)
    if it.asked():
        it.upstream().hears()
        client.breaks()
        it.loop.settle()
        return None
    return client.gets()


def away(it: Stage) -> None:
    """Nobody can be reached from now on."""
    it.loop.dialled = lambda host, port: "refuse"
    for server in it.accepted:
        if server.connected:
            server.leaves()
    it.loop.settle()
