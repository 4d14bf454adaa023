from __future__ import annotations

import random
import struct
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import decode, encode

from sidecar.amqp.wire.constants import SYNTAX_ERROR, AmqpError
from sidecar.amqp.wire.tables import (
    MAX_DEPTH,
    decode_table,
    encode_table,
    find,
    table_end,
    table_entry,
    table_size,
    value_end,
    with_entry,
)
from support.examples import examples

TEXT = st.characters(codec="utf-8")
NAMES = st.text(TEXT, max_size=20)
#: What both we and the other implementation write in the same way.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, width=32),
    st.text(TEXT, max_size=40),
)
VALUES: st.SearchStrategy[object] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
TABLES = st.dictionaries(NAMES, VALUES, max_size=6)

ALL_TAGS: list[tuple[bytes, object]] = [
    (b"t\x00", False),
    (b"t\x01", True),
    (b"t\x07", True),
    (b"b\xff", -1),
    (b"B\xff", 255),
    (b"s\xff\xfe", -2),
    (b"u\xff\xfe", 65534),
    (b"I\xff\xff\xff\xfd", -3),
    (b"i\xff\xff\xff\xfd", 2**32 - 3),
    (b"l\xff\xff\xff\xff\xff\xff\xff\xfc", -4),
    (b"L\xff\xff\xff\xff\xff\xff\xff\xfc", -4),
    (b"f" + struct.pack(">f", 1.5), 1.5),
    (b"d" + struct.pack(">d", -0.1), -0.1),
    (b"D\x02\x00\x00\x04\xd2", Decimal("12.34")),
    (b"D\xff\xff\xff\xff\xff", Decimal("-1E-255")),
    (b"S\x00\x00\x00\x03a\xc3\xa9", "aé"),
    (b"S\x00\x00\x00\x02\xff\x00", "\udcff\x00"),
    (b"x\x00\x00\x00\x02\xff\x00", b"\xff\x00"),
    (b"T\x00\x00\x00\x00\x65\x00\x00\x01", 0x65000001),
    (b"T\xff\xff\xff\xff\xff\xff\xff\xff", 2**64 - 1),
    (b"V", None),
    (b"A\x00\x00\x00\x00", []),
    (b"A\x00\x00\x00\x05Vt\x01b\x02", [None, True, 2]),
    (b"F\x00\x00\x00\x00", {}),
    (b"F\x00\x00\x00\x04\x01kb\x01", {"k": 1}),
]


def table(*entries: bytes) -> bytes:
    inside = b"".join(entries)
    return len(inside).to_bytes(4, "big") + inside


def entry(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + value


def decoded(data: bytes) -> dict[str, object]:
    return decode_table(data, 0, len(data))


def by_pamqp(data: bytes) -> object:
    """What an independent decoder makes of it; it raises an error, or goes on, where we refuse."""
    return decode.field_table(data)[1]


# --- Reading ---


def test_every_tag() -> None:
    entries = [entry(b"%d" % number, raw) for number, (raw, _) in enumerate(ALL_TAGS)]
    data = b"??" + table(*entries) + b"!!!"
    expected = {str(number): value for number, (_, value) in enumerate(ALL_TAGS)}
    found = decode_table(data, 2, len(data) - 3)
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]
    assert table_end(data, 2, len(data)) == len(data) - 3
    assert table_size(data, 2, len(data)) == len(data) - 5


@pytest.mark.parametrize(("raw", "value"), ALL_TAGS)
def test_a_value_ends_where_it_ends_and_cut_off_is_refused(raw: bytes, value: object) -> None:
    assert value_end(raw + b"V", 0, len(raw) + 1) == len(raw)
    for end in range(len(raw)):
        with pytest.raises(AmqpError) as caught:
            value_end(raw, 0, end)
        assert caught.value.code == SYNTAX_ERROR
        with pytest.raises(AmqpError):
            decoded(table(entry(b"k", raw[:end])))


def test_every_octet_as_a_tag() -> None:
    known = {raw[0] for raw, _ in ALL_TAGS}
    assert len(known) == 18
    for tag in range(256):
        data = table(entry(b"k", bytes((tag,)) + bytes(8)))
        if tag not in known:
            with pytest.raises(AmqpError, match=rf"502 .*unknown type {tag:#04x}"):
                decoded(data)


def test_names() -> None:
    long = b"n" * 255
    data = table(entry(b"", b"V"), entry(long, b"t\x01"), entry(b"\xff", b"b\x01"))
    assert decoded(data) == {"": None, long.decode(): True, "\udcff": 1}
    assert encode_table({"\udcff": "\udcfe"}) == table(entry(b"\xff", b"S\x00\x00\x00\x01\xfe"))


