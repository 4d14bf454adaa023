"""A broker connection is replaced, and everything on it set up anew."""

from __future__ import annotations

from struct import pack

import pytest

from sidecar.amqp.failover.broker_stub import BrokerStub
from sidecar.amqp.topology.broker_catalog import BrokerCatalog
from sidecar.amqp.topology.client_state import ClientState
from sidecar.amqp.topology.recovery import TopologyRecovery, Unrecoverable
from sidecar.amqp.wire.constants import (
    BASIC_CANCEL,
    BASIC_CONSUME,
    BASIC_CONSUME_OK,
    BASIC_DELIVER,
    BASIC_QOS,
    BASIC_QOS_OK,
    CHANNEL_CLOSE_OK,
    CHANNEL_OPEN,
    CHANNEL_OPEN_OK,
    CONFIRM_SELECT,
    CONFIRM_SELECT_OK,
    CONNECTION_FORCED,
    EXCHANGE_DECLARE,
    QUEUE_BIND,
    QUEUE_DECLARE,
    QUEUE_DECLARE_OK,
    TX_SELECT,
)
from sidecar.amqp.wire.methods import basic_qos, channel_close, method, short
from sidecar.amqp.wire.rpc import EXCHANGE_DECLARE_OK, QUEUE_BIND_OK, methods_in

NONE = b"\0\0\0\0"


def open_(number: int) -> bytes:
    return method(number, CHANNEL_OPEN, b"\0")


def declare(name: str, bits: int = 2, number: int = 1) -> bytes:
    return method(number, QUEUE_DECLARE, b"\0\0" + short(name) + bytes((bits,)) + NONE)


def exchange(name: str, number: int = 1) -> bytes:
    return method(number, EXCHANGE_DECLARE, b"\0\0" + short(name) + short("topic") + b"\0" + NONE)


def bind(queue: str, source: str, number: int = 1) -> bytes:
    return method(number, QUEUE_BIND, b"\0\0" + short(queue) + short(source) + short("k") + b"\0" + NONE)


def consume(queue: str, tag: str, bits: int = 0, number: int = 1) -> bytes:
    return method(number, BASIC_CONSUME, b"\0\0" + short(queue) + short(tag) + bytes((bits,)) + NONE)


def a_setup(*frames: bytes) -> ClientState:
    """What these set up, channel 1 being open."""
    client_state = ClientState(BrokerCatalog(), "/")
    for frame in (open_(1), *frames):
        found = int.from_bytes(frame[7:11], "big")
        if found == CHANNEL_OPEN:
            client_state.open(frame[1] << 8 | frame[2])
        client_state.done(frame[1] << 8 | frame[2], found, frame, b"")
    return client_state


class Broker:
    """It answers everything that it is told."""

    def __init__(self, recovery: TopologyRecovery) -> None:
        self.recovery = recovery
        self.told: list[bytes] = []
        self._said: list[tuple[int, int, bytes]] = []
        self.told_all(recovery.begin())

    def told_all(self, data: bytes) -> None:
        for number, found, start, end in methods_in(data):
            self.told.append(data[start:end])
            answer = {QUEUE_DECLARE: QUEUE_DECLARE_OK, 0x00140028: CHANNEL_CLOSE_OK}.get(found, found + 1)
            self._said.append((number, answer, b""))

    def done(self) -> bool:
        return self.recovery.done

    def answers(self, count: int = 1000) -> None:
        while self._said and count:
            count -= 1
            number, found, arguments = self._said.pop(0)
            answer = self.says(found, arguments, number)
            assert answer is not None
            self.told_all(answer)

    def says(self, found: int, arguments: bytes = b"", number: int = 1) -> bytes | None:
        frame = method(number, found, arguments)
        return self.recovery.said(number, found, frame, 0, len(frame))


def test_everything_is_said_again() -> None:
    client_state = a_setup(
        exchange("e"), declare("q", 4), bind("q", "e"), method(1, CONFIRM_SELECT, b"\0"), consume("q", "c1", 2),
        basic_qos(1, 10), consume("q", "c2", 8), method(1, BASIC_QOS, pack(">IHB", 0, 50, 1)), consume("q", "c3"),
        basic_qos(1, 20), method(1, BASIC_QOS, pack(">IHB", 0, 60, 1)), open_(2), open_(3), basic_qos(3, 5),
        consume("amq.rabbitmq.reply-to", "r", 2, 3),
    )  # fmt: skip
    recovery = TopologyRecovery(client_state, 2047)
    broker = Broker(recovery)
    declared = [open_(4), exchange("e", 4), declare("q", 4, 4), bind("q", "e", 4)]
    assert broker.told == declared
    assert client_state.recovering
    broker.answers(3)
    assert broker.told == declared
    broker.answers(1)
    assert broker.told == [*declared, channel_close(4, 200, "")]
    broker.told.clear()
    broker.answers(1)
    shared = method(1, BASIC_QOS, pack(">IHB", 0, 60, 1))
    assert broker.told == [
        open_(1), method(1, CONFIRM_SELECT, b"\0"), shared,
        consume("q", "c1", 2), basic_qos(1, 10), shared, consume("q", "c2"), consume("q", "c3"),
        basic_qos(1, 20), shared,
        open_(2),
        open_(3), basic_qos(3, 5), consume("amq.rabbitmq.reply-to", "r", 2, 3),
    ]  # fmt: skip
    assert not broker.done()
    broker.answers(13)
    assert not broker.done()
    broker.answers(1)
    assert broker.done()
    assert broker.says(BASIC_QOS_OK) is None, "from now on answers are for the client"


