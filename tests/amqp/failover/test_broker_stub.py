"""What a session is answered while there is no broker."""

from __future__ import annotations

from math import inf
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.failover import broker_stub
from sidecar.amqp.topology import declarations
from sidecar.amqp.topology.broker_catalog import BrokerCatalog
from sidecar.amqp.topology.client_state import ClientState
from sidecar.amqp.wire.constants import (
    BASIC_CANCEL_OK,
    BASIC_CONSUME,
    BASIC_CONSUME_OK,
    BASIC_GET,
    BASIC_GET_EMPTY,
    BASIC_QOS_OK,
    BASIC_RECOVER,
    BASIC_RECOVER_ASYNC,
    BASIC_RECOVER_OK,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CHANNEL_FLOW,
    CHANNEL_FLOW_OK,
    CHANNEL_OPEN,
    CHANNEL_OPEN_OK,
    CONFIRM_SELECT,
    CONFIRM_SELECT_OK,
    CONNECTION_FORCED,
    EXCHANGE_BIND,
    EXCHANGE_DECLARE,
    EXCHANGE_DELETE,
    PRECONDITION_FAILED,
    QUEUE_BIND,
    QUEUE_DECLARE,
    QUEUE_DECLARE_OK,
    QUEUE_DELETE,
    QUEUE_PURGE,
    QUEUE_UNBIND,
    RESOURCE_ERROR,
    TX_COMMIT,
    TX_ROLLBACK,
    TX_SELECT,
    AmqpError,
)
from sidecar.amqp.wire.methods import (
    Arguments,
    basic_ack,
    basic_cancel,
    basic_nack,
    basic_qos,
    channel_close,
    method,
    short,
)
from sidecar.amqp.wire.rpc import ANSWERS, EXCHANGE_DECLARE_OK, QUEUE_BIND_OK, methods_in
from sidecar.amqp.wire.tables import encode_table
from support.examples import examples

NO_TABLE = b"\0\0\0\0"
OPEN = method(1, CHANNEL_OPEN, b"\0")


def queue_declare(name: str, bits: int = 2, channel: int = 1, table: bytes = NO_TABLE) -> bytes:
    return method(channel, QUEUE_DECLARE, b"\0\0" + short(name) + bytes((bits,)) + table)


def exchange_declare(name: str, kind: str = "topic", bits: int = 2, channel: int = 1) -> bytes:
    return method(channel, EXCHANGE_DECLARE, b"\0\0" + short(name) + short(kind) + bytes((bits,)) + NO_TABLE)


def queue_bind(queue: str, exchange: str, key: str, bits: int = 0, channel: int = 1) -> bytes:
    arguments = b"\0\0" + short(queue) + short(exchange) + short(key) + bytes((bits,)) + NO_TABLE
    return method(channel, QUEUE_BIND, arguments)


def consume(queue: str, tag: str = "", bits: int = 0, channel: int = 1) -> bytes:
    return method(channel, BASIC_CONSUME, b"\0\0" + short(queue) + short(tag) + bytes((bits,)) + NO_TABLE)


def teach(catalog: BrokerCatalog, *frames: bytes, vhost: str = "/") -> None:
    for frame in frames:
        catalog.learn(vhost, declarations.read(int.from_bytes(frame[7:11], "big"), frame, 0, len(frame))[0])


class Away:
    """A session without a broker."""

    def __init__(self, *catalog: bytes, patience: float = 30.0) -> None:
        self.catalog = BrokerCatalog()
        teach(self.catalog, *catalog)
        self.client_state = ClientState(self.catalog, "/")
        self.standin = broker_stub.BrokerStub(
            self.client_state, self.catalog, "/", patience, lambda: "amq.ctag-made-up"
        )
        assert self.asks(OPEN) == [CHANNEL_OPEN_OK]

    def asks(self, *frames: bytes, now: float = 0.0) -> list[int]:
        """The methods of the answer."""
        return [found for _, found, _, _ in methods_in(self.standin.takes(b"".join(frames), now))]


def test_what_needs_no_broker_is_answered() -> None:
    away = Away()
    assert away.asks(method(1, CONFIRM_SELECT, b"\0")) == [CONFIRM_SELECT_OK]
    assert away.asks(basic_qos(1, 10)) == [BASIC_QOS_OK]
    assert away.asks(method(1, BASIC_GET, b"\0\0" + short("q") + b"\0")) == [BASIC_GET_EMPTY]
    assert away.asks(method(1, BASIC_RECOVER, b"\1")) == [BASIC_RECOVER_OK]
    assert away.asks(method(1, CHANNEL_FLOW, b"\1")) == [CHANNEL_FLOW_OK]
    assert away.asks(channel_close(1, 200, "")) == [CHANNEL_CLOSE_OK]
    assert away.standin.due == inf


