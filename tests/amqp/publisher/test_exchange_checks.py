from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.examples import examples
from support.publishing import Setting, dislikes, numbered


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


@settings(max_examples=examples(80), deadline=None)
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
