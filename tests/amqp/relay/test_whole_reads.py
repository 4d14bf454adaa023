"""Readings that are one run and pass as that, beside frames that are looked at one by one: which do, and that all say,
count and remember the same."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.relay import forward
from sidecar.amqp.relay.session import Session
from sidecar.core.amqp_settings import AmqpPublish
from support.amqp import (
    HEARTBEAT,
    Peer,
    Stage,
    ack,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    consume,
    consume_ok,
    cut,
    deliver,
    frame,
    header,
    headers,
    nack,
    publish,
    qos,
    qos_ok,
    queue_purge,
    short,
)
from support.examples import examples
from support.kept import KeptStage
from support.scanner.build import AMQP, extension
from support.scanner.runs_by import found_by


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return extension(folder=AMQP, name="runs")


# -- publishes and confirms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (publish(1, "k") * 3, True),
        (publish(1, "k", properties=headers(traceparent="00-" + "1" * 52)) * 3, True),
        (publish(1, "k", properties=headers(traceparent="00-" + "1" * 52)) + publish(1, "k"), False),
        (publish(1, "k", properties=headers(a=headers(traceparent="00-" + "1" * 52))), False),
        (publish(1, "k", properties=headers(b3="0")), False),
        (publish(1, "k") + publish(1, "l"), False),
        (publish(2, "k"), False),
        (publish(1, "k", exchange="slow") * 3, False),
        (publish(1, "k", b"x" * 3000), False),
        (deliver(1, "c", 1), False),
        (HEARTBEAT, False),
        (publish(1, "k")[:-1], False),
    ],
)
def test_what_is_one_run_and_may_pass_is_taken_at_once(module: ModuleType, said: bytes, taken: bool) -> None:
    with found_by(module):
        stage = Stage(publish=(AmqpPublish(exchange="slow", rate=2.0, burst=2),), max_message_size=2000)
        client, broker = stage.open(1, confirms=True)
        client.says(publish(1, "k"))  # from now on there are random bytes for traces
        assert broker.heard()
        (session,) = stage.listener.sessions
        assert forward.pass_to_broker(session, said) == taken
        assert bool(broker.heard()) == taken
        stage.over()


def test_publishes_that_have_a_trace_pass_as_they_are(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker = stage.open(1, confirms=True)
        said = publish(1, "k", b"x", properties=headers(a=1, traceparent="00-" + "1" * 52)) * 5
        client.says(said)
        broker.gets(said)
        client.says(publish(1, "k") * 3)
        assert broker.heard().count(b"traceparent") == 3
        stage.over()


def test_nothing_is_taken_at_once_between_a_publish_and_its_rest(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker = stage.open(1, 2)
        whole = publish(1, "k", b"hello")
        client.says(whole[:-1])
        (session,) = stage.listener.sessions
        assert not forward.pass_to_broker(session, publish(1, "k"))
        client.says(whole[-1:] + publish(2, "k")[:25])
        broker.gets(whole)
        client.says(publish(2, "k")[25:] + publish(1, "k"))
        broker.gets(publish(2, "k"), publish(1, "k"))
        stage.over()


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (ack(1, 1), True),
        (ack(1, 3, True), True),
        (ack(1, 2), True),
        (ack(1, 2) + ack(1, 3), True),
        (ack(1, 2) + ack(1, 3, True), True),
        (ack(1, 9), True),
        (ack(1, 9, True), False),
        (ack(1, 0, True), False),
        (ack(2, 1), False),
        (nack(1, 1), False),
        (HEARTBEAT, False),
    ],
)
def test_confirms_that_may_pass_are_taken_at_once(module: ModuleType, said: bytes, taken: bool) -> None:
    with found_by(module):
        stage = Stage()
        client, _ = stage.open(1, confirms=True)
        client.says(publish(1, "k") * 5)
        (session,) = stage.listener.sessions
        assert session.broker is not None
        assert forward.pass_to_client(session, session.broker, said) == taken
        assert client.heard() == (said if taken else b"")
        stage.over()


# -- deliveries and acks ----------------------------------------------------------------------------------------------


def consuming(stage: Stage, got: int = 0) -> tuple[Peer, Peer, Session]:
    """A client with the consumers "c" and, without acks, "n" on channel 1, which has got so many deliveries."""
    client, broker = stage.open(1)
    client.says(qos(1, 9))
    broker.says(qos_ok(1))
    stage.consumer(client, broker, 1, "c")
    stage.consumer(client, broker, 1, "n", no_ack=True)
    for tag in range(1, got + 1):
        broker.says(deliver(1, "c", tag, b"x"))
    client.heard()
    (session,) = stage.listener.sessions
    return client, broker, session


def deliveries(first: int, last: int, consumer: str = "c") -> bytes:
    return b"".join([deliver(1, consumer, tag, b"x") for tag in range(first, last + 1)])


@pytest.mark.parametrize(
    ("said", "taken", "unacked"),
    [
        (deliveries(1, 1), True, 1),
        (deliveries(1, 4), True, 4),
        (deliveries(1, 4, "n"), True, 0),
        (deliveries(1, 2) + deliveries(3, 3, "n"), False, 0),
        (deliveries(1, 2) + deliveries(4, 4), False, 0),
        (deliveries(1, 2) + ack(1, 1), False, 0),
        (deliver(2, "c", 1), False, 0),
        (deliver(1, "c", 1) + frame(3, 1, b""), False, 0),
        (deliver(1, "c", 1)[:-1], False, 0),
    ],
)
def test_deliveries_that_may_pass_are_taken_at_once(module: ModuleType, said: bytes, taken: bool, unacked: int) -> None:
    with found_by(module):
        stage = Stage()
        client, _, session = consuming(stage)
        assert session.broker is not None
        assert forward.pass_to_client(session, session.broker, said) == taken
        assert client.heard() == (said if taken else b"")
        assert stage.stats.unacked == session.channels[1].unacked.count == unacked
        stage.over()


@pytest.mark.parametrize(
    ("said", "taken", "unacked"),
    [
        (ack(1, 1), True, 4),
        (ack(1, 3), True, 4),
        (ack(1, 1) + ack(1, 2), True, 3),
        (ack(1, 2) + ack(1, 3), True, 3),
        (ack(1, 3, True), True, 2),
        (ack(1, 2) + ack(1, 4, True) + ack(1, 5), True, 0),
        (ack(1, 9), True, 5),
        (ack(1, 9, True), True, 0),
        (ack(1, 0, True), False, 5),
        (ack(2, 1), False, 5),
        (nack(1, 1), False, 5),
        (ack(1, 1)[:-1], False, 5),
    ],
)
def test_acks_that_may_pass_are_taken_at_once(module: ModuleType, said: bytes, taken: bool, unacked: int) -> None:
    with found_by(module):
        stage = Stage()
        _, broker, session = consuming(stage, 5)
        before = session.touched
        stage.advance(1)
        assert forward.pass_to_broker(session, said) == taken
        assert session.touched == (stage.loop.now if taken else before)
        assert broker.heard() == (said if taken else b"")
        assert stage.stats.unacked == session.channels[1].unacked.count == unacked
        stage.over()


def _paused(stage: Stage, client: Peer, broker: Peer) -> None:
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 3))


def _partly_there(stage: Stage, client: Peer, broker: Peer) -> None:
    broker.says(deliver(1, "c", 3, b"hello")[:-1])


def _content_missing(stage: Stage, client: Peer, broker: Peer) -> None:
    broker.says(cut(deliver(1, "c", 3, b"hello"))[0])


def _leaving(stage: Stage, client: Peer, broker: Peer) -> None:
    client.says(channel_close(1))


def _publishing(stage: Stage, client: Peer, broker: Peer) -> None:
    client.says(cut(publish(1, "k"))[0])


def _in_a_frame_of_the_broker(stage: Stage, client: Peer, broker: Peer) -> None:
    broker.says(deliver(1, "c", 3)[:9])


def _in_a_frame_of_the_client(stage: Stage, client: Peer, broker: Peer) -> None:
    client.says(ack(1, 2)[:9])


def _waiting(stage: Stage, client: Peer, broker: Peer) -> None:
    """Behind a publish that is held."""
    client.says(publish(1, "k", exchange="slow") * 3 + queue_purge(1, "q"))


def _going(stage: Stage, client: Peer, broker: Peer) -> None:
    """It has said so, and a publish of it is held."""
    client.says(publish(1, "k", exchange="slow") * 3 + close())


def _thrown_out(stage: Stage, client: Peer, broker: Peer) -> None:
    client.says(header(1, 0))


def _thrown_out_and_held(stage: Stage, client: Peer, broker: Peer) -> None:
    """A publish of it is, so that the broker still is there."""
    client.says(publish(1, "k", exchange="slow") * 3 + header(1, 0))


def _refused(stage: Stage, client: Peer, broker: Peer) -> None:
    """The channel was closed for the client and is open again, and the broker has not answered the close."""
    client.says(publish(1, "k", b"x" * 3000))
    client.says(channel_close_ok(1) + channel_open(1))


def _nothing(stage: Stage, client: Peer, broker: Peer) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "delivered", "acked", "acked_up_to"),
    [
        (_nothing, True, True, True),
        (_paused, False, True, False),
        (_partly_there, False, True, True),
        (_content_missing, False, True, True),
        (_leaving, False, True, True),
        (_publishing, True, False, False),
        (_in_a_frame_of_the_broker, False, True, True),
        (_in_a_frame_of_the_client, True, False, False),
        (_waiting, True, False, False),
        (_going, False, False, False),
        (_thrown_out, False, False, False),
        (_thrown_out_and_held, False, False, False),
        (_refused, False, True, True),
    ],
)
def test_what_is_there_already_decides(
    module: ModuleType,
    before: Callable[[Stage, Peer, Peer], None],
    delivered: bool,
    acked: bool,
    acked_up_to: bool,
) -> None:
    slow = AmqpPublish(exchange="slow", rate=1.0, burst=1)
    for said, taken in ((deliveries(4, 5), delivered), (ack(1, 1), acked), (ack(1, 9, True), acked_up_to)):
        with found_by(module):
            stage = Stage(publish=(slow,), max_message_size=2000)
            client, broker, session = consuming(stage, 2)
            before(stage, client, broker)
            assert session.broker is not None
            if said[10] == 60:
                assert forward.pass_to_client(session, session.broker, said) == taken
            else:
                assert forward.pass_to_broker(session, said) == taken
            stage.over()


def test_acks_up_to_a_paused_delivery_leave_that_alone(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage()
        client, broker, session = consuming(stage, 2)
        stage.listener.app_health(False)
        broker.says(deliver(1, "c", 3))
        client.says(ack(1, 3, True))
        broker.gets(ack(1, 1), ack(1, 2))
        stage.listener.app_health(True)
        client.gets(deliver(1, "c", 3))
        assert stage.stats.unacked == session.channels[1].unacked.count == 1
        stage.over()


def test_nothing_passes_in_the_middle_of_a_message_that_waits_for_its_rest(module: ModuleType) -> None:
    for said in (deliveries(2, 3), ack(1, 1)):
        with found_by(module):
            stage = KeptStage()
            client, broker, session = consuming(stage)
            broker.says(b"".join(cut(deliver(1, "c", 1, b"hello"))[:2]))
            client.gets_nothing()
            assert session.broker is not None
            assert not forward.pass_to_client(session, session.broker, said)
            stage.over()


def test_answers_to_requests_are_counted(module: ModuleType) -> None:
    with found_by(module):
        stage = KeptStage()
        client, broker = stage.open(1)
        client.says(consume(1, "amq.rabbitmq.reply-to", "r", no_ack=True))
        broker.says(consume_ok(1, "r"))
        client.says(publish(1, "k", properties=b"\x02\x00" + short("amq.rabbitmq.reply-to")))
        (session,) = stage.listener.sessions
        assert session.channels[1].asked == 1
        broker.says(deliver(1, "r", 1))
        assert session.channels[1].asked == 0
        stage.over()


def test_acks_and_deliveries_over_another_broker_have_its_numbers(module: ModuleType) -> None:
    with found_by(module):
        stage = KeptStage()
        client, broker, _ = consuming(stage, 2)
        broker.breaks()
        broker = stage.back(channel_open_ok(1), qos_ok(1), consume_ok(1, "c"), consume_ok(1, "n"))
        broker.heard()
        broker.says(deliveries(1, 2))
        client.gets(deliveries(3, 4))
        client.says(ack(1, 1) + ack(1, 2))
        broker.gets_nothing()
        client.says(ack(1, 3) + ack(1, 4))
        broker.gets(ack(1, 1), ack(1, 2))
        assert stage.stats.unacked == 0
        stage.over()


def test_deliveries_of_which_spans_are_wanted_are_looked_at(module: ModuleType) -> None:
    with found_by(module):
        stage = Stage(spans=True, sample=1.0)
        client, broker, _ = consuming(stage)
        trace = headers(traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
        broker.says(*(deliver(1, "c", tag, b"x", properties=trace) for tag in (1, 2, 3)))
        client.says(ack(1, 1))
        client.says(ack(1, 3, True))
        assert [span.kind for span in stage.spans] == ["consumer"] * 3
        assert stage.stats.unacked == 0
        stage.over()


#: What happens, and to how many.
_EVENTS = ["deliver", "deliver", "deliver", "ack", "ack", "up to", "all", "late", "twice", "nack", "silent", "mixed"]
_RARE = ["pause", "lost", "piece", "later", "never", "again", "none"]
EVENTS = st.lists(st.tuples(st.sampled_from([*_EVENTS, *_EVENTS, *_RARE]), st.integers(1, 5)), min_size=4, max_size=40)


class Consumption:
    """A client that is delivered to and acknowledges, each reading by itself; and what has been heard of it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.client, self.broker, self.session = consuming(stage)
        #: The broker's last tag; tags that the client has got, and not settled; whether it is paused; what was cut off.
        self.tag = 0
        self.got: list[int] = []
        self.paused = False
        self.rest = b""
        self.heard: list[object] = []

    def step(self, what: str, number: int) -> None:
        if what in ("deliver", "silent", "mixed", "piece", "again"):
            self._deliver(what, number)
        elif what == "pause":
            self.paused = not self.paused
            self.stage.listener.app_health(not self.paused)
        elif what == "lost":
            self._lose()
        elif what == "later":
            self.stage.advance(number / 8)
        elif what in ("never", "none"):
            self._settle_other(what, number)
        elif self.got or what == "all":
            self._settle(what, number)
        self.look()

    def _settle_other(self, what: str, number: int) -> None:
        """Tags that were never delivered, and the one that is none."""
        tags = range(self.tag + number, self.tag + 2 * number) if what == "never" else (0,)
        self.client.says(b"".join([ack(1, tag, what == "never" and number == 5) for tag in tags]))

    def _deliver(self, what: str, number: int) -> None:
        if what == "again":  # no broker does that
            self.tag = max(0, self.tag - number)
        first, self.tag = self.tag + 1, self.tag + number
        said = self.rest + deliveries(first, self.tag, "n" if what == "silent" else "c")
        self.rest = b""
        if what == "mixed":
            self.tag += 1
            said += deliver(1, "n", self.tag, b"yy") + HEARTBEAT
        if what == "piece":
            said, self.rest = said[: -7 * number], said[-7 * number :]
        self.broker.says(said)

    def _settle(self, what: str, number: int) -> None:
        if what == "all":
            self.client.says(ack(1, 0, True))
            self.got.clear()
            return
        if what == "twice":
            self.client.says(ack(1, self.got[0]) * 2)
            del self.got[0]
            return
        gone = self.got[-number:] if what == "late" else self.got[:number]
        self.got = [tag for tag in self.got if tag not in gone]
        if what == "up to":
            self.client.says(ack(1, gone[-1], True))
        else:
            self.client.says(b"".join([nack(1, tag) if what == "nack" else ack(1, tag) for tag in gone]))

    def _lose(self) -> None:
        """Another broker, which delivers anew; without a spool there is none."""
        if isinstance(self.stage, KeptStage):
            self.broker.breaks()
            answers = (channel_open_ok(1), qos_ok(1), consume_ok(1, "c"), consume_ok(1, "n"))
            self.broker = self.stage.back(*answers)
            self.tag, self.rest = 0, b""

    def look(self) -> None:
        said = self.client.heard()
        for each in cut(said):
            if each[:1] == b"\1" and each[7:11] == b"\0\x3c\0\x3c" and each[12:13] == b"c":
                self.got.append(int.from_bytes(each[13:21], "big"))
        counts = {**self.stage.counts(), "delivered": self.stage.stats.delivered}
        self.heard += [said, self.broker.heard(), counts, self.session.bytes_in, self.session.bytes_out]
        self.heard += [self.session.touched, self.broker.transport.gone, self.client.transport.gone]
        for channel in self.session.channels.values():
            self.heard += [channel.last_tag, channel.offset, channel.passing, channel.unacked.tags(0), channel.idle]


def consumed(events: list[tuple[str, int]], spool: bool, spans: bool) -> list[object]:
    settings: dict[str, Any] = {"spans": spans, "sample": 1.0}
    consumption = Consumption(KeptStage(**settings) if spool else Stage(**settings))
    for what, number in events:
        consumption.step(what, number)
        if consumption.client.transport.gone:
            break
    consumption.stage.over()
    return consumption.heard


@settings(max_examples=examples(300), deadline=None)
@given(EVENTS, st.booleans(), st.booleans())
def test_whole_readings_of_deliveries_and_acks_are_the_same(
    module: ModuleType, events: list[tuple[str, int]], spool: bool, spans: bool
) -> None:
    with found_by(None):
        one_by_one = consumed(events, spool, spans)
    with found_by(module):
        assert consumed(events, spool, spans) == one_by_one
