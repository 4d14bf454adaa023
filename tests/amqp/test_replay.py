from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.dialler import plain
from sidecar.amqp.hold import Hold
from sidecar.amqp.policy import Policy
from sidecar.amqp.replay import asides, key, lines, outcomes, prefetch
from sidecar.amqp.replay.line import Login
from sidecar.amqp.replay.replayer import Replayer
from sidecar.amqp.spool.message import SpooledMessage, from_frames
from sidecar.amqp.spool.store import Spool
from sidecar.amqp.stats import AmqpStats
from sidecar.config.model import Amqp, AmqpPublish, AmqpQueue
from sidecar.resilience.wheel import TimerWheel
from support import amqp
from support.amqp import FakeLoop
from support.taking_broker import TakingBroker

KeyName = tuple[str, str]
#: Loop time and Unix time in these tests differ by this much.
EPOCH = 1_700_000_000.0


class Count:
    """As :class:`sidecar.amqp.spool.store.Key`."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0


class FakeSpool:
    """A spool in memory. ``slow``: what is asked of it is done when a test says so, by :meth:`work`."""

    def __init__(self, loop: FakeLoop) -> None:
        self._loop = loop
        self.slow = False
        self.keys: dict[KeyName, Count] = {}
        #: What is on the disk, by id.
        self.stored: dict[int, SpooledMessage] = {}
        self.dead_letters: list[tuple[SpooledMessage, str, int]] = []
        #: What the broker said of those.
        self.texts: list[str] = []
        self.fetches: list[tuple[KeyName, Any, int, int]] = []
        self.removed: list[SpooledMessage] = []
        self._next = 1
        self._jobs: list[Callable[[], None]] = []
        self._working = False

    @property
    def messages(self) -> int:
        return len(self.stored)

    def store(self, *messages: SpooledMessage) -> list[SpooledMessage]:
        """At once."""
        for message in messages:
            message.id = self._next
            self._next += 1
            self.stored[message.id] = message
            key = self.keys.setdefault(message.key, Count())
            key.count += 1
            key.bytes += message.size
        return list(messages)

    def fetch(self, key: KeyName, after: Any, limit: int, limit_bytes: int, done: Any) -> None:
        assert limit > 0
        assert limit_bytes > 0
        self.fetches.append((key, after, limit, limit_bytes))
        self._ask(lambda: self._fetch(key, after, limit, limit_bytes, done))

    def _fetch(self, key: KeyName, after: Any, limit: int, limit_bytes: int, done: Any) -> None:
        mine = sorted((each for each in self.stored.values() if each.key == key), key=lambda each: each.cursor)
        found: list[SpooledMessage] = []
        for each in mine:
            if after is not None and each.cursor <= after:
                continue
            limit_bytes -= each.size
            if len(found) == limit or (found and limit_bytes < 0):
                break
            found.append(copy(each))
        self._loop.call_soon(done, found)

    def remove(self, messages: list[SpooledMessage]) -> None:
        assert messages
        self.removed += messages
        for message in messages:
            self._less(message)
        self._ask(lambda: self._forget(messages))

    def tried(self, messages: list[SpooledMessage]) -> None:
        for message in messages:
            message.attempts += 1
        self._ask(lambda: self._tried(messages))

    def _tried(self, messages: list[SpooledMessage]) -> None:
        for message in messages:
            self.stored[message.id].attempts = message.attempts

    def dead(self, message: SpooledMessage, reason: str, code: int, text: str) -> None:
        self.dead_letters.append((message, reason, code))
        self.texts.append(text)
        self._less(message)
        self._ask(lambda: self._forget([message]))

    def _forget(self, messages: list[SpooledMessage]) -> None:
        for message in messages:
            del self.stored[message.id]

    def _less(self, message: SpooledMessage) -> None:
        key = self.keys[message.key]
        key.count -= 1
        if not key.count:
            del self.keys[message.key]

    def _ask(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        if not self.slow and not self._working:
            self._working = True
            self._loop.call_soon(self.work)

    def work(self) -> None:
        self._working = False
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job()


def copy(message: SpooledMessage) -> SpooledMessage:
    """As it comes from the disk: another object."""
    new = SpooledMessage(
        message.vhost, message.lane, message.exchange, message.routing_key, message.header, message.body,
        message.flags, message.priority, message.user, message.at, message.expires, message.origin, message.trace,
    )  # fmt: skip
    new.id = message.id
    new.attempts = message.attempts
    return new


class Log:
    """As :class:`sidecar.amqp.link.Report`."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.troubles: dict[str, str] = {}

    def bad(self, source: str, kind: str, text: str) -> None:
        if self.troubles.get(source) != kind:
            self.troubles[source] = kind
            self.lines.append((source, text))

    def good(self, source: str) -> None:
        if self.troubles.pop(source, None):
            self.lines.append((source, "works again"))

    def gone(self, source: str) -> None:
        self.troubles.pop(source, None)


