"""Values that sidecars share: in a folder, in a real Consul, and without a registry."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError

from sidecar.core.instance import Instance
from sidecar.core.secret import Secret
from sidecar.registry import Found, LocalValue, Registry, consul_watch
from sidecar.registry import consul_shared as consul_values
from sidecar.registry import directory_shared as folder_values
from sidecar.registry.consul_client import BadAnswer
from sidecar.registry.consul_shared import ConsulValue
from sidecar.registry.directory_root import Root
from sidecar.registry.directory_shared import FOLDER, SharedFiles
from sidecar.registry.link import Link
from sidecar.registry.shared_value import checked, tell
from support.consul import MANAGEMENT_TOKEN, ConsulAgent
from support.registries import Told, consul_settings, directory_settings, opened, run, until


async def of_two_one_wins(one: Registry, two: Registry) -> None:
    """Both hear of all, and of two changes at once one is made."""
    first, second = Told(), Told()
    mine, theirs = one.share("canary-tasks", first), two.share("canary-tasks", second)
    await one.answered()
    await until(lambda: first.data is None and second.data is None, "there is none")
    found = await asyncio.gather(mine.put(b"1", first.version), theirs.put(b"2", second.version))
    won = [it for it in found if it is not None]
    assert len(won) == 1
    data = won[0].data
    await until(lambda: data in (first.data, second.data), "told")
    await until(lambda: second.data == data or found[1] is not None, "the other hears of it")
    await until(lambda: first.data == data or found[0] is not None, "the other hears of it")
    assert (await mine.put(b"3", first.version if found[0] is None else won[0].version)) is not None
    await until(lambda: second.data == b"3", "changed")
    assert await theirs.put(b"4", won[0].version) is None, "that is what it was before"
    mine.close()
    mine.close()
    assert (await theirs.put(b"5", second.version)) is not None
    third = Told()
    one.share("canary-tasks", third)
    await until(lambda: third.data == b"5", "a new one hears of it")


def test_in_a_folder(tmp_path: Path) -> None:
    path = str(tmp_path / "mesh")

    async def main() -> None:
        async with opened(directory_settings(path), directory_settings(path, "tasks-2")) as (one, two):
            await of_two_one_wins(one, two)
            assert await one.services() == {}
            assert one.up

    run(main)
    assert [it.name for it in (tmp_path / "mesh" / FOLDER).iterdir()] == ["canary-tasks.json"]


def test_in_consul() -> None:
    with ConsulAgent() as agent:

        async def main() -> None:
            async with opened(consul_settings(agent.http_port), consul_settings(agent.http_port)) as (one, two):
                await of_two_one_wins(one, two)
                agent.kill()
                value = two.share("canary-other", Told())
                with pytest.raises((OSError, TimeoutError)):
                    await value.put(b"1", 0)
                await until(lambda: not two.up, "it is away")
                agent.start()
                heard = Told()
                two.share("canary-tasks", heard)
                await until(lambda: heard.data is None, "it is back, and has lost all")

        run(main)


def test_in_consul_with_a_token() -> None:
    with ConsulAgent(acl=True) as agent:

        async def main() -> None:
            async with opened(consul_settings(agent.http_port, token="nobody's")) as (one,):
                told = Told()
                value = one.share("canary-tasks", told)
                with pytest.raises(OSError, match=r"403|denied|not found"):
                    await value.put(b"1", 0)
                one.use_token(Secret(MANAGEMENT_TOKEN))
                await until(lambda: told.data is None, "allowed")
                assert await value.put(b"1", told.version) is not None

        run(main)


class FakeConsul:
    """Consul's key-value store with one key, as py-consul shows it."""

    def __init__(self) -> None:
        self.kv = self
        self.data: bytes | None = None
        self.index = 1
        #: It does what it is told, and cannot be asked.
        self.mute = False
        self.asked = 0
        self._changed = asyncio.Event()

    async def put(self, key: str, value: str, cas: int) -> bool:
        assert key == "sidecar/a"
        if cas != (self.index if self.data is not None else 0):
            return False
        self.data = value.encode()
        self.index += 1
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def get(self, key: str, index: int | None = None, **_: str) -> Any:
        self.asked += 1
        if self.mute:
            raise ClientConnectionError("reset")
        if index is not None and index >= self.index:
            await self._changed.wait()
        if self.mute:
            raise ClientConnectionError("reset")
        found = None if self.data is None else {"ModifyIndex": self.index, "Value": self.data}
        return str(self.index), found


@asynccontextmanager
async def followed(consul: FakeConsul, told: Told, clock: Callable[[], float]) -> AsyncIterator[ConsulValue]:
    value = ConsulValue("a", lambda: consul, Link("consul://x", clock), clock, told, lambda _: None)
    async with asyncio.timeout(100):
        yield value
    value.close()
    await asyncio.wait({value.query.task})


@pytest.mark.asyncio
async def test_a_change_is_made_though_its_version_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_watch, "backoff", lambda failures, error: 0.001)
    consul, told = FakeConsul(), Told()
    async with followed(consul, told, lambda: 0.0) as value:
        await until(lambda: told.data is None, "there is none")
        consul.mute = True
        assert await value.put(b"1", told.version) == Found(b"1", 0)
        assert await value.put(b"2", 0) is None, "its version is not known, so nothing replaces it"
        consul.mute = False
        await until(lambda: told.all[1:] == [Found(b"1", 2)], "its version is told")
        assert await value.put(b"2", 2) == Found(b"2", 3)
    consul.mute = True
    assert await value.put(b"3", 3) == Found(b"3", 0)
    assert value.query.task.done(), "it is followed no more"


