from __future__ import annotations

import asyncio
import random
from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.dialler import Dialler, own_properties, plain
from sidecar.amqp.publishing import publisher as publishing
from sidecar.amqp.publishing.audience import Audience
from sidecar.amqp.publishing.connector import Connector
from sidecar.amqp.publishing.publisher import GONE, READY, Publisher
from sidecar.amqp.spec import AmqpError
from sidecar.resilience.wheel import TimerWheel
from support import amqp
from support.amqp import FakeLoop
from support.processes import free_port
from support.taking_broker import Connection, TakingBroker

NO_ACCESS = (403, "ACCESS_REFUSED - access to exchange 'orders' in vhost '/' refused for user 'guest'")
NO_ORDERS = (404, "NOT_FOUND - no exchange 'orders' in vhost '/'")
USER_ID = (406, "PRECONDITION_FAILED - user_id property set to 'eve' but authenticated user was 'guest'")


class Told(Audience):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.untaken: list[Any] = []
        self.back: list[tuple[Any, int, str]] = []
        self.bad: list[tuple[Any, int]] = []
        self.alarms: list[bool] = []
        self.readies = 0
        self.writables = 0
        self.left: list[Any] | None = None
        self.error: AmqpError | None = None
        self.over = asyncio.Event()

    def ready(self, publisher: Publisher) -> None:
        self.readies += 1

    def answered(self, publisher: Publisher, tokens: list[object], taken: bool) -> None:
        assert tokens
        (self.taken if taken else self.untaken).extend(tokens)

    def returned(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        assert token not in self.taken
        self.back.append((token, code, text))

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        self.bad.append((token, code))

    def blocked(self, publisher: Publisher, on: bool, reason: str) -> None:
        self.alarms.append(on)

    def writable(self, publisher: Publisher) -> None:
        self.writables += 1

    def lost(self, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        assert self.error is None
        self.left = left
        self.error = error
        self.over.set()


class Setting:
    """A publisher that has logged in, and its broker."""

    def __init__(self, heartbeat: int = 0, wary: int = 0, looks: bool = True) -> None:
        self.loop = FakeLoop()
        self.broker = TakingBroker(self.loop)
        self.broker.heartbeat = heartbeat
        self.told = Told()
        wheel = TimerWheel(self.loop.call_at, self.loop)
        dialler = Dialler("PLAIN", plain("guest", "guest"), "/", own_properties("tests"), heartbeat)
        self.publisher = Publisher(dialler, self.told, wheel, self.loop, self.loop.call_soon, wary=wary, looks=looks)

    def connected(self) -> Setting:
        self.broker.connect(self.publisher)
        self.loop.settle()
        assert self.publisher.stage == READY
        assert self.told.readies == 1
        return self

    @property
    def connection(self) -> Connection:
        return self.broker.connections[-1]

    def send(self, *names: str, exchange: str = "jobs", bits: int = 0) -> None:
        """A message of each name, which is its body, its key and its token."""
        for name in names:
            frames = amqp.publish(1, name, name.encode(), exchange=exchange, bits=bits)
            self.publisher.send(frames, name)

    def settle(self) -> None:
        self.loop.settle()

    def over(self) -> None:
        """It leaves no timer behind."""
        self.loop.run_until(self.loop.now + 60)
        assert not self.loop.armed()

    def bodies(self) -> list[str]:
        return [body.decode() for body in self.broker.bodies()]


def can_send(one: Setting) -> bool:
    return one.publisher.open


def dislikes(*names: str, verdict: tuple[int, str] = USER_ID) -> Any:
    return lambda message: verdict if message.body.decode() in names else None


def numbered(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


# -- the ordinary case -------------------------------------------------------------------------------------------------


def test_what_is_sent_is_confirmed() -> None:
    one = Setting().connected()
    one.send("a", "b")
    one.send("c", exchange="other")
    assert one.publisher.unanswered == 3
    one.settle()
    assert one.bodies() == one.told.taken == ["a", "b", "c"]
    assert one.publisher.unanswered == 0
    assert [message.exchange for message in one.broker.taken] == ["jobs", "jobs", "other"]


def test_what_is_sent_before_it_is_ready_goes_when_it_is() -> None:
    one = Setting()
    one.send("a", "b")
    one.connected()
    assert one.told.taken == ["a", "b"]


def test_messages_of_one_turn_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Setting().connected()
    writes: list[bytes] = []
    monkeypatch.setattr(one.connection.transport, "write", writes.append)
    one.send(*numbered(50))
    assert not writes
    one.settle()
    assert len(writes) == 1


def test_much_is_not_collected_but_written(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Setting().connected()
    for name in numbered(10):
        one.publisher.send(amqp.publish(1, "k", name.encode() * 20000), name)
    assert len(one.connection.transport.sent) > 131072
    one.settle()
    assert one.told.taken == numbered(10)


def test_confirms_in_any_order_and_of_many() -> None:
    one = Setting().connected()
    one.broker.answers = False
    one.send(*numbered(8))
    one.settle()
    connection = one.connection
    connection.answer(3)
    connection.answer(5, positive=False)
    assert (one.told.taken, one.told.untaken) == (["2"], ["4"])
    connection.answer(4, multiple=True)
    assert one.told.taken == ["2", "0", "1", "3"]
    connection.answer(3)  # again
    connection.answer(5)
    connection.answer(77)
    connection.answer(99, multiple=True)
    assert len(one.told.taken) == 4
    connection.answer(0, multiple=True, positive=False)
    assert one.told.untaken == ["4", "5", "6", "7"]
    assert one.publisher.unanswered == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_message_has_one_answer(data: st.DataObject) -> None:
    one = Setting().connected()
    one.broker.answers = False
    sent = 0
    for _ in range(data.draw(st.integers(1, 12))):
        count = data.draw(st.integers(0, 5))
        one.send(*[str(sent + each) for each in range(count)])
        sent += count
        one.settle()
        if data.draw(st.booleans()) and one.connection.waiting:
            number = data.draw(st.integers(min(one.connection.waiting), sent))
            multiple, positive = data.draw(st.tuples(st.booleans(), st.booleans()))
            one.connection.answer(number, multiple, positive)
            one.settle()
    one.broker.says_all()
    assert sorted(one.told.taken + one.told.untaken, key=int) == [str(each) for each in range(sent)]
    assert one.publisher.unanswered == 0


def test_the_audience_may_send_when_it_is_told() -> None:
    one = Setting().connected()
    left = iter(numbered(30, "n"))

    def answered(publisher: Publisher, tokens: list[object], taken: bool) -> None:
        one.told.taken.extend(tokens)
        for name in (next(left, None) for _ in tokens):
            if name is not None:
                one.send(name)

    one.told.answered = answered  # type: ignore[method-assign]
    one.send("a", "b", "c")
    one.settle()
    assert one.told.taken == ["a", "b", "c", *numbered(30, "n")]


def test_a_broker_that_does_not_read() -> None:
    one = Setting().connected()
    one.connection.transport.stuck = True
    one.publisher.send(amqp.publish(1, "k", b"x" * 100_000), "large")
    one.settle()
    assert not can_send(one)
    one.connection.transport.read_again()
    one.settle()
    one.connection.read()
    one.settle()
    assert one.told.writables == 1
    assert can_send(one)
    assert one.told.taken == ["large"]


# -- returns -----------------------------------------------------------------------------------------------------------


def test_messages_that_come_back() -> None:
    one = Setting().connected()
    one.broker.routes = lambda message: message.key != "nowhere"
    frames = [amqp.publish(1, key, b"x", exchange="jobs", bits=bits) for key, bits in NOWHERE]
    for number, each in enumerate(frames):
        one.publisher.send(each, number)
    one.settle()
    assert one.told.back == [(2, 312, "NO_ROUTE"), (4, 312, "NO_ROUTE")]
    assert one.told.taken == [0, 1, 2, 3, 4]


NOWHERE = [("somewhere", 1), ("nowhere", 0), ("nowhere", 1), ("somewhere", 0), ("nowhere", 1)]


def test_a_return_of_what_was_never_sent_means_nothing() -> None:
    one = Setting().connected()
    back = pack(">H", 312) + amqp.short("NO_ROUTE") + amqp.short("jobs") + amqp.short("a")
    one.connection.says(amqp.method(1, 60, 50, back), amqp.content(1, b"?"))
    assert not one.told.back
    one.send("a")
    one.settle()
    assert one.told.taken == ["a"]


# -- messages that are no good -----------------------------------------------------------------------------------------


def test_the_one_message_that_may_not_go_to_an_exchange() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("c", verdict=NO_ACCESS)
    one.send("a", "b")
    one.send("c", exchange="orders")
    one.send("d", "e")
    one.settle()
    assert one.told.bad == [("c", 403)]
    assert sorted(one.told.taken) == ["a", "b", "d", "e"]
    assert one.publisher.unanswered == 0


def test_every_message_that_is_no_good_is_found_and_the_others_are_not_sent_again_for_each() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes(*numbered(100, "bad"), verdict=NO_ACCESS)
    for number in range(100):
        one.send(f"good{number}")
        one.send(f"bad{number}", exchange="orders")
    one.settle()
    assert [name for name, _ in one.told.bad] == numbered(100, "bad")
    assert one.told.taken == numbered(100, "good")
    # What was on its way at the first close, and at none of the others.
    assert len(one.bodies()) <= 200


def test_a_text_that_names_nothing_means_one_by_one() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("3", "4", "8")
    one.send(*numbered(10))
    one.settle()
    assert one.told.bad == [("3", 406), ("4", 406), ("8", 406)]
    assert one.told.taken == ["0", "1", "2", "5", "6", "7", "9"]
    one.send(*numbered(5, "later"))
    one.settle()
    assert one.told.taken[-5:] == numbered(5, "later")


def test_there_is_trust_again_after_as_many_good_ones() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("3")
    one.send(*numbered(6))
    one.settle()
    one.broker.answers = False
    one.send(*numbered(20, "more"))
    one.settle()
    for _ in range(6):
        one.broker.says_all()
    one.send(*numbered(20, "most"))
    one.settle()
    assert len(one.connection.waiting) == 20


def test_an_exchange_in_doubt_does_not_keep_others_waiting() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("x", "y", "z", verdict=NO_ACCESS)
    one.send("x", "y", "z", exchange="orders")
    one.settle()
    assert one.told.bad == [("x", 403), ("y", 403), ("z", 403)]
    one.send("u", exchange="orders")
    one.settle()
    one.broker.answers = False
    one.send("p", "q", "r", exchange="orders")
    one.send("a", "b")
    one.settle()
    assert [message.body for message in one.connection.waiting.values()] == [b"p", b"a", b"b"]
    one.broker.answers = True
    one.broker.says_all()
    assert one.told.taken == ["u", "p", "a", "b", "q", "r"]


def test_order_is_kept_through_it_all() -> None:
    rng = random.Random(7)
    one = Setting().connected()
    one.broker.exchanges = {"jobs", "tasks"}
    bad = {f"jobs{number}" for number in rng.sample(range(300), 20)}
    one.broker.dislikes = dislikes(*bad)
    for number in range(300):
        for exchange in ("jobs", "orders", "tasks"):
            one.send(f"{exchange}{number}", exchange=exchange)
        if rng.random() < 0.1:
            one.settle()
    one.settle()
    assert {name for name, code in one.told.bad if code == 406} == bad
    assert len([name for name, code in one.told.bad if code == 404]) == 300
    for exchange in ("jobs", "tasks"):
        wanted = [name for name in numbered(300, exchange) if name not in bad]
        assert [name for name in one.told.taken if name.startswith(exchange)] == wanted
        first: dict[str, int] = {}
        for place, name in enumerate(one.bodies()):
            first.setdefault(name, place)
        assert sorted(wanted, key=first.__getitem__) == wanted


def test_what_waits_to_be_tried_can_be_taken_back() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("x", "y", "z", verdict=NO_ACCESS)
    taken_back: list[object] = []
    one.told.refused = lambda publisher, token, code, text: taken_back.extend(  # type: ignore[method-assign]
        [token, *publisher.recall(b"orders")]
    )
    one.send("x", "y", "z", exchange="orders")
    one.settle()
    assert taken_back == ["x", "y", "z"]
    assert one.publisher.unanswered == 0
    one.broker.dislikes = dislikes()
    one.send("x", "y", "z", exchange="orders")
    one.settle()
    assert one.told.taken == ["x", "y", "z"]


def test_the_default_exchange_by_its_other_name() -> None:
    one = Setting().connected()
    text = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'guest'"
    one.broker.dislikes = lambda message: (403, text) if not message.exchange else None
    one.send("a", "b")
    one.send("c", exchange="")
    one.settle()
    assert one.told.bad == [("c", 403)]


def test_a_routing_key_cannot_put_the_blame_on_another_exchange() -> None:
    one = Setting().connected()
    key = "exchange 'jobs' in vhost '/'"
    text = f"ACCESS_REFUSED - access to topic '{key}' in exchange 'orders' in vhost '/' refused for user 'guest'"
    one.broker.dislikes = lambda message: (403, text) if message.exchange == "orders" else None
    one.send("a")
    one.send("c", exchange="orders")
    one.settle()
    assert one.told.bad == [("c", 403)]
    assert "a" in one.told.taken


def test_a_channel_that_is_closed_for_nothing_again_and_again() -> None:
    one = Setting().connected()
    one.broker.answers = False
    one.send("a")
    for _ in range(3):
        one.settle()
        one.connection.close_channel(541, "INTERNAL_ERROR", 0)
    one.settle()
    assert not one.told.bad
    assert one.publisher.unanswered == 1
    one.connection.close_channel(541, "INTERNAL_ERROR", 0)
    assert one.told.left == ["a"]
    assert one.told.error is not None
    assert one.told.error.code == 541


# -- exchanges that are missing ----------------------------------------------------------------------------------------


def test_nothing_is_published_to_a_missing_exchange_and_nothing_else_suffers() -> None:
    one = Setting().connected()
    one.broker.exchanges = {"jobs", "tasks"}
    one.broker.answers = False
    for number in range(100):
        for exchange in ("jobs", "orders", "tasks"):
            one.send(f"{exchange}{number}", exchange=exchange)
        one.settle()
    assert one.told.bad == [(name, 404) for name in numbered(100, "orders")]
    one.broker.says_all()
    assert one.broker.ends == 0
    assert sorted(one.bodies()) == sorted(numbered(100, "jobs") + numbered(100, "tasks")) == sorted(one.told.taken)
    assert one.publisher.unanswered == 0


def test_each_exchange_is_looked_for_once() -> None:
    one = Setting().connected()
    for exchange in ("jobs", "", "tasks", "amq.topic"):
        one.send("a", exchange=exchange)
        one.send("b", exchange=exchange)
        one.settle()
    one.send("c", "d")
    one.settle()
    assert one.broker.looked == ["jobs", "tasks", "amq.topic"]
    assert len(one.told.taken) == 10


def test_one_that_was_missing_is_looked_for_with_the_next_message() -> None:
    one = Setting().connected()
    one.broker.exchanges = set()
    one.send("a")
    one.settle()
    one.send("b", "c")
    one.settle()
    assert one.told.bad == [("a", 404), ("b", 404), ("c", 404)]
    one.broker.exchanges = {"jobs"}
    one.send("d", "e")
    one.settle()
    assert one.told.taken == ["d", "e"]
    assert one.broker.looked == ["jobs", "jobs", "jobs"]


def test_one_that_may_not_be_looked_for_may_be_there() -> None:
    one = Setting().connected()
    one.broker.hidden = {"jobs"}
    one.send("a", "b")
    one.send("c", exchange="tasks")
    one.settle()
    assert sorted(one.told.taken) == ["a", "b", "c"]
    assert one.broker.ends == 0


def test_many_are_looked_for_at_once_whatever_the_answers_close() -> None:
    one = Setting().connected()
    names = numbered(200, "x")
    one.broker.exchanges = {name for name in names if int(name[1:]) % 3}
    for name in names:
        one.send(f"{name} first", f"{name} second", exchange=name)
    one.settle()
    there = [name for name in names if int(name[1:]) % 3]
    assert sorted(one.told.taken) == sorted(f"{name} {which}" for name in there for which in ("first", "second"))
    assert len(one.told.bad) == 2 * (200 - len(there))
    assert one.broker.ends == 0


def test_only_messages_for_an_exchange_that_is_looked_for_wait() -> None:
    one = Setting().connected()
    one.send("a")
    one.settle()
    one.broker.tells = False
    one.send("x", "y", exchange="orders")
    one.send("b", "c")
    one.settle()
    assert one.told.taken == ["a", "b", "c"]
    one.send("z", exchange="orders")
    one.connection.tell("orders")
    one.settle()
    assert one.told.taken == ["a", "b", "c", "x", "y", "z"]


def test_what_waits_for_an_exchange_can_be_taken_back() -> None:
    one = Setting().connected()
    one.broker.exchanges = set()
    taken_back: list[object] = []
    one.told.refused = lambda publisher, token, code, text: taken_back.extend(  # type: ignore[method-assign]
        [token, *publisher.recall(b"orders")]
    )
    one.send("x", "y", "z", exchange="orders")
    one.settle()
    assert taken_back == ["x", "y", "z"]
    assert one.publisher.unanswered == 0
    one.broker.exchanges = {"orders"}
    one.send("x", "y", "z", exchange="orders")
    one.settle()
    assert one.told.taken == ["x", "y", "z"]


def test_what_is_taken_back_before_the_answer() -> None:
    one = Setting().connected()
    one.broker.exchanges = {"orders"}
    one.broker.tells = False
    one.send("x", "y", exchange="orders")
    one.settle()
    assert one.publisher.recall(b"orders") == ["x", "y"]
    one.connection.tell("orders")
    one.send("z", exchange="orders")
    one.settle()
    assert one.told.taken == ["z"]


def test_an_exchange_that_is_deleted_meanwhile() -> None:
    one = Setting().connected()
    one.broker.exchanges = {"jobs", "orders"}
    one.send("a", exchange="orders")
    one.send("b")
    one.settle()
    one.broker.exchanges = {"jobs"}
    for number in range(20):
        one.send(f"o{number}", exchange="orders")
        one.send(f"j{number}")
    one.settle()
    assert one.told.bad == [(name, 404) for name in numbered(20, "o")]
    assert one.told.taken == ["a", "b", *numbered(20, "j")]
    assert one.broker.ends == 1
    one.broker.exchanges = {"jobs", "orders"}
    one.send("x", "y", exchange="orders")
    one.settle()
    assert one.told.taken[-2:] == ["x", "y"]


def test_an_exchange_that_is_deleted_while_messages_go_one_by_one() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("0", "2")
    one.send(*numbered(4))
    one.settle()
    one.broker.exchanges = {"tasks"}
    one.send("4", "5", "6")
    one.send("7", exchange="tasks")
    one.settle()
    assert one.told.bad == [("0", 406), ("2", 406), ("4", 404), ("5", 404), ("6", 404)]
    assert one.told.taken == ["1", "3", "7"]


def test_a_broker_that_allows_one_channel() -> None:
    one = Setting()
    one.broker.channels = 1
    one.broker.exchanges = {"jobs"}
    one.connected()
    one.send("a")
    one.send("c", exchange="orders")
    one.send("b")
    one.settle()
    assert not one.broker.looked
    assert one.told.bad == [("c", 404)]
    assert sorted(one.told.taken) == ["a", "b"]


@pytest.mark.parametrize("forbidden", [(20, 10), (40, 10)])
def test_a_broker_that_does_not_let_us_look(forbidden: tuple[int, int]) -> None:
    """As where a user may have one channel. No message is to blame for that."""
    one = Setting().connected()
    one.broker.forbids = forbidden
    one.send("", exchange="")
    one.send("a", "b")
    one.settle()
    assert not one.told.bad
    assert one.told.left is not None
    assert set(one.told.left) >= {"a", "b"}
    assert not one.publisher.looks
    assert one.publisher.suspects == 0
    two = Setting(looks=False).connected()
    two.send("a", "b")
    two.settle()
    assert two.told.taken == ["a", "b"]
    assert not two.broker.looked


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 32))
def test_exchanges_come_and_go(seed: int) -> None:
    """Each message is answered once, those to one exchange are taken in order, and twice is taken only what was on its
    way when a channel ended."""
    rng = random.Random(seed)
    one = Setting(wary=rng.choice([0, 0, 3])).connected()
    deleted = rng.random() < 0.5
    one.broker.exchanges = there = set(rng.sample("abcdef", 3))
    one.broker.hidden = set(rng.sample("abcdef", rng.choice([0, 0, 1])))
    if deleted or one.broker.hidden - there:
        bad = {str(number) for number in rng.sample(range(300), 5)}
        one.broker.dislikes = dislikes(*bad)
    sent: dict[str, list[str]] = {name: [] for name in "abcdef"}
    count = 0
    for _ in range(rng.randrange(1, 40)):
        for _ in range(rng.randrange(6)):
            exchange = rng.choice("abcdef")
            sent[exchange].append(str(count))
            one.send(str(count), exchange=exchange)
            count += 1
        if rng.random() < 0.2:
            one.broker.answers = not one.broker.answers
        if rng.random() < 0.2:
            there.add(rng.choice("abcdef"))
        if deleted and there and rng.random() < 0.2:
            there.remove(rng.choice(sorted(there)))
        if rng.random() < 0.7:
            one.settle()
    one.broker.answers = True
    one.settle()
    one.broker.says_all()
    assert one.told.error is None
    assert one.publisher.unanswered == 0
    assert sorted(one.told.taken + [name for name, _ in one.told.bad], key=int) == numbered(count)
    for names in sent.values():
        assert [name for name in one.told.taken if name in names] == [name for name in names if name in one.told.taken]
    if not one.broker.ends:
        assert len(one.bodies()) == len(one.told.taken)
    if not deleted and not one.broker.hidden:
        assert one.broker.ends == 0


# -- the connection ----------------------------------------------------------------------------------------------------


def test_a_lost_connection_gives_everything_back_in_order() -> None:
    one = Setting().connected()
    one.broker.answers = False
    one.send(*numbered(6))
    one.settle()
    one.connection.answer(2)
    one.broker.goes_down()
    assert one.told.taken == ["1"]
    assert one.told.left == ["0", "2", "3", "4", "5"]
    assert one.publisher.stage == GONE
    assert one.publisher.suspects == 0
    one.over()


def test_a_message_that_ends_the_connection_alone_is_the_one() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("x", verdict=(-540, "NOT_IMPLEMENTED - immediate=true"))
    one.send("x")
    one.settle()
    assert one.told.bad == [("x", 540)]
    assert one.told.left == []


def test_among_many_the_next_connection_is_wary() -> None:
    one = Setting().connected()
    immediate = dislikes("2", verdict=(-540, "NOT_IMPLEMENTED - immediate=true"))
    one.broker.dislikes = immediate
    one.broker.answers = False
    one.send(*numbered(5))
    one.settle()
    assert one.told.left == numbered(5)
    assert one.publisher.suspects == 5
    two = Setting(wary=5).connected()
    two.broker.dislikes = immediate
    two.send(*numbered(5))
    two.settle()
    assert two.told.taken == ["0", "1"]
    assert two.told.bad == [("2", 540)]
    assert two.told.left == ["3", "4"]


def test_a_broker_that_shuts_down_blames_nobody() -> None:
    one = Setting().connected()
    one.broker.answers = False
    one.send("a")
    one.settle()
    one.connection.says(amqp.close(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"))
    one.settle()
    assert not one.told.bad
    assert one.told.left == ["a"]
    assert one.told.error is not None
    assert one.told.error.code == 320
    assert not one.connection.transport.aborted


def test_a_refused_login() -> None:
    one = Setting()
    one.broker.refuses["guest"] = (403, "ACCESS_REFUSED - Login was refused")
    one.send("a")
    one.broker.connect(one.publisher)
    one.settle()
    assert one.told.left == ["a"]
    assert one.told.error is not None
    assert one.told.error.code == 403
    assert one.publisher.permanent


def test_a_connection_that_cannot_be_made() -> None:
    one = Setting()
    one.broker.away = True
    one.broker.connect(one.publisher)
    one.settle()
    assert one.told.error is not None
    assert not one.publisher.permanent
    one.over()


def test_one_that_comes_too_late_is_cut() -> None:
    one = Setting()
    one.publisher.close()
    one.broker.connect(one.publisher)
    one.settle()
    assert one.connection.transport.aborted
    assert one.told.left == []


def test_a_broker_that_says_nothing() -> None:
    one = Setting()
    one.broker.connect(one.publisher)
    one.connection.frozen = True
    one.loop.run_until(one.loop.now + publishing.LOGIN_SECONDS + 1)
    assert one.told.error is not None
    assert one.connection.transport.aborted


def test_heartbeats() -> None:
    one = Setting(heartbeat=10).connected()
    for _ in range(12):
        one.loop.run_until(one.loop.now + 5)
    assert one.connection.heartbeats >= 10
    assert one.told.error is None
    one.send("a")
    one.connection.frozen = True
    one.loop.run_until(one.loop.now + 26)
    assert one.told.left == ["a"]


def test_alarms() -> None:
    one = Setting().connected()
    one.connection.says(amqp.blocked("low on memory"))
    assert one.told.alarms == [True]
    assert not can_send(one)
    one.connection.says(amqp.blocked("low on disk"), amqp.UNBLOCKED)
    assert one.told.alarms == [True, False]
    assert can_send(one)


def test_a_polite_end() -> None:
    one = Setting().connected()
    one.broker.answers = False
    one.send("a", "b")
    one.settle()
    one.connection.answer(1)
    one.publisher.close()
    assert not one.publisher.open
    one.connection.answer(2)
    one.settle()
    assert one.told.taken == ["a", "b"]
    assert one.told.left == []
    assert one.told.error is not None
    assert one.told.error.code == 200
    assert not one.connection.transport.aborted
    one.over()


def test_a_polite_end_that_nobody_answers() -> None:
    one = Setting().connected()
    one.connection.frozen = True
    one.send("a")
    one.publisher.close()
    one.loop.run_until(one.loop.now + publishing.CLOSE_SECONDS + 1)
    assert one.told.left == ["a"]


def test_a_broker_that_breaks_the_protocol() -> None:
    for nonsense in (b"HTTP/1.1 400 Bad Request\r\n\r\n", amqp.method(1, 60, 80), amqp.frame(1, 1, b"ab")):
        one = Setting().connected()
        one.send("a")
        one.connection.frozen = True
        one.settle()
        one.connection.says(nonsense)
        one.settle()
        assert one.told.left == ["a"]
        assert one.connection.transport.aborted


@pytest.mark.parametrize("known", [True, False])
def test_a_broker_that_is_not_there(known: bool) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        told = Told()
        dialler = Dialler("PLAIN", plain("guest", "guest"), "/", own_properties("tests"))
        publisher = Publisher(dialler, told, TimerWheel(loop.call_at, loop.time), loop.time, loop.call_soon)
        publisher.send(amqp.publish(1, "k"), "a")
        addresses = [("127.0.0.1", free_port())] if known else []
        connector = Connector(lambda: addresses, loop)
        connector.connect(publisher)
        await told.over.wait()
        assert told.error is not None
        assert told.left == ["a"]
        assert ("cannot connect" if known else "no broker is known") in told.error.text
        connector.close()

    asyncio.run(scenario())


def test_addresses_take_turns() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        addresses = [("127.0.0.1", free_port()) for _ in range(3)]
        connector = Connector(lambda: addresses, loop)
        tried: list[str] = []
        for _ in range(6):
            told = Told()
            dialler = Dialler("PLAIN", plain("guest", "guest"), "/", own_properties("tests"))
            publisher = Publisher(dialler, told, TimerWheel(loop.call_at, loop.time), loop.time, loop.call_soon)
            connector.connect(publisher)
            await told.over.wait()
            tried.append(publisher.endpoint)
        assert sorted(tried) == sorted(2 * [f"{host}:{port}" for host, port in addresses])

    asyncio.run(scenario())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([
    amqp.channel_close(1, *NO_ORDERS, 60 << 16 | 40), amqp.close(541, "INTERNAL_ERROR"), amqp.CLOSE_OK, amqp.HEARTBEAT,
    amqp.method(1, 60, 80, b"\0" * 9), amqp.method(1, 60, 120, b"\0" * 7 + b"\x03\x01"), amqp.blocked("?"),
    amqp.method(1, 85, 11), amqp.channel_open_ok(1), amqp.method(1, 20, 20, b"\1"), amqp.channel_close_ok(1),
    amqp.channel_close(2, *NO_ORDERS, 40 << 16 | 10), amqp.method(2, 40, 11), amqp.channel_open_ok(2),
]), max_size=12))  # fmt: skip
def test_whatever_a_broker_says_every_message_is_answered_for(said: list[bytes]) -> None:
    one = Setting().connected()
    one.connection.frozen = True
    one.send(*numbered(5))
    one.settle()
    for piece in said:
        one.connection.says(piece)
        one.settle()
    if one.publisher.stage != GONE:
        one.connection.transport.lose(ConnectionResetError())
    assert one.told.left is not None
    everything = one.told.taken + one.told.untaken + [name for name, _ in one.told.bad] + one.told.left
    assert sorted(everything) == numbered(5)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 60), st.sampled_from([0.02, 0.2, 0.6]))
def test_any_mix_of_good_and_bad(seed: int, count: int, part: float) -> None:
    """Whatever a broker dislikes, by name or without one: those and only those are refused, order is kept, and what is
    taken twice was on its way at a close."""
    rng = random.Random(seed)
    one = Setting().connected()
    verdicts: dict[bytes, tuple[int, str]] = {}
    wanted: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    sent: list[str] = []
    one.broker.dislikes = lambda message: verdicts.get(message.body)
    for number in range(count):
        exchange = rng.choice("abc")
        name = f"{exchange}{number}"
        if rng.random() < part:
            named = 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"
            verdicts[name.encode()] = rng.choice([USER_ID, named])
        else:
            wanted[exchange].append(name)
        sent.append(name)
        one.send(name, exchange=exchange)
        if rng.random() < 0.2:
            one.settle()
    one.settle()
    assert one.told.error is None
    assert {name.encode() for name, _ in one.told.bad} == set(verdicts)
    assert len(one.told.bad) == len(verdicts)
    for exchange, names in wanted.items():
        assert [name for name in one.told.taken if name.startswith(exchange)] == names
    assert one.publisher.unanswered == 0
