from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from sidecar.storage import json_file
from sidecar.storage.json_file import Kept, Notebook, Saving


class Counter(Kept):
    """A number. ``written`` is set whenever it was saved."""

    def __init__(self, path: Path) -> None:
        Kept.__init__(self, Notebook(path, "a number", 1000, lambda: 7.0))
        self.number = 0

    def count(self) -> None:
        self.number += 1
        self.dirty = True

    def content(self) -> dict[str, object]:
        return {"number": self.number}


def test_a_file_is_one_version_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notes.json"
    notes = Notebook(path, "a note", 1000, lambda: 0.0)
    assert notes.write({"a": 1})

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        assert not notes.write({"a": 2})
        assert not notes.write({"a": 2})
    assert caplog.text.count("a note cannot be written") == 1
    assert notes.read() == {"version": 1, "a": 1}
    path.with_name("notes.json.new").chmod(0o644)
    with caplog.at_level(logging.INFO, "sidecar.amqp"):
        assert notes.write({"a": 3})
    assert "a note is written again" in caplog.text
    assert notes.read() == {"version": 1, "a": 3}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Notebook(tmp_path / "none.json", "nothing", 1000, lambda: 0.0).read() is None
    assert not caplog.records


def test_what_cannot_even_be_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notebook(tmp_path / "none.json", "nothing", 1000, lambda: 0.0).set_aside("no reason")
    assert "could not be set aside" in caplog.text


def test_what_changes_is_saved_by_itself_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "SAVE_SECONDS", 0.0)
    it = Counter(tmp_path / "number.json")
    assert it.notebook is not None
    written = threading.Event()
    write = Notebook.write

    def watched(self: Notebook, content: dict[str, object]) -> bool:
        done = write(self, content)
        written.set()
        return done

    monkeypatch.setattr(Notebook, "write", watched)

    async def work() -> None:
        saving = Saving([it])
        saving.start()
        it.count()
        assert await asyncio.to_thread(written.wait, 10)
        it.count()
        await saving.close()
        await saving.close()

    asyncio.run(work())
    assert it.notebook.read() == {"version": 1, "number": 2}


def test_what_nobody_keeps_is_not_saved(tmp_path: Path) -> None:
    it = Counter(tmp_path / "number.json")
    it.notebook = None
    it.count()
    asyncio.run(Saving([it]).save())
    assert list(tmp_path.iterdir()) == []