@pytest.mark.asyncio
async def test_the_first_tries_are_at_random_times(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    class AtFirst:
        def delay(self, failures: int) -> float:
            told.append(failures)
            return 0.0

    monkeypatch.setattr(consul_watch, "_at_first", AtFirst())
    monkeypatch.setattr(consul_watch, "backoff", lambda failures, error: 60.0)
    consul, times = FakeConsul(), itertools.count(step=10.0)
    consul.mute = True
    async with followed(consul, Told(), lambda: next(times)):
        await until(lambda: consul.asked == consul_watch.FIRST_TRIES + 1, "asked")
        assert told == list(range(1, consul_watch.FIRST_TRIES + 1))


@pytest.mark.parametrize(
    "answer",
    [
        None, ("x", None), ("1",), ("1", {}), ("1", {"ModifyIndex": "1", "Value": b""}),
        ("1", {"ModifyIndex": 1, "Value": 5}),
    ],
)  # fmt: skip
def test_what_consul_may_say_instead(answer: Any) -> None:
    with pytest.raises(BadAnswer):
        consul_values._read(answer)


def test_what_consul_says() -> None:
    assert consul_values._read(("7", None)) == (7, Found(None, 0))
    assert consul_values._read(("0", {"ModifyIndex": 3, "Value": None})) == (1, Found(b"", 3))


def test_what_lies_in_the_folder_is_believed_no_more_than_it_has_to_be(tmp_path: Path) -> None:
    root = Root(tmp_path)
    files = SharedFiles(root)
    assert files.read("a") is None
    assert files.replace("a", None, b"1")
    assert not files.replace("a", None, b"2")
    assert files.read("a") == b"1"
    here = tmp_path / FOLDER / "a.json"
    here.write_bytes(b"x" * 5000)
    assert files.read("a") == b"x" * 5000, "who reads it knows how large it may be"
    secret = tmp_path / "secret"
    secret.write_bytes(b"s")
    here.unlink()
    here.symlink_to(secret)
    with pytest.raises(ValueError, match="not a regular file"):
        files.read("a")
    for seen in (None, b"1"):
        assert not files.replace("a", seen, b"3"), "it is not what was seen"
    assert here.is_symlink()
    assert files.replace("a", b"", b"3"), "whoever was told that there is something else may replace it"
    assert (secret.read_bytes(), files.read("a")) == (b"s", b"3")


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mesh" / FOLDER).symlink_to(tmp_path / "elsewhere")
    files = SharedFiles(Root(tmp_path / "mesh"))
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        files.read("a")
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        files.replace("a", None, b"1")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_who_keeps_the_lock_holds_up_nobody(tmp_path: Path) -> None:
    files = SharedFiles(Root(tmp_path))
    assert files.replace("a", None, b"1")
    folder = os.open(tmp_path / FOLDER, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(folder_values.Locked):
            files.replace("a", b"1", b"2")
    finally:
        os.close(folder)
    assert files.replace("a", b"1", b"2")


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SharedFiles(Root(tmp_path))
    assert files.replace("a", None, b"1")

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.replace("a", b"1", b"2")
    assert [it.name for it in (tmp_path / FOLDER).iterdir()] == ["a.json"]
    assert files.read("a") == b"1"


def test_a_spoiled_value_spoils_no_discovery(tmp_path: Path) -> None:
    path = tmp_path / "mesh"

    async def main() -> None:
        async with opened(directory_settings(str(path))) as (one,):
            told = Told()
            instances: list[tuple[Instance, ...]] = []
            (path / FOLDER).write_bytes(b"")  # a file where the folder should be
            one.watch("tasks", "", instances.append)
            value = one.share("a", told)
            await one.answered()
            await until(lambda: instances == [()], "discovered")
            assert not one.up
            assert told.all == []
            with pytest.raises(OSError, match="Not a directory"):
                await value.put(b"1", None)

    run(main)


def test_what_is_no_value_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mesh"

    async def main() -> None:
        async with opened(directory_settings(str(path))) as (one,):
            told = Told()
            value = one.share("a", told)
            await until(lambda: told.data is None, "there is none")
            here = path / FOLDER / "a.json"
            seen: object = None
            for spoil in (lambda: here.write_bytes(b" " * 70_000), lambda: os.mkfifo(here)):
                assert await value.put(b"1", seen) is not None
                here.unlink()
                spoil()
                await until(lambda: told.data == b"", "told")
                for wrong in (None, b"1"):
                    assert await value.put(b"2", wrong) is None
                assert await value.put(b"3", told.version) is not None
                assert here.read_bytes() == b"3"
                told.all.clear()
                seen = b"3"

    run(main)


@pytest.mark.asyncio
async def test_without_a_registry() -> None:
    told = Told()
    value = LocalValue(told)
    await until(lambda: told.data is None, "told")
    found = await value.put(b"1", told.version)
    assert found is not None
    assert await value.put(b"2", told.version) is None
    assert await value.put(b"2", found.version) is not None
    silent = Told()
    LocalValue(silent).close()
    await asyncio.sleep(0)
    assert silent.all == []


def test_names_and_listeners_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    def fails(found: Found) -> None:
        raise KeyError(found)

    tell(fails, Found(None, 0))
    assert "a listener to a shared value failed" in caplog.text
    assert checked("canary-a.b_c") == "canary-a.b_c"
    for name in ("", "../x", "a/b", ".a", "a b", "x" * 300):
        with pytest.raises(ValueError, match="no name"):
            checked(name)
