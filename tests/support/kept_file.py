"""The disk of an AMQP port with a spool, in place of :mod:`support.kept_disk`: a real file, and the spool's own thread,
which takes a turn when the loop's time says so. So all that it does is the same each time, whatever the disk does."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar.amqp.spool import store, writer
from sidecar.amqp.spool.codec import unpack
from sidecar.amqp.spool.jobs import Job, Stop
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.store import Spool
from sidecar.storage import database, reserve
from sidecar.storage.errors import DiskFullError
from sidecar.storage.worker import Worker
from support.clock import Call
from support.patience import PATIENCE

#: More turns than that at one time, with nothing to do, are no work any more.
_IDLE_TURNS = 1000


class Faults:
    """What goes wrong. ``kind``: "full" (nothing can be added), "stuck" (nor can anything else be written) or "error"
    (of what is asked of SQLite: so many times, 0: always); after so many statements. ``late``: a commit that fails is
    on the disk all the same."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.begin("", 0)

    def begin(self, kind: str, after: int, times: int = 0, late: bool = False) -> None:
        self.kind = kind
        self._after = after
        self._times = times
        self._late = late

    def meets(self, statement: str, do: Callable[[], Any]) -> Any:
        """Do it, or fail."""
        if not self._fails(statement):
            return do()
        if self._late and statement == "COMMIT":
            do()
        full = self.kind != "error"
        error = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
        error.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR"
        if self._times:
            self._times -= 1
            if not self._times:
                self.kind = ""
        raise error

    def _fails(self, statement: str) -> bool:
        if not self.kind or statement == "ROLLBACK":
            return False
        if self._after:
            self._after -= 1
            return False
        if self.kind == "error":
            return True
        return statement.startswith("INSERT") or (self.kind == "stuck" and statement == "COMMIT")

    def allocate(self, file: int, size: int) -> None:
        """In place of the one in :mod:`sidecar.storage.reserve`: nothing need be there really."""
        if self.kind in ("full", "stuck") and not self._after:
            raise DiskFullError
        if self.kind == "error" and not self._after:
            raise OSError(errno.EIO, "I/O error")


class _Connection(sqlite3.Connection):
    faults: Faults

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        do = super().execute
        sql = sql.replace("synchronous = FULL", "synchronous = OFF")  # nobody takes the power away
        return cast(sqlite3.Cursor, self.faults.meets(sql, lambda: do(sql, *values)))

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        do = super().executemany
        return cast(sqlite3.Cursor, self.faults.meets(sql, lambda: do(sql, *values)))


class Turns(Worker[Job]):
    """The spool's thread runs when it is told to, until it waits again for something to do."""

    def __init__(self, name: str, loop: Any) -> None:
        super().__init__(name, loop)
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self.over = False
        self.pause: float | None = None
        self.ring: Callable[[], None] = lambda: None
        self._failure = ""

    def start(self, run: Callable[[], None]) -> None:
        def body() -> None:
            try:
                run()
            except BaseException:
                self._failure = traceback.format_exc()
            self.over = True
            self._back.release()

        Worker.start(self, body)
        assert self._back.acquire(timeout=PATIENCE)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.ring()

    def wait(self, seconds: float | None) -> None:
        self.pause = 0.0 if self.jobs else seconds
        self._back.release()
        self._go.acquire()

    def turn(self) -> None:
        """Let it do what there is to do."""
        if not self.over:
            self._go.release()
            assert self._back.acquire(timeout=PATIENCE)
        assert not self._failure, self._failure


class FileDisk:
    """As :class:`support.kept_disk.Disk`, where it is asked for by the model of a port."""

    def __init__(self, spool: Spool, loop: Any) -> None:
        self.slow = False
        self.faults = _Connection.faults
        self._spool = spool
        self._loop = loop
        self._called = False
        self._idle = 0
        self._timer: Call | None = None
        setattr(writer, "time", SimpleNamespace(monotonic=lambda: loop.now))  # noqa: B010 - it is a module
        spool.open()
        self._worker = cast(Turns, spool._worker)
        self._worker.ring = self._ring
        self._plan()

    @property
    def broken(self) -> str:
        return self.faults.kind

    @broken.setter
    def broken(self, why: str) -> None:
        self.faults.begin("full" if why else "", 0)

    @property
    def jobs(self) -> int:
        return len(self._worker.jobs)

    @property
    def stored(self) -> dict[int, SpooledMessage]:
        """What is in the file, by id."""
        return {number: unpack(data) for number, data in self._rows("SELECT id, data FROM message ORDER BY id")}

    @property
    def letters(self) -> list[tuple[SpooledMessage, str, int]]:
        rows = self._rows("SELECT data, reason, code FROM dead ORDER BY id")
        return [(unpack(data), reason, code) for data, reason, code in rows]

    @property
    def usable(self) -> bool:
        """The file can be looked at."""
        return self._spool._database.file.usable

    def _rows(self, statement: str) -> list[Any]:
        return sqlite3.Connection.execute(self._spool._database.file.sql, statement).fetchall()

    def work(self, most: int = 1_000_000) -> None:
        """Do what has been asked, so many things at most."""
        jobs = self._worker.jobs
        rest = list(jobs)[most:]
        while len(jobs) > most:
            jobs.pop()
        self._worker.turn()
        jobs.extend(rest)
        self._plan()

    def stop(self) -> None:
        """Close the file."""
        future = self._loop.create_future()
        self._worker.submit(Stop(future))
        self._worker.turn()
        self._loop.settle()
        assert self._worker.over
        assert future.done()

    def _ring(self) -> None:
        if not self.slow and not self._called:
            self._called = True
            self._loop.call_soon(self._come)

    def _come(self) -> None:
        self._called = False
        if not self.slow and not self._worker.over:
            self._worker.turn()
            self._plan()

    def _plan(self) -> None:
        """When its next turn is."""
        if self._timer is not None:
            self._timer.cancel()
        pause = self._worker.pause
        self._idle = self._idle + 1 if pause == 0.0 and not self.jobs else 0
        assert self._idle < _IDLE_TURNS, "it has nothing to do, and does not wait"
        if pause == 0.0:
            self._ring()
        elif pause is not None and not self._worker.over:
            self._timer = self._loop.call_at(self._loop.now + pause + 0.001, self._ring)


def use_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks of this module can be made from now on."""
    faults = Faults()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(path, factory=_Connection, **options))
    monkeypatch.setattr(_Connection, "faults", faults, raising=False)
    monkeypatch.setattr(store, "Worker", Turns)
    monkeypatch.setattr(writer, "time", time)  # it is put back, whatever is in its place
    monkeypatch.setattr(os, "fsync", lambda file: None)
    for module in (database, reserve):
        monkeypatch.setattr(module, "allocate", faults.allocate)