def test_what_wants_no_answer_gets_none() -> None:
    away = Away(queue_declare("q"))
    no_wait = (
        method(1, CONFIRM_SELECT, b"\1"),
        queue_declare("q", 2 | 16),
        consume("q", "c", 8),
        basic_cancel(1, b"c"),
        basic_ack(1, 7, True),
        basic_nack(1, 7, False, True),
        method(1, BASIC_RECOVER_ASYNC, b"\1"),
    )
    assert away.asks(*no_wait) == []
    assert away.standin.due == inf
    assert away.client_state.channels[1].confirm


def test_declarations_that_are_known_are_answered_and_remembered() -> None:
    table = encode_table({"x-max-length": 5, "x-queue-type": "quorum"})
    other_order = encode_table({"x-queue-type": "quorum"})[4:] + b"\x0cx-max-lengthl" + pack(">q", 5)
    other_order = pack(">I", len(other_order)) + other_order
    away = Away(
        exchange_declare("e"),
        queue_declare("q", table=table),
        queue_bind("q", "e", "k"),
        exchange_declare("f", "fanout"),
    )
    assert away.asks(exchange_declare("e"), queue_declare("q", table=other_order), queue_bind("q", "e", "k")) == [
        EXCHANGE_DECLARE_OK,
        QUEUE_DECLARE_OK,
        QUEUE_BIND_OK,
    ]
    assert away.asks(exchange_declare("f", "", 1), queue_declare("q", 1), exchange_declare("amq.topic", "", 1)) == [
        EXCHANGE_DECLARE_OK,
        QUEUE_DECLARE_OK,
        EXCHANGE_DECLARE_OK,
    ]
    assert [declaration.method for declaration in away.client_state.declared.values()] == [
        EXCHANGE_DECLARE,
        QUEUE_DECLARE,
        QUEUE_BIND,
    ]


def test_a_client_may_make_queues_for_itself() -> None:
    away = Away(exchange_declare("e"), queue_declare("shared", 8))
    assert away.asks(
        queue_declare("mine", 4),
        queue_bind("mine", "e", "k"),
        queue_bind("mine", "amq.fanout", ""),
        queue_declare("mine", 1),
        queue_declare("replies", 8),
        consume("replies", "c"),
    ) == [QUEUE_DECLARE_OK, QUEUE_BIND_OK, QUEUE_BIND_OK, QUEUE_DECLARE_OK, QUEUE_DECLARE_OK, BASIC_CONSUME_OK]
    for refused in (
        queue_bind("mine", "unknown", "k"),
        queue_bind("shared", "e", "k"),
        queue_declare("shared", 4),
        queue_declare("amq.gen-x", 4),
    ):
        assert away.asks(method(2, CHANNEL_OPEN, b"\0"), refused[:1] + b"\0\2" + refused[3:]) == [CHANNEL_OPEN_OK]
        assert away.standin.waits(2)
        assert away.asks(channel_close(2, 200, "")) == [CHANNEL_CLOSE_OK]


def test_a_queue_is_answered_with_its_name_and_no_counts() -> None:
    away = Away(queue_declare("orders"))
    answer = away.standin.takes(queue_declare("orders"), 0.0)
    assert answer == method(1, QUEUE_DECLARE_OK, short("orders") + bytes(8))


def test_an_empty_queue_name_means_the_last_one() -> None:
    away = Away(queue_declare("orders"), queue_bind("orders", "amq.topic", "orders"))
    assert away.asks(queue_declare("orders"), queue_bind("", "amq.topic", ""), consume("", "c")) == [
        QUEUE_DECLARE_OK,
        QUEUE_BIND_OK,
        BASIC_CONSUME_OK,
    ]
    assert away.client_state.channels[1].consumers[b"c"].queue == "orders"


