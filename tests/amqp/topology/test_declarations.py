from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.amqp.topology import declarations
from sidecar.amqp.wire.constants import (
    EXCHANGE_BIND,
    EXCHANGE_DECLARE,
    EXCHANGE_UNBIND,
    QUEUE_BIND,
    QUEUE_DECLARE,
    QUEUE_DELETE,
    QUEUE_UNBIND,
    AmqpError,
)
from sidecar.amqp.wire.methods import method, short
from sidecar.amqp.wire.tables import encode_table

NONE = b"\0\0\0\0"


def read(found: int, arguments: bytes, last_queue: str = "") -> declarations.Declaration:
    frame = method(3, found, b"\0\0" + arguments)
    return declarations.read(found, frame, 0, len(frame), last_queue)[0]


def no_wait(found: int, arguments: bytes) -> bool:
    frame = method(3, found, b"\0\0" + arguments)
    return declarations.read(found, frame, 0, len(frame))[1]


def test_the_same_said_in_another_way_is_the_same() -> None:
    table = encode_table({"a": 1, "b": {"c": "d", "e": True}})
    other = b"\x01bF" + encode_table({"e": True, "c": "d"}) + b"\x01aB\x01"
    other = len(other).to_bytes(4, "big") + other
    for flags in (2, 2 | 16):
        assert (
            read(QUEUE_DECLARE, short("q") + bytes((flags,)) + other).key
            == read(QUEUE_DECLARE, short("q") + b"\2" + table).key
        )
    assert read(QUEUE_DECLARE, short("q") + b"\2" + NONE).key != read(QUEUE_DECLARE, short("q") + b"\2" + table).key


def test_what_differs_is_not_the_same() -> None:
    different = [
        read(QUEUE_DECLARE, short("q") + b"\2" + NONE),
        read(QUEUE_DECLARE, short("q") + b"\0" + NONE),
        read(QUEUE_DECLARE, short("q") + b"\6" + NONE),
        read(QUEUE_DECLARE, short("p") + b"\2" + NONE),
        read(QUEUE_DECLARE, short("q") + b"\1" + NONE),
        read(EXCHANGE_DECLARE, short("q") + short("topic") + b"\2" + NONE),
        read(EXCHANGE_DECLARE, short("q") + short("fanout") + b"\2" + NONE),
        read(QUEUE_BIND, short("q") + short("e") + short("k") + b"\0" + NONE),
        read(QUEUE_BIND, short("q") + short("e") + short("l") + b"\0" + NONE),
        read(QUEUE_BIND, short("q") + short("e") + short("k") + b"\0" + encode_table({"x-match": "all"})),
        read(EXCHANGE_BIND, short("q") + short("e") + short("k") + b"\0" + NONE),
    ]
    assert len({declaration.key for declaration in different}) == len(different)


def test_a_fact_is_told_as_it_was_heard_but_for_the_answer() -> None:
    table = b"\0\0\0\5\1bB\1\1a"[:4] + b"\1bB\1\1"
    table = (4).to_bytes(4, "big") + b"\1bB\1"
    declaration = read(QUEUE_DECLARE, short("q") + bytes((2 | 8 | 16,)) + table)
    assert declaration.frame(7) == method(7, QUEUE_DECLARE, b"\0\0" + short("q") + bytes((2 | 8,)) + table)
    again = declarations.from_wire(QUEUE_DECLARE, declaration.wire())
    assert (again.key, again.name, again.bits) == (declaration.key, declaration.name, declaration.bits)


def test_what_wants_no_answer() -> None:
    assert no_wait(QUEUE_DECLARE, short("q") + b"\x10" + NONE)
    assert no_wait(QUEUE_DECLARE, short("q") + b"\x11" + NONE)
    assert no_wait(EXCHANGE_DECLARE, short("e") + short("topic") + b"\x12" + NONE)
    assert no_wait(QUEUE_BIND, short("q") + short("e") + short("k") + b"\1" + NONE)
    assert no_wait(EXCHANGE_UNBIND, short("q") + short("e") + short("k") + b"\1" + NONE)
    assert not no_wait(QUEUE_UNBIND, short("q") + short("e") + short("k") + NONE)
    assert not no_wait(QUEUE_DECLARE, short("q") + b"\x0f" + NONE)


def test_an_unbind_ends_what_the_bind_stated() -> None:
    bound = read(QUEUE_BIND, short("q") + short("e") + short("k") + b"\0" + NONE)
    assert read(QUEUE_UNBIND, short("q") + short("e") + short("k") + NONE).key == bound.key
    bound = read(EXCHANGE_BIND, short("d") + short("s") + short("k") + b"\0" + NONE)
    assert read(EXCHANGE_UNBIND, short("d") + short("s") + short("k") + b"\0" + NONE).key == bound.key


def test_an_empty_queue_name_means_the_last_one() -> None:
    assert (
        read(QUEUE_BIND, short("") + short("e") + short("k") + b"\0" + NONE, "q").key
        == read(QUEUE_BIND, short("q") + short("e") + short("k") + b"\0" + NONE).key
    )
    assert (
        read(QUEUE_BIND, short("") + short("e") + short("") + b"\0" + NONE, "q").key
        == read(QUEUE_BIND, short("q") + short("e") + short("q") + b"\0" + NONE).key
    )
    assert read(QUEUE_DECLARE, short("") + b"\0" + NONE, "q").name == "", "that is a new one"


def test_what_ends_by_itself() -> None:
    def queue(bits: int) -> declarations.Declaration:
        return read(QUEUE_DECLARE, short("q") + bytes((bits,)) + NONE)

    def exchange(bits: int) -> declarations.Declaration:
        return read(EXCHANGE_DECLARE, short("e") + short("topic") + bytes((bits,)) + NONE)

    assert [queue(bits).transient for bits in (0, 2, 6, 10)] == [True, False, True, True]
    assert [exchange(bits).transient for bits in (0, 2, 6, 10)] == [True, False, True, False]
    assert [queue(bits).own for bits in (0, 2, 4, 8)] == [False, False, True, True]
    assert not exchange(4).own


def test_existence() -> None:
    queue = read(QUEUE_DECLARE, short("q") + b"\2" + NONE)
    assert queue.existence().key == read(QUEUE_DECLARE, short("q") + b"\1" + encode_table({"ignored": 1})).key
    exchange = read(EXCHANGE_DECLARE, short("e") + short("topic") + b"\2" + NONE)
    assert exchange.existence().key == read(EXCHANGE_DECLARE, short("e") + short("direct") + b"\1" + NONE).key
    assert exchange.existence().passive
    assert not exchange.passive


@given(st.sampled_from(sorted(declarations.STATING | {QUEUE_DELETE})), st.binary(max_size=100))
def test_whatever_is_in_a_file_or_a_frame(found: int, data: bytes) -> None:
    try:
        declaration = declarations.from_wire(found, data)
    except AmqpError:
        return
    assert declarations.from_wire(found, declaration.wire()).key == declaration.key


def test_only_declarations_and_bindings_are_facts() -> None:
    with pytest.raises(AmqpError):
        declarations.from_wire(QUEUE_DELETE, short("q") + b"\0")