class Setting:
    """A replayer with a spool, a broker and limits of its own."""

    def __init__(self, config: Amqp | None = None, *, window: int = 256, dead_after: int = 5) -> None:
        self.loop = FakeLoop()
        self.broker = TakingBroker(self.loop)
        self.spool = FakeSpool(self.loop)
        self.stats = AmqpStats()
        self.config = config or Amqp()
        self.policy = Policy(self.config, self.stats, self.loop)
        self.hold = Hold(self.config.hold, self.stats, self.loop, self.loop.call_at)
        self.log = Log()
        #: Who can log in, beside the sidecar itself.
        self.users: set[str] = set()
        self.account = True
        self.settled: list[tuple[int, bool]] = []
        self.replayer = self.make(window, dead_after)

    def make(self, window: int = 256, dead_after: int = 5) -> Replayer:
        wheel = TimerWheel(self.loop.call_at, self.loop)
        replayer = Replayer(
            "rabbitmq", cast(Spool, self.spool), self.hold, self.policy.routes, self.login, self.broker.connect, wheel,
            self.loop, self.wall, self.loop.call_soon, cast(Any, self.log), window, dead_after,
        )  # fmt: skip
        replayer.on_settled = lambda messages, taken: self.settled.extend((each.id, taken) for each in messages)
        return replayer

    def wall(self) -> float:
        return self.loop.now + EPOCH

    def login(self, vhost: str, user: str) -> Login | None:
        if not user:
            return Login("PLAIN", plain("sidecar", "secret")) if self.account else None
        return Login("PLAIN", plain(user, "theirs")) if user in self.users else None

    def message(
        self,
        body: str,
        exchange: str = "jobs",
        *,
        key: str = "k",
        vhost: str = "/",
        priority: int = 0,
        user: str = "",
        expires: float = 0.0,
        bits: int = 0,
        size: int = 0,
    ) -> SpooledMessage:
        flags = 0x0800 if priority else 0
        properties = bytes((priority,)) if priority else b""
        if user:
            flags |= 0x0010
            properties += amqp.short(user)
        header = flags.to_bytes(2, "big") + properties
        padded = body.encode() + b"." * size
        frames = amqp.publish(1, key, padded, exchange=exchange, properties=header, bits=bits)
        lane = f"exchange {exchange}" if exchange else f"queue {key}"
        return from_frames(frames, vhost, lane, self.wall(), expires)

    def put(self, *messages: SpooledMessage) -> None:
        """Store, and tell."""
        self.replayer.added(self.spool.store(*messages))

    def bodies(self) -> list[str]:
        return [body.decode().rstrip(".") for body in self.broker.bodies()]

    def start(self) -> Setting:
        self.replayer.start()
        self.loop.settle()
        return self

    def advance(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)

    def empty(self) -> bool:
        """All is done, and nothing of it is left anywhere."""
        self.loop.settle()
        left = self.replayer
        if self.spool.keys or self.spool.stored:
            return False
        assert not left.unconfirmed
        assert left._prefetch.ahead == left._prefetch.ahead_bytes == 0
        assert not left._keys
        assert self.hold.messages == 0
        return True


