from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.topology import client_state
from sidecar.amqp.topology.broker_catalog import BrokerCatalog
from sidecar.amqp.topology.client_state import ClientState
from sidecar.amqp.wire.constants import (
    BASIC_CANCEL,
    BASIC_CANCEL_OK,
    BASIC_CONSUME,
    BASIC_CONSUME_OK,
    BASIC_GET,
    BASIC_GET_EMPTY,
    BASIC_QOS,
    BASIC_QOS_OK,
    CHANNEL_OPEN,
    CHANNEL_OPEN_OK,
    CONFIRM_SELECT,
    CONFIRM_SELECT_OK,
    EXCHANGE_DECLARE,
    EXCHANGE_DELETE,
    EXCHANGE_DELETE_OK,
    QUEUE_BIND,
    QUEUE_DECLARE,
    QUEUE_DECLARE_OK,
    QUEUE_DELETE,
    QUEUE_DELETE_OK,
    QUEUE_UNBIND,
    QUEUE_UNBIND_OK,
    TX_SELECT,
    AmqpError,
)
from sidecar.amqp.wire.methods import basic_cancel, basic_qos, channel_close, method, short
from sidecar.amqp.wire.rpc import ANSWERS, EXCHANGE_DECLARE_OK, QUEUE_BIND_OK
from support.examples import examples

NONE = b"\0\0\0\0"


def declare(name: str, bits: int = 2) -> bytes:
    return method(1, QUEUE_DECLARE, b"\0\0" + short(name) + bytes((bits,)) + NONE)


def consume(queue: str, tag: str = "", bits: int = 0) -> bytes:
    return method(1, BASIC_CONSUME, b"\0\0" + short(queue) + short(tag) + bytes((bits,)) + NONE)


def exchange(name: str, bits: int = 2) -> bytes:
    return method(1, EXCHANGE_DECLARE, b"\0\0" + short(name) + short("topic") + bytes((bits,)) + NONE)


def bind(queue: str, source: str, bits: int = 0) -> bytes:
    return method(1, QUEUE_BIND, b"\0\0" + short(queue) + short(source) + short("k") + bytes((bits,)) + NONE)


class Attached:
    """A session with its broker, and channel 1 open."""

    def __init__(self) -> None:
        self.catalog = BrokerCatalog()
        self.client_state = ClientState(self.catalog, "/")
        self.client_state.asks(method(1, CHANNEL_OPEN, b"\0"))
        self.hears(CHANNEL_OPEN_OK, NONE)
        self.channel = self.client_state.channels[1]

    def hears(self, found: int, arguments: bytes = b"", number: int = 1) -> None:
        frame = method(number, found, arguments)
        self.client_state.answers(number, found, frame, 0, len(frame))

    def declares(self, name: str, bits: int = 2, given: str = "") -> None:
        self.client_state.asks(declare(name, bits))
        self.hears(QUEUE_DECLARE_OK, short(given or name) + bytes(8))


def test_only_what_is_answered_is_so() -> None:
    it = Attached()
    it.client_state.asks(declare("q") + exchange("e") + bind("q", "e"))
    assert not it.client_state.declared
    it.hears(QUEUE_DECLARE_OK, short("q") + bytes(8))
    it.hears(EXCHANGE_DECLARE_OK)
    assert [declaration.name for declaration in it.client_state.declared.values()] == ["q", "e"]
    it.hears(QUEUE_BIND_OK)
    assert len(it.client_state.declared) == 3
    assert it.catalog.has_queue("/", "q")
    assert it.catalog.has_exchange("/", "e")
    assert it.client_state.has_queue("q")
    assert it.client_state.irretrievable() == it.client_state.lost_name() == ""


def test_what_wants_no_answer_is_so_when_something_later_is_answered() -> None:
    it = Attached()
    it.client_state.asks(declare("q", 2 | 16) + method(1, CONFIRM_SELECT, b"\1") + consume("q", "c", 8))
    assert not it.catalog.has_queue("/", "q")
    it.client_state.asks(basic_qos(1, 5))
    it.hears(BASIC_QOS_OK)
    assert it.catalog.has_queue("/", "q")
    assert it.channel.confirm
    assert list(it.channel.consumers) == [b"c"]
    assert it.channel.last_queue == "", "what it is called the broker did not say"