@pytest.mark.parametrize(
    "frame",
    [
        queue_declare("other"),
        queue_declare("q", 0),
        queue_declare("q", 2, table=encode_table({"x-max-length": 6})),
        queue_declare(""),
        queue_declare("other", 1),
        queue_declare("other", 2 | 16),
        exchange_declare("other"),
        exchange_declare("e", "direct"),
        exchange_declare("other", "", 1),
        queue_bind("q", "e", "other"),
        method(1, EXCHANGE_BIND, b"\0\0" + short("e") + short("amq.topic") + short("k") + b"\0" + NO_TABLE),
        method(1, QUEUE_UNBIND, b"\0\0" + short("q") + short("e") + short("k") + NO_TABLE),
        method(1, QUEUE_DELETE, b"\0\0" + short("q") + b"\0"),
        method(1, QUEUE_PURGE, b"\0\0" + short("q") + b"\0"),
        method(1, EXCHANGE_DELETE, b"\0\0" + short("e") + b"\0"),
        consume("other"),
        method(1, TX_SELECT),
    ],
)
def test_what_only_the_broker_knows_waits_for_it(frame: bytes) -> None:
    away = Away(queue_declare("q"), exchange_declare("e"), queue_bind("q", "e", "k"))
    assert away.asks(frame, now=5.0) == []
    assert away.standin.waits(1)
    assert not away.standin.waits(2)
    assert away.standin.due == 35.0
    # Everything behind it on its channel waits, too; other channels do not.
    assert away.asks(basic_qos(1, 10), method(2, CHANNEL_OPEN, b"\0"), basic_qos(2, 5), now=6.0) == [
        CHANNEL_OPEN_OK,
        BASIC_QOS_OK,
    ]
    away.standin.late(34.9)
    with pytest.raises(AmqpError, match="no broker for 30 seconds") as caught:
        away.standin.late(35.0)
    assert caught.value.code == CONNECTION_FORCED
    assert caught.value.channel == 0
    assert away.standin.back() == frame + basic_qos(1, 10)
    assert away.standin.due == inf
    assert not away.standin.waits(1)
    # And from now on it is the broker who is expected to answer.
    assert [asked.frame for asked in away.client_state.channels[1].asked] == [frame, basic_qos(1, 10)]


def test_what_is_too_late_says_what_it_is() -> None:
    away = Away()
    away.asks(queue_declare("orders"))
    with pytest.raises(AmqpError, match=r"queue.declare of 'orders'"):
        away.standin.late(31.0)


def test_the_due_time_is_that_of_what_has_waited_longest() -> None:
    away = Away()
    away.asks(method(2, CHANNEL_OPEN, b"\0"))
    away.asks(queue_declare("a", channel=2), now=1.0)
    away.asks(queue_declare("b"), now=2.0)
    assert away.standin.due == 31.0
    assert away.asks(channel_close(2, 200, "")) == [CHANNEL_CLOSE_OK]
    assert away.standin.due == 32.0


def test_a_client_that_gives_up_waiting_closes_the_channel() -> None:
    away = Away()
    away.asks(queue_declare("orders"))
    publish = method(1, 0x003C0028, b"\0\0\0\0\0")
    assert away.standin.gives_up(CHANNEL_CLOSE, [basic_qos(1, 3)])
    assert not away.standin.gives_up(CHANNEL_CLOSE, [publish, b"\2\0\1\0\0\0\0\xce"])
    assert not away.standin.gives_up(QUEUE_DELETE, [])
    assert away.asks(channel_close(1, 504, "timeout")) == [CHANNEL_CLOSE_OK]
    assert away.standin.back() == b""
    assert away.asks(OPEN) == [CHANNEL_OPEN_OK]


def test_a_consumer_gets_a_tag_when_it_brings_none() -> None:
    away = Away(queue_declare("q"))
    answer = away.standin.takes(consume("q"), 0.0)
    assert answer == method(1, BASIC_CONSUME_OK, short("amq.ctag-made-up"))
    assert list(away.client_state.channels[1].consumers) == [b"amq.ctag-made-up"]
    assert broker_stub.made_up_tag() != broker_stub.made_up_tag()


def test_answers_to_requests_can_always_be_consumed() -> None:
    away = Away()
    assert away.asks(consume("amq.rabbitmq.reply-to", "c", 2)) == [BASIC_CONSUME_OK]


def test_a_second_consumer_of_the_same_tag_is_for_the_broker_to_judge() -> None:
    away = Away(queue_declare("q"))
    assert away.asks(consume("q", "c"), consume("q", "c")) == [BASIC_CONSUME_OK]
    assert away.standin.waits(1)


def test_a_cancelled_consumer_does_not_come_back() -> None:
    away = Away(queue_declare("q"))
    away.asks(consume("q", "c"))
    answer = away.standin.takes(method(1, 0x003C001E, short("c") + b"\0"), 0.0)
    assert answer == method(1, BASIC_CANCEL_OK, short("c"))
    assert not away.client_state.channels[1].consumers