def numbered(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


# -- the ordinary case -------------------------------------------------------------------------------------------------


def test_what_is_there_at_the_start_is_sent_in_order() -> None:
    one = Setting()
    one.spool.store(*[one.message(name) for name in numbered(700)])
    one.start()
    assert one.bodies() == numbered(700)
    assert one.empty()
    assert one.replayer.stats.replayed == 700
    assert one.settled == [(number + 1, True) for number in range(700)]
    assert one.broker.connections[0].user == "sidecar"


def test_what_comes_later_is_sent_too_and_the_connection_is_kept() -> None:
    one = Setting().start()
    assert one.broker.dialled == 0
    for name in numbered(5):
        one.put(one.message(name))
        one.loop.settle()
        assert one.empty()
    assert one.bodies() == numbered(5)
    assert one.broker.dialled == 1


def test_what_nobody_told_of_is_found() -> None:
    one = Setting().start()
    one.put(one.message("a"))
    one.loop.settle()
    one.spool.store(one.message("b"), one.message("c", "orders"))
    one.advance(5)
    assert sorted(one.bodies()) == ["a", "b", "c"]
    assert one.empty()


def test_the_message_is_what_was_published() -> None:
    one = Setting().start()
    message = one.message("x", "orders", key="eu.new", priority=3, user="", size=300_000)
    one.put(message)
    one.loop.settle()
    taken = one.broker.taken[0]
    assert (taken.exchange, taken.key, taken.bits) == ("orders", "eu.new", 0)
    assert taken.header == message.header
    assert taken.body == message.body


def test_each_vhost_has_a_connection() -> None:
    one = Setting().start()
    one.put(one.message("a"), one.message("b", vhost="/agents"))
    one.loop.settle()
    assert sorted(connection.vhost for connection in one.broker.open) == ["/", "/agents"]
    assert one.empty()


def test_a_connection_with_nothing_to_do_ends() -> None:
    one = Setting().start()
    one.put(one.message("a"))
    one.loop.settle()
    one.advance(lines.IDLE + 5)
    assert not one.broker.open
    one.put(one.message("b"))
    one.loop.settle()
    assert one.empty()
    assert one.broker.dialled == 2
    assert not one.log.lines


# -- bounds, turns and priority ----------------------------------------------------------------------------------------


def test_no_more_than_the_window_is_unconfirmed() -> None:
    one = Setting(window=50)
    one.broker.answers = False
    one.spool.store(*[one.message(name) for name in numbered(400)])
    one.start()
    most = 0
    while not one.empty():
        most = max(most, one.replayer.unconfirmed)
        one.broker.says_all()
    assert most == 50
    assert one.bodies() == numbered(400)


def test_what_is_in_memory_is_bounded_whatever_there_is() -> None:
    one = Setting()
    one.broker.answers = False
    for exchange in numbered(40, "x"):
        one.spool.store(*[one.message(name, exchange) for name in numbered(100)])
    one.start()
    for _ in range(12):
        assert one.replayer._prefetch.ahead <= prefetch.AHEAD
        one.broker.says_all()
    one.broker.answers = True
    one.broker.says_all()
    assert one.empty()


def test_large_messages_count_by_their_size() -> None:
    one = Setting()
    one.broker.answers = False
    for exchange in numbered(8, "x"):
        one.spool.store(*[one.message(name, exchange, size=500_000) for name in numbered(6)])
    one.start()
    seen = one.replayer._prefetch.ahead_bytes
    assert seen < 2 * prefetch.AHEAD_BYTES
    one.broker.answers = True
    one.broker.says_all()
    assert one.empty()


def test_keys_take_turns() -> None:
    one = Setting()
    for exchange in ("a", "b"):
        one.spool.store(*[one.message(name, exchange) for name in numbered(600, exchange)])
    one.spool.store(*[one.message(name, "c") for name in numbered(20, "c")])
    one.start()
    bodies = one.bodies()
    assert bodies.index("c19") < 300
    middle = bodies[: len(bodies) // 2]
    assert 200 < len([body for body in middle if body.startswith("a")]) < 400
    assert one.empty()


def test_one_without_answers_does_not_keep_the_others() -> None:
    one = Setting()
    silent: list[str] = ["silent"]
    one.broker.answers = False
    one.spool.store(*[one.message(name, "silent") for name in numbered(500, "s")])
    one.spool.store(*[one.message(name, "loud") for name in numbered(500, "l")])
    one.start()
    for _ in range(60):
        for connection in one.broker.open:
            for number, taken in list(connection.waiting.items()):
                if taken.exchange not in silent:
                    connection.answer(number)
        one.loop.settle()
    assert len([body for body in one.bodies() if body.startswith("l")]) == 500
    assert one.replayer.unconfirmed == key.FIRST_WINDOW
    silent.clear()
    one.broker.answers = True
    one.broker.says_all()
    assert one.empty()


def test_those_that_get_no_answers_any_more_leave_their_room() -> None:
    one = Setting()
    silent: list[str] = []
    one.broker.answers = False
    for exchange in numbered(4, "x"):
        one.spool.store(*[one.message(name, exchange) for name in numbered(1500, exchange)])
    one.start()

    def answer() -> None:
        for connection in one.broker.open:
            for number, taken in list(connection.waiting.items()):
                if taken.exchange not in silent:
                    connection.answer(number)
        one.loop.settle()

    for _ in range(6):
        answer()
    silent += numbered(4, "x")
    one.put(*[one.message(name, "y") for name in numbered(500, "y")])
    for _ in range(300):
        one.advance(0.1)
        answer()
        assert one.replayer._prefetch.ahead <= prefetch.AHEAD
    assert len([body for body in one.bodies() if body[0] == "y"]) == 500
    silent.clear()
    one.broker.answers = True
    one.broker.says_all()
    one.advance(5)
    assert sorted(one.bodies()) == sorted(
        numbered(500, "y") + [name for x in range(4) for name in numbered(1500, f"x{x}")]
    )
    assert one.empty()
    assert one.replayer._prefetch.stalled == 0


def test_higher_priority_first_within_a_key_and_between_keys() -> None:
    one = Setting(window=4)
    one.broker.answers = False
    one.spool.store(*[one.message(f"low{n}", "a") for n in range(6)])
    one.spool.store(*[one.message(f"high{n}", "a", priority=5) for n in range(6)])
    one.spool.store(*[one.message(f"top{n}", "b", priority=9) for n in range(3)])
    one.start()
    assert one.bodies() == ["top0", "top1", "top2", *numbered(4, "high")]
    one.put(one.message("urgent", "a", priority=9))
    one.loop.settle()
    one.broker.answers = True
    one.broker.says_all()
    assert one.bodies()[7:] == ["urgent", "high4", "high5", *numbered(6, "low")]
    assert one.empty()


def test_a_higher_priority_that_comes_while_the_spool_is_asked() -> None:
    one = Setting()
    one.broker.answers = False
    one.spool.store(*[one.message(name) for name in numbered(5)])
    one.start()
    one.spool.slow = True
    one.put(one.message("5"))
    one.put(one.message("urgent", priority=1))
    one.loop.settle()
    one.put(one.message("later", priority=1), one.message("6"))
    one.loop.settle()
    one.spool.slow = False
    one.broker.answers = True
    for _ in range(8):
        one.spool.work()
        one.broker.says_all()
    assert one.empty()
    assert sorted(one.bodies()) == sorted([*numbered(7), "urgent", "later"])


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_rate_holds_for_it() -> None:
    one = Setting(Amqp(publish=(AmqpPublish(exchange="jobs", rate=100.0, burst=1),)))
    one.spool.store(*[one.message(name) for name in numbered(500)])
    one.spool.store(one.message("free", "other"))
    one.start()
    begin = one.loop.now
    one.advance(2.0)
    assert "free" in one.bodies()
    assert 198 <= len(one.bodies()) - 1 <= 203
    while not one.empty():
        one.advance(0.1)
    assert 4.9 <= one.loop.now - begin <= 5.2
    assert [body for body in one.bodies() if body != "free"] == numbered(500)


def test_a_queue_that_is_too_full() -> None:
    config = Amqp(queues=(AmqpQueue(name="tasks", high=100, low=50),))
    one = Setting(config)
    gate = one.policy.depth_gates["/", "tasks"]
    gate.sampled(200, 1, one.loop.now, one.loop.now)
    one.spool.store(*[one.message(name, "", key="tasks") for name in numbered(100)])
    one.start()
    one.advance(3)
    assert one.bodies() == []
    assert one.hold.waiting() == [("queue tasks of /", 1)]
    gate.sampled(40, 1, one.loop.now, one.loop.now)
    one.advance(0.1)
    assert one.bodies() == numbered(60)
    gate.sampled(0, 1, one.loop.now + 1, one.loop.now + 1)
    one.advance(2)
    assert one.empty()


def test_an_alarm_that_others_have_heard_of() -> None:
    one = Setting()
    one.hold.alarm(True, one.loop.now)
    one.spool.store(*[one.message(name) for name in numbered(10)])
    one.start()
    one.advance(5)
    assert one.bodies() == []
    one.hold.alarm(False, one.loop.now)
    one.advance(0.1)
    assert one.bodies() == numbered(10)
    assert one.empty()


def test_an_alarm_that_it_hears_of_itself() -> None:
    one = Setting()
    alarms: list[bool] = []
    one.replayer.on_alarm = alarms.append
    one.start()
    one.put(one.message("a"))
    one.loop.settle()
    one.broker.open[0].says(amqp.blocked("low on memory"))
    one.put(one.message("b"), one.message("c"))
    one.loop.settle()
    one.advance(5)
    assert one.bodies() == ["a"]
    one.broker.open[0].says(amqp.UNBLOCKED)
    one.loop.settle()
    assert one.bodies() == ["a", "b", "c"]
    assert alarms == [True, False]


def test_a_lost_connection_ends_an_alarm() -> None:
    one = Setting()
    alarms: list[bool] = []
    one.replayer.on_alarm = alarms.append
    one.start()
    one.put(one.message("a"))
    one.loop.settle()
    one.broker.open[0].says(amqp.blocked("low on memory"))
    one.broker.goes_down()
    assert alarms == [True, False]


# -- the broker is away ------------------------------------------------------------------------------------------------


def test_the_broker_comes_back() -> None:
    one = Setting()
    one.broker.away = True
    one.spool.store(*[one.message(name) for name in numbered(20)])
    one.start()
    one.advance(60)
    assert 6 <= one.broker.dialled <= 60
    assert one.replayer.problems
    one.broker.away = False
    one.replayer.broker_is_back()
    one.loop.settle()
    assert one.bodies() == numbered(20)
    assert one.empty()
    assert not one.replayer.problems
    assert [text for _, text in one.log.lines] == [
        "what is in the spool waits: cannot connect: it is away",
        "works again",
    ]


def test_what_was_not_confirmed_is_sent_again_in_its_place() -> None:
    one = Setting(window=8)
    one.broker.answers = False
    one.spool.store(*[one.message(name) for name in numbered(20)])
    one.start()
    one.broker.open[0].answer(2)
    one.loop.settle()
    one.broker.goes_down()
    one.broker.away = False
    one.broker.answers = True
    one.advance(5)
    assert one.bodies() == [*numbered(9), "0", *numbered(20)[2:]]
    assert one.empty()


def test_a_frozen_broker() -> None:
    one = Setting()
    one.broker.heartbeat = 10
    one.start()
    one.put(one.message("a"))
    one.loop.settle()
    one.broker.open[0].frozen = True
    one.put(one.message("b"))
    one.advance(40)
    assert one.bodies() == ["a", "b"]
    assert one.empty()


def test_without_an_account_everything_waits() -> None:
    one = Setting()
    one.account = False
    one.spool.store(one.message("a"))
    one.start()
    one.advance(10)
    assert one.broker.dialled == 0
    assert one.replayer.problems == [("/", "", "there is no account to publish with")]
    one.account = True
    one.replayer.logins_changed()
    one.loop.settle()
    assert one.empty()


def test_an_account_that_is_refused_is_tried_seldom() -> None:
    one = Setting()
    one.broker.refuses["sidecar"] = (403, "ACCESS_REFUSED - Login was refused")
    one.spool.store(one.message("a"))
    one.start()
    one.advance(95)
    assert 3 <= one.broker.dialled <= 4
    one.broker.refuses.clear()
    one.advance(35)
    assert one.empty()


# -- users -------------------------------------------------------------------------------------------------------------


def test_a_message_with_a_user_goes_as_that_user() -> None:
    one = Setting()
    one.users = {"alice"}
    one.start()
    one.put(one.message("a", user="alice"), one.message("b"))
    one.loop.settle()
    assert {message.body: message.connection.user for message in one.broker.taken} == {b"a": "alice", b"b": "sidecar"}
    assert one.empty()


def test_one_whose_user_is_not_known_waits_and_the_others_go() -> None:
    one = Setting()
    one.spool.store(one.message("a", user="bob"), *[one.message(name) for name in numbered(50)])
    one.spool.store(one.message("b", user="bob"))
    one.start()
    assert one.bodies() == numbered(50)
    assert one.replayer.stats.parked == 2
    one.put(one.message("more"))
    one.advance(10)
    assert one.bodies()[-1] == "more"
    assert one.replayer.stats.parked == 2
    assert one.spool.messages == 2
    assert len(one.spool.fetches) < 20
    one.users = {"bob"}
    one.replayer.logins_changed()
    one.loop.settle()
    assert one.bodies()[-2:] == ["a", "b"]
    assert one.replayer.stats.parked == 0
    assert one.empty()
    assert len(one.log.lines) == 1


def test_a_user_whom_the_broker_refuses_meanwhile() -> None:
    one = Setting()
    one.users = {"bob"}
    one.broker.refuses["bob"] = (403, "ACCESS_REFUSED - Login was refused")
    one.spool.store(one.message("a", user="bob"), one.message("b"))
    one.start()
    one.advance(5)
    assert one.bodies() == ["b"]
    assert one.replayer.stats.parked == 1
    one.broker.refuses.clear()
    one.advance(40)
    assert one.bodies() == ["b", "a"]
    assert one.empty()


# -- what cannot be delivered ------------------------------------------------------------------------------------------


def reasons(one: Setting) -> list[tuple[str, str, int]]:
    return [(message.body.decode().rstrip("."), reason, code) for message, reason, code in one.spool.dead_letters]


def test_what_has_expired() -> None:
    one = Setting()
    one.spool.store(one.message("a", expires=5.0), one.message("b"), one.message("c", expires=50.0))
    one.loop.now += 10
    one.start()
    assert one.bodies() == ["b", "c"]
    assert reasons(one) == [("a", "expired", 0)]
    assert one.spool.texts == [""]
    assert one.replayer.stats.expired == 1
    assert (1, False) in one.settled
    assert one.empty()


def test_what_is_nacked_is_tried_again_and_then_dead() -> None:
    one = Setting(dead_after=3)
    one.broker.rejects = lambda message: message.body == b"2"
    one.spool.store(*[one.message(name) for name in numbered(5)])
    one.start()
    assert one.empty() is False
    one.advance(0.6)
    assert not reasons(one)
    one.advance(5)
    assert reasons(one) == [("2", "nacked", 0)]
    assert sorted(one.bodies()) == ["0", "1", "3", "4"]
    assert one.replayer.stats.nacked == 3
    assert one.empty()


def test_nothing_is_given_up_if_so_configured() -> None:
    one = Setting(dead_after=0)
    one.broker.rejects = lambda message: True
    one.spool.store(*[one.message(name) for name in numbered(5)])
    one.start()
    one.advance(1000)
    assert not reasons(one)
    assert one.replayer.stats.nacked < 60
    one.broker.rejects = lambda message: False
    one.advance(31)
    assert one.bodies() == numbered(5)
    assert one.empty()


def test_a_full_queue_keeps_only_what_leads_there() -> None:
    one = Setting(dead_after=0)
    full = ["full"]
    one.broker.rejects = lambda message: message.key in full
    for number in range(300):
        one.spool.store(one.message(f"f{number}", key="full"), one.message(f"o{number}", key="other"))
    one.start()
    one.advance(1)
    assert one.bodies() == numbered(300, "o")
    one.put(one.message("f300", key="full"), one.message("o300", key="other"))
    one.advance(60)
    assert one.bodies() == numbered(301, "o")
    assert one.replayer.stats.nacked < 200
    full.clear()
    one.advance(31)
    assert one.bodies()[301:] == numbered(301, "f")
    assert one.empty()


def test_what_waits_behind_a_full_queue_is_not_read_over_and_over() -> None:
    one = Setting(dead_after=0)
    one.broker.rejects = lambda message: True
    one.spool.store(*[one.message(name) for name in numbered(5000)])
    one.start()
    one.advance(120)
    assert sum(limit for _, _, limit, _ in one.spool.fetches) < 2 * (asides.MOST_SKIPPED + asides.MOST_ASIDE)
    one.broker.rejects = lambda message: False
    one.advance(31)
    assert one.bodies() == numbered(5000)
    assert one.empty()


def test_messages_for_a_full_queue_become_dead_letters_one_after_the_other() -> None:
    one = Setting(dead_after=2)
    one.broker.rejects = lambda message: message.key == "full"
    for number in range(20):
        one.spool.store(one.message(f"f{number}", key="full"), one.message(f"o{number}", key="other"))
    one.start()
    one.advance(60)
    assert reasons(one) == [(name, "nacked", 0) for name in numbered(20, "f")]
    assert one.bodies() == numbered(20, "o")
    assert one.empty()


def test_what_expires_behind_a_full_queue() -> None:
    one = Setting(dead_after=0)
    one.broker.rejects = lambda message: True
    one.spool.store(*[one.message(name, expires=5.0) for name in numbered(50)])
    one.start()
    one.advance(20)
    assert {reason for _, reason, _ in reasons(one)} == {"expired"}
    assert one.empty()


def test_attempts_survive() -> None:
    one = Setting(dead_after=3)
    one.broker.rejects = lambda message: True
    message = one.message("a")
    message.attempts = 2
    one.spool.store(message)
    one.start()
    assert reasons(one) == [("a", "nacked", 0)]
    assert one.empty()


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (403, "ACCESS_REFUSED - access to exchange 'jobs' in vhost '/' refused for user 'sidecar'", "access_refused"),
        (406, "PRECONDITION_FAILED - invalid expiration 'soon'", "precondition_failed"),
        (406, "PRECONDITION_FAILED - message size 30 is larger than configured max size 20", "too_large"),
        (-540, "NOT_IMPLEMENTED - immediate=true", "refused"),
    ],
)
def test_what_is_refused_for_good(code: int, text: str, reason: str) -> None:
    one = Setting()
    one.broker.dislikes = lambda message: (code, text) if message.body in (b"3", b"7") else None
    one.spool.store(*[one.message(name) for name in numbered(10)])
    one.start()
    one.advance(10)
    assert reasons(one) == [("3", reason, abs(code)), ("7", reason, abs(code))]
    assert sorted(set(one.bodies())) == [name for name in numbered(10) if name not in ("3", "7")]
    assert one.spool.texts == [text, text]
    assert one.replayer.stats.dead == {reason: 2}
    assert one.empty()
    assert len(one.log.lines) <= 4


