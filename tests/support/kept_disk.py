"""The disk of an AMQP port with a spool, played by an object in memory: see :mod:`support.kept`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from sidecar.amqp.spool.jobs import Call, Fetch, Outcome, Put, State
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.store import Spool
from sidecar.amqp.spool.transaction import Transaction
from sidecar.storage.errors import SpoolError
from support.loop import FakeLoop


class _Bell:
    """In place of the event that wakes the spool's thread."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.set = ring


class Disk:
    """What stands behind a spool: its file is a dictionary, and its thread is whoever calls :meth:`work`. That is the
    loop, soon after something was asked; or, while it is ``slow``, a test. While ``broken`` says why, nothing is stored
    and nothing is read, as when a real one is full; what was delivered is written down when it works again."""

    def __init__(self, spool: Spool, loop: FakeLoop) -> None:
        self._spool = spool
        self._loop = loop
        #: By id.
        self.stored: dict[int, SpooledMessage] = {}
        self.letters: list[tuple[SpooledMessage, str, int]] = []
        self.slow = False
        self.broken = ""
        self._said = ""
        self._next = 1
        #: Removals and the like that could not be written down; questions that wait for that.
        self._changes: list[Transaction] = []
        self._fetches: list[Fetch] = []
        self._called = False
        self._again = False
        spool._worker._wake = cast(Any, _Bell(self._ring))
        spool._worker._thread = cast(Any, self)

    @property
    def jobs(self) -> int:
        """How much waits for it."""
        return len(self._spool._worker.jobs)

    def bodies(self) -> list[bytes]:
        """What is in the file, in order of ids."""
        return [message.body for message in self.stored.values()]

    def _ring(self) -> None:
        if not self.slow and not self._called:
            self._called = True
            self._loop.call_soon(self._come)

    def _come(self) -> None:
        self._called = False
        if not self.slow:
            self.work()

    def _retry(self) -> None:
        self._again = False
        self.work()

    def work(self, most: int = 1_000_000) -> None:
        """Do what has been asked, so many things at most, and say what came of it."""
        outcomes: list[Outcome] = []
        jobs = self._spool._worker.jobs
        while jobs and most > 0:
            most -= 1
            job = jobs.popleft()
            if isinstance(job, Put):
                self._put(job)
                outcomes.append(job)
            elif isinstance(job, Transaction):
                self._changes.append(job)
            elif isinstance(job, Fetch):
                self._fetches.append(job)
            elif isinstance(job, Call):
                job.result = 0
                outcomes.append(job)
        if not self.broken:
            for changes in self._changes:
                self._change(changes)
            for fetch in self._fetches:
                self._fetch(fetch)
            outcomes += self._fetches
            self._changes = []
            self._fetches = []
        elif not self._again:
            self._again = True
            self._loop.call_at(self._loop.now + 1.0, self._retry)
        if self.broken != self._said:
            self._said = self.broken
            outcomes.insert(0, State(self._spool._database, self.broken, {}))
        if outcomes:
            self._spool._settle(outcomes)

    def _put(self, job: Put) -> None:
        if self.broken:
            job.error = SpoolError(self.broken)
            return
        for message in job.messages:
            message.id = self._next
            self._next += 1
            self.stored[message.id] = _copy(message)

    def _change(self, changes: Transaction) -> None:
        for message in changes.removed:
            del self.stored[message.id]
        for message in changes.tried:
            if message.id in self.stored:
                self.stored[message.id].attempts = message.attempts
        for death in changes.dead:
            if death.stored:
                del self.stored[death.message.id]
            self.letters.append((death.message, death.reason, death.code))

    def _fetch(self, job: Fetch) -> None:
        mine = sorted(
            (each for each in self.stored.values() if each.stream == job.stream), key=lambda each: each.position
        )
        left = job.limit_bytes
        for message in mine:
            if job.after is not None and message.position <= job.after:
                continue
            left -= message.size
            if len(job.messages) == job.limit or (job.messages and left < 0):
                break
            job.messages.append(_copy(message))


def _copy(message: SpooledMessage) -> SpooledMessage:
    """As it comes from the disk: another object."""
    new = SpooledMessage(
        message.vhost, message.lane, message.exchange, message.routing_key, message.header, message.body,
        message.flags, message.priority, message.user, message.at, message.expires, message.origin, message.trace,
    )  # fmt: skip
    new.id = message.id
    new.attempts = message.attempts
    return new
