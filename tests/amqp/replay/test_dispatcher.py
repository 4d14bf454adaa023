from __future__ import annotations

import asyncio
import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.amqp.replay.prefetch import AHEAD
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.core.amqp_settings import Amqp, AmqpPublish, AmqpQueue
from support.examples import examples
from support.replaying import Setting, numbered

# -- the ordinary case -------------------------------------------------------------------------------------------------


def test_what_is_there_at_the_start_is_sent_in_order() -> None:
    one = Setting()
    one.spool.store(*[one.message(name) for name in numbered(700)])
    one.start()
    assert one.bodies() == numbered(700)
    assert one.empty()
    assert one.dispatcher.stats.replayed == 700
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
    assert (taken.exchange, taken.key, taken.bits) == ("orders", "eu.new", 1)
    assert taken.header == message.header
    assert taken.body == message.body


# -- turns and priority ------------------------------------------------------------------------------------------------


def test_no_more_than_the_window_is_unconfirmed() -> None:
    one = Setting(window=50)
    one.broker.answers = False
    one.spool.store(*[one.message(name) for name in numbered(400)])
    one.start()
    most = 0
    while not one.empty():
        most = max(most, one.dispatcher.unconfirmed)
        one.broker.says_all()
    assert most == 50
    assert one.bodies() == numbered(400)


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
    assert one.scheduler.waiting() == [("queue tasks of /", 1)]
    gate.sampled(40, 1, one.loop.now, one.loop.now)
    one.advance(0.1)
    assert one.bodies() == numbered(60)
    gate.sampled(0, 1, one.loop.now + 1, one.loop.now + 1)
    one.advance(2)
    assert one.empty()


def test_an_alarm_that_others_have_heard_of() -> None:
    one = Setting()
    one.scheduler.alarm(True, one.loop.now)
    one.spool.store(*[one.message(name) for name in numbered(10)])
    one.start()
    one.advance(5)
    assert one.bodies() == []
    one.scheduler.alarm(False, one.loop.now)
    one.advance(0.1)
    assert one.bodies() == numbered(10)
    assert one.empty()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_the_end_waits_for_confirms() -> None:
    async def scenario() -> None:
        one = Setting(window=4)
        one.broker.answers = False
        one.spool.store(*[one.message(name) for name in numbered(10)])
        one.start()
        ending = asyncio.create_task(one.dispatcher.close())
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
        await one.dispatcher.close(0.01)
        assert one.spool.messages == 1

    asyncio.run(scenario())


# -- everything at once ------------------------------------------------------------------------------------------------


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 1 << 32))
@example(4229983051)  # one that is tried again is fetched once more meanwhile
def test_whatever_happens_nothing_is_lost_and_order_is_kept(seed: int) -> None:
    """Messages come, brokers come and go, refuse, return and reject: each message is delivered or a dead letter in the
    end, those of a key and priority are delivered in order, and twice at most what was on its way when a channel or a
    connection ended."""
    rng = random.Random(seed)
    one = Setting(window=rng.choice([1, 4, 32]), dead_after=rng.choice([0, 3]))
    one.dispatcher._prefetch.most = rng.choice([18, 40, AHEAD])
    one.dispatcher._streams.most = rng.choice([2, 1000])
    one.broker.exchanges = {"a", "b"}
    one.broker.heartbeat = 10
    orderly = rng.random() < 0.5
    known = rng.random() < 0.3
    one.users = {"alice", "bob"} if known else set()
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
                one.dispatcher.broker_is_back()
        elif action < 0.75:
            flaky.clear()
            full = set(rng.sample("klm", rng.randrange(3))) if not orderly else set()
        elif action < 0.8:
            one.broker.exchanges = {"a", "b"} | ({"c"} if rng.random() < 0.5 else set())
        elif action < 0.85 and not known:
            one.users = set(rng.sample(["alice", "bob"], rng.randrange(3)))
            one.dispatcher.logins_changed()
        elif action < 0.9:
            one.scheduler.alarm(rng.random() < 0.5, one.loop.now)
        for connection in one.broker.open:
            if connection.waiting and rng.random() < 0.5:
                number = rng.choice(sorted(connection.waiting))
                connection.answer(number, rng.random() < 0.5, orderly or rng.random() < 0.9)
        one.loop.settle()
        one.spool.work()
        assert one.dispatcher._prefetch.ahead <= AHEAD
        one.advance(rng.choice([0.0, 0.01, 0.5, 3.0]))
    flaky.clear()
    full.clear()
    one.spool.slow = False
    one.spool.work()
    one.users = {"alice", "bob"}
    one.broker.away = False
    one.broker.answers = True
    one.scheduler.alarm(False, one.loop.now)
    one.broker.says_all()
    one.advance(400)
    assert one.empty(), (one.spool.streams, one.dispatcher.problems)
    dead = {message.body for message, _, _ in one.spool.dead_letters}
    taken = one.broker.bodies()
    assert {message.body for message in sent} == dead | set(taken)
    window = one.dispatcher._window
    assert len(taken) - len(set(taken)) <= one.broker.ends * 3 * window + one.dispatcher.stats.nacked
    if orderly:
        lanes: dict[tuple[str, int, str], list[int]] = {}
        place = {body: number for number, body in reversed(list(enumerate(taken)))}
        for message in sent:
            if message.body not in dead:
                lane = message.exchange, message.priority, "" if known else message.user
                lanes.setdefault(lane, []).append(place[message.body])
        for places in lanes.values():
            assert places == sorted(places)
    assert sorted(number for number, _ in one.settled) == list(range(1, len(sent) + 1))
    assert one.dispatcher.stats.replayed + sum(one.dispatcher.stats.dead.values()) == len(sent)