def test_an_error_that_need_not_be_the_messages_fault_counts_as_an_attempt() -> None:
    one = Setting(dead_after=2)
    one.broker.dislikes = lambda message: (541, "INTERNAL_ERROR") if message.body == b"1" else None
    one.spool.store(*[one.message(name) for name in numbered(3)])
    one.start()
    one.advance(10)
    assert reasons(one) == [("1", "nacked", 541)]
    assert one.spool.texts == ["INTERNAL_ERROR"]
    assert one.empty()


def test_a_missing_exchange_is_waited_for_and_then_it_goes_fast() -> None:
    one = Setting()
    one.broker.exchanges = {"jobs"}
    one.spool.store(*[one.message(name, "orders") for name in numbered(300)])
    one.spool.store(*[one.message(name) for name in numbered(10, "j")])
    one.start()
    one.advance(outcomes.MISSING - 2)
    assert not reasons(one)
    assert one.bodies() == numbered(10, "j")
    one.advance(5)
    assert reasons(one) == [(name, "not_found", 404) for name in numbered(300)]
    assert set(one.spool.texts) == {"NOT_FOUND - no exchange 'orders' in vhost '/'"}
    assert one.empty()


def test_a_missing_exchange_costs_the_others_nothing() -> None:
    one = Setting()
    one.broker.exchanges = {"a", "b", "c", "d"}
    one.broker.answers = False
    for number in range(400):
        one.spool.store(*[one.message(f"{name}{number}", name) for name in "abcde"])
    one.start()
    for _ in range(300):
        one.advance(0.1)
        one.broker.says_all()
    assert sorted(one.bodies()) == sorted(f"{name}{number}" for name in "abcd" for number in range(400))
    assert reasons(one) == [(name, "not_found", 404) for name in numbered(400, "e")]
    assert one.broker.ends == 0
    assert one.broker.looked.count("e") < 30
    assert one.empty()


