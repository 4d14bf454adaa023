from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sidecar.storage.database import DatabaseFile
from sidecar.storage.errors import DiskFullError, SpoolError
from sidecar.storage.faults import damaged, describe, disk_full, refused
from sidecar.storage.salvage import rows
from sidecar.storage.sqlite import Format, scalar

MIB = 1 << 20
FORM = Format(
    what="a list", application=0x1234, schema=2, page=4096, cache=MIB, log_kept=MIB, log_room=MIB, room=2 * MIB,
    tables="CREATE TABLE it (number INTEGER PRIMARY KEY, data BLOB NOT NULL); CREATE TABLE opened (times INTEGER); "
    "INSERT INTO opened VALUES (0);",
)  # fmt: skip


class List:
    """A database with a single table."""

    def __init__(self, folder: Path, form: Format = FORM) -> None:
        self.file = DatabaseFile(folder, "a/list", form, self, lambda: 1000.0)
        self.lost: list[int] = []

    def load(self, sql: sqlite3.Connection) -> None:
        sql.execute("UPDATE opened SET times = times + 1")

    def copy(self, reader: sqlite3.Connection | None, writer: sqlite3.Connection) -> int:
        if reader is None:
            return 7
        for row in rows(reader, "it", "number, data"):
            writer.execute("INSERT INTO it VALUES (?, ?)", row)
        return 0

    def salvaged(self, lost: int) -> None:
        self.lost.append(lost)

    def put(self, count: int, size: int = 100) -> None:
        self.file.sql.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count}) "
            f"INSERT INTO it (data) SELECT zeroblob({size}) FROM n"
        )

    @property
    def count(self) -> int:
        return scalar(self.file.sql, "SELECT count(*) FROM it")


def opened(folder: Path, form: Format = FORM) -> List:
    found = List(folder, form)
    found.file.open()
    return found


class Killed(sqlite3.Connection):
    """The process has ended before this statement."""

    before = ""

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        self._end(sql)
        return super().execute(sql, parameters)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        self._end(sql)
        return super().executescript(sql)

    def _end(self, sql: str) -> None:
        if self.before in sql:
            raise KeyboardInterrupt