def test_a_channel_that_was_closed_has_not_done_what_was_not_answered() -> None:
    it = Attached()
    it.client_state.asks(declare("q", 2 | 16))
    it.client_state.channel_gone(1)
    it.hears(BASIC_QOS_OK)
    assert it.catalog.count == 0
    assert not it.client_state.channels
    assert it.client_state._bytes == 0


def test_passive_declarations_are_known_and_not_said_again() -> None:
    it = Attached()
    it.declares("q", 1)
    assert it.catalog.has_queue("/", "q")
    assert not it.client_state.declared


def test_a_queue_that_the_broker_names() -> None:
    it = Attached()
    it.declares("", 2, "amq.gen-1")
    assert it.channel.last_queue == "amq.gen-1"
    assert it.client_state.has_queue("amq.gen-1")
    assert it.client_state.lost_name() == "", "it is durable"
    assert it.catalog.count == 0
    it.declares("", 4, "amq.gen-2")
    assert it.client_state.lost_name() == "amq.gen-2"
    it.client_state.asks(consume("", "c"))
    it.hears(BASIC_CONSUME_OK, short("c"))
    assert it.channel.consumers[b"c"].queue == "amq.gen-2"
    it.client_state.asks(method(1, QUEUE_DELETE, b"\0\0\0\0"))
    it.hears(QUEUE_DELETE_OK, NONE)
    assert it.client_state.lost_name() == ""


def test_consumers_may_be_answered_out_of_order() -> None:
    """The queues do that, and each takes its time."""
    it = Attached()
    it.client_state.asks(basic_qos(1, 7) + consume("a", "c1") + consume("b") + basic_qos(1, 3) + consume("c", "c3"))
    it.hears(BASIC_QOS_OK)
    it.hears(BASIC_QOS_OK)
    it.hears(BASIC_CONSUME_OK, short("c3"))
    it.hears(BASIC_CONSUME_OK, short("amq.ctag-x"))
    it.hears(BASIC_CONSUME_OK, short("c1"))
    consumers = it.channel.consumers
    assert {tag: (each.queue, each.limit) for tag, each in consumers.items()} == {
        b"c3": ("c", 3),
        b"amq.ctag-x": ("b", 7),
        b"c1": ("a", 7),
    }
    it.client_state.asks(method(1, BASIC_CANCEL, short("c1") + b"\0") + method(1, BASIC_CANCEL, short("c3") + b"\0"))
    it.client_state.asks(basic_cancel(1, b"amq.ctag-x"))
    it.hears(BASIC_CANCEL_OK, short("c3"))
    assert list(consumers) == [b"amq.ctag-x", b"c1"]
    it.hears(BASIC_CANCEL_OK, short("c1"))
    assert list(consumers) == [b"amq.ctag-x"]
    it.hears(BASIC_CANCEL, short("amq.ctag-x") + b"\1")
    assert not consumers
    it.client_state.asks(basic_qos(1, 1))
    it.hears(BASIC_QOS_OK)
    assert not it.channel.asked


def test_prefetch_limits_of_both_kinds() -> None:
    it = Attached()
    assert (it.channel.limit, it.channel.shared_limit) == (-1, -1)
    it.client_state.asks(method(1, BASIC_QOS, pack(">IHB", 0, 0, 1)) + basic_qos(1, 0))
    it.hears(BASIC_QOS_OK)
    assert (it.channel.limit, it.channel.shared_limit) == (-1, 0)
    it.hears(BASIC_QOS_OK)
    assert (it.channel.limit, it.channel.shared_limit) == (0, -1)  # as RabbitMQ does


def test_an_empty_get_is_an_answer() -> None:
    it = Attached()
    it.client_state.asks(method(1, BASIC_GET, b"\0\0" + short("q") + b"\0") + method(1, CONFIRM_SELECT, b"\0"))
    it.hears(BASIC_GET_EMPTY, b"\0")
    it.hears(CONFIRM_SELECT_OK)
    assert it.channel.confirm
    assert it.client_state._bytes == 0


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    it = Attached()
    it.client_state.asks(declare("q"))
    it.hears(BASIC_QOS_OK)
    it.hears(BASIC_CONSUME_OK, short("c"))
    it.hears(BASIC_QOS_OK, number=9)
    it.hears(QUEUE_DECLARE_OK, short("q") + bytes(8))
    assert it.client_state.has_queue("q")
    assert not it.channel.consumers