def test_an_exchange_that_is_declared_in_time() -> None:
    one = Setting()
    one.broker.exchanges = set()
    one.spool.store(*[one.message(name) for name in numbered(100)])
    one.start()
    one.advance(5)
    one.put(one.message("100"))
    one.broker.exchanges = {"jobs"}
    one.advance(2)
    assert one.bodies() == numbered(101)
    assert not reasons(one)
    assert one.empty()


def test_a_user_who_may_have_one_channel() -> None:
    one = Setting()
    one.broker.forbids = 20, 10
    one.spool.store(*[one.message(name) for name in numbered(10)])
    one.start()
    one.advance(5)
    assert one.bodies() == numbered(10)
    assert one.broker.dialled == 2
    assert one.empty()


def test_properties_that_fit_no_frame() -> None:
    one = Setting()
    message = one.message("a")
    message.header = message.header[:12] + b"\x20\x00" + amqp.long(b"x" * 200_000)
    one.spool.store(message, one.message("b"))
    one.start()
    assert reasons(one) == [("a", "too_large", 311)]
    assert one.bodies() == ["b"]
    assert one.empty()


def test_what_finds_no_queue_and_should() -> None:
    one = Setting()
    one.broker.routes = lambda message: False
    one.spool.store(one.message("a", bits=1), one.message("b"))
    one.start()
    assert reasons(one) == [("a", "unroutable", 312)]
    assert one.spool.texts == ["NO_ROUTE"]
    assert one.settled == [(1, False), (2, True)]
    assert one.empty()


