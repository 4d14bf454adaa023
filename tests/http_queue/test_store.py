from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.http_queue.database import Database
from sidecar.http_queue.record import Found, Outcome, Request, digest_of, id_for_key, new_id
from sidecar.storage.errors import InDoubtError, SpoolError
from support.patience import until
from support.queueing import Held, holding, put

HEAD = b"POST / HTTP/1.1\r\nhost: a\r\n\r\n"


def request(body: bytes = b"", *, id: str = "", digest: bytes = b"", lane: str = "", expires: float = 9e9) -> Request:
    return Request(
        id=id or new_id(), lane=lane, at=1.0, expires=expires, client="10.0.0.1", request_id="r", digest=digest,
        head=HEAD, body=body,
    )  # fmt: skip


def outcome(body: bytes = b"ok", *, reason: str = "", forget: float = 9e9) -> Outcome:
    return Outcome(reason=reason, finished=2.0, forget=forget, status=200, head=b"HTTP/1.1 200 OK\r\n", body=body)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def test_what_was_stored_is_there_after_a_restart_in_its_order(tmp_path: Path) -> None:
    async def first(held: Held) -> None:
        await held.put(*(request(b"%d" % n) for n in range(300)), request(b"other", lane="x"))

    async def second(held: Held) -> None:
        assert await held.bodies() == [b"%d" % n for n in range(300)]
        found, more = await held.do(lambda it: it.fetch("", 0, 10, 1 << 30))
        assert (len(found), more) == (10, True)
        found, more = await held.do(lambda it: it.fetch("", found[-1].number, 1000, 1))
        assert ([it.body for it in found], more) == ([b"10"], True)
        assert {lane: n for lane, (n, _) in (await held.do(Database.lanes)).items()} == {"": 300, "x": 1}

    holding(tmp_path, first)
    holding(tmp_path, second)