def test_nothing_declared_needs_no_channel_of_our_own() -> None:
    broker = Broker(TopologyRecovery(a_setup(), 1))
    assert broker.told == [open_(1)]
    broker.answers()
    assert broker.done()


def test_nothing_at_all_is_done_at_once() -> None:
    recovery = TopologyRecovery(ClientState(BrokerCatalog(), "/"), 0)
    assert recovery.begin() == b""
    assert recovery.done


def test_a_limit_that_is_no_more_is_taken_back() -> None:
    client_state = a_setup(basic_qos(1, 5), consume("q", "c1"), basic_qos(1, 0), consume("q", "c2"))
    broker = Broker(TopologyRecovery(client_state, 0))
    assert broker.told[1:] == [basic_qos(1, 5), consume("q", "c1"), basic_qos(1, 0), consume("q", "c2")]


def test_deliveries_and_what_else_the_broker_says_of_itself_are_for_the_client() -> None:
    broker = Broker(TopologyRecovery(a_setup(consume("q", "c")), 0))
    assert broker.says(CHANNEL_OPEN_OK, NONE) == b""
    assert broker.says(BASIC_DELIVER, b"") is None
    assert broker.says(BASIC_CANCEL, short("c") + b"\1") is None
    assert not broker.done()
    assert broker.says(BASIC_CONSUME_OK, short("c")) == b""
    assert broker.done()


@pytest.mark.parametrize(("code", "passing"), [(404, True), (405, True), (406, False), (403, False)])
@pytest.mark.parametrize("phase", [0, 1])
def test_what_the_broker_refuses(code: int, passing: bool, phase: int) -> None:
    client_state = a_setup(declare("q"), consume("q", "c"))
    recovery = TopologyRecovery(client_state, 0)
    broker = Broker(recovery)
    number = 2
    if phase:
        broker.answers(3)
        number = 1
    with pytest.raises(Unrecoverable, match="refused now: NO - WAY") as caught:
        broker.says(0x00140028, pack(">H", code) + short("NO - WAY") + bytes(4), number)
    assert caught.value.code == CONNECTION_FORCED
    assert caught.value.passing is passing
    assert caught.value.channel == 0


def test_what_cannot_be_had_again() -> None:
    unnamed = a_setup()
    answer = method(1, QUEUE_DECLARE_OK, short("amq.gen-1") + bytes(8))
    unnamed.done(1, QUEUE_DECLARE, declare("", 4), answer)
    setups = {
        "amq.gen-1": (unnamed, 0),
        "transaction": (a_setup(method(1, TX_SELECT)), 0),
        "does not allow as many channels": (a_setup(open_(2)), 1),
    }
    for reason, (client_state, channel_max) in setups.items():
        with pytest.raises(Unrecoverable, match=reason) as caught:
            TopologyRecovery(client_state, channel_max).begin()
        assert not caught.value.passing


def test_where_all_channels_are_the_clients_one_of_them_is_lent_for_declarations() -> None:
    broker = Broker(TopologyRecovery(a_setup(declare("q")), 1))
    broker.answers()
    assert broker.told == [open_(1), declare("q"), channel_close(1, 200, ""), open_(1)]
    assert broker.done()


def test_a_durable_queue_that_the_broker_named_is_still_there() -> None:
    client_state = a_setup()
    client_state.done(1, QUEUE_DECLARE, declare(""), method(1, QUEUE_DECLARE_OK, short("amq.gen-1") + bytes(8)))
    client_state.done(1, QUEUE_BIND, bind("", "e"), b"")
    broker = Broker(TopologyRecovery(client_state, 0))
    assert broker.told == [open_(2), bind("amq.gen-1", "e", 2)]


def test_what_the_stand_in_has_answered_is_said_to_the_broker() -> None:
    catalog = BrokerCatalog()
    client_state = ClientState(catalog, "/")
    standin = BrokerStub(client_state, catalog, "/")
    asked = open_(1) + declare("mine", 4) + method(1, CONFIRM_SELECT, b"\1") + basic_qos(1, 9) + consume("mine", "c")
    assert standin.takes(asked, 0.0)
    broker = Broker(TopologyRecovery(client_state, 0))
    broker.answers(2)
    broker.told.clear()
    broker.answers(1)
    assert broker.told == [open_(1), method(1, CONFIRM_SELECT, b"\0"), basic_qos(1, 9), consume("mine", "c")]
    assert standin.takes(declare("more", 4), 1.0) == b""
    broker.answers()
    assert broker.done()
    assert standin.back() == declare("more", 4)


def test_answers_have_the_numbers_of_the_specification() -> None:
    assert (EXCHANGE_DECLARE_OK, QUEUE_BIND_OK, CONFIRM_SELECT_OK) == (
        EXCHANGE_DECLARE + 1,
        QUEUE_BIND + 1,
        CONFIRM_SELECT + 1,
    )
