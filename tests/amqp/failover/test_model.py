"""Whatever becomes of the broker, its connections, the disk and the clients, and in whatever order: nobody sees a rule
broken, nothing that was acknowledged is lost, and nothing is left in the end."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.amqp.spool.store import Spool
from sidecar.core.amqp_settings import AmqpHold, AmqpPublish
from support.amqp_model import Broken
from support.examples import THOROUGH
from support.kept import KeptLoop, KeptStage
from support.kept_clients import Client, Message
from support.kept_disk import Disk
from support.kept_file import FileDisk, use_files
from support.kept_server import READER, USERS, Server

Step = tuple[int, int, int]

SOAK = os.environ.get("SIDECAR_SOAK") == "1"
SEEDS = 20_000 if SOAK else 400 if THOROUGH else 160
LONGEST = 120
#: The same for a port with a real file.
FILE_SEEDS = 20_000 if SOAK else 400 if THOROUGH else 112
FILE_LONGEST = 80

EXCHANGES = (("", "q0"), ("", "q1"), ("ex", "a"), ("ex", "b"))
LIMITS = (
    AmqpPublish(exchange="ex", rate=5.0, burst=2, over="spool"),
    AmqpPublish(exchange="*", routing_key="q1", rate=5.0, burst=2),
)
#: Kinds of steps, each as often as it is likely.
KINDS = (
    [0] + [1] * 8 + [2] * 2 + [3, 4, 5] * 2 + [6, 7] + [8] * 3 + [9, 10, 11] + [12] * 8 + [13] * 4 + [14] * 4 + [15]
    + [16] * 2 + [17] * 2 + [18] * 3 + [19] * 2 + [20] * 2 + [21] + [22] * 5 + [23, 24, 25, 26, 27, 28, 29, 30]
    + [31] * 3 + [32] * 2 + [33, 34]
)  # fmt: skip

#: The same where it is the disk that matters: much is published, there is often no broker, and the disk often fails.
FILE_KINDS = (
    [0, 2, 3, 4, 8, 16, 23, 24, 25] + [1] * 24 + [12] * 6 + [13] + [14] * 4 + [17] * 5 + [18] * 4 + [19, 20] * 2
    + [21] * 10 + [22] * 14 + [26, 28, 33, 34]
)  # fmt: skip


class World:
    """A port, a broker and clients. ``plain``: nothing that keys may lose their order by."""

    disk: Callable[[Spool, KeptLoop], Any] = Disk
    path = "/nowhere"
    #: Words of what may be logged as an error.
    trouble_words: tuple[str, ...] = ("no space",)

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.plain = rng.random() < 0.4
        self.ack = rng.choice(("spool", "spool", "broker"))
        self.window = rng.choice((2, 5, 256))
        self.heartbeat = rng.choice((0, 0, 20))
        self.trouble = False
        spool: dict[str, Any] = {"path": self.path, "ack": self.ack, "window": self.window}
        spool["mandatory"] = rng.random() < 0.2
        if rng.random() < 0.2:
            spool |= {"max_bytes": 3000, "over": rng.choice(("hold", "nack"))}
            self.trouble = True
        self.mandatory = bool(spool["mandatory"])
        self.stage = KeptStage(
            spool=spool,
            disk=type(self).disk,
            publish=() if rng.random() < 0.5 else LIMITS,
            hold=AmqpHold(messages=30, bytes=60_000, timeout=rng.choice((0.0, 20.0))),
        )
        self.server = Server(self.stage, self.window, self.heartbeat)
        self.clients: list[Client] = []
        self.users = ["guest", *(rng.choice(("guest", "guest", *USERS)) for _ in range(LONGEST))]
        self._number = 0
        self.enter()
        client = self.clients[0]
        client.open_channel(1)
        self.turn()
        if rng.random() < 0.5:
            client.select(1)
        if rng.random() < 0.5:
            client.declare(1, "q0", 2)
            client.consume(1, "q0", rng.random() < 0.2, False)
        self.turn()

    def number(self) -> int:
        self._number += 1
        return self._number

    def enter(self) -> None:
        client = Client(self, self.stage.connect(), len(self.clients), self.heartbeat, self.users[len(self.clients)])
        self.clients.append(client)
        for _ in range(4):
            self.turn()

    def turn(self) -> None:
        self.server.turn()
        self.read()

    def read(self) -> None:
        for client in self.clients:
            client.turn()
            if client.peer.transport.gone and not client.over:
                client.reason = client.reason or "cut"
                client.gone()
            if client.over and not client.peer.transport.gone:
                client.peer.leaves()

    def acknowledged(self, message: Message) -> None:
        """The port vouches for a message: it is at the broker, or on the disk."""
        body = message.body
        if message.forged:
            raise Broken(f"message {body!r} was acknowledged and is somebody else's")
        if body in self.server.safe or body in self.server.vanished:
            return
        if self.ack == "broker":
            raise Broken(f"message {body!r} was acknowledged before the broker did")
        if body not in self.bodies():
            raise Broken(f"message {body!r} was acknowledged and is nowhere")

    def is_alone(self, client: Client, number: int) -> bool:
        """What is said on that channel has its answer at once."""
        return client.is_alone(number)

    def bodies(self) -> set[bytes]:
        disk = self.stage.disk
        return {
            message.body.strip(b". ") for message in (*disk.stored.values(), *[letter[0] for letter in disk.letters])
        }

    def advance(self, seconds: float) -> None:
        left = seconds
        while left > 0:
            if self.heartbeat:
                for client in self.clients:
                    client.say(b"\x08\0\0\0\0\0\0\xce")
                for link in self.server.links:
                    if link.stage == "open":
                        link.say(b"\x08\0\0\0\0\0\0\xce")
            step = min(left, 4.0)
            self.stage.advance(step)
            left -= step
        self.server.look()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def do(self, what: int, a: int, b: int) -> None:
        stage, server = self.stage, self.server
        client = self.clients[-1 - a % min(2, len(self.clients))]
        usable = client.usable
        here = usable[b % len(usable)] if usable else 0
        links = [link for link in server.links if link.open]
        link = links[a % len(links)] if links else None
        there = list(link.channels)[b % len(link.channels)] if link is not None and link.channels else 0
        if what == 0:
            client.open_channel(1 + a % 3)
        elif what == 1 and here:
            exchange, key = EXCHANGES[a % 4]
            bits = 1 if b % 9 == 0 and not self.plain and not self.mandatory else 0
            user_id = "" if self.plain else {5: client.user, 7: USERS[a % 3]}.get(b % 12, "")
            alone = self.is_alone(client, here)
            client.publish(here, exchange, key, 10000 if b % 29 == 0 else b % 60, bits, (b % 7) * 13, user_id)
            if alone and client.messages[-1].forged:
                client.turn()
                assert here not in client.channels, "somebody else's message is not refused"
        elif what == 2 and here:
            client.select(here)
        elif what == 3 and here:
            kind = b % 4
            if kind == 0:
                client.declare(here, f"q{a % 2}", 2)
            elif kind == 1:
                client.declare(here, f"new{b}", 2)
            elif kind == 2:
                client.declare(here, f"own{client.number}.{a % 2}", 4)
            elif b % 12 == 3:
                client.declare(here, "", 4)
        elif what == 4 and here:
            client.consume(here, f"q{a % 2}" if b % 5 else f"own{client.number}.0", b % 4 == 0, b % 3 == 0)
        elif what == 5 and here:
            client.cancel(here, b, b % 2 == 0)
        elif what == 6 and here:
            client.get(here, f"q{a % 2}", b % 4 == 0)
        elif what == 7 and here:
            client.set_qos(here, b)
        elif what == 8 and here:
            client.settle(here, b, a)
        elif what == 9 and here and b % 3 == 0:
            client.close_channel(here)
        elif what == 10 and here and b % 4 == 0:
            client.recover(here)
        elif what == 11 and here and b % 3 == 0:
            client.delete_queue(here, f"new{a}")
        elif what == 12:
            server.turn(a if b % 3 else -1, 1 + b % 9 if b % 2 else 1000)
        elif what == 13 and link is not None and there:
            link.deliver(there)
        elif what == 14 and link is not None and there:
            link.confirm(there, b, b % 2 == 0 or self.plain, b % 11 != 0 or self.plain)
        elif what == 15 and link is not None and there and b % 4 == 0:
            link.close_channel(there)
        elif what == 16 and server.links and b % 2 == 0:
            server.look()
            if server.links:
                server.links[a % len(server.links)].peer.breaks()
                server.look()
        elif what == 17 and b % 2 == 0:
            server.crash(b % 5)
            stage.away(("refuse", "refuse", "silent")[a % 3])
        elif what == 18:
            stage.there()
        elif what == 19:
            stage.disk.slow = b % 2 == 0
            if not stage.disk.slow:
                stage.disk.work()
        elif what == 20:
            stage.disk.work(1 + b % 3)
        elif what == 21 and b % 3 == 0:
            self.trouble = True
            stage.disk.broken = "no space" if b % 2 else ""
        elif what == 22:
            self.advance((0.02, 0.3, 1.1, 4.0, 0.3)[a % 5])
        elif what == 23 and b % 4 == 0:
            client.close()
        elif what == 24 and b % 4 == 0 and not client.over:
            self.read()
            client.reason = client.reason or ("left" if client.peer.transport.unread else "")
            client.gone()
            client.gave_up = True
            client.peer.leaves() if b % 8 else client.peer.breaks()
        elif what == 25 and len([each for each in self.clients if not each.over]) < 2:
            self.enter()
        elif what == 26 and not self.plain:
            server.sound(b % 2 == 0)
        elif what == 27 and b % 3 == 0 and link is not None:
            link.close()
        elif what == 28:
            client.peer.stops_reading() if b % 3 == 0 else client.peer.reads_again()
        elif what == 29:
            stage.listener.app_health(b % 3 != 0)
        elif what == 31:
            stage.there()
            self.advance(0.5)
            server.look()
            for each in list(server.links):
                each.turn(2 + b % 12)
                for number in list(each.channels):
                    each.deliver(number)
            if server.links and a % 2:
                server.links[-1].peer.breaks()
                server.look()
        elif what == 32 and here and b % 2 == 0:
            client.bind(here, f"q{a % 2}", "ex")
        elif what == 33 and b % 2 == 0:
            server.forget()
            stage.away(("refuse", "accept", "silent")[a % 3])
        elif what == 34:
            server.set_up()
        elif what == 30 and here and not self.plain and b % 3 == 0:
            client.transact(here)
        self.read()

    # -- the end -------------------------------------------------------------------------------------------------------

    def everything(self) -> None:
        """All is well again, and all that is under way arrives."""
        stage, server = self.stage, self.server
        stage.listener.app_health(True)
        stage.disk.broken = ""
        stage.disk.slow = False
        stage.disk.work()
        stage.there()
        for client in self.clients:
            if not client.peer.transport.gone:
                client.peer.reads_again()
        server.sound(False)
        quiet = 0
        for _ in range(400):
            before = stage.loop.woken, len(server.taken), stage.port.spool.messages
            self.turn()
            for link in list(server.links):
                for number in list(link.channels):
                    link.confirm(number, -1, True, True)
            self.read()
            busy = (
                stage.port.spool.messages
                or len(stage.dispatcher._streams)
                or stage.stats.detached
                or stage.listener.scheduler.messages
                or stage.disk.jobs
                or len(server.taken) != before[1]
            )
            quiet = 0 if busy else quiet + 1
            if quiet > 3:
                break
            self.advance(0.5)

    def check(self) -> None:
        stage, server = self.stage, self.server
        counts = stage.counts()
        there = {taken.body for taken in server.taken} | self.bodies()
        if not self.trouble:
            assert not counts["held"], stage.listener.scheduler.waiting()
        assert not counts["detached"]
        assert stage.port.spool.messages == len(stage.disk.stored) == 0, stage.port.spool.streams
        for client in self.clients:
            for message in client.messages:
                assert not (message.forged and message.body in there), f"{message.body!r} is forged"
                if message.body not in there and message.body not in server.vanished:
                    assert not message.acked, f"{message.body!r} was acknowledged and is lost"
                    assert message.excused or message.nacked or message.body in server.nacked, (
                        f"{message.body!r} is lost; {client.reason}"
                    )
            if client.over:
                continue
            assert not client.closing
            for number, channel in client.channels.items():
                assert channel.open, (number, channel.opening)
                assert not channel.asked, (number, channel.asked)
                if not channel.tx:
                    assert not channel.unconfirmed, (number, [each.body for each in channel.unconfirmed.values()])
            server.agrees(client)
        for letter, reason, _ in stage.disk.letters:
            refused = server.authors[letter.body.strip(b". ")] == READER
            assert (reason == "access_refused") == refused or reason == "not_found", (letter, reason)
            assert server.forgot or reason not in ("unroutable", "not_found"), (letter, reason)
        for body in server.again:
            raise Broken(f"{body!r} came again after it had been confirmed")
        if self.plain and not self.trouble:
            self.check_order()

    def check_order(self) -> None:
        arrived = {taken.body: None for taken in self.server.taken}
        for client in self.clients:
            lanes: dict[Any, list[bytes]] = {}
            for message in client.messages:
                lanes.setdefault(message.lane, []).append(message.body)
            for lane, bodies in lanes.items():
                if lane[2:] in self.server.returned:
                    continue  # what the broker gives back is tried again later
                found = [body for body in arrived if body in set(bodies)]
                assert found == [body for body in bodies if body in arrived], lane

    def end(self, how: int) -> None:
        for client in self.clients:
            if how == 0:
                client.close()
        self.everything()
        errors = self.stage._errors
        errors.records = [each for each in errors.records if not any(words in each for words in self.trouble_words)]
        if how == 0:
            for client in self.clients:
                assert client.peer.transport.gone
        self.stage.over()


class FileWorld(World):
    """With a real file, whose disk is full, fails, or loses it: whatever happens, the spool works when the disk does,
    and all that is in it leaves."""

    disk = FileDisk
    folder: Path
    trouble_words = (
        "the spool does not work", "the spool cannot store messages", "the spool cannot be brought back",
        "the file of a spool is", "a spool has a new file", "messages of the spool are lost",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        #: A message may come again, as what seemed to have failed was on the disk.
        self.twice = False
        shutil.rmtree(self.folder, ignore_errors=True)
        self.path = str(self.folder)
        super().__init__(seed)
        self.stage.port.spool._database.max_dead = 1 << 62

    def acknowledged(self, message: Message) -> None:
        if self.stage.disk.usable:
            super().acknowledged(message)

    def is_alone(self, client: Client, number: int) -> bool:
        return False  # what is held for want of room is before it

    def do(self, what: int, a: int, b: int) -> None:
        if what != 21:
            super().do(what, a, b)
            return
        self.trouble = True
        faults = self.stage.disk.faults
        faults.clear()
        if a in (1, 2):
            faults.begin("full" if a == 1 else "stuck", b % 10)
        elif a in (3, 4, 5):
            self.twice = True
            faults.begin("error", b % 20, 0 if a == 3 else 1 + b % 3, b % 2 == 0)
        elif a in (6, 7):
            self.twice = True
            faults.begin("error", b % 3)
            self.lose("rabbit.db" if a == 6 else "rabbit.db-wal")
        elif a in (8, 9):
            self.twice = True
            faults.begin("error", 0)
            self.advance(b % 4)  # by then it may be closed, and what is in it is lost
            self.lose("rabbit.db")
            faults.clear()
        self.read()

    def lose(self, name: str) -> None:
        """Somebody deletes it, perhaps while it is not open."""
        if self.folder.is_dir():
            (self.folder / name).unlink(missing_ok=True)

    def check(self) -> None:
        spool = self.stage.port.spool
        assert not spool.problem
        if any("are lost" in each for each in self.stage._errors.records):
            for client in self.clients:
                for message in client.messages:
                    message.excused = True
                    message.acked = False
                for channel in client.channels.values():
                    channel.unconfirmed.clear()
        if self.twice:
            self.server.again.clear()
        super().check()
        assert not spool.bytes
        assert not spool.streams
        assert self.stage.dispatcher._prefetch.ahead == self.stage.dispatcher._prefetch.ahead_bytes == 0


def steps_of(seed: int, kinds: list[int] = KINDS, longest: int = LONGEST) -> list[Step]:
    rng = random.Random(seed)
    return [(rng.choice(kinds), rng.randrange(10), rng.randrange(100)) for _ in range(rng.randrange(5, longest))]


def play(seed: int, steps: list[Step], make: type[World] = World) -> None:
    world = make(seed)
    for step in steps:
        world.do(*step)
    world.everything()
    world.check()
    world.end(seed % 3)
    if isinstance(world, FileWorld):
        world.stage.disk.stop()


def shortened(seed: int, steps: list[Step], make: type[World] = World) -> list[Step]:
    """Fewer steps that fail as well."""
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            try:
                play(seed, fewer, make)
            except Exception:
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


@pytest.mark.parametrize("part", [0, 1, *(pytest.param(it, marks=pytest.mark.costly) for it in (2, 3))])
def test_nothing_is_lost_and_nobody_sees_a_rule_broken(part: int) -> None:
    for seed in range(part * SEEDS // 4, (part + 1) * SEEDS // 4):
        steps = steps_of(seed)
        try:
            play(seed, steps)
        except Exception as error:
            fewer = shortened(seed, steps)
            raise AssertionError(f"seed {seed}: {error!r}; play({seed}, {fewer})") from error


@pytest.mark.parametrize("part", [0, 1])
def test_nothing_stands_still_whatever_the_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    use_files(monkeypatch)
    monkeypatch.setattr(FileWorld, "folder", tmp_path / "spool", raising=False)
    for seed in range(part * FILE_SEEDS // 2, (part + 1) * FILE_SEEDS // 2):
        steps = steps_of(seed, FILE_KINDS, FILE_LONGEST)
        try:
            play(seed, steps, FileWorld)
        except Exception as error:
            fewer = shortened(seed, steps, FileWorld)
            raise AssertionError(f"seed {seed}: {error!r}; play({seed}, {fewer}, FileWorld)") from error
