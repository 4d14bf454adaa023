"""What becomes of the spool when its disk, its files or what is in them are not as they should be."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.amqp.spool import writer
from sidecar.amqp.spool.database import APPLICATION, SCHEMA, Database
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import NewDeadLetter, Transaction, removal
from sidecar.storage.database import DatabaseFile
from sidecar.storage.errors import SpoolError
from support.deletion import delete
from support.patience import PATIENCE
from support.spools import AI, Driver, fill_and_empty, message, number_of, run

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY", 0.02)


def stored(tmp_path: Path, *numbers: int, size: int = 1000) -> Path:
    """A spool with these messages that is in use by nobody; its file."""
    database = Database(tmp_path, "rabbitmq")
    database.open()
    database.write([message(number, size=size) for number in numbers], Transaction())
    database.close()
    return tmp_path / "rabbitmq.db"


def contents(tmp_path: Path) -> list[int]:
    database = Database(tmp_path, "rabbitmq")
    database.open()
    try:
        return [number_of(it) for it in database.fetch(AI, None, 1_000_000, 1 << 40)[0]]
    finally:
        database.close()


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_grow_is_a_clear_error_and_no_false_acknowledgement(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept: set[int] = set()

    async def test(driver: Driver) -> None:
        kept.update(await fill_and_empty(driver, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))))

    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, hard))
    try:
        run(tmp_path, test)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert set(contents(tmp_path)) == kept


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="a file system of its own needs root and mount namespaces",
)
@pytest.mark.parametrize(
    ("sizes", "least"), [([], 100), (["200"], 7000), (["4000"], 700), (["300000"], 8)], ids=str
)  # who else fills it, and how
def test_a_full_disk_is_a_clear_error_and_all_that_is_on_it_can_leave(
    tmp_path: Path, sizes: list[str], least: int
) -> None:
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "support.spool_full", str(tmp_path), *sizes],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > least


def test_without_room_for_removals_nothing_is_stored_and_all_that_was_can_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(tmp_path, *range(300))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test(driver: Driver) -> None:
        spool = driver.spool
        await driver.until(lambda: spool.problem == "the disk is full")
        with pytest.raises(SpoolError, match="cannot store messages: the disk is full"):
            await driver.put(message(300))
        found = await driver.fetch()
        assert len(found) == 300
        spool.tried(found[:120])
        spool.remove(found[:100])
        for it in found[100:180]:
            spool.dead(it, "expired", 0)
        assert await driver.numbers() == list(range(180, 300))
        letters = await spool.dead_letters.list(100)
        assert [it.message.attempts for it in letters if it.message] == [1] * 20 + [0] * 60
        with pytest.raises(SpoolError, match="the disk is full"):  # to send them again is to store them
            await spool.dead_letters.replay([letters[0].id])
        assert spool.dead_letters.count == 80
        monkeypatch.undo()
        await driver.until(lambda: not spool.problem)
        await driver.put(message(300))
        assert await spool.dead_letters.replay([letters[0].id]) == 1
        assert await driver.numbers() == [*range(180, 301), 100]

    monkeypatch.setattr(os, "posix_fallocate", full)
    (tmp_path / "rabbitmq.db.reserve").unlink()
    run(tmp_path, test)


def test_an_error_of_the_disk_is_told_and_the_file_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [True]
    write = Database.write

    def failing(self: Database, *args: object) -> None:
        if broken[0]:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            error.sqlite_errorname = "SQLITE_IOERR"
            raise error
        write(self, *args)  # type: ignore[arg-type]

    async def test(driver: Driver) -> None:
        spool = driver.spool
        await driver.put(message(1), message(2))
        found = await driver.fetch()
        monkeypatch.setattr(Database, "write", failing)
        with pytest.raises(SpoolError, match="disk I/O error"):
            await driver.put(message(3))
        assert "disk I/O error" in spool.problem
        spool.remove(found[:1])
        assert spool.messages == 1
        with pytest.raises(SpoolError, match="disk I/O error"):
            await driver.put(message(4))
        with pytest.raises(SpoolError):
            await spool.dead_letters.list(1)
        broken[0] = False
        # What was asked for while it did not work is answered as soon as it does, and after the removal.
        assert await driver.numbers() == [2]
        assert spool.problem == ""
        await driver.put(message(5))
        assert spool.messages == spool.streams[AI].count == 2
        assert await driver.numbers() == [2, 5]

    with caplog.at_level(logging.INFO, "sidecar.amqp.spool"):
        run(tmp_path, test)
    assert contents(tmp_path) == [2, 5]
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["the spool does not work: disk I/O error (SQLITE_IOERR)", "the spool works again"]


@pytest.mark.parametrize("what", ["file", "log", "folder"])
def test_what_is_deleted_after_an_error_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = tmp_path / "spool"

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    async def test(driver: Driver) -> None:
        spool = driver.spool
        await driver.put(message(1), message(2))
        with monkeypatch.context() as patch:
            patch.setattr(Database, "write", broken)
            with pytest.raises(SpoolError, match="I/O error"):
                await driver.put(message(3))
            if what == "folder":
                delete(folder)
            else:
                (folder / ("rabbitmq.db" if what == "file" else "rabbitmq.db-wal")).unlink()
        await driver.until(lambda: not spool.problem)
        assert await driver.numbers() == [1, 2]
        assert spool.messages == 2

    run(folder, test)
    assert contents(folder) == [1, 2]


def test_numbers_go_on_when_the_file_is_lost(tmp_path: Path) -> None:
    database = Database(tmp_path, "rabbitmq")
    database.open()
    old = [message(number) for number in range(5)]
    database.write(old, Transaction())
    database.file.disconnect()
    (tmp_path / "rabbitmq.db").unlink()
    database.file.connect()
    database.write([message(number) for number in range(5, 10)], Transaction())
    database.write((), removal(old))
    database.close()
    assert contents(tmp_path) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("new", [0, 2, 5])
@pytest.mark.parametrize("dead", [False, True])
def test_what_is_lost_and_leaves_from_memory_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: int, dead: bool
) -> None:
    """Else what came later would be on the disk, and nobody would know of it."""
    reopen = DatabaseFile.reopen
    tries = [1]

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    def lost(self: DatabaseFile) -> None:
        if tries:
            tries.clear()
            self.disconnect()
            self.files.base.unlink()
            broken()
        reopen(self)

    async def test(driver: Driver) -> None:
        spool = driver.spool
        await driver.put(*[message(number) for number in range(3)])
        found = await driver.fetch()
        monkeypatch.setattr(DatabaseFile, "reopen", lost)
        with monkeypatch.context() as patch:
            patch.setattr(Database, "write", broken)
            with pytest.raises(SpoolError, match="I/O error"):
                await driver.put(message(3))
        await driver.until(lambda: not spool.problem)
        assert spool.messages == 0
        for number in range(10, 10 + new):
            await driver.put(message(number))
        if dead:
            for it in found:
                spool.dead(it, "nacked", 0)
        else:
            spool.remove(found)
        assert await driver.numbers() == list(range(10, 10 + new))
        assert spool.messages == sum(it.count for it in spool.streams.values()) == new
        assert spool.bytes == sum(it.bytes for it in spool.streams.values())
        spool.remove(await driver.fetch())
        assert await driver.numbers() == []
        assert spool.messages == spool.bytes == 0

    run(tmp_path, test)


@pytest.mark.parametrize("more", [False, True])
def test_what_was_asked_for_behind_what_has_failed_does_not_get_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    """The disk has no room for many, then works again and has room for one; and the loop has not heard of the many when
    it asks for the one."""
    write, probe = Database.write, Database.probe
    room = [False]
    failed, works = threading.Event(), threading.Event()

    def full(self: Database, messages: Sequence[SpooledMessage], changes: Transaction) -> None:
        if len(messages) > 1 and not room[0]:
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, messages, changes)

    def probed(self: Database) -> None:
        probe(self)
        works.set()

    monkeypatch.setattr(Database, "write", full)
    monkeypatch.setattr(Database, "probe", probed)

    async def test(driver: Driver) -> None:
        spool = driver.spool
        answers: list[tuple[int, bool, bool]] = []

        def put(*numbers: int) -> None:
            assert spool.put(
                [message(it) for it in numbers],
                lambda _, error: answers.append((numbers[0], error is None, spool.works)),
            )

        put(1, 2)
        assert failed.wait(PATIENCE)
        assert works.wait(PATIENCE)
        put(3)
        if more:
            put(4, 5)
        await driver.until(lambda: len(answers) == 2 + more)
        assert [(number, stored) for number, stored, _ in answers] == [(1, False), (3, False), (4, False)][: 2 + more]
        assert not answers[0][2]
        assert spool.messages == 0
        room[0] = True
        await driver.until(lambda: spool.works)
        put(1, 2)
        put(3)
        await driver.until(lambda: len(answers) == 4 + more)
        assert await driver.numbers() == [1, 2, 3]

    run(tmp_path, test)


def test_a_message_that_cannot_be_written_is_refused_and_the_others_are_not(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        bad = message(2)
        bad.flags = 1000
        answers: list[str] = []
        for it in (message(1), bad, message(3)):
            assert spool.put([it], lambda _, error: answers.append("" if error is None else error.text))
        await driver.until(lambda: len(answers) == 3)
        assert [bool(it) for it in answers] == [False, True, False]
        assert spool.problem == ""
        assert await driver.numbers() == [1, 3]
        assert spool.messages == 2

    run(tmp_path, test)


# -- the files ---------------------------------------------------------------------------------------------------------


def test_its_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "spool"
    old = os.umask(0)
    try:

        async def test(driver: Driver) -> None:
            await driver.put(message(1))
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            names = sorted(it.name for it in folder.iterdir())
            assert names == ["rabbitmq.db", "rabbitmq.db-wal", "rabbitmq.db.lock", "rabbitmq.db.reserve"]
            assert {stat.S_IMODE(it.stat().st_mode) for it in folder.iterdir()} == {0o600}

        run(folder, test)
    finally:
        os.umask(old)
    (folder / "rabbitmq.db").chmod(0o644)
    assert contents(folder) == [1]
    assert stat.S_IMODE((folder / "rabbitmq.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["file", "log", "both", "folder", "replaced"])
def test_what_is_deleted_while_it_is_in_use_is_written_anew(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "spool"

    async def test(driver: Driver) -> None:
        spool = driver.spool
        await driver.put(*[message(number) for number in range(50)])
        found = await driver.fetch(limit=10)
        base = folder / "rabbitmq.db"
        if what in ("file", "both"):
            base.unlink()
        if what in ("log", "both"):
            base.with_name("rabbitmq.db-wal").unlink()
        if what == "folder":
            delete(folder)
        if what == "replaced":
            (folder / "new").write_bytes(b"something else")
            (folder / "new").rename(base)
        await driver.put(message(50))
        spool.remove(found)
        assert await driver.numbers() == list(range(10, 51))
        assert spool.problem == ""
        assert spool.messages == 41
        assert spool.corrupt == 0

    run(folder, test)
    assert contents(folder) == list(range(10, 51))


def test_without_a_folder_nothing_is_acknowledged_and_all_comes_back_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "spool"

    async def test(driver: Driver) -> None:
        spool = driver.spool
        await driver.put(message(1), message(2))
        delete(folder)
        folder.write_text("not a folder")
        with pytest.raises(SpoolError, match="cannot store"):
            await driver.put(message(3))
        assert spool.problem
        with pytest.raises(SpoolError, match="cannot store"):
            await driver.put(message(4))
        assert spool.messages == 2
        folder.unlink()
        await driver.until(lambda: not spool.problem)
        # The third one was in the lost file, and is there after all: it may come twice, which is better than never.
        assert await driver.numbers() == [1, 2, 3]
        assert spool.messages == 3
        await driver.put(message(5))

    run(folder, test)
    assert contents(folder) == [1, 2, 3, 5]


def immutable(path: Path, on: bool) -> bool:
    """Root may write to what is read-only, but not to what is immutable."""
    if os.geteuid() == 0:
        return subprocess.run(["chattr", "+i" if on else "-i", path], capture_output=True).returncode == 0
    path.chmod(0o400 if on else 0o600)
    return True


def test_a_file_that_may_not_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    base = stored(tmp_path, 1)
    if not immutable(base, True):
        pytest.skip("no file can be made read-only here")
    try:
        with pytest.raises(SpoolError, match=r"rabbitmq\.db: .*(not permitted|denied)"):
            contents(tmp_path)
    finally:
        immutable(base, False)
    assert contents(tmp_path) == [1]


@pytest.mark.skipif(os.geteuid() != 0, reason="an open file can be made read-only by root alone")
def test_a_file_that_becomes_read_only_is_a_clear_error_until_it_is_not(tmp_path: Path) -> None:
    kept: list[int] = []

    async def test(driver: Driver) -> None:
        await driver.put(message(1))
        files = [tmp_path / "rabbitmq.db", tmp_path / "rabbitmq.db-wal"]
        made = [immutable(file, True) for file in files]
        if not all(made):
            pytest.skip("no file can be made immutable here")
        try:
            with pytest.raises(SpoolError, match="cannot store"):
                await driver.put(message(2))
            assert driver.spool.problem
        finally:
            for file in files:
                immutable(file, False)
        await driver.until(lambda: not driver.spool.problem)
        await driver.put(message(3))
        kept.extend(await driver.numbers())
        assert driver.spool.messages == len(kept)

    run(tmp_path, test)
    assert [it for it in kept if it != 2] == [1, 3]
    assert contents(tmp_path) == kept


def test_a_folder_in_the_files_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "rabbitmq.db").mkdir()
    with pytest.raises(SpoolError, match="Is a directory"):
        Database(tmp_path, "rabbitmq").open()


def test_a_path_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="Not a directory"):
        Database(tmp_path / "file" / "spool", "rabbitmq").open()


def test_a_file_of_a_later_version_is_a_clear_error_and_stays_as_it_is(tmp_path: Path) -> None:
    base = stored(tmp_path, 1)
    sql = sqlite3.connect(base)
    sql.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    sql.close()
    before = base.read_bytes()
    with pytest.raises(SpoolError, match=f"later version of the sidecar: its schema is {SCHEMA + 1}"):
        Database(tmp_path, "rabbitmq").open()
    assert base.read_bytes() == before
    assert [it.name for it in tmp_path.iterdir() if "corrupt" in it.name] == []


def old(tmp_path: Path) -> Path:
    """A file from before there were the broker's texts, with a message and a dead letter."""
    database = Database(tmp_path, "rabbitmq")
    database.open()
    messages = [message(1), message(2)]
    database.write(messages, Transaction())
    changes = Transaction()
    changes.dead.append(NewDeadLetter(messages[0], "nacked", 0, 5.0, "new"))
    database.write([], changes)
    database.close()
    sql = sqlite3.connect(tmp_path / "rabbitmq.db")
    sql.execute("ALTER TABLE dead DROP COLUMN text")
    sql.close()
    return tmp_path / "rabbitmq.db"