def test_the_files_are_private(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        await held.put(request())
        assert {it.stat().st_mode & 0o777 for it in (tmp_path / "q").iterdir()} == {0o600}
        assert (tmp_path / "q").stat().st_mode & 0o777 == 0o700

    holding(tmp_path / "q", test)


def test_an_outcome_takes_the_requests_place(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        one = request(b"x", id="one")
        await held.put(one)
        found: Found = await held.do(lambda it: it.find("one"))
        assert (found.outcome, found.at) == (None, 1.0)
        assert await held.do(lambda it: it.finish(one.number, outcome())) == ("", one.size)
        assert await held.do(lambda it: it.finish(one.number, outcome())) is None
        assert await held.bodies() == []
        found = await held.do(lambda it: it.find("one", True))
        assert found.outcome is not None
        assert (found.outcome.status, found.outcome.body, found.outcome.whole) == (200, b"ok", True)
        assert await held.do(lambda it: it.find("none")) is None

    holding(tmp_path, test)


def test_the_oldest_outcomes_go_for_newer_ones(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        requests = [request(id=f"{n}") for n in range(5)]
        await held.put(*requests)

        def finish(database: Database) -> list[bool]:
            for one in requests:
                database.finish(one.number, outcome(b"x" * 1000))
            return [database.find(one.id) is not None for one in requests]

        known = await held.do(finish)
        assert known == [False, False, False, True, True]

    holding(tmp_path, test, max_outcomes=4000)


def test_what_has_expired_fails_and_what_is_old_is_forgotten(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        requests = [request(id=f"{n}", expires=10.0 + n, digest=b"d") for n in range(4)]
        await held.put(*requests)
        busy = {requests[1].number}
        gone, keyed = await held.do(lambda it: it.sweep(12.0, busy, 5.0))
        assert (gone, keyed) == ([("", requests[0].size), ("", requests[2].size)], True)
        found = await held.do(lambda it: it.find("0"))
        assert found.outcome.reason == "expired"
        gone, keyed = await held.do(lambda it: it.sweep(17.0, set(), 5.0))
        assert len(gone) == 2
        assert await held.do(lambda it: it.find("0")) is None
        gone, keyed = await held.do(lambda it: it.sweep(100.0, set(), 5.0))
        assert (gone, keyed) == ([], False)

    holding(tmp_path, test)


def test_a_key_is_stored_once(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        await held.put(request(b"a", id="k", digest=digest_of(b"s", b"a")))
        found = await held.do(lambda it: it.put(request(b"b", id="k", digest=digest_of(b"s", b"b"))))
        assert (found.id, found.digest) == ("k", digest_of(b"s", b"a"))
        assert await held.bodies() == [b"a"]

    holding(tmp_path, test)


def test_ids_of_keys_are_this_queues_own_and_last(tmp_path: Path) -> None:
    secrets: list[bytes] = []

    async def test(held: Held) -> None:
        secrets.append(held.store.secret)

    holding(tmp_path / "a", test)
    holding(tmp_path / "a", test)
    holding(tmp_path / "b", test)
    assert secrets[0] == secrets[1] != secrets[2]
    assert id_for_key(b"s", (b"a", b"b")) == id_for_key(b"s", (b"a", b"b")) != id_for_key(b"s", (b"ab", b""))
    assert len(id_for_key(b"s", (b"a",))) == len(new_id()) == 32


def test_one_process_alone(tmp_path: Path) -> None:
    async def test(_: Held) -> None:
        other = Database(tmp_path, "up~queue", 1, lambda: 0.0)
        with pytest.raises(SpoolError, match="in use by another process"):
            other.open()

    holding(tmp_path, test)


def test_somebody_elses_and_later_files_are_left_alone(tmp_path: Path) -> None:
    database = Database(tmp_path, "up~queue", 1, lambda: 0.0)
    database.open()
    database.close()
    sql = sqlite3.connect(database.file.files.base)
    sql.execute("PRAGMA user_version = 7")
    sql.close()
    with pytest.raises(SpoolError, match="its schema is 7"):
        database.open()
    sql = sqlite3.connect(database.file.files.base)
    sql.execute("PRAGMA application_id = 7")
    sql.close()
    with pytest.raises(SpoolError, match="somebody else's"):
        database.open()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="Not a directory"):
        Database(tmp_path / "file", "up~queue", 1, lambda: 0.0).open()


def test_a_file_that_was_deleted_is_made_again_with_all_that_was_in_it(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        await held.put(request(b"1"), request(b"2"))
        empty(tmp_path)
        await held.put(request(b"3"))

    async def again(held: Held) -> None:
        assert await held.bodies() == [b"1", b"2", b"3"]

    holding(tmp_path, test)
    holding(tmp_path, again)


def test_damage_costs_what_is_damaged_and_no_more(tmp_path: Path) -> None:
    async def first(held: Held) -> None:
        await held.put(*(request(b"%05d" % n + b"." * 2000) for n in range(200)))

    async def second(held: Held) -> None:
        left = {body[:5] for body in await held.bodies()}
        assert 100 < len(left) < 200
        await held.put(request(b"new"))
        assert (await held.bodies())[-1] == b"new"

    holding(tmp_path, first)
    file = tmp_path / "up~queue.db"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = b"\xff" * 8192
    file.write_bytes(data)
    holding(tmp_path, second)
    assert any(".corrupt-" in it.name for it in tmp_path.iterdir())


def test_what_is_no_database_any_more_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "up~queue.db").write_bytes(b"rubbish" * 1000)

    async def test(held: Held) -> None:
        assert await held.bodies() == []
        await held.put(request(b"new"))

    holding(tmp_path, test)


def test_a_changed_body_is_noticed(tmp_path: Path) -> None:
    async def first(held: Held) -> None:
        await held.put(request(b"abc", id="a"))

    async def second(held: Held) -> None:
        found, _ = await held.do(lambda it: it.fetch("", 0, 10, 1000))
        assert found[0].head == b""  # the lane makes a failure of it

    holding(tmp_path, first)
    sql = sqlite3.connect(tmp_path / "up~queue.db")
    sql.execute("UPDATE request SET body = x'00'")
    sql.commit()
    sql.close()
    holding(tmp_path, second)


def test_one_job_that_fails_harms_no_other(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        def bad(_: Database) -> None:
            raise ValueError("a mistake")

        results = await asyncio.gather(
            held.put(request(b"1")), held.do(bad), held.put(request(b"2")), return_exceptions=True
        )
        assert [type(it) for it in results] == [type(None), SpoolError, type(None)]
        assert await held.bodies() == [b"1", b"2"]

    holding(tmp_path, test)


def test_a_disk_that_fails_and_is_well_again(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        await held.put(request(b"1"))

        def fail(_: Database) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(SpoolError, match="Input/output error"):
            await held.do(fail)
        await until(lambda: not held.store.problem, "it works again")
        await held.put(request(b"2"))
        assert await held.bodies() == [b"1", b"2"]

    holding(tmp_path, test)


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        await held.put(request(b"1"))
        await held.do(lambda it: it.file.sql.execute("PRAGMA max_page_count = 40").fetchall() and None)
        results = await asyncio.gather(*(held.put(request(b"x" * 50_000)) for _ in range(20)), return_exceptions=True)
        stored = 1 + results.count(None)
        assert 1 < stored < 20
        assert {str(it) for it in results if it is not None} == {
            "queued requests cannot be stored: database or disk is full (SQLITE_FULL)",
            "queued requests cannot be stored: the disk is full",
        }
        assert len(await held.bodies()) == stored
        await held.do(lambda it: it.file.sql.execute("PRAGMA max_page_count = 100000").fetchall() and None)
        await until(lambda: not held.store.problem, "it works again")
        await held.put(request(b"2"))
        assert len(await held.bodies()) == stored + 1
        with pytest.raises(SpoolError, match="UNIQUE"):
            await held.put(request(id="x"), request(id="x"))
        assert not held.store.problem

    holding(tmp_path, test)


def test_without_room_for_outcomes_nothing_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test(held: Held) -> None:
        one = request(b"1")
        await held.put(one)
        monkeypatch.setattr(os, "posix_fallocate", full)
        held.database.file.make_room()
        with pytest.raises(SpoolError, match="the disk is full"):
            await held.put(request(b"2"))
        assert await held.do(lambda it: it.finish(one.number, outcome())) is not None

    async def again(held: Held) -> None:
        assert held.store.problem == "the disk is full"
        with pytest.raises(SpoolError, match="the disk is full"):
            await held.put(request(b"2"))
        monkeypatch.undo()
        await until(lambda: not held.store.problem, "there is room")
        await held.put(request(b"2"))

    holding(tmp_path, test)
    holding(tmp_path, again)


def test_nothing_is_done_once_it_is_closed(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        await held.store.close()
        with pytest.raises(SpoolError, match="closed"):
            await held.do(Database.lanes)

    holding(tmp_path, test)


class Unsynced:
    """A connection whose next commit fails when it is synced, after all of it was written."""

    def __init__(self, sql: sqlite3.Connection) -> None:
        self._sql = sql

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sql, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        found = self._sql.execute(statement, *arguments)
        if statement == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return found


def test_what_could_not_be_synced_is_neither_stored_nor_refused(tmp_path: Path) -> None:
    async def test(held: Held) -> None:
        await held.put(request(b"1"))
        held.database.file._sql = Unsynced(held.database.file.sql)  # type: ignore[assignment]
        with pytest.raises(InDoubtError, match="not known whether"):
            await held.put(request(b"2"))
        await held.put(request(b"3"))
        assert await held.bodies() == [b"1", b"2", b"3"]

    holding(tmp_path, test)


@pytest.mark.parametrize("digest", [b"", b"d"])
def test_what_is_tried_again_after_it_was_written_is_stored_once(tmp_path: Path, digest: bytes) -> None:
    async def test(held: Held) -> None:
        one = request(b"1", digest=digest)
        await held.put(one)
        found = await held.do(partial(put, one))
        assert (found.number if digest else one.number) == 1
        assert await held.bodies() == [b"1"]

    holding(tmp_path, test)
