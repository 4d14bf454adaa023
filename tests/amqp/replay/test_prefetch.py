from __future__ import annotations

from sidecar.amqp.replay.prefetch import AHEAD, AHEAD_BYTES
from sidecar.amqp.replay.stream import FIRST_WINDOW
from support.replaying import Setting, numbered


def test_what_is_in_memory_is_bounded_whatever_there_is() -> None:
    one = Setting()
    one.broker.answers = False
    for exchange in numbered(40, "x"):
        one.spool.store(*[one.message(name, exchange) for name in numbered(100)])
    one.start()
    for _ in range(12):
        assert one.dispatcher._prefetch.ahead <= AHEAD
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
    seen = one.dispatcher._prefetch.ahead_bytes
    assert seen < 2 * AHEAD_BYTES
    one.broker.answers = True
    one.broker.says_all()
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
    assert one.dispatcher.unconfirmed == FIRST_WINDOW
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
        assert one.dispatcher._prefetch.ahead <= AHEAD
    assert len([body for body in one.bodies() if body[0] == "y"]) == 500
    silent.clear()
    one.broker.answers = True
    one.broker.says_all()
    one.advance(5)
    assert sorted(one.bodies()) == sorted(
        numbered(500, "y") + [name for x in range(4) for name in numbered(1500, f"x{x}")]
    )
    assert one.empty()
    assert one.dispatcher._prefetch.stalled == 0


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
