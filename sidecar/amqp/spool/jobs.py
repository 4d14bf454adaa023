"""What the event loop asks of the spool's thread, and what it hears from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sidecar.amqp.spool.database import Database
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import BadRow, Count, StreamName, Transaction
from sidecar.storage.errors import SpoolError

PutDone = Callable[[list[SpooledMessage], SpoolError | None], None]
FetchDone = Callable[[list[SpooledMessage]], None]


class Put:
    """Messages to be stored. ``failures``: how often that had failed, as far as the loop had heard when it asked. What
    it asked for before it heard of the last time would get ahead of what was not stored then, and fails as well."""

    __slots__ = ("done", "error", "failures", "messages", "size")

    def __init__(self, messages: list[SpooledMessage], size: int, done: PutDone, failures: int) -> None:
        self.messages = messages
        self.size = size
        self.done = done
        self.failures = failures
        self.error: SpoolError | None = None


class Order:
    """Of what is to be stored: nothing gets ahead of what was not, as that will be tried again."""

    def __init__(self) -> None:
        self._failures = 0

    def broken(self, put: Put) -> bool:
        """It was asked for before the loop had heard of the last failure."""
        return put.failures != self._failures

    def fail(self, puts: list[Put], text: str) -> None:
        """These are not stored, and nothing that comes behind them is, before the loop has heard of it."""
        if puts:
            self._failures += 1
        for put in puts:
            self.refuse(put, text)

    def refuse(self, put: Put, text: str) -> None:
        """Neither is this."""
        put.error = SpoolError(f"the spool cannot store messages: {text}")
        put.failures = self._failures


class Fetch:
    """Messages that somebody wants."""

    __slots__ = ("after", "bad", "done", "limit", "limit_bytes", "messages", "stream")

    def __init__(
        self, stream: StreamName, after: tuple[int, int] | None, limit: int, limit_bytes: int, done: FetchDone
    ) -> None:
        self.stream = stream
        self.after = after
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.done = done
        self.messages: list[SpooledMessage] = []
        self.bad: list[BadRow] = []


class Call:
    """Something about the dead letters. ``revives``: its result is messages that are in the spool now."""

    __slots__ = ("error", "future", "result", "revives", "work")

    def __init__(self, work: Callable[[Database], Any], future: asyncio.Future[Any], revives: bool) -> None:
        self.work = work
        self.future = future
        self.revives = revives
        self.result: Any = None
        self.error: SpoolError | None = None


class Stop:
    """Nothing comes after this."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future


class State:
    """What the loop should know about the database. ``missing`` is what the loop counts and the file does not have, by
    stream (less than 0: the other way)."""

    __slots__ = ("corrupt", "count", "dropped", "missing", "problem", "reasons", "size")

    def __init__(self, database: Database, problem: str, missing: dict[StreamName, Count]) -> None:
        self.problem = problem
        self.missing = missing
        self.corrupt = database.corrupt
        self.dropped = database.dropped
        self.count = database.dead.count
        self.size = database.dead.bytes
        self.reasons = dict(database.dead.reasons)

    def same(self, other: State) -> bool:
        """Whether there is nothing new."""
        return (
            not self.missing
            and self.problem == other.problem
            and self.corrupt == other.corrupt
            and self.dropped == other.dropped
            and self.count == other.count
            and self.size == other.size
            and self.reasons == other.reasons
        )


Job = Put | Fetch | Call | Stop | Transaction
Outcome = Put | Fetch | Call | Stop | State
