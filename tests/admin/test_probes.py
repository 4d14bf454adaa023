"""The listener for machines: what it serves, and all that it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.admin.connection_limit import Door
from sidecar.admin.probes import MAX_CONNECTIONS, start_probes
from sidecar.agent import admin as handed
from sidecar.agent.lifecycle import Agent
from sidecar.config.agent import Admin, Consul
from sidecar.core.address import Address
from sidecar.core.health import Health
from sidecar.core.secret import Secret
from sidecar.telemetry.logs import LogWriter
from support.admin import Levels
from support.agents import ask
from support.running import FakeRegistry, FakeRunning, running

pytestmark = pytest.mark.asyncio

MARK = "hunter2"
#: Every path of the admin API that is not for machines, and some that nobody has.
ELSEWHERE = (
    "/", "/config", "/upstreams", "/upstreams/ollama", "/openapi.json", "/health/deep/ollama", "/amqp", "/reload", "/x",
)  # fmt: skip


@asynccontextmanager
async def probes(of: FakeRunning, host: str = "127.0.0.1", door: Door | None = None) -> AsyncIterator[int]:
    """The port of a listener for this sidecar."""
    commands = handed.commands(cast(Agent, of), cast(LogWriter, Levels()))
    server = await start_probes(commands, Address(host, 0), door)
    try:
        async with asyncio.timeout(180):
            yield server.address[1]
    finally:
        await server.close()


def marked(**more: object) -> FakeRunning:
    """A sidecar whose configuration has secrets."""
    it = running("ollama", registry=FakeRegistry(), **more)
    it.config = replace(
        it.config, admin=Admin(bind=Address("127.0.0.1", 0), token=Secret(MARK)), consul=Consul(token=Secret(MARK))
    )
    return it


async def test_probes_need_no_token() -> None:
    async with probes(marked(), "0.0.0.0") as port:
        status, _, body = await ask(port, path="/ready", host="10.0.0.5:15020")
        assert (status, orjson.loads(body)["ready"]) == (200, True)
        for path in ("/health", "/health/tasks", "/health/ollama"):
            status, _, body = await ask(port, path=path, host="tasks")
            assert (status, orjson.loads(body)["status"]) == (200, "healthy")
        status, fields, body = await ask(port, path="/metrics", host="tasks")
        assert status == 200
        assert fields["content-type"].startswith("text/plain; version=0.0.4")
        assert {family.name for family in parse_text(body.decode())} > {"sidecar_requests_active", "sidecar_build_info"}


async def test_what_is_not_well_is_told_by_the_status() -> None:
    it = marked(phase="starting", app=Health("unhealthy", "refused"))
    async with probes(it) as port:
        assert [(await ask(port, path=path))[0] for path in ("/ready", "/health", "/health/tasks")] == [503] * 3
        assert (await ask(port, path="/metrics"))[0] == 200


async def test_there_is_nothing_else_and_the_answer_says_where_it_is() -> None:
    async with probes(marked()) as port:
        for path in ELSEWHERE:
            status, _, body = await ask(port, path=path)
            assert (status, orjson.loads(body)["error"]) == (404, "not_found"), path
            assert "admin.bind" in orjson.loads(body)["message"]
        status, _, body = await ask(port, path="/health/nobody")
        assert status == 404
        assert "ollama" in orjson.loads(body)["message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_it_is_read_only(method: str) -> None:
    async with probes(marked()) as port:
        for path in ("/ready", "/health", "/metrics"):
            status, fields, _ = await ask(port, method, path)
            assert (status, set(fields["allow"].split(","))) == (405, {"GET", "HEAD"})
        status, _, _ = await ask(port, method, "/drain")
        assert status == 404


async def test_head_has_no_body() -> None:
    async with probes(marked()) as port:
        for path in ("/ready", "/health", "/metrics"):
            status, _, body = await ask(port, "HEAD", path)
            assert (status, body) == (200, b"")


async def test_no_secret_and_no_configuration() -> None:
    async with probes(marked()) as port:
        for path in ("/ready", "/health", "/metrics", *ELSEWHERE):
            body = (await ask(port, path=path))[2]
            assert MARK.encode() not in body
            assert b"consul://" not in body


async def test_on_loopback_a_web_page_has_no_way_in() -> None:
    async with probes(marked()) as port:
        assert (await ask(port, path="/metrics", host="evil.example"))[0] == 421


async def test_connections_have_a_bound_of_their_own() -> None:
    assert MAX_CONNECTIONS <= 64
    async with probes(marked(), door=Door(2)) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        assert (await ask(port, path="/ready"))[0] == 200
        ended = 0
        for reader, writer in silent[:4]:
            try:
                ended += not await reader.read()
            except ConnectionError:
                ended += 1
            writer.close()
        assert ended == 4
        for _, writer in silent[4:]:
            writer.close()
