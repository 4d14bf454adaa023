"""A process that uses a spool is killed at any moment; nothing that was acknowledged may be missing.

A quarter of the kills that a night has; ``SIDECAR_SOAK=1`` kills ten times as many as that.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from sidecar.amqp.spool.database import Database
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.transaction import Transaction
from support.examples import examples

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
KILLS = 1000 if SOAK else examples(100)
ROOT = Path(__file__).parents[3]


def number_of(message: SpooledMessage) -> int:
    return int(message.body[:20].split(b":")[0])


def contents(folder: Path, name: str = "crash") -> tuple[dict[str, list[SpooledMessage]], set[int]]:
    """What is in a spool that nobody uses, by lane, and the dead letters' numbers; it must be sound."""
    database = Database(folder, name)
    database.open()
    lanes: dict[str, list[SpooledMessage]] = {}
    for key, (count, size) in list(database.counts.items()):
        messages, bad = database.fetch(key, None, 1_000_000, 1 << 40)
        assert not bad
        assert (count, size) == (len(messages), sum(it.size for it in messages))
        assert [it.position for it in messages] == sorted(it.position for it in messages)
        lanes[key[1]] = messages
    dead: set[int] = set()
    letters = database.list_dead(1000)
    while letters:  # fewer than asked for, when they are large
        dead |= {number_of(it.message) for it in letters if it.message is not None}
        letters = database.list_dead(1000, letters[-1].id)
    assert len(dead) == database.dead.count
    assert database.corrupt == 0
    database.close()
    sql = sqlite3.connect(folder / f"{name}.db")
    assert sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    sql.close()
    return lanes, dead


class Ledger:
    """What may, and what must be in the spool."""

    def __init__(self) -> None:
        self.put: set[int] = set()
        self.acknowledged: set[int] = set()
        #: Removed or buried, or about to be.
        self.removed: set[int] = set()
        self.buried: set[int] = set()
        self.last = 0

    def read(self, lines: list[str]) -> None:
        for line in lines:
            what, number = line[0], int(line[2:])
            if what == "P":
                self.put.add(number)
                self.last = number
            elif what == "A":
                self.acknowledged.add(number)
            elif what == "R":
                self.removed.add(number)
            elif what == "D":
                self.buried.add(number)

    def full(self) -> bool:
        """Whether enough of everything has happened."""
        return len(self.acknowledged) > 2 * KILLS and len(self.removed) > KILLS and len(self.buried) > KILLS // 10

    def check(self, lanes: dict[str, list[SpooledMessage]], dead: set[int]) -> None:
        there: set[int] = set()
        for messages in lanes.values():
            by_priority: defaultdict[int, list[int]] = defaultdict(list)
            for message in messages:
                by_priority[message.priority].append(number_of(message))
                there.add(number_of(message))
            for numbers in by_priority.values():
                assert numbers == sorted(set(numbers))
        assert self.acknowledged - self.removed - self.buried <= there
        assert (self.acknowledged & self.buried) - self.removed <= there | dead
        assert there <= self.put
        assert dead <= self.buried
        assert not there & dead


def test_whenever_it_is_killed_all_that_was_acknowledged_and_not_removed_is_there_in_order(tmp_path: Path) -> None:
    choice = random.Random(random.SystemRandom().randrange(1 << 32) if SOAK else 11)
    ledger = Ledger()
    folder = tmp_path / "spool"
    with subprocess.Popen(
        [sys.executable, "-m", "support.spool_crasher"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for kills in range(4 * KILLS):  # each gets as far as the machine lets it
                if kills >= KILLS and ledger.full():
                    break
                print(folder, choice.randrange(1 << 32), ledger.last + 1, file=process.stdin, flush=True)
                pid = int(process.stdout.readline().removeprefix("C "))
                # Anything may be the moment. It is told in what the child has done, as machines are not equally quick.
                lines = [process.stdout.readline() for _ in range(choice.randrange(choice.choice((1, 20, 100, 300))))]
                time.sleep(0.005 * choice.random())
                os.kill(pid, signal.SIGKILL)
                while not (line := process.stdout.readline()).startswith("E"):
                    assert line
                    lines.append(line)
                ledger.read(lines)
                ledger.check(*contents(folder))
        finally:
            process.stdin.close()
    assert ledger.full()


def test_a_log_that_ends_anywhere_is_good_up_to_the_last_transaction_that_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    database = Database(folder, "crash")
    database.open()
    wal = database.file.files.wal
    ends: list[int] = []
    number = 0
    for count in (1, 3, 1, 40):
        messages = []
        for _ in range(count):
            number += 1
            messages.append(SpooledMessage("/", "a", "e", "k", b"h", b"%d:" % number + b"x" * 900))
        database.write(messages, Transaction())
        ends.append(wal.stat().st_size)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    database.close()
    log = (copy / "crash.db-wal").read_bytes()
    assert ends[-1] == len(log)
    choice = random.Random(3)
    stored = [1, 4, 5, 45]
    for end in [*ends, *(at - 1 for at in ends), *(choice.randrange(ends[0], ends[-1]) for _ in range(examples(40)))]:
        for rest in (b"", choice.randbytes(3000)):
            lost = tmp_path / "lost"
            shutil.copytree(copy, lost)
            (lost / "crash.db-wal").write_bytes(log[:end] + rest)
            lanes, _ = contents(lost)
            numbers = [number_of(it) for it in lanes.get("a", [])]
            whole = max([0, *(count for count, at in zip(stored, ends, strict=True) if at <= end)])
            assert numbers == list(range(1, whole + 1))
            shutil.rmtree(lost)