def test_the_first_of_two_of_the_same_name_counts() -> None:
    data = table(entry(b"k", b"b\x01"), entry(b"k", b"b\x02"))
    assert decoded(data) == {"k": 1}


@settings(max_examples=examples(200), deadline=None)
@given(table=TABLES)
def test_what_another_implementation_writes(table: dict[str, object]) -> None:
    data = encode.field_table(table)  # type: ignore[arg-type]
    assert decoded(data) == by_pamqp(data) == table


@settings(max_examples=examples(200), deadline=None)
@given(table=TABLES)
def test_what_we_write_is_what_another_implementation_reads(table: dict[str, object]) -> None:
    data = encode_table(table)
    assert by_pamqp(data) == decoded(data) == table
    for end in range(len(data)):
        with pytest.raises(AmqpError):
            decode_table(data, 0, end)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00",
        b"\x00\x00\x00\x01",
        b"\xff\xff\xff\xff",
        table(b"\x01"),
        table(b"\x01k"),
        table(b"\xffk"),
        table(entry(b"k", b"S\x00\x00\x00\x01")),
        table(entry(b"k", b"F\x00\x00\x00\x06\x01kb\x01")),
        table(entry(b"k", b"F\x00\x00\x00\x03\x01kb\x01")),
        table(entry(b"k", b"A\x00\x00\x00\x01b\x01")),
        table(entry(b"k", b"\x00")),
    ],
)
def test_malformed(data: bytes) -> None:
    # What comes behind must not be taken for a part of it.
    with pytest.raises(AmqpError) as caught:
        decode_table(data + bytes(64), 0, len(data))
    assert caught.value.code == SYNTAX_ERROR


@pytest.mark.parametrize("array", [False, True])
def test_depth_is_bounded(array: bool) -> None:
    def nested(depth: int) -> bytes:
        # The lengths, from the inside out: five bytes for each array, six for each table, whose entry has a name.
        size = 5 if array else 6
        outer = (depth - 2) * size
        tag, between = (b"A", b"") if array else (b"F", b"\x00")
        values = between.join(tag + (outer - i * size).to_bytes(4, "big") for i in range(depth - 1))
        return table(entry(b"", values))

    decoded(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 20_000):
        data = nested(depth)
        with pytest.raises(AmqpError, match="too deep"):
            decoded(data)
        # Stepping over it needs no depth.
        assert value_end(b"F" + data, 0, len(data) + 1) == len(data) + 1
        assert find(data, 0, len(data), b"other") == -1


