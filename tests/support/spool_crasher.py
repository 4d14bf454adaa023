"""A process that works on a spool until it is killed.

Every line of its input is ``folder seed first``: it forks a child that puts messages with numbers from ``first``,
fetches, removes and buries them at random, and says in its output what it is about to do and what has been answered:
``P n`` is going to be put, ``A n`` was acknowledged, ``R n`` is going to be removed, ``D n`` to become a dead letter;
``C pid`` is the child, before anything else, and ``E`` says that it is dead.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from sidecar.amqp.spool import writer
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.store import Spool
from sidecar.storage.errors import SpoolError

LANES = ("a", "b", "c")


def say(what: str, numbers: list[int]) -> None:
    """In one write, so that no line is torn."""
    os.write(1, "".join(f"{what} {number}\n" for number in numbers).encode())


def number_of(message: SpooledMessage) -> int:
    """The number that a message of ours has."""
    return int(message.body[:20].split(b":")[0])


class Worker:
    """What a child does."""

    def __init__(self, spool: Spool, seed: int, first: int) -> None:
        self.spool = spool
        self.random = random.Random(seed)
        self.next = first

    def put(self) -> None:
        """Some messages, small ones and a few large."""
        messages = []
        for _ in range(self.random.choice((1, 1, 3, 40))):
            lane = self.random.choice(LANES)
            body = b"%d:" % self.next + b"x" * self.random.choice((10, 1000, 1000, 30_000))
            messages.append(SpooledMessage("/", lane, "e", "k", b"h", body, 0, self.random.choice((0, 0, 4))))
            self.next += 1
        say("P", [number_of(it) for it in messages])
        self.spool.put(messages, self.stored)

    def stored(self, messages: list[SpooledMessage], error: SpoolError | None) -> None:
        """The spool's answer."""
        if error is None:
            say("A", [number_of(it) for it in messages])

    def fetched(self, messages: list[SpooledMessage]) -> None:
        """Most of them are gone soon."""
        count = self.random.randint(0, len(messages))
        buried = messages[:count][: self.random.choice((0, 0, 0, 2))]
        gone = messages[len(buried) : count]
        say("D", [number_of(it) for it in buried])
        say("R", [number_of(it) for it in gone])
        for message in buried:
            self.spool.dead(message, "test", 0)
        if gone:
            self.spool.remove(gone)

    async def work(self) -> None:
        """For ever."""
        busy: set[str] = set()

        while True:
            self.put()
            lane = self.random.choice(LANES)
            if lane not in busy:  # one who removes what he has fetched, as a replayer does
                busy.add(lane)

                def done(messages: list[SpooledMessage], lane: str = lane) -> None:
                    busy.discard(lane)
                    self.fetched(messages)

                self.spool.fetch(("/", lane), None, 60, 1 << 20, done)
            await asyncio.sleep(self.random.choice((0, 0, 0.001, 0.005, 0.02)))


async def child(folder: Path, seed: int, first: int) -> None:
    """A spool and its worker."""
    writer.BEHIND = 200_000  # type: ignore[misc]
    writer.IDLE = 0.003  # type: ignore[misc]
    spool = Spool(folder, "crash", 20 << 20, asyncio.get_running_loop())
    spool.open()
    await Worker(spool, seed, first).work()


def main() -> None:
    """Children, one after the other."""
    for line in sys.stdin:
        folder, seed, first = line.split()
        pid = os.fork()
        if not pid:
            try:
                say("C", [os.getpid()])
                asyncio.run(child(Path(folder), int(seed), int(first)))
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        say("E", [0])


if __name__ == "__main__":
    main()
