from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from support.publishing import NO_ACCESS, USER_ID, Setting, dislikes, numbered


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
    assert [message.body for message in one.connection.waiting.values()] == [b"a", b"b"]
    assert [message.body for message in one.connection.apart.waiting.values()] == [b"p"]
    one.broker.answers = True
    one.broker.says_all()
    assert sorted(one.told.taken) == ["a", "b", "p", "q", "r", "u"]
    assert [name for name in one.told.taken if name in "upqr"] == ["u", "p", "q", "r"]


def test_one_that_is_refused_again_and_again_costs_the_others_little() -> None:
    one = Setting().connected()
    one.broker.dislikes = lambda message: USER_ID if message.body.startswith(b"bad") else None
    for number in range(400):
        one.send(f"jobs{number}")
        one.send(f"bad{number}" if number % 4 == 0 else f"orders{number}", exchange="orders")
        one.send(f"queue{number}", exchange="")
        if number % 10 == 9:
            one.settle()
    one.settle()
    assert len(one.told.bad) == 100
    assert len(one.told.taken) == 1100
    # The first close, and those before it took as many good ones as there are between two bad ones to be trusted.
    assert len(one.bodies()) - len(set(one.bodies())) <= 60


def test_with_the_default_exchange_it_is_the_queue_that_is_in_doubt() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("x")
    one.send("w", "x", exchange="")
    one.settle()
    assert one.told.bad == [("x", 406)]
    one.broker.answers = False
    one.send("x", "y", "z", exchange="")
    one.settle()
    assert [message.body for message in one.connection.waiting.values()] == [b"y", b"z"]
    assert one.told.bad == [("x", 406), ("x", 406)]
    assert one.broker.ends == 3


def test_what_goes_apart_comes_back_all_the_same() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("a", "b")
    one.send("a", "b", exchange="orders")
    one.settle()
    one.broker.routes = lambda message: False
    one.send("c", exchange="orders", bits=1)
    one.settle()
    assert one.told.back == [("c", 312, "NO_ROUTE")]
    assert one.told.taken == ["c"]
    one.broker.rejects = lambda message: True
    one.send("d", exchange="orders")
    one.settle()
    assert one.told.untaken == ["d"]


def test_the_channel_apart_is_closed_for_nothing() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("a", "b", "c")
    one.send("a", "b", "c", exchange="orders")
    one.settle()
    one.broker.answers = False
    one.send("d", "e", exchange="orders")
    one.send("f")
    one.settle()
    one.connection.apart.close(541, "INTERNAL_ERROR", 0)
    one.settle()
    assert [message.body for message in one.connection.apart.waiting.values()] == [b"d"]
    one.broker.answers = True
    one.broker.says_all()
    assert one.told.taken == ["f", "d", "e"]
    one.broker.answers = False
    one.send("g", exchange="orders")
    one.settle()
    for _ in range(4):
        one.connection.apart.close(541, "INTERNAL_ERROR", 0)
        one.settle()
    assert one.told.left == ["g"]


def test_a_connection_that_ends_because_of_what_went_apart() -> None:
    one = Setting().connected()
    one.broker.dislikes = dislikes("a", "b", "c")
    one.send("a", "b", "c", exchange="orders")
    one.settle()
    one.broker.dislikes = dislikes("d", verdict=(-540, "NOT_IMPLEMENTED - immediate=true"))
    one.send("d", "e", exchange="orders")
    one.settle()
    assert one.told.bad[-1] == ("d", 540)
    assert one.told.left == ["e"]
    assert one.publisher.suspects == 0


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


@settings(max_examples=examples(80), deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 60), st.sampled_from([0.02, 0.2, 0.6]))
def test_any_mix_of_good_and_bad(seed: int, count: int, part: float) -> None:
    """Whatever a broker dislikes, by name or without one: those and only those are refused, order is kept, and what is
    taken twice was on its way at a close."""
    rng = random.Random(seed)
    one = Setting()
    one.broker.channels = rng.choice([1, 2, 2047])
    one.connected()
    verdicts: dict[bytes, tuple[int, str]] = {}
    wanted: dict[str, list[str]] = {"a": [], "b": [], "c": [], "": []}
    sent: list[str] = []
    one.broker.dislikes = lambda message: verdicts.get(message.body)
    for number in range(count):
        exchange = rng.choice(["a", "b", "c", ""])
        name = f"{exchange or 'q'}{number}"
        if rng.random() < part:
            named = 403, f"ACCESS_REFUSED - access to exchange '{exchange or 'amq.default'}' in vhost '/' refused"
            if exchange and rng.random() < 0.5:
                named = 404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"
            verdicts[name.encode()] = rng.choice([USER_ID, named])
        else:
            wanted[exchange].append(name)
        sent.append(name)
        one.send(name, exchange=exchange)
        if rng.random() < 0.2:
            one.settle()
        if rng.random() < 0.1:
            one.broker.answers = not one.broker.answers
    one.broker.answers = True
    one.broker.says_all()
    assert one.told.error is None
    assert {name.encode() for name, _ in one.told.bad} == set(verdicts)
    assert len(one.told.bad) == len(verdicts)
    for exchange, names in wanted.items():
        taken = [name for name in one.told.taken if name.startswith(exchange or "q")]
        assert (taken if exchange else sorted(taken)) == (names if exchange else sorted(names))
    assert one.publisher.unanswered == 0
