from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.publisher.connection import CLOSE_SECONDS, GONE, LOGIN_SECONDS, Publisher
from support import amqp
from support.examples import examples
from support.publishing import NO_ORDERS, Setting, can_send, dislikes, numbered

# -- messages ----------------------------------------------------------------------------------------------------------


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


@settings(max_examples=examples(60), deadline=None)
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
    one.loop.run_until(one.loop.now + LOGIN_SECONDS + 1)
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
    one.loop.run_until(one.loop.now + CLOSE_SECONDS + 1)
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


@settings(max_examples=examples(100), deadline=None)
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
