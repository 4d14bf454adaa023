from __future__ import annotations

import pytest

from sidecar.amqp.replay.deferred import MOST_ASIDE, MOST_SKIPPED
from sidecar.amqp.replay.outcomes import MISSING
from support import amqp
from support.replaying import Setting, numbered, reasons


def test_what_has_expired() -> None:
    one = Setting()
    one.spool.store(one.message("a", expires=5.0), one.message("b"), one.message("c", expires=50.0))
    one.loop.now += 10
    one.start()
    assert one.bodies() == ["b", "c"]
    assert reasons(one) == [("a", "expired", 0)]
    assert one.spool.texts == [""]
    assert one.dispatcher.stats.expired == 1
    assert (1, False) in one.settled
    assert one.empty()


def test_what_its_queues_would_have_dropped_is_no_dead_letter() -> None:
    one = Setting()
    one.spool.store(
        one.message("a", kept=5.0), one.message("b"), one.message("c", kept=50.0), one.message("d", kept=5.0)
    )
    one.loop.now += 10
    one.start()
    assert one.bodies() == ["b", "c"]
    assert reasons(one) == []
    assert one.dispatcher.stats.expired == 2
    assert [number for number, taken in one.settled if not taken] == [1, 4]
    assert one.log.lines == []
    assert one.empty()


def test_what_is_of_use_for_a_moment_and_finds_no_queue_is_no_dead_letter() -> None:
    one = Setting()
    one.broker.routes = lambda message: message.body != b"a"
    one.spool.store(one.message("a", kept=3600.0), one.message("b"))
    one.start()
    one.advance(MISSING + 5)
    assert reasons(one) == []
    assert one.dispatcher.stats.expired == 1
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
    assert one.dispatcher.stats.nacked == 3
    assert one.empty()


def test_nothing_is_given_up_if_so_configured() -> None:
    one = Setting(dead_after=0)
    one.broker.rejects = lambda message: True
    one.spool.store(*[one.message(name) for name in numbered(5)])
    one.start()
    one.advance(1000)
    assert not reasons(one)
    assert one.dispatcher.stats.nacked < 60
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
    assert one.dispatcher.stats.nacked < 200
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
    assert sum(limit for _, _, limit, _ in one.spool.fetches) < 2 * (MOST_SKIPPED + MOST_ASIDE)
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
    told: list[tuple[bytes, str]] = []
    one.dispatcher.tell_of_dead(lambda message, why: told.append((message.body, why)))
    one.spool.store(*[one.message(name) for name in numbered(10)])
    one.start()
    one.advance(10)
    assert reasons(one) == [("3", reason, abs(code)), ("7", reason, abs(code))]
    assert sorted(set(one.bodies())) == [name for name in numbered(10) if name not in ("3", "7")]
    assert one.spool.texts == [text, text]
    assert one.dispatcher.stats.dead == {reason: 2}
    assert sorted(told) == [(b"3", reason), (b"7", reason)]
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
    one.advance(MISSING - 2)
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


def test_properties_that_fit_no_frame() -> None:
    one = Setting()
    message = one.message("a")
    message.header = message.header[:12] + b"\x20\x00" + amqp.long(b"x" * 200_000)
    one.spool.store(message, one.message("b"))
    one.start()
    assert reasons(one) == [("a", "too_large", 311)]
    assert one.bodies() == ["b"]
    assert one.empty()


def test_what_finds_no_queue_is_a_dead_letter_once_clients_have_had_time_to_declare_it() -> None:
    one = Setting()
    one.broker.routes = lambda message: message.key == "there"
    one.spool.store(one.message("a"), one.message("b", key="there"), one.message("c"))
    one.start()
    assert one.settled == [(2, True)]
    one.advance(MISSING - 2)
    assert not reasons(one)
    one.advance(3)
    assert reasons(one) == [("a", "unroutable", 312), ("c", "unroutable", 312)]
    assert one.spool.texts == ["NO_ROUTE"] * 2
    one.put(one.message("d"))
    one.advance(0.1)
    assert reasons(one)[2:] == [("d", "unroutable", 312)]  # the connection is not young any more
    assert one.empty()


def test_what_came_back_and_was_not_taken_either_is_sent_once_more() -> None:
    one = Setting()
    strange = True
    one.broker.routes = lambda message: not strange
    one.broker.rejects = lambda message: strange
    one.spool.store(one.message("a"))
    one.start()
    strange = False
    one.advance(40)
    assert one.bodies() == ["a"]
    assert one.settled == [(1, True)]
    assert one.empty()


def test_what_finds_no_queue_at_first_comes_in_order_when_there_is_one() -> None:
    one = Setting()
    there = False
    one.broker.routes = lambda message: there
    one.spool.store(*[one.message(name) for name in numbered(20)])
    one.start()
    one.advance(3)
    there = True
    one.advance(3)
    assert one.bodies()[-20:] == numbered(20)
    assert not reasons(one)
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
