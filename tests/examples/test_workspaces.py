"""Workspaces: their limits, their processes, their records, and what is cleaned up."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from examples.common.redis import Redis, RedisError
from examples.common.serving import Refused
from examples.workspace_isolation import process
from examples.workspace_isolation.docker import Docker
from examples.workspace_isolation.limits import MIB, MOST, Limits, limits_of
from examples.workspace_isolation.service import _name_of
from examples.workspace_isolation.workspaces import LIMIT, POOL, RECORDS, Full, Workspaces
from support.patience import until
from support.redis import FakeRedis, number, words


class Records:
    """What a Redis holds of them."""

    def __init__(self) -> None:
        self.all: dict[str, str] = {}

    def reply(self, command: list[str]) -> bytes | None:
        match command:
            case ["HSET", key, name, text] if key == RECORDS:
                self.all[name] = text
            case ["HDEL", key, name] if key == RECORDS:
                self.all.pop(name)
            case ["HGETALL", key] if key == RECORDS:
                return words(*(it for pair in self.all.items() for it in pair))
            case _:
                return b"-ERR unknown\r\n"
        return number(1)


@asynccontextmanager
async def workspaces(folder: Path, records: Records | None = None) -> AsyncIterator[tuple[Workspaces, FakeRedis]]:
    async with FakeRedis((records or Records()).reply) as redis:
        found = Workspaces(folder / "w", Redis(redis.port))
        await found.recover()
        try:
            yield found, redis
        finally:
            found.end_processes()


@pytest.mark.asyncio
async def test_there_are_no_more_than_the_limit_and_asking_twice_is_asking_once(tmp_path: Path) -> None:
    async with workspaces(tmp_path) as (found, redis):
        made = await asyncio.gather(*(found.create(f"w-{i}", "me", "process", Limits()) for i in range(LIMIT)))
        assert [new for _, new in made] == [True] * LIMIT
        with pytest.raises(Full):
            await found.create("one-more", "me", "process", Limits())
        assert await found.create("w-3", "me", "process", Limits()) == (made[3][0], False)
        assert await found.destroy("w-3")
        assert not await found.destroy("w-3")
        assert (await found.create("one-more", "me", "process", Limits()))[1]
        assert len(redis.said("HSET")) == LIMIT + 1


@pytest.mark.asyncio
async def test_folders_are_made_beforehand(tmp_path: Path) -> None:
    async with workspaces(tmp_path) as (found, _):
        await until(lambda: len(found.pool) == POOL)
        ready = {it.stat().st_ino for it in found.pool}
        it, _ = await found.create("a", "me", "process", Limits())
        assert it.folder.stat().st_ino in ready
        assert sorted(os.listdir(it.folder)) == ["home", "tmp"]
        assert it.folder.stat().st_mode & 0o777 == 0o700
        await until(lambda: len(found.pool) == POOL)


@pytest.mark.asyncio
async def test_without_a_record_there_is_no_workspace(tmp_path: Path) -> None:
    async with workspaces(tmp_path) as (found, redis):
        await redis.stop()
        with pytest.raises(OSError):
            await found.create("a", "me", "process", Limits())
        assert not found.all
        assert not (tmp_path / "w" / "a").exists()


@pytest.mark.asyncio
async def test_a_start_takes_up_what_there_was_and_cleans_up_the_rest(tmp_path: Path) -> None:
    records = Records()
    async with workspaces(tmp_path, records) as (first, _):
        kept, _ = await first.create("kept", "me", "process", replace(Limits(), disk=MIB))
        await first.create("lost", "me", "process", Limits())
    (tmp_path / "w" / "lost").rename(tmp_path / "w" / "half-made")
    left = await asyncio.create_subprocess_exec("sleep", "1000", cwd=kept.folder / "home", start_new_session=True)
    marked = await asyncio.create_subprocess_exec(
        "sleep", "1000", env={process.MARK: "kept", "PATH": os.environ["PATH"]}
    )
    async with FakeRedis(records.reply) as redis:
        second = Workspaces(tmp_path / "w", Redis(redis.port))
        told = await second.recover()
        assert second.all == {"kept": kept}
        assert (told["lost"], told["processes_ended"]) == (["lost"], 2)
        assert records.all.keys() == {"kept"}
        assert not (tmp_path / "w" / "half-made").exists()
        assert [await left.wait(), await marked.wait()] == [-signal.SIGKILL] * 2
        second.end_processes()


def folder_of(tmp_path: Path) -> Path:
    for it in ("home", "tmp"):
        (tmp_path / "w" / it).mkdir(parents=True)
    return tmp_path / "w"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("script", "limits", "expected"),
    [
        ("echo $WORKSPACE_ID; pwd | xargs basename; exit 3", {}, {"exit": 3, "output": "w\nhome\n"}),
        ("exec python3 -c 'bytearray(200 << 20)'", {"memory": 100 * MIB}, {"exit": 1}),
        ("while :; do :; done", {"cpu_seconds": 1}, {"exit": -signal.SIGXCPU}),
        ("exec dd if=/dev/zero of=f bs=1M count=9", {"disk": 2 * MIB}, {"exit": -signal.SIGXFSZ}),
        ("ulimit -n", {"files": 33}, {"exit": 0, "output": "33\n"}),
        ("sleep 1000", {"seconds": 1}, {"exit": -signal.SIGKILL, "ended_for": "seconds"}),
        ("for i in 1 2 3; do sleep 1000 & done; wait", {"processes": 2}, {"ended_for": "processes"}),
        ("for i in 1 2 3; do dd if=/dev/zero of=$i bs=1M count=1; done; sleep 9", {"disk": MIB}, {"ended_for": "disk"}),
        ("setsid sleep 1000 & echo gone", {}, {"exit": 0, "output": "gone\n"}),
    ],
)  # fmt: skip
async def test_a_command_ends_at_what_it_may_use(
    tmp_path: Path, script: str, limits: dict[str, int], expected: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path)
    found = await process.run(folder, "w", ["sh", "-c", script], replace(Limits(), **limits))
    assert found | expected == found, found
    assert not list(process.processes(tmp_path, {"w"})), "nothing is left behind"


@pytest.mark.asyncio
async def test_a_command_that_is_not_there_and_one_whose_client_leaves(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    found = await process.run(folder, "w", ["no-such-program"], Limits())
    assert found["exit"] == 127
    running = asyncio.create_task(process.run(folder, "w", ["sleep", "1000"], Limits()))
    await until(lambda: list(process.processes(tmp_path, {"w"})))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not list(process.processes(tmp_path, {"w"})))


def test_limits_are_checked() -> None:
    assert limits_of(None) == Limits()
    assert limits_of({"memory": MOST.memory}).memory == MOST.memory
    asked: object
    for asked in ({"memory": MOST.memory + 1}, {"memory": 0}, {"memory": True}, {"memry": 1}, [], {"seconds": "9"}):
        with pytest.raises(Refused, match="limits"):
            limits_of(asked)


def test_a_key_becomes_a_folder_s_name() -> None:
    assert _name_of("my-workspace-1") == "my-workspace-1"
    for key in ("../../etc", "shared", "pool-1", "a" * 41, "", "A", "a/b"):
        assert len(_name_of(key)) == 16
        assert _name_of(key).isalnum()


@pytest.mark.asyncio
async def test_redis_says_no() -> None:
    async with FakeRedis(lambda command: b"-OOM no more\r\n") as redis:
        with pytest.raises(RedisError, match="OOM no more"):
            await Redis(redis.port).ask("HSET", "a", "b", "c")


@pytest.mark.asyncio
async def test_redis_is_logged_in_to_and_a_connection_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    async with FakeRedis() as redis:
        await Redis(redis.port, tmp_path / "password").ask("PING")
        assert redis.heard == [["AUTH", "secret"], ["PING"]]
    async with FakeRedis(lambda command: b"$5\r\nab") as redis:
        asked = asyncio.create_task(Redis(redis.port).ask("GET", "a"))
        await until(lambda: redis.heard)
        redis.close_idle()
        with pytest.raises(ConnectionResetError):
            await asked


@pytest.mark.asyncio
async def test_a_command_in_a_container(tmp_path: Path) -> None:
    """Against a stand-in that knows the five calls."""
    heard: list[tuple[str, str]] = []
    made: list[Any] = []

    async def engine(request: web.Request) -> web.Response:
        heard.append((request.method, request.path_qs.removeprefix("/v1.41")))
        if request.path.endswith("/create"):
            made.append(await request.json())
            return web.json_response({"Id": "c1"}, status=201)
        if request.path.endswith("/wait"):
            return web.json_response({"StatusCode": 3})
        return web.Response(text="said") if request.path.endswith("/logs") else web.Response(status=204)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        docker = Docker(session, str(server.make_url("")).rstrip("/"), "an-image")
        found = await docker.run(tmp_path, "w", ["true"], replace(Limits(), processes=7), {})
    assert found == {"exit": 3, "output": "said"}
    assert heard == [
        ("POST", "/containers/create"), ("POST", "/containers/c1/start"), ("POST", "/containers/c1/wait"),
        ("GET", "/containers/c1/logs?stdout=true&stderr=true"), ("DELETE", "/containers/c1?force=true"),
    ]  # fmt: skip
    host = made[0]["HostConfig"]
    assert (made[0]["Image"], host["PidsLimit"], host["CapDrop"], host["Binds"]) == (
        "an-image", 7, ["ALL"], [f"{tmp_path}:/workspace"],
    )  # fmt: skip


@pytest.mark.asyncio
async def test_without_an_engine_it_is_said(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(Refused, match="Docker engine") as caught:
            await Docker(session, "http://127.0.0.1:9", "an-image").check({})
        assert (caught.value.status, caught.value.document["error"]) == (503, "docker_unavailable")