def test_what_is_removed_is_forgotten() -> None:
    it = Attached()
    it.declares("q")
    it.client_state.asks(exchange("e") + bind("q", "e"))
    it.hears(EXCHANGE_DECLARE_OK)
    it.hears(QUEUE_BIND_OK)
    it.client_state.asks(method(1, QUEUE_UNBIND, b"\0\0" + short("q") + short("e") + short("k") + NONE))
    it.hears(QUEUE_UNBIND_OK)
    assert [declaration.name for declaration in it.client_state.declared.values()] == ["q", "e"]
    it.client_state.asks(bind("q", "e"))
    it.hears(QUEUE_BIND_OK)
    it.client_state.asks(method(1, EXCHANGE_DELETE, b"\0\0" + short("e") + b"\0"))
    assert len(it.client_state.declared) == 3
    it.hears(EXCHANGE_DELETE_OK)
    assert [declaration.name for declaration in it.client_state.declared.values()] == ["q"]
    it.client_state.asks(method(1, QUEUE_DELETE, b"\0\0" + short("q") + b"\4"))
    it.client_state.asks(basic_qos(1, 1))
    it.hears(BASIC_QOS_OK)
    assert not it.client_state.declared
    assert it.catalog.count == 0
    assert it.client_state._bytes == 0
    assert not it.client_state.has_queue("q")


AUTO_DELETE = 8
EXCLUSIVE = 4


def cancel(tag: str) -> bytes:
    return method(1, BASIC_CANCEL, short(tag) + b"\0")


@pytest.mark.parametrize("how", ["cancel", "channel"])
def test_a_queue_that_goes_with_its_last_consumer_is_not_declared_again(how: str) -> None:
    it = Attached()
    it.client_state.asks(exchange("events"))
    it.hears(EXCHANGE_DECLARE_OK)
    it.declares("answers", AUTO_DELETE)
    it.client_state.asks(bind("answers", "events"))
    it.hears(QUEUE_BIND_OK)
    for tag in ("one", "two"):
        it.client_state.asks(consume("answers", tag))
        it.hears(BASIC_CONSUME_OK, short(tag))
    it.client_state.asks(cancel("one"))
    it.hears(BASIC_CANCEL_OK, short("one"))
    assert it.client_state.has_queue("answers")
    if how == "cancel":
        it.client_state.asks(cancel("two"))
        it.hears(BASIC_CANCEL_OK, short("two"))
    else:
        it.client_state.channel_gone(1)
    assert [declaration.name for declaration in it.client_state.declared.values()] == ["events"]
    assert not it.catalog.has_queue("/", "answers")
    assert it.client_state._bytes == it.client_state.declared.popitem()[1].size


def test_an_exchange_that_goes_with_its_last_binding_is_not_declared_again() -> None:
    it = Attached()
    it.client_state.asks(exchange("short-lived", 4))
    it.hears(EXCHANGE_DECLARE_OK)
    for name in ("a", "b"):
        it.declares(name)
        it.client_state.asks(bind(name, "short-lived"))
        it.hears(QUEUE_BIND_OK)
    it.client_state.asks(method(1, QUEUE_UNBIND, b"\0\0" + short("a") + short("short-lived") + short("k") + NONE))
    it.hears(QUEUE_UNBIND_OK)
    assert len(it.client_state.declared) == 4
    it.client_state.asks(method(1, QUEUE_DELETE, b"\0\0" + short("b") + b"\0"))
    it.hears(QUEUE_DELETE_OK, bytes(4))
    assert [declaration.name for declaration in it.client_state.declared.values()] == ["a"]
    assert not it.catalog.has_exchange("/", "short-lived")


def test_what_ends_with_a_connection_is_nobody_elses_business() -> None:
    it = Attached()
    it.declares("mine", EXCLUSIVE)
    it.declares("ours")
    assert not it.catalog.has_queue("/", "mine")
    it.client_state.asks(bind("mine", "amq.topic"))
    it.hears(QUEUE_BIND_OK)
    it.client_state.end()
    assert it.catalog.has_queue("/", "ours")
    assert {name for _, name in it.catalog._names} == {"qours"}


