"""The folder registry as a whole, in real time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar import registry as registries
from sidecar.registry import RegistryError, Settings, Workload
from sidecar.registry.directory import DirectoryRegistry
from sidecar.registry.directory_root import MARKER
from support.deletion import delete
from support.registries import Seen, directory_settings, until


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[DirectoryRegistry]:
    registry = registries.create(settings)
    assert isinstance(registry, DirectoryRegistry)
    try:
        async with asyncio.timeout(100):
            yield registry
    finally:
        await registry.deregister()
        await registry.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_sidecars_find_each_other_within_a_second(tmp_path: Path) -> None:
    path = str(tmp_path / "mesh")

    async def main() -> None:
        async with opened(directory_settings(path, "tasks-1", tags=("v1",))) as one, opened(
            directory_settings(path, "tasks-2", address="10.0.0.7")
        ) as two:  # fmt: skip
            seen, tagged = Seen(), Seen()
            two.watch("tasks", "", seen)
            cancel = two.watch("tasks", "v1", tagged)
            await two.answered()
            assert (seen.ids, tagged.ids) == ([], [])
            assert two.up
            one.register()
            one.set_health("passing", "fine")
            assert await until(lambda: seen.ids == ["tasks-1"], "found") < 1.0
            two.register()
            two.set_health("passing", "fine")
            assert await until(lambda: seen.ids == ["tasks-1", "tasks-2"], "found") < 1.0
            assert [(i.host, i.port) for i in seen.sets[-1]] == [("127.0.0.1", 10030), ("10.0.0.7", 10030)]
            assert tagged.ids == ["tasks-1"]
            one.set_health("critical", "gone")
            assert await until(lambda: seen.ids == ["tasks-2"], "dropped") < 1.0
            one.set_health("warning", "slow")
            assert await until(lambda: seen.ids == ["tasks-1", "tasks-2"], "back") < 1.0
            cancel()
            calls = len(tagged.sets)
            await one.deregister()
            assert await until(lambda: seen.ids == ["tasks-2"], "taken out") < 1.0
            assert len(tagged.sets) == calls

    asyncio.run(main())
    assert [file.name for file in Path(path).iterdir()] == [MARKER]


def test_another_workload_is_registered_beside_one_that_never_is_well(tmp_path: Path) -> None:
    path = tmp_path / "mesh"
    beside = Workload(name="tasks-sidecar", id="tasks-1-sidecar", address="127.0.0.1", port=15020, fronted=False)

    async def main() -> None:
        async with opened(directory_settings(str(path))) as registry:
            seen, others = Seen(), Seen()
            registry.watch("tasks", "", seen)
            registry.watch("tasks-sidecar", "", others)
            registry.register()
            other = registry.enroll(beside)
            other.set_health("passing", "this sidecar runs")
            await until(lambda: others.ids == ["tasks-1-sidecar"], "found")
            assert seen.ids == []
            assert not others.sets[-1][0].sidecar
            other.change(replace(beside, meta={"upstreams": "ollama"}))
            await until(lambda: others.sets[-1][0].meta == {"upstreams": "ollama"}, "changed")
            (path / "tasks-sidecar" / "tasks-1-sidecar.json").unlink()
            await until(lambda: others.ids == [], "lost")
            await until(lambda: others.ids == ["tasks-1-sidecar"], "written again")
            await registry.deregister()
            await other.leave()

    asyncio.run(main())
    assert [file.name for file in path.iterdir()] == [MARKER]


def test_a_folder_that_vanishes_keeps_what_is_known_and_heals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "sidecar.registry")
    monkeypatch.setattr("sidecar.registry.directory_registration.HEARTBEAT", 0.2)
    monkeypatch.setattr("sidecar.registry.directory.POLL", 0.05)
    path = tmp_path / "mesh"

    async def main() -> None:
        async with opened(directory_settings(str(path))) as registry:
            seen = Seen()
            registry.watch("tasks", "", seen)
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: seen.ids == ["tasks-1"], "known")
            calls = len(seen.sets)
            # renamed away at once, as an unmounted volume is: no half-emptied state in between
            await asyncio.to_thread(path.rename, tmp_path / "elsewhere")
            await until(lambda: not registry.up, "noticed")
            await until(lambda: registry.age > 0.2, "age grows")
            await asyncio.to_thread(path.mkdir)
            await until(lambda: registry.up and list(path.rglob("tasks-1.json")), "written again")
            assert registry.age == 0.0
            assert len(seen.sets) == calls

    asyncio.run(main())
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 2
    assert "answers again" in caplog.text


def test_deregistering_from_a_folder_that_is_gone_does_not_raise(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(directory_settings(str(tmp_path / "mesh"))) as registry:
            registry.register()
            await until(lambda: list(tmp_path.rglob("tasks-1.json")), "written")
            await asyncio.to_thread(delete, tmp_path / "mesh")
            begun = time.monotonic()
            await registry.deregister()
            await registry.deregister()
            assert time.monotonic() - begun < 30

    asyncio.run(main())


def test_a_folder_that_cannot_be_used_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be used"):
        registries.create(directory_settings(str(tmp_path / "file")))


def test_more_tags_than_others_would_read_are_refused_at_once(tmp_path: Path) -> None:
    tags = tuple(f"{n}{'é' * 200}" for n in range(200))
    with pytest.raises(RegistryError, match="tags"):
        registries.create(directory_settings(str(tmp_path / "mesh"), tags=tags))


def test_a_services_folder_that_others_have_spoiled_is_so_for_that_service_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.registry.directory.POLL", 0.05)
    path = tmp_path / "mesh"

    async def main() -> None:
        async with opened(directory_settings(str(path))) as registry:
            seen, other = Seen(), Seen()
            registry.watch("tasks", "", seen)
            registry.watch("spoiled", "", other)
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: seen.ids == ["tasks-1"] and other.ids == [], "known")
            (path / "spoiled").symlink_to(tmp_path)
            await until(lambda: not registry.up, "noticed")
            registry.set_health("warning", "slow")
            await until(lambda: [i.state for i in seen.sets[-1]] == ["warning"], "the other one is followed")
            (path / "spoiled").unlink()
            await until(lambda: registry.up, "mended")

    asyncio.run(main())