@pytest.mark.parametrize("state", ["sound", "damaged"])
def test_a_file_without_the_brokers_texts_gets_them(tmp_path: Path, state: str) -> None:
    base = old(tmp_path)
    if state == "damaged":
        spoil(base, [page for page, kind in pages(base) if kind == 10][-1], b"\xff" * 100)

    async def test(driver: Driver) -> None:
        (letter,) = await driver.spool.dead_letters.list(9)
        assert (letter.reason, letter.text) == ("nacked", "")
        (left,) = await driver.fetch()
        assert number_of(left) == 2
        driver.spool.dead(left, "refused", 403, "ACCESS_REFUSED")
        assert [it.text for it in await driver.spool.dead_letters.list(9)] == ["", "ACCESS_REFUSED"]

    run(tmp_path, test)
    assert contents(tmp_path) == []
    assert any(".corrupt-" in it.name for it in tmp_path.iterdir()) == (state == "damaged")


def test_somebody_elses_database_is_a_clear_error_and_stays_as_it_is(tmp_path: Path) -> None:
    sql = sqlite3.connect(tmp_path / "rabbitmq.db")
    sql.execute("CREATE TABLE mine (data)")
    sql.close()
    with pytest.raises(SpoolError, match="somebody else's"):
        Database(tmp_path, "rabbitmq").open()
    sql = sqlite3.connect(tmp_path / "rabbitmq.db")
    assert sql.execute("SELECT count(*) FROM mine").fetchone() == (0,)
    assert sql.execute("PRAGMA application_id").fetchone() != (APPLICATION,)
    sql.close()


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    database = Database(tmp_path / "spool", "../else/where")
    database.open()
    database.close()
    assert [it.name for it in tmp_path.iterdir()] == ["spool"]


