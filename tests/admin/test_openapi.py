"""The description is complete, and true."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from sidecar.admin.connection_limit import Door
from sidecar.admin.server import Application
from sidecar.agent.canary import Canary
from sidecar.config.cache import CacheSettings
from sidecar.config.canary import CanarySettings
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.subsets import Select
from sidecar.config.traffic import Match, Upstream
from sidecar.endpoints.endpoint import Endpoint
from sidecar.filters.cache import Cache
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.registry import Found, LocalValue
from sidecar.resilience.rollout import begin, encode
from support.admin import Asking, Reply, serving
from support.fake_spool import FakeSpool, damaged, letter, message
from support.http import Stage
from support.json_schema import problems, resolve
from support.ports import route_of, site
from support.running import FakeRegistry, FakeRunning, FakeUpstream, running

pytestmark = pytest.mark.asyncio


def registered(door: Door) -> set[tuple[str, str]]:
    """What the server really routes."""
    app = door.server.answer.__self__  # type: ignore[attr-defined]
    assert isinstance(app, Application)
    return {(method.lower(), path) for method, path in app.routes}


def described(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): it for path, item in document["paths"].items() for method, it in item.items()}


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [r for value in node.values() for r in references(value)]
    return [r for value in node for r in references(value)] if isinstance(node, list) else []


async def test_every_route_is_described_and_everything_described_is_a_route() -> None:
    door = Door()
    async with serving(running(), door) as client:
        document = (await client.get("/openapi.json")).json
        assert described(document).keys() == registered(door)


async def test_the_document_is_well_formed(admin: Asking) -> None:
    client = await admin(running())
    document = (await client.get("/openapi.json")).json
    assert document["openapi"].startswith("3.1.")
    assert document["info"].keys() >= {"title", "version"}
    operations = described(document)
    ids = [it["operationId"] for it in operations.values()]
    assert len(ids) == len(set(ids))
    for (method, path), it in operations.items():
        assert it["summary"]
        assert [p["name"] for p in it["parameters"] if p["in"] == "path"] == re.findall(r"{(\w+)}", path)
        assert all(p["schema"] for p in it["parameters"])
        assert all(p["required"] if p["in"] == "path" else p["description"] for p in it["parameters"])
        assert "default" in it["responses"]
        for status, response in it["responses"].items():
            assert status == "default" or (response["description"] and response["content"])
        assert ("security" in it) == (method != "get" or path in _PRIVATE or "/dead-letters" in path)
    for reference in references(document):
        resolve(reference, document)
    used = {reference.rpartition("/")[2] for reference in references(document)}
    assert used >= document["components"]["schemas"].keys()


def everything() -> FakeRunning:
    """A sidecar in which no list is empty."""
    it = running("ollama", registry=FakeRegistry(), changes=["drain: changed"])
    it.apps_turn.inbound_drained.set()
    routes = (route_of(match=Match(path="/a"), circuit_breaker=CircuitBreakerSettings()),)
    it.upstreams["redis"] = upstream = FakeUpstream("redis", routes=routes)
    upstream.endpoints.append(Endpoint("::1", 6379, state="warning"))
    upstream.stats.tally("GET", 200).n += 1
    upstream.stats.retries["connect"] += 1
    upstream.stats.rejected["timeout"] += 1
    it.upstreams["rabbitmq"] = broker = FakeUpstream("rabbitmq", protocol="amqp")
    assert broker.amqp is not None
    broker.amqp.exchange("/", "ai.tasks", published=3, held_seconds=0.5)
    broker.amqp.queue("tasks", depth=9)
    broker.amqp.queue("gone", depth=-1, problem="no such queue")
    broker.amqp.waiting = [("the rate of ai.tasks", 1)]
    broker.amqp.session(1)
    broker.amqp.spool = kept = FakeSpool()
    kept.key("exchange ai.tasks", 3, 900)
    kept.dead_letters.add(*(letter(number, message(headers={"n": number})) for number in range(1, 6)), damaged(6))
    it.upstreams["bare"] = FakeUpstream("bare", circuit_breaker=None)
    it.upstreams["bare"].endpoints = []
    upstream.listener.assembly.filters.append(Cache(CacheSettings(), site(lambda: 0.0)))
    upstream.canary = canary()
    refused = {"at_ms": 1.0, "what": "refused", "code": "timeout", "message": "no answer"}
    it.ring.put(
        {"request_id": "r1", "began": 1.0, "direction": "outbound", "upstream": "redis", "status": 504,
         "error": "timeout", "duration_ms": 2.0, "events": [refused]}
    )  # fmt: skip
    return it


def canary() -> Canary:
    """One that has begun, without a registry."""
    both = {"stable": Select(tag="v1"), "next": Select(tag="v2")}
    stage = Stage(subsets=both, split=(("stable", 1),), canary=CanarySettings(subset="next"))
    it = Canary(stage.listener, cast(Upstream, stage.config), "one")
    it._value = LocalValue(it.found, lambda do: None)
    it.found(Found(encode(begin((10, 100), "one", 1.0)), 0))
    return it


#: Reading these needs the token, too.
_PRIVATE = (
    "/config", "/config/set", "/diagnose", "/events", "/faults", "/mesh", "/mesh/self", "/rehearse", "/tap", "/why",
    "/why/{request_id}",
)  # fmt: skip
#: Requests, and what is sent with them; between them every answer that has a shape of its own.
REQUESTS: list[tuple[str, str, bytes | None]] = [
    ("GET", "/", None),
    ("GET", "/ready", None),
    ("GET", "/rehearse", None),
    ("POST", "/rehearse", b"service: {name: tasks}"),
    ("GET", "/health", None),
    ("GET", "/health/tasks", None),
    ("GET", "/health/redis", None),
    ("GET", "/health/bare", None),
    ("GET", "/health/nobody", None),
    ("GET", "/health/deep/tasks", None),
    ("GET", "/health/deep/redis", None),
    ("GET", "/metrics", None),
    ("GET", "/config", None),
    ("GET", "/config/set", None),
    ("GET", "/upstreams", None),
    ("GET", "/inbound", None),
    ("GET", "/redirect", None),
    ("GET", "/cache", None),
    ("GET", "/cache?upstream=nobody", None),
    ("DELETE", "/cache", None),
    ("GET", "/upstreams/redis", None),
    ("GET", "/upstreams/nobody", None),
    ("GET", "/amqp", None),
    ("GET", "/amqp/rabbitmq/spool", None),
    ("GET", "/amqp/redis/spool", None),
    ("GET", "/amqp/rabbitmq/dead-letters", None),
    ("GET", "/amqp/rabbitmq/dead-letters?limit=2", None),
    ("GET", "/amqp/rabbitmq/dead-letters?limit=0", None),
    ("GET", "/amqp/rabbitmq/dead-letters/1", None),
    ("GET", "/amqp/rabbitmq/dead-letters/6", None),
    ("GET", "/amqp/rabbitmq/dead-letters/export", None),
    ("POST", "/amqp/rabbitmq/dead-letters/1/replay", None),
    ("POST", "/amqp/rabbitmq/dead-letters/1/replay", None),
    ("POST", "/amqp/rabbitmq/dead-letters/6/replay", None),
    ("POST", "/amqp/rabbitmq/dead-letters/2/drop", None),
    ("POST", "/amqp/rabbitmq/dead-letters/replay?reason=nacked", None),
    ("POST", "/amqp/rabbitmq/dead-letters/drop", None),
    ("POST", "/amqp/rabbitmq/dead-letters/drop?reasons=nacked", None),
    ("POST", "/upstreams/redis/breaker/open", None),
    ("POST", "/upstreams/bare/breaker/open", None),
    ("POST", "/upstreams/redis/breaker/close?by=ops", b'{"reason": "why not", "for": "10m"}'),
    ("POST", "/upstreams/redis/breaker/open?for=ever", None),
    ("POST", "/upstreams/redis/canary/promote", None),
    ("POST", "/upstreams/redis/canary/resume", None),
    ("POST", "/upstreams/bare/canary/promote", None),
    ("POST", "/upstreams/redis/canary/fly", None),
    ("GET", "/events", None),
    ("GET", "/events?since=never", None),
    ("GET", "/history", None),
    ("GET", "/history?of=nobody", None),
    ("GET", "/dashboard/0/app/main.js", None),
    ("GET", "/why", None),
    ("GET", "/why?limit=none", None),
    ("GET", "/why/r1", None),
    ("GET", "/mesh", None),
    ("GET", "/mesh/self", None),
    ("GET", "/why/unknown", None),
    ("GET", "/diagnose?upstream=bare", None),
    ("GET", "/tap?status=bad", None),
    ("GET", "/diagnose?upstream=nobody", None),
    ("POST", "/reload", None),
    ("POST", "/reload?dry_run=1", None),
    ("POST", "/reload?dry_run=perhaps", None),
    ("POST", "/drain", None),
    ("POST", "/drain?wait=1", None),
    ("POST", "/drain?wait=perhaps", None),
    ("PUT", "/log-level", b'{"level": "debug"}'),
    ("PUT", "/log-level", b"loud"),
    ("PUT", "/access-log", b'{"access": "off"}'),
    ("PUT", "/access-log", b'{"access": {"sample": "1%", "slow": "500ms"}}'),
    ("PUT", "/access-log", b"loud"),
    ("PUT", "/faults", b'{"faults": [{"upstream": "redis", "share": "10%", "delay": "2s"}]}'),
    ("PUT", "/faults", b'{"faults": [{"upstream": "nobody", "abort": 503}]}'),
    ("GET", "/faults", None),
    ("GET", "/health", None),
    ("DELETE", "/faults", None),
    ("GET", "/openapi.json", None),
]


async def test_answers_are_as_described(admin: Asking) -> None:
    it = everything()
    seen = set()
    client = await admin(it)
    it.context.faults.watch(it.listeners)
    document = (await client.get("/openapi.json")).json
    for method, path, body in REQUESTS:
        key = found(document, method, path)
        seen.add(key)
        reply = await client.ask(method, path, body)
        differences = wrong(document, described(document)[key], reply)
        assert differences == [], (method, path)
    assert seen == described(document).keys()
    it.changes = ConfigError("s.yaml", [Problem("a", "b")])
    reply = await client.post("/reload")
    assert reply.status == 422
    differences = wrong(document, document["paths"]["/reload"]["post"], reply)
    assert differences == []


def found(document: dict[str, Any], method: str, path: str) -> tuple[str, str]:
    """The operation that a request is for; a fixed path goes before one with parameters."""
    keys = [key for key in described(document) if key[0] == method.lower()]
    path = path.partition("?")[0]
    fits = [key for key in keys if re.fullmatch(re.sub(r"{\w+}", "[^/]+", key[1]), path)]
    return min(fits, key=lambda key: key[1].count("{"))


def wrong(document: dict[str, Any], operation: dict[str, Any], reply: Reply) -> list[str]:
    """How an answer differs from its description."""
    response = operation["responses"].get(str(reply.status))
    if response is None:
        return [f"{reply.status} is not described"]
    kind = reply.headers["Content-Type"].partition(";")[0]
    schema = response["content"][kind]["schema"]
    value = reply.json if kind == "application/json" else reply.body.decode()
    return problems(value, schema, document)