@pytest.mark.parametrize("before", ["locking_mode", "page_size", "application_id", "journal_mode", "size_limit"])
def test_whenever_its_making_is_cut_off_it_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    class Cut(Killed):
        pass

    Cut.before = before
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(path, factory=Cut, **options))
    first = List(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.file.open()
    first.file.close()
    monkeypatch.undo()
    again = opened(tmp_path)
    again.put(1)
    assert again.lost == []
    assert scalar(again.file.sql, "PRAGMA auto_vacuum") == 2
    assert scalar(again.file.sql, "PRAGMA page_size") == FORM.page


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.put(3)
    first.file.close()
    assert not first.file.usable
    with pytest.raises(sqlite3.OperationalError, match="not open"):
        first.put(1)
    again = opened(tmp_path)
    assert again.count == 3
    assert scalar(again.file.sql, "SELECT times FROM opened") == 2
    with pytest.raises(SpoolError, match="in use by another process"):
        List(tmp_path).file.open()
    again.file.close()


@pytest.mark.parametrize("which", ["file", "lock"])
def test_a_descriptor_whose_close_fails_is_not_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Nor does that keep the file from being used: it is closed, though what was written may not have come through."""
    it = opened(tmp_path)
    bad = [it.file._growing if which == "file" else it.file.files._lock]
    close = os.close

    def failing(file: int) -> None:
        close(file)
        if file in bad:
            bad.remove(file)
            raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "close", failing)
    it.put(1)
    if which == "file":
        it.file.connect()
    else:
        it.file.close()
        it = opened(tmp_path)
    assert not bad
    assert it.count == 1
    it.file.close()


def test_other_files_are_known_and_left_alone(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.file.close()
    before = first.file.files.base.read_bytes()
    for changed, text in (
        ({"schema": 1}, "written by a later version of the sidecar: its schema is 2, and this one knows 1"),
        ({"schema": 3}, "unknown version: its schema is 2"),
        ({"application": 1}, "is not a list but somebody else's database"),
    ):
        form = Format(**{name: getattr(FORM, name) for name in Format.__slots__} | changed)
        with pytest.raises(SpoolError, match=text):
            opened(tmp_path, form)
        assert first.file.files.base.read_bytes() == before


@pytest.mark.parametrize("what", ["a/list.db", "a/list.db-wal"])
def test_a_file_that_is_gone_is_noticed_and_copied(tmp_path: Path, what: str) -> None:
    it = opened(tmp_path)
    it.put(5)
    assert not it.file.moved()
    (tmp_path / what.replace("/", "%2F")).unlink()
    it.put(1)
    it.file.hold()
    assert it.file.moved()
    it.file.salvage(None)
    assert not it.file.moved()
    assert (it.count, it.lost) == (6, [0])
    it.file.close()
    assert opened(tmp_path).count == 6


def test_what_is_no_database_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a%2Flist.db").write_bytes(b"noise" * 1000)
    it = opened(tmp_path)
    assert (it.count, it.lost) == (0, [7])
    assert (tmp_path / "a%2Flist.db.corrupt-1000").read_bytes() == b"noise" * 1000


def reserved(it: List) -> int:
    return it.file.files.reserve.stat().st_size if it.file.reserve.held else 0


def test_the_file_has_room_for_what_is_in_the_log_and_more_is_set_aside(tmp_path: Path) -> None:
    it = opened(tmp_path)
    base = it.file.files.base
    assert reserved(it) == 3 * MIB
    it.file.sql.execute("BEGIN")
    it.put(1000, 4000)
    it.file.hold()
    assert 4_000_000 < base.stat().st_blocks * 512 <= 6 * MIB
    it.file.sql.execute("COMMIT")
    it.file.make_room()
    assert reserved(it) == 0
    assert 4_000_000 < base.stat().st_size < 5 * MIB
    it.file.hold()
    assert reserved(it) == 2 * MIB  # the log is large enough now
    it.file.close()
    assert it.file.files.reserve.stat().st_size == 3 * MIB  # for the next start, which has no log
    again = opened(tmp_path)
    assert again.count == 1000
    assert again.file.sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_file_that_was_given_room_and_no_more_is_sound(tmp_path: Path) -> None:
    it = opened(tmp_path)
    it.put(10)
    it.file.checkpoint()
    it.file.sql.execute("BEGIN")
    it.put(1000, 4000)
    it.file.hold()
    for file in (it.file.files.base, it.file.files.wal):  # as it is when the process is killed now
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    again = opened(tmp_path / "copy")
    assert again.count == 10
    assert again.file.sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_without_room_it_can_be_opened_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        it = opened(tmp_path)
        assert not it.file.reserve.held
        it.put(1)
        with pytest.raises(DiskFullError):
            it.file.hold()
    it.file.hold(5 * MIB)
    assert reserved(it) == 8 * MIB


def test_a_start_on_a_full_disk_takes_what_was_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).file.close()
    load = List.load

    def needs_room(self: List, sql: sqlite3.Connection) -> None:
        if self.file.files.reserve.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        load(self, sql)

    monkeypatch.setattr(List, "load", needs_room)
    it = opened(tmp_path)
    assert it.file.usable
    it.file.close()


def test_errors_are_told_apart() -> None:
    for error, kind in (
        (sqlite3.DatabaseError("no code"), "damaged"),
        (UnicodeDecodeError("utf-8", b"", 0, 0, ""), "damaged"),
        (OSError(errno.EDQUOT, "quota"), "full"),
        (OSError(errno.EFBIG, "too large"), "full"),
        (DiskFullError(), "full"),
        (ValueError("bad"), "refused"),
        (sqlite3.InterfaceError("bad"), "refused"),
        (OSError(errno.EIO, "I/O error"), ""),
    ):
        found = [name for name, it in (("damaged", damaged), ("full", disk_full), ("refused", refused)) if it(error)]
        assert found == ([kind] if kind else []), error
    assert describe(OSError(errno.EIO, "I/O error")) == "I/O error"
    assert describe(SpoolError("a text")) == "a text"


@pytest.mark.parametrize("suffix", ["", ".lock", ".reserve"])
def test_a_link_in_a_files_place_leads_nowhere(tmp_path: Path, suffix: str) -> None:
    """Whoever may write to the folder could otherwise have a file elsewhere emptied or locked away."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"a%2Flist.db{suffix}").symlink_to(victim)
    if suffix == ".reserve":  # without room set aside it works, with a warning
        opened(folder).file.close()
    else:
        with pytest.raises(SpoolError, match="symbolic links"):
            opened(folder)
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("precious", 0o644)


def allocated_for(it: List) -> bool:
    """Whether the file has the room for all that is in the log."""
    return it.file.files.base.stat().st_size >= scalar(it.file.sql, "PRAGMA page_count") * FORM.page


def test_what_a_probe_leaves_in_the_log_has_its_room_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else somebody who fills the disk before the next checkpoint keeps the log from being copied, for good."""

    def full(file: int, size: int) -> None:
        raise DiskFullError

    it = opened(tmp_path)
    it.file.sql.execute("CREATE TABLE IF NOT EXISTS probe (data BLOB)")
    it.file.checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.storage.database.allocate", full)
        pages = scalar(it.file.sql, "PRAGMA page_count")
        with pytest.raises(DiskFullError):
            it.file.probe()
        assert scalar(it.file.sql, "PRAGMA page_count") == pages
    it.file.probe()
    assert scalar(it.file.sql, "PRAGMA page_count") > pages
    assert allocated_for(it)
    it.file.close()


@pytest.mark.parametrize("full", [False, True])
def test_what_a_removal_needs_gets_its_room_if_there_is_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """It goes on without: nothing else could make room."""

    def none(file: int, size: int) -> None:
        raise DiskFullError

    it = opened(tmp_path)
    it.file.checkpoint()
    if full:
        monkeypatch.setattr("sidecar.storage.database.allocate", none)
    with it.file.transaction():
        it.put(20, 4000)
    assert it.file.committed
    assert allocated_for(it) is not full
    it.file.close()