# -- what is in them ---------------------------------------------------------------------------------------------------


def damage(base: Path, marks: list[bytes]) -> None:
    """Change a byte behind each of these, where they stand in the file."""
    data = bytearray(base.read_bytes())
    for mark in marks:
        at = data.find(mark)
        assert at > 0
        data[at + len(mark)] ^= 0x55
    base.write_bytes(data)


def test_a_record_that_is_damaged_becomes_a_dead_letter_and_the_others_stay(tmp_path: Path) -> None:
    damage(stored(tmp_path, *range(100)), [b"header17:xxx", b"header0:xxx"])

    async def test(driver: Driver) -> None:
        spool = driver.spool
        assert spool.messages == 100
        numbers = await driver.numbers()
        assert numbers == [it for it in range(100) if it not in (0, 17)]
        await driver.until(lambda: spool.corrupt == 2)
        assert spool.messages == 98
        assert spool.dead_letters.reasons == {"corrupt": 2}
        letters = await spool.dead_letters.list(10)
        assert [it.message for it in letters] == [None, None]
        assert b"header" in letters[0].data
        assert await spool.dead_letters.replay([it.id for it in letters]) == 0

    run(tmp_path, test)
    assert len(contents(tmp_path)) == 98


def test_whoever_asks_for_few_does_not_take_damaged_ones_for_the_end(tmp_path: Path) -> None:
    damage(stored(tmp_path, *range(6)), [b"header%d:xxx" % number for number in (0, 1, 2, 4)])

    async def test(driver: Driver) -> None:
        spool = driver.spool
        twice: list[list[int]] = []
        for _ in range(2):
            spool.fetch(AI, None, 1, 1 << 20, lambda messages: twice.append([number_of(it) for it in messages]))
        (first,) = await driver.fetch(limit=1)
        assert number_of(first) == 3
        assert twice == [[3], [3]]
        (second,) = await driver.fetch(after=first.position, limit=1)
        assert number_of(second) == 5
        assert await driver.fetch(after=second.position, limit=1) == []
        assert spool.messages == spool.streams[AI].count == 2
        assert spool.corrupt == spool.dead_letters.count == 4

    run(tmp_path, test)


