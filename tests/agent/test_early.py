"""Connections that come before it is known where they lead: they wait, for a time."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from sidecar.agent import early, lifecycle
from sidecar.agent.early import Early
from sidecar.config.errors import ConfigError
from sidecar.core.instance import Instance
from support.agents import RunningAgent, ask, upstream
from support.live import Origin, ok, read_answer, run


async def fine(request: object) -> bytes:
    return ok()


class Registry:
    """One that has not answered yet. What a test does not ask it for, the agent does not either."""

    up = False
    age = 1.0

    def __init__(self) -> None:
        self.tell: dict[str, Any] = {}
        self.first = asyncio.Event()

    def watch(self, service: str, tag: str, on_change: Any) -> Any:
        self.tell[service] = on_change
        return lambda: None

    async def answered(self) -> None:
        await self.first.wait()

    async def nothing(self) -> None:
        pass

    deregister = close = nothing


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[Registry]:
    """The one of the agent that is started next; with no grace."""
    made: list[Registry] = []

    def create(settings: object) -> Registry:
        made.append(Registry())
        return made[0]

    monkeypatch.setattr(lifecycle, "create_registry", create)
    monkeypatch.setattr(lifecycle, "REGISTRY_GRACE", 0.01)
    return made


def discovering(service: str = "tasks") -> dict[str, Any]:
    return {"bind": "127.0.0.1:0", "discover": {"service": service}}


def test_a_request_waits_for_the_first_answer(tmp_path: Path, registry: list[Registry]) -> None:
    async def main() -> None:
        async with (
            Origin(fine) as origin,
            RunningAgent(tmp_path, registry="consul://127.0.0.1:9", upstreams={"tasks": discovering()}) as it,
        ):
            clients = [await asyncio.open_connection("127.0.0.1", it.port("tasks")) for _ in range(20)]
            for _, writer in clients:
                writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
            assert (await it.ask("GET", "/ready"))[0] == 200
            assert it.agent.upstreams["tasks"].stats.client_connections == 0, "the kernel has them"
            registry[0].tell["tasks"]([Instance(host="127.0.0.1", port=origin.port)])
            for reader, writer in clients:
                assert (await read_answer(reader)).status == 200
                writer.close()
            assert (await ask(it.port("tasks")))[0] == 200
            registry[0].tell["tasks"]([])
            assert (await ask(it.port("tasks")))[0] == 503, "this has been answered"

    run(main)


def test_an_answer_that_there_is_none_is_one(tmp_path: Path, registry: list[Registry]) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, registry="consul://127.0.0.1:9", upstreams={"tasks": discovering()}) as it:
            asking = asyncio.ensure_future(ask(it.port("tasks")))
            registry[0].tell["tasks"]([])
            status, fields, _ = await asking
            assert (status, fields["x-sidecar-error"]) == (503, "no_endpoints")

    run(main)


def test_the_wait_is_bounded(
    tmp_path: Path, registry: list[Registry], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lifecycle, "Early", lambda loop: Early(loop, 0.05))

    async def main() -> None:
        async with RunningAgent(tmp_path, registry="consul://127.0.0.1:9", upstreams={"tasks": discovering()}) as it:
            status, fields, _ = await ask(it.port("tasks"))
            assert (status, fields["x-sidecar-error"]) == (503, "no_endpoints")

    with caplog.at_level(logging.WARNING, "sidecar.agent"):
        run(main)
    assert "upstream tasks: its endpoints are not known yet" in caplog.text
    assert early.GRACE > lifecycle.REGISTRY_GRACE, "an app that sidecar exec starts has something of it, too"


def test_a_sidecar_that_leaves_lets_nobody_wait(tmp_path: Path, registry: list[Registry]) -> None:
    async def main() -> None:
        async with RunningAgent(
            tmp_path, registry="consul://127.0.0.1:9", upstreams={"tasks": discovering()}, drain={"timeout": 0}
        ) as it:
            asking = asyncio.ensure_future(ask(it.port("tasks")))
            it.agent.drain()
            await it.agent.run_until_drained()
            assert (await asking)[1]["x-sidecar-error"] == "no_endpoints"

    run(main)


def test_an_upstream_that_a_reload_brings_waits_alike(tmp_path: Path, registry: list[Registry]) -> None:
    async def main() -> None:
        async with (
            Origin(fine) as origin,
            RunningAgent(tmp_path, registry="consul://127.0.0.1:9", upstreams={"tasks": discovering()}) as it,
        ):
            taken = {"b": {**upstream(), "bind": f"127.0.0.1:{origin.port}"}}
            it.write(upstreams={"tasks": discovering(), "more": discovering("more"), **taken})
            with pytest.raises(ConfigError, match="cannot listen"):
                await it.agent.reload()
            it.write(upstreams={"tasks": discovering(), "more": discovering("more")})
            await it.agent.reload()
            asking = asyncio.ensure_future(ask(it.port("more")))
            registry[0].tell["more"]([Instance(host="127.0.0.1", port=origin.port)])
            assert (await asking)[0] == 200

    run(main)


def test_a_port_is_let_go_once(tmp_path: Path) -> None:
    """Its time may be over while a reload, which then fails, still opens others."""

    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"tasks": upstream()}) as it:
            running = it.agent.upstreams["tasks"]
            held = Early(asyncio.get_running_loop(), 0.0)
            held.hold(running)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            held.release(running)
            assert running.on_known is None
            assert (await ask(it.port("tasks")))[0] in (502, 503), "it accepts"

    run(main)