# --- Writing ---


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        ("text", b"S\x00\x00\x00\x04text"),
        (True, b"t\x01"),
        (False, b"t\x00"),
        (-1, b"I\xff\xff\xff\xff"),
        (2**31 - 1, b"I\x7f\xff\xff\xff"),
        (2**31, b"l\x00\x00\x00\x00\x80\x00\x00\x00"),
        (-(2**63), b"l\x80" + bytes(7)),
        (0.5, b"d" + struct.pack(">d", 0.5)),
        (b"\x00\xff", b"x\x00\x00\x00\x02\x00\xff"),
        (None, b"V"),
        ({"k": 1}, b"F\x00\x00\x00\x07\x01kI\x00\x00\x00\x01"),
        ([True, "a"], b"A\x00\x00\x00\x08t\x01S\x00\x00\x00\x01a"),
        ((), b"A\x00\x00\x00\x00"),
    ],
)
def test_one_entry(value: object, raw: bytes) -> None:
    assert table_entry("name", value) == b"\x04name" + raw
    assert encode_table({"name": value}) == table(b"\x04name" + raw)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: table_entry("n" * 256, 1), ValueError),
        (lambda: table_entry("é" * 128, 1), ValueError),
        (lambda: table_entry("n", 2**63), ValueError),
        (lambda: table_entry("n", -(2**63) - 1), ValueError),
        (lambda: table_entry("n", object()), TypeError),
        (lambda: encode_table({"n": [{"m": {1}}]}), TypeError),
    ],
)
def test_what_cannot_be_written(make: Callable[[], bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


# --- One more entry ---

CAPABILITIES = ("capabilities", "connection.blocked")


def test_an_entry_in_an_inner_table() -> None:
    capabilities = entry(b"capabilities", b"F" + table(entry(b"x", b"t\x01")))
    before, after = entry(b"product", b"S\x00\x00\x00\x02py"), entry(b"odd", b"D\x01\x00\x00\x00\x02")
    data = b"<<" + table(before, capabilities, after) + b">>"
    added = entry(b"connection.blocked", b"t\x01")
    expected = table(before, entry(b"capabilities", b"F" + table(entry(b"x", b"t\x01"), added)), after)
    assert with_entry(data, 2, len(data) - 2, CAPABILITIES, True) == expected
    assert with_entry(data, 2, len(data), CAPABILITIES, True) == expected, "what is behind is not a part of it"


def test_missing_tables_are_made() -> None:
    data = table(entry(b"a", b"V"))
    assert decoded(with_entry(data, 0, len(data), CAPABILITIES, True)) == {
        "a": None,
        "capabilities": {"connection.blocked": True},
    }
    assert decoded(with_entry(table(), 0, 4, ["a", "b", "c"], "d")) == {"a": {"b": {"c": "d"}}}


@pytest.mark.parametrize(
    "inside",
    [
        entry(b"capabilities", b"F" + table(entry(b"connection.blocked", b"t\x00"))),
        entry(b"capabilities", b"t\x01"),
        entry(b"capabilities", b"A\x00\x00\x00\x00"),
    ],
)
def test_what_is_there_is_kept(inside: bytes) -> None:
    data = table(entry(b"a", b"V"), inside, entry(b"b", b"V"))
    assert with_entry(data, 0, len(data), CAPABILITIES, True) == data


def test_what_is_there_is_replaced_when_asked_for() -> None:
    before, after = entry(b"a", b"D\x01\x00\x00\x00\x01"), entry(b"connection.blocked", b"V")
    data = table(
        before, entry(b"capabilities", b"F" + table(before, entry(b"connection.blocked", b"t\x00"), after)), after
    )
    expected = data.replace(b"t\x00", b"t\x01")
    assert with_entry(data, 0, len(data), CAPABILITIES, True, replace=True) == expected
    assert with_entry(data, 0, len(data), CAPABILITIES, True) == data
    longer = table(before, entry(b"capabilities", b"S\x00\x00\x00\x02ab"), after)
    assert with_entry(data, 0, len(data), CAPABILITIES[:1], "ab", replace=True) == longer
    assert with_entry(longer, 0, len(longer), CAPABILITIES, True, replace=True) == longer, "what is in the way stays"


def put(found: dict[str, object], path: list[str], value: object, replace: bool) -> None:
    """The same on a dict."""
    for name in path[:-1]:
        inner = found.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        found = inner
    if replace:
        found[path[-1]] = value
    else:
        found.setdefault(path[-1], value)


SHORT = st.sampled_from(("a", "b", "c"))


@settings(max_examples=examples(300), deadline=None)
@given(
    before=st.recursive(
        st.dictionaries(SHORT, SCALARS, max_size=2), lambda inner: st.dictionaries(SHORT, inner), max_leaves=8
    ),
    path=st.lists(SHORT, min_size=1, max_size=4),
    value=SCALARS,
    replace=st.booleans(),
)
def test_with_entry_is_what_it_would_be_on_a_dict(
    before: dict[str, object], path: list[str], value: object, replace: bool
) -> None:
    data = encode_table(before)
    got = with_entry(data, 0, len(data), path, value, replace)
    expected = decoded(data)
    put(expected, path, value, replace)
    assert decoded(got) == by_pamqp(got) == expected
    if replace:
        return
    # One piece is new, and so are the lengths around it; all other bytes are as they were.
    added = len(got) - len(data)
    assert min(
        sum(a != b for a, b in zip(got[:at] + got[at + added :], data, strict=True)) for at in range(len(data) + 1)
    ) <= 2 * len(path)


# --- Hostile bytes ---


@settings(max_examples=examples(200), deadline=None)
@given(seed=st.integers(0, 2**64 - 1), table=TABLES)
def test_fuzz(seed: int, table: dict[str, object]) -> None:
    """Nothing but a result or a syntax error."""
    rng = random.Random(seed)
    good = encode_table(table)
    codes = {SYNTAX_ERROR}
    for _ in range(20):
        data = bytearray(good if rng.random() < 0.8 else rng.randbytes(rng.randrange(60)))
        for _ in range(rng.randrange(1, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), *b"FASxtD"))
        if data and rng.random() < 0.5:
            # A length that is right, so that it is the entries that are looked at.
            data[:4] = max(len(data) - 4, 0).to_bytes(4, "big")
        raw = bytes(data)
        end = rng.choice((len(raw), rng.randrange(len(raw) + 1)))
        for call, rest in (
            (decode_table, ()),
            (find, (b"a",)),
            (with_entry, (["a", "b"], "value")),
            (with_entry, (["a"], "value", True)),
            (value_end, ()),
            (table_size, ()),
        ):
            try:
                call(raw, 0, end, *rest)
            except AmqpError as error:
                codes.add(error.code)
        try:
            found = decode_table(raw, 0, end)
        except AmqpError:
            continue
        # What can be read can be written, and is the same then, but for the kinds of numbers.
        again = {name: value for name, value in found.items() if "Decimal" not in repr(value)}
        try:
            written = encode_table(again)
        except ValueError:
            continue
        assert repr(decoded(written)) == repr(again)
    assert codes == {SYNTAX_ERROR}