def pages(base: Path) -> list[tuple[int, int]]:
    """(number, kind) of every page but the first, by SQLite's file format (§1.6)."""
    data = base.read_bytes()
    size = int.from_bytes(data[16:18], "big")
    return [(at // size + 1, data[at]) for at in range(size, len(data), size)]


def spoil(base: Path, page: int, noise: bytes) -> None:
    data = base.read_bytes()
    size = int.from_bytes(data[16:18], "big")
    at = (page - 1) * size
    base.write_bytes(data[:at] + noise[:size].ljust(size, b"\xff") + data[at + size :])


@pytest.mark.parametrize("where", ["leaf", "two leaves", "index", "branch"])
def test_a_damaged_page_costs_what_was_on_it_and_no_more(tmp_path: Path, where: str) -> None:
    count = 2000
    base = stored(tmp_path, *range(count), size=1500)
    kinds = pages(base)
    leaves = [page for page, kind in kinds if kind == 13]
    branches = [page for page, kind in kinds if kind == 5]
    indexes = [page for page, kind in kinds if kind == 10]
    assert len(leaves) > 100
    spoilt = {
        "leaf": [leaves[len(leaves) // 2]],
        "two leaves": [leaves[len(leaves) // 3], leaves[len(leaves) // 2]],
        "index": [indexes[-1]],
        "branch": [branches[-1]],
    }[where]
    for page in spoilt:
        spoil(base, page, b"\xff" * 100)

    async def test(driver: Driver) -> None:
        spool = driver.spool
        numbers = await driver.numbers()
        assert numbers == sorted(set(numbers))
        lost = count - len(numbers)
        if where == "index":
            assert lost == 0
        elif where == "branch":
            assert lost <= count  # all that it led to; in a file this small that may be everything
        else:
            assert 1 <= lost <= 8 * len(spoilt)
            assert spool.corrupt == lost
        assert spool.messages == len(numbers)
        assert spool.problem == ""
        await driver.put(message(count))
        assert (await driver.numbers())[-1] == count

    run(tmp_path, test)
    kept = [it for it in tmp_path.iterdir() if ".corrupt-" in it.name]
    assert kept
    assert contents(tmp_path)[-1] == count


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_file_that_is_no_database_at_all_is_set_aside(tmp_path: Path, size: int) -> None:
    base = stored(tmp_path, 1, 2, 3)
    noise = random.Random(4).randbytes(size)
    base.write_bytes(noise)

    async def test(driver: Driver) -> None:
        assert driver.spool.messages == 0
        await driver.put(message(4))

    run(tmp_path, test)
    assert contents(tmp_path) == [4]
    if size:
        (kept,) = [it for it in tmp_path.iterdir() if ".corrupt-" in it.name]
        assert kept.read_bytes() == noise


def test_random_damage_never_crashes_it_and_it_works_afterwards(tmp_path: Path) -> None:
    base = stored(tmp_path, *range(300), size=1200)
    good = base.read_bytes()
    choice = random.Random(8)
    for round_ in range(25):
        for it in list(tmp_path.iterdir()):
            it.unlink()
        data = bytearray(good)
        for _ in range(choice.choice((1, 3, 20))):
            at = choice.randrange(len(data) if round_ % 3 else 8192)
            data[at : at + 4] = choice.randbytes(4)
        base.write_bytes(data)

        async def test(driver: Driver) -> None:
            numbers = await driver.numbers()
            assert len(set(numbers)) == len(numbers)
            await driver.put(message(1000))
            found = await driver.fetch()
            assert number_of(found[-1]) == 1000
            driver.spool.remove(found[:50])
            assert len(await driver.numbers()) == max(0, len(found) - 50)
            assert driver.spool.problem == ""

        # Somebody else's, or of another version, is what it may look like.
        with contextlib.suppress(SpoolError):
            run(tmp_path, test)


def test_a_dead_letter_that_cannot_be_written_keeps_nothing_back(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        bad = message(1)
        bad.flags = 1000
        driver.spool.dead(bad, "expired", 0)
        driver.spool.dead(message(2), "expired", 0)
        await driver.put(message(3))
        (letter,) = await driver.spool.dead_letters.list(10)
        assert letter.message is not None
        assert number_of(letter.message) == 2
        assert driver.spool.problem == ""

    run(tmp_path, test)


def test_what_was_removed_is_not_fetched_again_while_the_removal_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]
    write = Database.write

    def failing(self: Database, *args: object) -> None:
        if full[0]:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        write(self, *args)  # type: ignore[arg-type]

    async def test(driver: Driver) -> None:
        spool = driver.spool
        await driver.put(message(1), message(2), message(3))
        found = await driver.fetch()
        monkeypatch.setattr(Database, "write", failing)
        spool.remove(found[:2])
        answers: list[list[int]] = []
        spool.fetch(AI, None, 10, 1 << 20, lambda messages: answers.append([number_of(it) for it in messages]))
        await driver.until(lambda: "full" in spool.problem)
        with pytest.raises(SpoolError, match="full"):
            await driver.put(message(4))
        assert answers == []
        assert spool.messages == 1
        full[0] = False
        await driver.until(lambda: bool(answers))
        assert answers == [[3]]
        await driver.put(message(5))
        assert spool.problem == ""

    run(tmp_path, test)
    assert contents(tmp_path) == [3, 5]
