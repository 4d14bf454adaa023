from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.storage import claim as claims
from sidecar.storage.claim import claim
from sidecar.storage.errors import InUseError
from sidecar.storage.files import Files
from support.live import run
from support.patience import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PAUSE", 0.001)


def held(folder: Path, name: str) -> Files:
    files = Files(folder, name)
    files.prepare()
    return files


def test_what_is_free_is_taken_without_a_word(tmp_path: Path) -> None:
    said: list[str] = []
    files = [Files(tmp_path, "b"), Files(tmp_path, "a")]
    run(lambda: claim(files, said.append))
    assert said == []
    for name in ("a", "b"):
        with pytest.raises(InUseError):
            Files(tmp_path, name).prepare()
    for it in files:
        it.release()


def test_what_another_process_has_is_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    first, second = held(tmp_path, "a"), held(tmp_path, "b")

    async def main() -> None:
        mine = [Files(tmp_path, name) for name in ("c", "b", "a")]
        waiting = asyncio.ensure_future(claim(mine, said.append))
        await until(lambda: len(said) == 1)
        assert f"{tmp_path / 'a.db'} is in use by another process" in said[0]
        # It has none of what comes later, which somebody else may need first.
        held(tmp_path, "c").release()
        first.release()
        await until(lambda: len(said) == 2)
        assert "b.db" in said[1]
        with pytest.raises(InUseError):
            first.prepare()
        assert not waiting.done()
        second.release()
        await waiting
        assert said[2:] == [""]
        for it in mine:
            it.release()

    run(main)


def test_who_gives_up_waiting_has_changed_nothing(tmp_path: Path) -> None:
    first = held(tmp_path, "a")
    before = {it.name: it.read_bytes() for it in tmp_path.iterdir()}
    said: list[str] = []

    async def main() -> None:
        waiting = asyncio.ensure_future(claim([Files(tmp_path, "a")], said.append))
        await until(lambda: bool(said))
        waiting.cancel()
        await asyncio.wait([waiting])

    run(main)
    assert {it.name: it.read_bytes() for it in tmp_path.iterdir()} == before
    first.prepare()  # which is still its own
    first.release()


def test_what_cannot_be_used_at_all_is_for_others_to_tell(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    good = Files(tmp_path, "b")
    run(lambda: claim([Files(tmp_path / "file", "a"), good], said.append))
    assert said == []
    with pytest.raises(InUseError):
        Files(tmp_path, "b").prepare()
    good.release()
