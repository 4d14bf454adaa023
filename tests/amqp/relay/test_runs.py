"""Runs that pass as one beside frames that are looked at one by one: all say, count and remember the same."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.publish import Publish
from sidecar.core.amqp_settings import AmqpHold, AmqpPublish, AmqpQueue
from support.amqp import (
    HEARTBEAT,
    UNBLOCKED,
    Stage,
    ack,
    blocked,
    channel_close,
    channel_close_ok,
    deliver,
    headers,
    nack,
    publish,
    recover,
    recover_ok,
    reject,
    returned,
)
from support.examples import examples
from support.scanner.build import AMQP, extension
from support.scanner.runs_by import found_by


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return extension(folder=AMQP, name="runs")


_COUNTERS = ["name", "published", "forwarded", "confirmed", "nacked", "nacked_here", "returned", "held", "dropped"]
#: What each says of what; messages that the broker numbers get their numbers as they are said.
_CLIENT = ["publish"] * 3 + ["key", "slow", "short", "traced", "large", "two", "ack", "all", "nack", "other"]
_BROKER = ["deliver", "deliver", "silent", "two", "confirm", "confirm", "up to", "refuse", "back", "other"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("client"), st.sampled_from(_CLIENT), st.integers(0, 12)),
        st.tuples(st.just("broker"), st.sampled_from(_BROKER), st.integers(0, 12)),
        st.tuples(st.just("read"), st.just(""), st.integers(0, 400)),
    ),
    min_size=4,
    max_size=40,
)


class Dialogue:
    """What both have said so far, and what has been heard of it."""

    def __init__(self, confirms: bool, hold: AmqpHold) -> None:
        self.stage = Stage(
            publish=(
                AmqpPublish(exchange="slow", rate=2.0, burst=5),
                AmqpPublish(exchange="short", rate=2.0, burst=5, over="nack"),
            ),
            queues=(AmqpQueue(name="k", high=10, low=2),),
            hold=hold,
            max_message_size=2000,
        )
        self.client, self.broker = self.stage.open(1, 2, confirms=confirms)
        self.stage.consumer(self.client, self.broker, 1, "c")
        self.stage.consumer(self.client, self.broker, 1, "d", no_ack=True)
        self.stage.consumer(self.client, self.broker, 2, "c")
        self.waiting = {"client": b"", "broker": b""}
        self.tags = {1: 0, 2: 0}
        self.settled = self.confirmed = 0
        self.heard: list[object] = []

    def say(self, who: str, what: str, number: int) -> None:
        said = self._client(what, number) if who == "client" else self._broker(what, number)
        self.waiting[who] += said

    def _client(self, what: str, number: int) -> bytes:
        if what in ("publish", "two"):
            return publish(1 if what == "publish" else 2, "k", b"x" * number, cut=5) * (number or 1)
        if what in ("slow", "short"):
            return publish(1, "k", b"x" * number, exchange=what) * number
        if what == "key":
            return publish(1, f"k{number}", b"", properties=headers(a="b")) * 2
        if what == "traced":
            return publish(1, "k", b"x", properties=headers(traceparent="00-" + "1" * 52))
        if what == "large":
            return publish(1, "k", b"x" * 160 * number) * 2
        if what == "ack":
            first, self.settled = self.settled + 1, self.settled + number
            return b"".join([ack(1, tag) for tag in range(first, self.settled + 1)])
        if what == "all":
            return ack(1, number and self.settled + number, True)
        if what == "nack":
            return nack(1, self.settled + number) + reject(2, number)
        return (HEARTBEAT, recover(1), ack(2, number), ack(9, number))[number % 4]

    def _broker(self, what: str, number: int) -> bytes:
        if what in ("deliver", "silent", "two"):
            channel = 2 if what == "two" else 1
            first, self.tags[channel] = self.tags[channel] + 1, self.tags[channel] + number
            tags = range(first, self.tags[channel] + 1)
            return b"".join([deliver(channel, "d" if what == "silent" else "c", tag, b"x" * number) for tag in tags])
        if what == "confirm":
            first, self.confirmed = self.confirmed + 1, self.confirmed + number
            return b"".join([ack(1, tag) for tag in range(first, self.confirmed + 1)])
        if what == "up to":
            self.confirmed += number
            return ack(1, self.confirmed, True)
        if what == "refuse":
            return nack(1, self.confirmed + number) + ack(2, number)
        if what == "back":
            return returned(1, "k") + recover_ok(1)
        return (HEARTBEAT, blocked("memory"), UNBLOCKED, ack(1, 0, True))[number % 4]

    def read(self, most: int) -> None:
        for who, peer in (("client", self.client), ("broker", self.broker)):
            data = self.waiting[who]
            if data and not peer.transport.gone:
                peer.says(data[: most or len(data)])
                self.waiting[who] = data[most or len(data) :]
        self.look()

    def look(self) -> None:
        exchanges = self.stage.stats.exchanges.values()
        self.heard += [self.client.heard(), self.broker.heard(), self.stage.counts(), self.stage.stats.delivered]
        self.heard += [[getattr(each, name) for name in _COUNTERS] for each in exchanges]
        for session in self.stage.listener.sessions:
            for channel in session.channels.values():
                confirms = channel.path.confirms
                self.heard += [channel.last_tag, channel.unacked.tags(0)]
                if confirms is not None:
                    self.heard += [confirms.same, [one.tag for one in confirms.left()]]


def told(steps: list[tuple[str, str, int]], confirms: bool, hold: AmqpHold, at_once: bool = False) -> list[object]:
    dialogue = Dialogue(confirms, hold)
    for who, what, number in steps:
        if who == "read":
            dialogue.read(number)
        else:
            dialogue.say(who, what, number)
            if at_once:
                dialogue.read(0)
    dialogue.read(0)
    dialogue.stage.advance(3)
    dialogue.look()
    dialogue.stage.over()
    return dialogue.heard


@settings(max_examples=examples(200), deadline=None)
@given(
    STEPS, st.booleans(), st.sampled_from([AmqpHold(), AmqpHold(messages=20, bytes=5000, timeout=2.0)]), st.booleans()
)
def test_all_is_the_same(
    module: ModuleType, steps: list[tuple[str, str, int]], confirms: bool, hold: AmqpHold, at_once: bool
) -> None:
    with found_by(None):
        one_by_one = told(steps, confirms, hold, at_once)
    with found_by(module):
        assert told(steps, confirms, hold, at_once) == one_by_one


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_long_dialogues_are_the_same(module: ModuleType, seed: int, at_once: bool) -> None:
    rng = random.Random(seed)
    steps = []
    for _ in range(120):
        who = rng.choice(("client", "broker", "read"))
        what = rng.choice({"client": _CLIENT[: 4 + seed], "broker": _BROKER[: 5 + seed], "read": [""]}[who])
        steps.append((who, what, rng.randrange(0, 13)))
    hold = AmqpHold(messages=20, bytes=5000)
    with found_by(None):
        one_by_one = told(steps, True, hold, at_once)
    with found_by(module):
        assert told(steps, True, hold, at_once) == one_by_one


def test_a_run_is_one_publish_to_remember(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker = stage.open(1, confirms=True)
        client.says(publish(1, "k") * 50)
        (session,) = stage.listener.sessions
        confirms = session.channels[1].path.confirms
        assert confirms is not None
        assert (confirms.unanswered, len(confirms.take(0, True))) == (50, 1)
        broker.gets(publish(1, "k") * 50)
        stage.over()


def test_runs_of_one_moment_are_remembered_as_one(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker = stage.open(1, confirms=True)
        (session,) = stage.listener.sessions
        confirms = session.channels[1].path.confirms
        assert confirms is not None
        client.says(publish(1, "k") * 3)
        client.says(publish(1, "k") * 2)
        client.says(publish(1, "l") * 2)
        stage.advance(1)
        client.says(publish(1, "l") * 2)
        broker.says(ack(1, 4, True))
        client.gets(ack(1, 4, True))
        assert [(first, last) for first, last, _ in confirms.take(0, True)] == [(5, 5), (6, 7), (8, 9)]
        stage.over()


def test_another_limit_counts_from_the_next_reading_on(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker = stage.open(1)
        for _ in range(3):
            client.says(publish(1, "k") * 4)
            assert broker.heard().count(b"traceparent") == 4
        slow = AmqpPublish(exchange="*", rate=1.0, burst=1)
        stage.listener.configure(replace(stage.config, publish=(slow,)), None)
        client.says(publish(1, "k") * 4)
        assert broker.heard().count(b"traceparent") == 1
        stage.over()


def test_a_channel_that_is_closed_leaves_no_publish_behind(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker = stage.open(1, 2, confirms=True)
        for number in (1, 2):
            client.says(publish(number, "k"))
            client.says(publish(number, "k"))
        broker.says(ack(1, 2, True))
        gc.collect()
        gc.disable()
        try:
            for number in (1, 2):
                client.says(channel_close(number))
                broker.says(channel_close_ok(number))
            assert not [one for one in gc.get_objects() if isinstance(one, Publish)]
        finally:
            gc.enable()
        stage.over()


def test_a_refusal_in_the_middle_of_a_run_is_of_that_one(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker = stage.open(1, confirms=True)
        client.says(publish(1, "k") * 5)
        broker.says(nack(1, 3), ack(1, 1), ack(1, 2))
        client.gets(nack(1, 3), ack(1, 1), ack(1, 2))
        broker.says(ack(1, 5, True))
        client.gets(ack(1, 5, True))
        (exchange,) = stage.stats.exchanges.values()
        assert (exchange.published, exchange.confirmed, exchange.nacked) == (5, 4, 1)
        stage.over()


def test_every_message_of_a_run_has_a_trace_of_its_own(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage(sample=1.0)
        client, broker = stage.open(1)
        client.says(publish(1, "k") * 300)
        pieces = broker.heard().split(b"\x0btraceparentS\x00\x00\x00\x37")[1:]
        assert len({piece[3:35] for piece in pieces}) == len(pieces) == 300
        assert {(piece[:3], piece[35:36], piece[52:55]) for piece in pieces} == {(b"00-", b"-", b"-01")}
        stage.over()