def test_dead_letters_of_an_exchange_are_one_line_of_log() -> None:
    one = Setting()
    one.broker.dislikes = lambda message: (406, "PRECONDITION_FAILED") if message.body.startswith(b"bad") else None
    one.spool.store(*[one.message(name) for name in numbered(20, "bad")])
    one.spool.store(one.message("good"))
    one.start()
    assert [text for _, text in one.log.lines] == [
        "messages become dead letters (precondition_failed): PRECONDITION_FAILED",
        "works again",
    ]


# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_end_waits_for_confirms() -> None:
    async def scenario() -> None:
        one = Setting(window=4)
        one.broker.answers = False
        one.spool.store(*[one.message(name) for name in numbered(10)])
        one.start()
        ending = asyncio.create_task(one.replayer.close())
        await asyncio.sleep(0)
        one.broker.says_all()
        await asyncio.sleep(0)
        one.loop.settle()
        await ending
        assert one.bodies() == numbered(4)
        assert one.spool.messages == 6
        assert not one.broker.open
        one.advance(60)
        assert one.bodies() == numbered(4)
        assert not one.loop.armed()

    asyncio.run(scenario())


def test_the_end_does_not_wait_for_long() -> None:
    async def scenario() -> None:
        one = Setting()
        one.broker.answers = False
        one.spool.store(one.message("a"))
        one.start()
        await one.replayer.close(0.01)
        assert one.spool.messages == 1

    asyncio.run(scenario())


