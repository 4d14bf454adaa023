"""Notes that sidecars put beside a shared value: in a folder, and in a real Consul."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientConnectionError

from sidecar.registry import Found, Registry, consul_notes
from sidecar.registry import directory_shared as folder_values
from sidecar.registry.consul import ConsulRegistry
from sidecar.registry.consul_client import BadAnswer
from sidecar.registry.directory_record import temporary_name
from sidecar.registry.directory_root import Root
from sidecar.registry.directory_shared import FOLDER, SharedFiles
from sidecar.registry.shared_value import MAX_NOTE, MAX_NOTES
from support.consul import ConsulAgent
from support.registries import Told, consul_settings, directory_settings, opened, run, until

ONE, TWO = "1" * 16, "2" * 16


async def all_hear_of_all(one: Registry, two: Registry) -> None:
    told = Told()
    value = one.share("canary-tasks", told)
    await until(lambda: told.data is None, "there is none")
    assert await value.put(b"{}", told.version) is not None
    assert await one.exchange("canary-tasks", ONE, None) == {}
    first = await one.exchange("canary-tasks", ONE, b"1")
    assert first[ONE].data == b"1"
    both = await two.exchange("canary-tasks", TWO, b"2")
    assert {who: it.data for who, it in both.items()} == {ONE: b"1", TWO: b"2"}
    assert await one.exchange("canary-tasks", ONE, None) == both
    assert await one.exchange("canary-task", ONE, None) == {}, "those of another value"
    later = await one.exchange("canary-tasks", ONE, b"3")
    assert (later[ONE].data, later[TWO]) == (b"3", both[TWO])
    await two.erase("canary-tasks", {ONE: both[ONE].version, TWO: both[TWO].version, "3" * 16: 1})
    assert await one.exchange("canary-tasks", ONE, None) == {ONE: later[ONE]}, "another one by now"
    heard = Told()
    two.share("canary-tasks", heard)
    await until(lambda: heard.data == b"{}", "the value is as it was")
    with pytest.raises(ValueError, match="no name"):
        await one.exchange("../x", ONE, b"")


def test_in_a_folder(tmp_path: Path) -> None:
    path = str(tmp_path / "mesh")

    async def main() -> None:
        async with opened(directory_settings(path), directory_settings(path, "tasks-2")) as (one, two):
            await all_hear_of_all(one, two)

    run(main)
    names = sorted(it.name for it in (tmp_path / "mesh" / FOLDER).iterdir())
    assert names == [f"canary-tasks.{ONE}.json", "canary-tasks.json"]


def test_in_consul() -> None:
    with ConsulAgent() as agent:

        async def main() -> None:
            async with opened(consul_settings(agent.http_port), consul_settings(agent.http_port)) as (one, two):
                await all_hear_of_all(one, two)
                agent.kill()
                with pytest.raises((OSError, TimeoutError)):
                    await one.exchange("canary-tasks", ONE, b"4")
                with pytest.raises((OSError, TimeoutError)):
                    await one.erase("canary-tasks", {ONE: 1})

        run(main)


def test_more_than_one_value_may_have_is_read_in_consul_and_removed() -> None:
    with ConsulAgent() as agent:

        async def main() -> None:
            async with opened(consul_settings(agent.http_port)) as (one,):
                client = cast(ConsulRegistry, one)._connect()
                for number in range(300):
                    await client.kv.put(f"sidecar/canary-tasks/{number:016x}", " " * MAX_NOTE)
                found = await one.exchange("canary-tasks", ONE, None)
                assert len(found) == 300
                await one.erase("canary-tasks", {who: it.version for who, it in found.items()})
                assert await one.exchange("canary-tasks", ONE, None) == {}

        run(main)


def test_what_lies_in_the_folder_is_believed_no_more_than_it_has_to_be(tmp_path: Path) -> None:
    files = SharedFiles(Root(tmp_path))
    assert list(files.exchange("a", ONE, b"1")) == [ONE]
    here = tmp_path / FOLDER
    (here / f"a.{TWO}.json").write_bytes(b" " * (MAX_NOTE + 1))
    os.mkfifo(here / f"a.{'3' * 16}.json")
    (here / f"a.{'4' * 16}.json").symlink_to(here / f"a.{ONE}.json")
    (here / f"a.{'5' * 16}.json").mkdir()
    for name in ("a.json", "a.b.json", f"b.{TWO}.json", f"a.{TWO}", f"a.{'6' * 17}.json", f"a.x.{TWO}.json"):
        (here / name).write_bytes(b"1")
    found = files.exchange("a", ONE, None)
    assert {who: it.data for who, it in found.items()} == {ONE: b"1", TWO: b""}, "what is too large says nothing"
    version = (here / f"a.{'5' * 16}.json").stat().st_mtime_ns
    files.erase("a", {"5" * 16: version, ONE: found[ONE].version, TWO: found[TWO].version})
    assert files.exchange("a", ONE, None) == {}


def test_what_was_never_finished_is_removed(tmp_path: Path) -> None:
    """Whoever writes has the lock, so whoever has it sees nothing that is still being written."""
    files = SharedFiles(Root(tmp_path))
    files.exchange("a", ONE, b"1")
    here = tmp_path / FOLDER
    begun = [temporary_name(f"a.{TWO}.json"), temporary_name("b.json")]
    for name in begun:
        (here / name).write_bytes(b'{"st')
    (here / ".a.json.0123456789abcdef").mkdir()
    (here / ".other").write_bytes(b"")
    assert list(files.exchange("a", ONE, None)) == [ONE]
    assert sorted(it.name for it in here.iterdir()) == [".a.json.0123456789abcdef", ".other", f"a.{ONE}.json"]


def test_so_many_are_read_and_no_more(tmp_path: Path) -> None:
    files = SharedFiles(Root(tmp_path))
    files.exchange("a", ONE, b"1")
    for number in range(MAX_NOTES + 5):
        (tmp_path / FOLDER / f"a.{number:016x}.json").write_bytes(b"1")
    assert len(files.exchange("a", ONE, None)) == MAX_NOTES


def test_who_keeps_the_lock_keeps_others_from_telling_but_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry has one thread, which has other things to do."""
    path = tmp_path / "mesh"
    waiting = asyncio.Event()

    async def rest(_: float) -> None:
        waiting.set()
        await asyncio.sleep(0)

    async def main() -> None:
        async with opened(directory_settings(str(path))) as (one,):
            await one.exchange("a", ONE, b"1")
            folder = os.open(path / FOLDER, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                asked = asyncio.create_task(one.exchange("a", ONE, b"2"))
                await waiting.wait()
                assert await one.services() == {}, "in the same thread"
                assert not asked.done()
                fcntl.flock(folder, fcntl.LOCK_UN)
                assert (await asked)[ONE].data == b"2"
                fcntl.flock(folder, fcntl.LOCK_EX)
                monkeypatch.setattr(folder_values, "_TRIES", 3)
                with pytest.raises(TimeoutError, match="locked"):
                    await one.erase("a", {ONE: 1})
            finally:
                os.close(folder)

    monkeypatch.setattr(folder_values, "_TRIES", 1_000_000)
    monkeypatch.setattr(folder_values, "_pause", rest)
    run(main)


def test_who_waits_for_the_lock_while_the_registry_is_closed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mesh"

    async def main() -> None:
        async with opened(directory_settings(str(path))) as (one,):
            await one.exchange("a", ONE, b"1")
            folder = os.open(path / FOLDER, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)

                async def closes(_: float) -> None:
                    await one.close()

                monkeypatch.setattr(folder_values, "_pause", closes)
                with pytest.raises(OSError, match="the registry is closed"):
                    await one.exchange("a", ONE, b"2")
            finally:
                os.close(folder)

    run(main)


def entry(who: str, value: Any = b"1", version: Any = 7) -> dict[str, Any]:
    return {"Key": f"p/{who}", "ModifyIndex": version, "Value": value}


def test_what_consul_says() -> None:
    entries = [
        entry(ONE), entry("x"), entry(TWO, None), entry("3" * 16, version="7"), entry("4" * 16, b" " * (MAX_NOTE + 1)),
        entry(f"x/{TWO}"),
    ]  # fmt: skip
    assert consul_notes.read(("5", entries), "p/") == {ONE: Found(b"1", 7), TWO: Found(b"", 7), "4" * 16: Found(b"", 7)}
    assert consul_notes.read(("5", None), "p/") == {}
    many = [entry(f"{number:016x}") for number in range(MAX_NOTES + 5)]
    assert len(consul_notes.read(("5", many), "p/")) == MAX_NOTES


@pytest.mark.parametrize("answer", [None, ("1",), ("1", 5), ("1", [5]), ("1", [{}]), ("1", [entry(ONE) | {"Key": 5}])])
def test_what_consul_may_say_instead(answer: Any) -> None:
    with pytest.raises(BadAnswer):
        consul_notes.read(answer, "p/")


@pytest.mark.asyncio
async def test_one_that_cannot_be_asked() -> None:
    class Away:
        @property
        def kv(self) -> Any:
            raise ClientConnectionError

    with pytest.raises(OSError, match="ClientConnectionError"):
        await consul_notes.exchange(Away(), "a", ONE, b"1")
    with pytest.raises(OSError, match="ClientConnectionError"):
        await consul_notes.erase(Away(), "a", {ONE: 1})