@pytest.mark.parametrize("found", [TX_COMMIT, TX_ROLLBACK])
def test_without_a_transaction_there_is_none_to_end(found: int) -> None:
    away = Away()
    answer = away.standin.takes(method(1, found), 0.0)
    arguments = Arguments(answer, 0, len(answer))
    assert answer[7:11] == CHANNEL_CLOSE.to_bytes(4, "big")
    assert (arguments.u16(), arguments.short()) == (
        PRECONDITION_FAILED,
        "PRECONDITION_FAILED - channel is not transactional",
    )
    assert 1 not in away.client_state.channels


def test_what_was_asked_and_not_answered_is_answered_when_the_broker_is_lost() -> None:
    catalog = BrokerCatalog()
    teach(catalog, queue_declare("q"))
    client_state = ClientState(catalog, "/")
    session = broker_stub.BrokerStub(client_state, catalog, "/", 30.0)
    client_state.asks(OPEN + method(1, CONFIRM_SELECT, b"\0") + queue_declare("q") + consume("q", "c"))
    client_state.asks(method(2, CHANNEL_OPEN, b"\0") + queue_declare("new", channel=2) + basic_qos(2, 5))
    client_state.answers(1, CHANNEL_OPEN_OK, method(1, CHANNEL_OPEN_OK, NO_TABLE), 0, 16)
    answers = session.lost(1.0)
    assert [(number, found) for number, found, _, _ in methods_in(answers)] == [
        (1, CONFIRM_SELECT_OK),
        (1, QUEUE_DECLARE_OK),
        (1, BASIC_CONSUME_OK),
        (2, CHANNEL_OPEN_OK),
    ]
    assert client_state.channels[1].confirm
    assert list(client_state.channels[1].consumers) == [b"c"]
    assert session.back() == queue_declare("new", channel=2) + basic_qos(2, 5)


def test_the_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.amqp.failover.broker_stub.MAX_WAITING", 1000)
    away = Away()
    away.asks(queue_declare("q", table=encode_table({"x": "y" * 900})))
    with pytest.raises(AmqpError, match="too much waits") as caught:
        away.asks(basic_qos(1, 1) * 10)
    assert caught.value.code == RESOURCE_ERROR


def test_during_a_restoration_the_broker_shall_answer() -> None:
    """What would be answered then would be missing from what is being said again."""
    away = Away(queue_declare("q"))
    away.client_state.recovering = True
    asked = consume("q", "c") + channel_close(1, 200, "") + OPEN
    assert away.asks(asked, now=3.0) == []
    assert away.standin.waits(1)
    assert away.standin.back() == asked
    assert not away.client_state.recovering


def test_a_restoration_that_ends_too_early_leaves_what_came_meanwhile_to_the_stand_in() -> None:
    away = Away(queue_declare("q"))
    away.asks(method(2, CHANNEL_OPEN, b"\0"))
    away.asks(queue_declare("unknown", channel=2), now=1.0)
    away.client_state.recovering = True
    away.asks(consume("q", "c"), now=3.0)
    away.asks(basic_qos(2, 5), now=3.0)
    assert [found for _, found, _, _ in methods_in(away.standin.lost(4.0))] == [BASIC_CONSUME_OK]
    assert list(away.client_state.channels[1].consumers) == [b"c"]
    assert away.standin.due == 31.0
    assert away.standin.back() == queue_declare("unknown", channel=2) + basic_qos(2, 5)


def test_more_than_can_be_remembered_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.amqp.topology.client_state.MAX_CONSUMERS", 3)
    away = Away(queue_declare("q"))
    for number in range(4):
        away.asks(consume("q", f"c{number}"))
    with pytest.raises(AmqpError, match="more than the sidecar remembers") as caught:
        away.asks(basic_qos(1, 1))
    assert caught.value.code == RESOURCE_ERROR


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0xFFFFFFFF) | st.sampled_from(sorted(ANSWERS)), st.binary(max_size=40))))
def test_nothing_that_a_client_says_breaks_it(said: list[tuple[int, bytes]]) -> None:
    away = Away(queue_declare("q"))
    for found, arguments in said:
        try:
            answers = away.standin.takes(method(1, found, arguments), 0.0)
        except AmqpError:
            return
        for number, answer, _, _ in methods_in(answers):
            assert number == 1
            assert answer != found
