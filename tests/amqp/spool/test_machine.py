"""The spool beside a model of it: whatever is done in whatever order, crashes included, they agree.

``SIDECAR_SOAK=1`` tries twenty times as much.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.amqp.spool.message import SpooledMessage
from support.spools import Driver, message, number_of

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
LANES = ("a", "b")


class Model:
    """What there is: (priority, lane, attempts) by number; numbers grow in the order of coming."""

    def __init__(self) -> None:
        self.messages: dict[int, tuple[int, str, int]] = {}
        #: Numbers and reasons of dead letters, in the order of their deaths.
        self.dead: list[tuple[int, str]] = []

    def copy(self) -> Model:
        other = Model()
        other.messages = dict(self.messages)
        other.dead = list(self.dead)
        return other

    def lane(self, name: str) -> list[int]:
        """The numbers of a lane, in order."""
        found = [(-priority, number) for number, (priority, lane, _) in self.messages.items() if lane == name]
        return [number for _, number in sorted(found)]


class SpoolMachine(RuleBasedStateMachine):
    """One example."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.model = Model()
        self.next = 0
        self.lives = 0
        #: Files as they were, and what they must hold.
        self.snapshots: list[tuple[Path, Model]] = []
        #: What is known of messages: those that were fetched or put in this life.
        self.known: dict[int, SpooledMessage] = {}

    async def _start(self) -> None:
        self.driver = Driver(self.folder / str(self.lives))

    @initialize()
    def start(self) -> None:
        self.loop.run_until_complete(self._start())
        self.snapshots.append((self.folder / "none", Model()))

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from(LANES), st.sampled_from((0, 0, 5, 255)), st.sampled_from((50, 1000, 20_000))),
            min_size=1,
            max_size=40,
        )
    )
    def put(self, batch: list[tuple[str, int, int]]) -> None:
        messages = []
        for lane, priority, size in batch:
            self.next += 1
            messages.append(message(self.next, lane, priority, size))
            self.model.messages[self.next] = (priority, lane, 0)
            self.known[self.next] = messages[-1]
        self.loop.run_until_complete(self.driver.put(*messages))

    @rule(lane=st.sampled_from(LANES), limit=st.integers(1, 50), size=st.sampled_from((1, 2000, 100_000)))
    def fetch(self, lane: str, limit: int, size: int) -> None:
        """In steps, as a replayer does."""
        found: list[SpooledMessage] = []
        while True:
            after = found[-1].position if found else None
            step = self.loop.run_until_complete(self.driver.fetch(("/", lane), after, limit, size))
            if not step:
                break
            assert len(step) <= limit
            assert len(step) == 1 or sum(it.size for it in step) <= size
            found += step
        assert [number_of(it) for it in found] == self.model.lane(lane)
        for it in found:
            number = number_of(it)
            assert (it.priority, it.lane, it.attempts) == self.model.messages[number]
            self.known[number] = it

    def chosen(self, data: st.DataObject) -> list[SpooledMessage]:
        numbers = sorted(self.known.keys() & self.model.messages.keys())
        return [self.known[it] for it in data.draw(st.lists(st.sampled_from(numbers), unique=True, max_size=30))]

    @precondition(lambda self: self.known.keys() & self.model.messages.keys())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        messages = self.chosen(data)
        self.driver.spool.remove(messages)
        for it in messages:
            del self.model.messages[number_of(it)]

    @precondition(lambda self: self.known.keys() & self.model.messages.keys())
    @rule(data=st.data())
    def tried(self, data: st.DataObject) -> None:
        messages = self.chosen(data)
        self.driver.spool.tried(messages)
        for it in messages:
            priority, lane, attempts = self.model.messages[number_of(it)]
            self.model.messages[number_of(it)] = (priority, lane, attempts + 1)

    @precondition(lambda self: self.known.keys() & self.model.messages.keys())
    @rule(data=st.data(), reason=st.sampled_from(("expired", "nacked")))
    def bury(self, data: st.DataObject, reason: str) -> None:
        for it in self.chosen(data)[:3]:
            self.driver.spool.dead(it, reason, 0)
            del self.model.messages[number_of(it)]
            self.model.dead.append((number_of(it), reason))

    @precondition(lambda self: self.model.dead)
    @rule(again=st.booleans())
    def empty_the_dead_letters(self, again: bool) -> None:
        """Drop the first of each reason, or send them again; they are then the youngest of their lanes."""
        for reason in ("expired", "nacked"):
            letters = self.loop.run_until_complete(self.driver.spool.dead_letters.list(1, 0, reason))
            of_reason = [it for it in self.model.dead if it[1] == reason]
            assert [number_of(it.message) for it in letters if it.message] == [it[0] for it in of_reason[:1]]
            if not letters:
                continue
            dead = self.driver.spool.dead_letters
            step = dead.replay if again else dead.drop
            assert self.loop.run_until_complete(step([letters[0].id])) == 1
            self.model.dead.remove(of_reason[0])
            if again and letters[0].message is not None:
                # The model's order is that of numbers: give it a new one, and a message of that number its place.
                old = letters[0].message
                (revived,) = [
                    it
                    for it in self.loop.run_until_complete(self.driver.fetch(old.stream))
                    if number_of(it) == of_reason[0][0]
                ]
                self.driver.spool.remove([revived])
                self.next += 1
                new = message(self.next, old.lane, old.priority)
                self.loop.run_until_complete(self.driver.put(new))
                self.known[self.next] = new
                self.model.messages[self.next] = (old.priority, old.lane, 0)

    @rule()
    def snapshot(self) -> None:
        """The files as they are, after all that was asked for. The log last: all that a copying of it into the database
        may have made of that meanwhile is still in it."""
        self.loop.run_until_complete(self.driver.fetch())
        copy = self.folder / f"copy{len(self.snapshots)}"
        copy.mkdir()
        live = self.folder / str(self.lives)
        for name in ("rabbitmq.db", "rabbitmq.db-wal"):
            if (live / name).exists():
                shutil.copy(live / name, copy / name)
        self.snapshots.append((copy, self.model.copy()))

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """The process is gone, and the disk is as it was at some moment."""
        copy, model = data.draw(st.sampled_from(self.snapshots))
        self.loop.run_until_complete(self.driver.spool.close())
        self.lives += 1
        if copy.exists():
            shutil.copytree(copy, self.folder / str(self.lives))
        self.model = model.copy()
        self.known = {}
        self.loop.run_until_complete(self._start())

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.driver.spool.close())
        self.known = {}
        self.loop.run_until_complete(self._start())

    @invariant()
    def counts_are_true(self) -> None:
        spool = self.driver.spool
        for lane in LANES:
            key = spool.streams.get(("/", lane))
            assert (0 if key is None else key.count) == len(self.model.lane(lane))
        assert spool.messages == len(self.model.messages)
        assert spool.bytes == sum(it.bytes for it in spool.streams.values())
        assert spool.problem == ""
        assert spool.corrupt == 0

    def teardown(self) -> None:
        try:
            for lane in LANES:
                self.fetch(lane, 50, 100_000)
            letters = self.loop.run_until_complete(self.driver.spool.dead_letters.list(10_000))
            assert [(number_of(it.message), it.reason) for it in letters if it.message] == self.model.dead
        finally:
            self.loop.run_until_complete(self.driver.spool.close())
            self.loop.close()
            shutil.rmtree(self.folder)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(
    max_examples=400 if SOAK else 20,
    stateful_step_count=40 if SOAK else 25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