@pytest.mark.parametrize("said_by", ["consumer", "declaration"])
def test_where_a_consumer_was_in_a_stream_is_not_known(said_by: str) -> None:
    it = Attached()
    table = b"\0\0\0\x18" + short("x-queue-type") + b"S\0\0\0\x06stream"
    offset = b"\0\0\0\x1a" + short("x-stream-offset") + b"S\0\0\0\x05first"
    if said_by == "declaration":
        it.client_state.asks(method(1, QUEUE_DECLARE, b"\0\0" + short("log") + b"\2" + table))
        it.hears(QUEUE_DECLARE_OK, short("log") + bytes(8))
    assert it.client_state.irretrievable() == ""
    arguments = offset if said_by == "consumer" else NONE
    it.client_state.asks(method(1, BASIC_CONSUME, b"\0\0" + short("log") + short("c") + b"\0" + arguments))
    it.hears(BASIC_CONSUME_OK, short("c"))
    assert "in the stream 'log'" in it.client_state.irretrievable()
    it.client_state.asks(cancel("c"))
    it.hears(BASIC_CANCEL_OK, short("c"))
    assert it.client_state.irretrievable() == ""


def test_a_transaction_does_not_outlive_its_connection() -> None:
    it = Attached()
    it.client_state.asks(method(1, TX_SELECT))
    it.hears(ANSWERS[TX_SELECT])
    assert "transaction" in it.client_state.irretrievable()
    it.client_state.channel_gone(1)
    assert it.client_state.irretrievable() == ""


@pytest.mark.parametrize("limit", ["MAX_DECLARATIONS", "MAX_CONSUMERS", "MAX_BYTES"])
def test_what_is_too_much_is_given_up(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_state, limit, 500 if limit == "MAX_BYTES" else 3)
    it = Attached()
    for number in range(5):
        if limit == "MAX_CONSUMERS":
            it.client_state.asks(consume("q", f"c{number}"))
            it.hears(BASIC_CONSUME_OK, short(f"c{number}"))
        else:
            it.declares(f"q{number}")
    assert it.client_state.forgotten
    assert "more than" in it.client_state.irretrievable()
    assert not it.client_state.channels
    assert not it.client_state.declared
    it.client_state.asks(method(2, CHANNEL_OPEN, b"\0"))
    it.client_state.channel_gone(1)
    it.hears(CHANNEL_OPEN_OK, NONE, 2)
    assert not it.client_state.channels


def test_what_is_asked_and_never_answered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_state, "MAX_BYTES", 10_000)
    it = Attached()
    for _ in range(1000):
        it.client_state.asks(basic_qos(1, 1))
    assert it.client_state.forgotten


said = st.tuples(
    st.booleans(),
    st.sampled_from(sorted([*ANSWERS, *ANSWERS.values(), BASIC_GET_EMPTY])) | st.integers(0, 0xFFFFFFFF),
    st.sampled_from([b"", b"\0", NONE, short("c"), short("q") + bytes(8)]) | st.binary(max_size=30),
)
frames = st.sampled_from(
    [declare("q"), declare("", 4), consume("q", "c"), consume(""), basic_qos(1, 3), bind("q", "e"), exchange("e"),
     channel_close(1, 200, ""), method(1, CHANNEL_OPEN, b"\0")]
)  # fmt: skip


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(said | frames, max_size=40))
def test_whatever_is_said_the_books_are_right(dialogue: list[tuple[bool, int, bytes] | bytes]) -> None:
    it = Attached()
    for each in dialogue:
        try:
            if isinstance(each, bytes):
                it.client_state.asks(each)
            elif each[0]:
                it.client_state.asks(method(1, each[1], each[2]))
            else:
                it.hears(each[1], each[2])
        except AmqpError:
            pass
    for number in list(it.client_state.channels):
        it.client_state.channel_gone(number)
    assert it.client_state._consumers == 0
    assert it.client_state._bytes == sum(declaration.size for declaration in it.client_state.declared.values())


def test_what_only_the_broker_understands_is_nobodys_trouble_yet() -> None:
    it = Attached()
    strange = b"\0\0\0\3\1a?"
    it.client_state.asks(method(1, QUEUE_DECLARE, b"\0\0" + short("q") + b"\2" + strange))
    it.hears(QUEUE_DECLARE_OK, short("q") + bytes(8))
    assert it.client_state.irretrievable()