# -- everything at once ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_whatever_happens_nothing_is_lost_and_order_is_kept(seed: int) -> None:
    """Messages come, brokers come and go, refuse, return and reject: each message is delivered or a dead letter in the
    end, those of a key and priority are delivered in order, and twice at most what was on its way when a channel or a
    connection ended."""
    rng = random.Random(seed)
    one = Setting(window=rng.choice([1, 4, 32]), dead_after=rng.choice([0, 3]))
    one.broker.exchanges = {"a", "b"}
    one.broker.heartbeat = 10
    orderly = rng.random() < 0.5
    bad = {str(number) for number in range(400) if rng.random() < rng.choice([0.0, 0.05])}
    flaky = {str(number) for number in range(400) if not orderly and rng.random() < rng.choice([0.0, 0.05])}
    one.broker.dislikes = lambda message: (406, "PRECONDITION_FAILED") if message.body.decode() in bad else None
    full: set[str] = set()
    one.broker.rejects = lambda message: message.body.decode() in flaky or message.key in full
    one.spool.slow = rng.random() < 0.3
    one.start()
    sent: list[SpooledMessage] = []
    for _ in range(rng.randrange(5, 60)):
        action = rng.random()
        if action < 0.4:
            batch = []
            for _ in range(rng.randrange(1, 20)):
                message = one.message(
                    str(len(sent)), rng.choice("abc"), priority=rng.choice([0, 0, 0, 0, 5]),
                    user=rng.choice(["", "", "", "alice", "bob"]), key=rng.choice("klm"),
                )  # fmt: skip
                sent.append(message)
                batch.append(message)
            if orderly or rng.random() < 0.9:
                one.put(*batch)
            else:
                one.spool.store(*batch)
        elif action < 0.5:
            one.broker.answers = not one.broker.answers
        elif action < 0.6:
            one.broker.goes_down()
        elif action < 0.7:
            one.broker.away = False
            if rng.random() < 0.5:
                one.replayer.broker_is_back()
        elif action < 0.75:
            flaky.clear()
            full = set(rng.sample("klm", rng.randrange(3))) if not orderly else set()
        elif action < 0.8:
            one.broker.exchanges = {"a", "b"} | ({"c"} if rng.random() < 0.5 else set())
        elif action < 0.85:
            one.users = set(rng.sample(["alice", "bob"], rng.randrange(3)))
            one.replayer.logins_changed()
        elif action < 0.9:
            one.hold.alarm(rng.random() < 0.5, one.loop.now)
        for connection in one.broker.open:
            if connection.waiting and rng.random() < 0.5:
                number = rng.choice(sorted(connection.waiting))
                connection.answer(number, rng.random() < 0.5, orderly or rng.random() < 0.9)
        one.loop.settle()
        one.spool.work()
        assert one.replayer._prefetch.ahead <= prefetch.AHEAD
        one.advance(rng.choice([0.0, 0.01, 0.5, 3.0]))
    flaky.clear()
    full.clear()
    one.spool.slow = False
    one.spool.work()
    one.users = {"alice", "bob"}
    one.broker.away = False
    one.broker.answers = True
    one.hold.alarm(False, one.loop.now)
    one.broker.says_all()
    one.advance(400)
    assert one.empty(), (one.spool.keys, one.replayer.problems)
    dead = {message.body for message, _, _ in one.spool.dead_letters}
    taken = one.broker.bodies()
    assert {message.body for message in sent} == dead | set(taken)
    window = one.replayer._window
    assert len(taken) - len(set(taken)) <= one.broker.ends * 3 * window + one.replayer.stats.nacked
    if orderly:
        lanes: dict[tuple[str, int, str], list[int]] = {}
        place = {body: number for number, body in reversed(list(enumerate(taken)))}
        for message in sent:
            if message.body not in dead:
                lane = message.exchange, message.priority, message.user
                lanes.setdefault(lane, []).append(place[message.body])
        for places in lanes.values():
            assert places == sorted(places)
    assert sorted(number for number, _ in one.settled) == list(range(1, len(sent) + 1))
    assert one.replayer.stats.replayed + sum(one.replayer.stats.dead.values()) == len(sent)
