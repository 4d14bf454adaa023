from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import frame as pamqp_frame
from pamqp import header

from sidecar.amqp.wire import constants
from sidecar.amqp.wire.constants import SYNTAX_ERROR, UNEXPECTED_FRAME, AmqpError
from sidecar.amqp.wire.content import TRACEPARENT, body_size, inject, priority, properties, text_header
from sidecar.amqp.wire.properties import Properties
from sidecar.amqp.wire.tables import decode_table, table_entry
from support.examples import examples

VALUE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENTRY = table_entry("traceparent", VALUE)
LIMIT = 131072

#: Flag and attribute of each property, in their order.
ORDER = [
    (constants.CONTENT_TYPE, "content_type"),
    (constants.CONTENT_ENCODING, "content_encoding"),
    (constants.HEADERS, "headers"),
    (constants.DELIVERY_MODE, "delivery_mode"),
    (constants.PRIORITY, "priority"),
    (constants.CORRELATION_ID, "correlation_id"),
    (constants.REPLY_TO, "reply_to"),
    (constants.EXPIRATION, "expiration"),
    (constants.MESSAGE_ID, "message_id"),
    (constants.TIMESTAMP, "timestamp"),
    (constants.TYPE, "type"),
    (constants.USER_ID, "user_id"),
    (constants.APP_ID, "app_id"),
    (constants.CLUSTER_ID, "cluster_id"),
]


def frame(flags: int, parts: bytes, body: int = 3, of_class: int = 60, more: bytes = b"") -> bytes:
    payload = of_class.to_bytes(2, "big") + b"\0\0" + body.to_bytes(8, "big") + flags.to_bytes(2, "big") + more + parts
    return b"\x02\x00\x05" + len(payload).to_bytes(4, "big") + payload + b"\xce"


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def short(data: bytes) -> bytes:
    return bytes((len(data),)) + data


def whole(function: Callable[..., Any], data: bytes, *more: object) -> Any:
    """Calls one of the functions with a frame that has others before and behind it."""
    padded = b"\xce" * 9 + data + b"\x02\x00\x01"
    if function is body_size:
        return function(padded, 9)
    return function(padded, 9, 9 + len(data), *more)


def traceparent(data: bytes, start: int, end: int) -> bytes | None:
    return text_header(data, start, end, TRACEPARENT)


def injected(data: bytes, entries: bytes = ENTRY, limit: int = LIMIT) -> bytes | None:
    result: bytes | None = whole(inject, data, entries, limit)
    return result


def by_pamqp(data: bytes) -> dict[str, object]:
    """What an independent decoder finds in a whole frame."""
    consumed, channel, found = pamqp_frame.unmarshal(data)
    assert (consumed, channel) == (len(data), 5)
    assert isinstance(found, header.ContentHeader)
    return {
        "body": found.body_size,
        **{name: getattr(found.properties, "message_type" if name == "type" else name) for _, name in ORDER},
    }


# --- What is put in, and where ---


def test_a_message_without_properties() -> None:
    assert injected(frame(0, b"")) == frame(constants.HEADERS, sized(ENTRY))


def test_a_message_without_headers() -> None:
    before, after = short(b"application/json") + short(b"utf-8"), b"\x02\x07" + short(b"id")
    flags = (
        constants.CONTENT_TYPE
        | constants.CONTENT_ENCODING
        | constants.DELIVERY_MODE
        | constants.PRIORITY
        | constants.CORRELATION_ID
    )
    assert injected(frame(flags, before + after)) == frame(flags | constants.HEADERS, before + sized(ENTRY) + after)


def test_a_message_with_headers() -> None:
    odd = b"\x01uu\xff\xff\x01uD\x02\x00\x00\x00\x09\x01\xffx\x00\x00\x00\x01\x00"
    flags = constants.CONTENT_TYPE | constants.HEADERS | constants.CLUSTER_ID
    data = frame(flags, short(b"text/plain") + sized(odd) + short(b""))
    assert injected(data) == frame(flags, short(b"text/plain") + sized(odd + ENTRY) + short(b""))


def test_an_empty_table_and_several_entries() -> None:
    entries = ENTRY + table_entry("tracestate", "a=b")
    assert injected(frame(constants.HEADERS, sized(b"")), entries) == frame(constants.HEADERS, sized(entries))


def test_the_body_size_and_the_channel_stay() -> None:
    data = frame(0, b"", body=2**40 + 7)
    got = injected(data)
    assert got is not None
    assert whole(body_size, got) == 2**40 + 7
    assert got[:3] == data[:3]


@pytest.mark.parametrize(
    ("entries", "has"),
    [
        (b"\x0btraceparentS\x00\x00\x00\x02ab", True),
        (b"\x0btraceparentV", True),
        (b"\x01at\x01\x0btraceparentx\x00\x00\x00\x00\x01bt\x01", True),
        # Not it: a value, a longer or a shorter name, another case, one in an inner table.
        (b"\x01aS\x00\x00\x00\x0c\x0btraceparent", False),
        (b"\x0ctraceparentsV", False),
        (b"\x0bTraceparentV", False),
        (b"\x0atraceparenV", False),
        (b"\x01aF\x00\x00\x00\x0d\x0btraceparentV", False),
        (b"\x0c\x0btraceparentV", False),
    ],
)
def test_never_a_second_one(entries: bytes, has: bool) -> None:
    data = frame(constants.HEADERS | constants.PRIORITY, sized(entries) + b"\x04")
    expected = None if has else frame(constants.HEADERS | constants.PRIORITY, sized(entries + ENTRY) + b"\x04")
    assert injected(data) == expected


def test_the_name_in_another_property_is_none() -> None:
    flags = constants.CONTENT_TYPE | constants.HEADERS | constants.MESSAGE_ID
    name = b"\x0btraceparentV"
    data = frame(flags, short(name) + sized(b"\x01aV") + short(name))
    assert injected(data) == frame(flags, short(name) + sized(b"\x01aV" + ENTRY) + short(name))
    assert whole(traceparent, data) is None
    assert whole(traceparent, frame(constants.CONTENT_TYPE, short(name))) is None


@pytest.mark.parametrize("tail", [b"\x01?z", b"\x01aS\x00\x00\xff\xff", b"\x05ab"])
def test_a_table_that_cannot_be_searched_is_left_to_the_broker(tail: bytes) -> None:
    data = frame(constants.HEADERS, sized(tail + b"\x0btraceparentV"))
    assert injected(data) is None
    assert whole(traceparent, data) is None


ID = table_entry("x-sidecar-id", "new")
OLD = table_entry("x-sidecar-id", "an older one")


@pytest.mark.parametrize(
    ("entries", "kept"),
    [
        (b"", b""),
        (OLD, b""),
        (b"\x01aV" + OLD + b"\x01bt\x01", b"\x01aV\x01bt\x01"),
        (OLD + b"\x01aV" + OLD, b"\x01aV"),
        # Not it: an inner entry, a value, a longer name.
        (table_entry("a", {"x-sidecar-id": "b"}), table_entry("a", {"x-sidecar-id": "b"})),
        (table_entry("a", "\x0cx-sidecar-id"), table_entry("a", "\x0cx-sidecar-id")),
        (b"\x0d\x0cx-sidecar-idV", b"\x0d\x0cx-sidecar-idV"),
        # What cannot be read to its end is the broker's to judge.
        (OLD + b"\x01?z", OLD + b"\x01?z"),
        (OLD + b"\x0cx-sidecar-id", OLD + b"\x0cx-sidecar-id"),
    ],
)
def test_an_entry_of_an_earlier_passage_goes_for_the_new_one(entries: bytes, kept: bytes) -> None:
    data = frame(constants.HEADERS | constants.PRIORITY, sized(entries) + b"\x04")
    for anyway in (False, True):
        got = whole(inject, data, ID, LIMIT, anyway, b"\x0cx-sidecar-id")
        assert got == frame(constants.HEADERS | constants.PRIORITY, sized(kept + ID) + b"\x04")


@pytest.mark.parametrize("flags", [0, constants.HEADERS])
def test_the_frame_limit(flags: int) -> None:
    data = frame(flags, sized(b"") if flags else b"")
    size = len(frame(constants.HEADERS, sized(ENTRY)))
    got = injected(data, limit=size)
    assert got is not None
    assert len(got) == size
    assert injected(data, limit=size - 1) is None


@pytest.mark.parametrize("flags", [0, constants.HEADERS])
def test_a_second_flags_word(flags: int) -> None:
    data = frame(
        flags | constants.MORE_FLAGS | constants.PRIORITY,
        (sized(b"\x0btraceparentS\x00\x00\x00\x01v") if flags else b"") + b"\x09",
        more=b"\x00\x01\x00\x00",
    )
    assert injected(data) is None
    assert whole(priority, data) == 9
    assert whole(properties, data).priority == 9
    assert whole(traceparent, data) == (b"v" if flags else None)


# --- Reading ---


@pytest.mark.parametrize("of_class", [0, 50, 61, 65535])
def test_a_header_of_another_class(of_class: int) -> None:
    with pytest.raises(AmqpError) as caught:
        whole(body_size, frame(0, b"", of_class=of_class))
    assert caught.value.code == UNEXPECTED_FRAME


@pytest.mark.parametrize("body", [0, 1, 2**64 - 1])
def test_the_body_size(body: int) -> None:
    assert whole(body_size, frame(0, b"", body)) == body


@pytest.mark.parametrize(
    ("entries", "value"),
    [
        (b"\x0btraceparentS\x00\x00\x00\x02ab", b"ab"),
        (b"\x01aV\x0btraceparentS\x00\x00\x00\x00", b""),
        (b"\x0btraceparentS\x00\x00\x00\x01a\x0btraceparentS\x00\x00\x00\x01b", b"a"),
        (b"\x0btraceparentx\x00\x00\x00\x02ab", None),
        (b"\x0btraceparentV", None),
        (b"\x0btraceparent", None),
        (b"\x0btraceparentS\x00\x00\x00\x03ab", None),
        (b"\x01aF\x00\x00\x00\x0d\x0btraceparentV", None),
        (b"", None),
    ],
)
def test_the_trace_that_is_there(entries: bytes, value: bytes | None) -> None:
    assert whole(traceparent, frame(constants.HEADERS, sized(entries))) == value


def test_all_properties_and_none() -> None:
    parts = {
        "content_type": (short(b"a/b"), "a/b"),
        "content_encoding": (short(b"gzip"), "gzip"),
        "headers": (sized(b"\x01aV"), sized(b"\x01aV")),
        "delivery_mode": (b"\x02", 2),
        "priority": (b"\xff", 255),
        "correlation_id": (short(b"\xff"), "\udcff"),
        "reply_to": (short("ü".encode()), "ü"),
        "expiration": (short(b"60000"), "60000"),
        "message_id": (short(b""), ""),
        "timestamp": (b"\xff" * 8, 2**64 - 1),
        "type": (short(b"t"), "t"),
        "user_id": (short(b"guest"), "guest"),
        "app_id": (short(b"app"), "app"),
        "cluster_id": (short(b"c"), "c"),
    }
    assert list(parts) == [name for _, name in ORDER] == [name for name in parts if hasattr(Properties(), name)]
    for wanted in ([], list(parts), *([name] for name in parts)):
        data = frame(sum(flag for flag, name in ORDER if name in wanted), b"".join(parts[name][0] for name in wanted))
        found: Properties = whole(properties, data)
        for name, (_, value) in parts.items():
            assert getattr(found, name) == (value if name in wanted else None), name
        assert whole(priority, data) == (255 if "priority" in wanted else 0)


# --- What does not fit ---


def short_frame(payload: bytes) -> bytes:
    return b"\x02\x00\x05" + len(payload).to_bytes(4, "big") + payload + b"\xce"


@pytest.mark.parametrize("size", range(14))
def test_a_header_cut_off_before_its_properties(size: int) -> None:
    data = short_frame(frame(0xFFFC, b"")[7 : 7 + size])
    for function, more in ((body_size, ()), (inject, (ENTRY, LIMIT)), (priority, ()), (properties, ())):
        with pytest.raises(AmqpError) as caught:
            whole(function, data, *more)
        assert caught.value.code == SYNTAX_ERROR
    assert whole(traceparent, data) is None


FULL = (
    short(b"application/json") + short(b"utf-8") + sized(b"\x01aV")
    + b"\x02\x05" + short(b"corr") + short(b"reply") + short(b"1") + short(b"m") + bytes(8) + short(b"t") + short(b"u")
    + short(b"a") + short(b"c")
)  # fmt: skip


def test_properties_cut_off_anywhere() -> None:
    # Up to where the headers are over (17 + 6 + 7) nothing can be put in; up to the priority it cannot be read.
    for size in range(len(FULL)):
        data = frame(0xFFFC, FULL[:size])
        with pytest.raises(AmqpError) as caught:
            whole(properties, data)
        assert caught.value.code == SYNTAX_ERROR
        if size < 30:
            with pytest.raises(AmqpError):
                injected(data)
        else:
            assert injected(data) == frame(0xFFFC, FULL[:23] + sized(b"\x01aV" + ENTRY) + FULL[30:size])
        if size < 32:
            with pytest.raises(AmqpError):
                whole(priority, data)
        else:
            assert whole(priority, data) == 5
    assert whole(properties, frame(0xFFFC, FULL)).cluster_id == "c"


@pytest.mark.parametrize("parts", [b"", b"\xff", b"\x05abcd", b"\x00", b"\x00\x01", b"\xff" + b"a" * 254])
def test_flags_for_what_is_not_there(parts: bytes) -> None:
    data = frame(constants.CONTENT_TYPE | constants.CONTENT_ENCODING | constants.PRIORITY, parts)
    for function, more in ((inject, (ENTRY, LIMIT)), (priority, ()), (properties, ())):
        with pytest.raises(AmqpError) as caught:
            whole(function, data, *more)
        assert caught.value.code == SYNTAX_ERROR


@pytest.mark.parametrize("words", [b"", b"\x00", b"\x00\x01", b"\x00\x01\x00"])
def test_flags_that_go_on_beyond_the_frame(words: bytes) -> None:
    data = frame(constants.PRIORITY | constants.MORE_FLAGS, b"", more=words)
    for function in (priority, properties):
        with pytest.raises(AmqpError):
            whole(function, data)


# --- Random tables, written here and read by an independent decoder ---

EXAMPLES = examples(100)
BATCH = 1000
FIXED: dict[str, int] = {
    "t": 1,
    "b": 1,
    "B": 1,
    "s": 2,
    "u": 2,
    "I": 4,
    "i": 4,
    "f": 4,
    "D": 5,
    "l": 8,
    "L": 8,
    "d": 8,
    "V": 0,
}
TAGS: list[str] = [*FIXED, "T", "A", "F", *"SSSSSxx"]
RANDOM_NAMES = [b"", b"a", b"traceparen", b"traceparents", b"Traceparent", "é".encode(), b"n" * 255, b"x-death"]
RANDOM_SHORT = [b"", b"guest", b"\x0btraceparent", "ü".encode(), b"application/json"]
RANDOM_TEXTS = [b"", b"\x0btraceparent", b"\x0btraceparentS\x00\x00\x00\x01a", b"\xff\xfe", b"text" * 20, b"\xce"]


def random_value(rng: random.Random, depth: int) -> bytes:
    tag = rng.choice(TAGS)
    raw = tag.encode()
    size = FIXED.get(tag)
    if size is not None:
        return raw + rng.randbytes(size)
    if tag == "T":
        return raw + rng.randrange(1 << 32).to_bytes(8, "big")
    if tag in "Sx" or not depth:
        return (raw if tag in "Sx" else b"S") + sized(rng.choice(RANDOM_TEXTS) + rng.randbytes(rng.randrange(4)))
    if tag == "A":
        return raw + sized(b"".join([random_value(rng, depth - 1) for _ in range(rng.randrange(3))]))
    return raw + sized(random_entries(rng, rng.randrange(3), depth - 1, rng.random() < 0.3))


def random_entries(rng: random.Random, count: int, depth: int, traced: bool) -> bytes:
    entries = [short(name) + random_value(rng, depth) for name in rng.sample(RANDOM_NAMES, count)]
    if traced:
        entries.insert(rng.randrange(count + 1), b"\x0btraceparent" + random_value(rng, depth))
    return b"".join(entries)


def random_properties(rng: random.Random) -> tuple[int, bytes, bytes | None, bytes, bool]:
    """Flags, what is before the headers, their entries if there are headers, what is behind, whether traced."""
    flags = rng.randrange(1 << 14) << 2
    if rng.random() < 0.7:
        flags |= constants.HEADERS
    before = after = b""
    entries = None
    traced = False
    for flag, name in ORDER:
        if not flags & flag:
            continue
        if name == "headers":
            traced = rng.random() < 0.15
            entries = random_entries(rng, rng.randrange(5), 2, traced)
            continue
        if name == "timestamp":
            part = rng.randrange(1 << 32).to_bytes(8, "big")
        elif name in ("delivery_mode", "priority"):
            part = rng.randbytes(1)
        else:
            part = short(rng.choice(RANDOM_SHORT))
        if flag > constants.HEADERS:
            before += part
        else:
            after += part
    return flags, before, entries, after, traced


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_random_tables_keep_every_byte_but_the_trace(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(BATCH):
        flags, before, entries, after, traced = random_properties(rng)
        table = b"" if entries is None else sized(entries)
        data = frame(flags, before + table + after, body=rng.randrange(1 << 64))
        got = injected(data)
        if traced:
            assert got is None
            continue
        assert got is not None
        grown = sized((entries or b"") + ENTRY)
        size = len(data) - 8 + len(grown) - len(table)
        assert got == (
            data[:3] + size.to_bytes(4, "big") + data[7:19] + (flags | constants.HEADERS).to_bytes(2, "big")
            + before + grown + after + b"\xce"
        )  # fmt: skip
        if number % 10 == 0:  # the other decoder takes ten times as long
            read = by_pamqp(got)
            headers = read.pop("headers")
            assert isinstance(headers, dict)
            assert headers.pop("traceparent") == VALUE
            was = by_pamqp(data)
            # Written out, because no two NaN are equal.
            assert repr(headers) == repr(was.pop("headers") or {})
            assert read == was
            assert whole(traceparent, got) == VALUE.encode()
            assert whole(priority, data) == whole(priority, got) == (was["priority"] or 0)
            assert injected(got) is None, "not twice"


def plain(value: object) -> object:
    """What two decoders agree on, however they say it: seconds for times, bytes for texts."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytearray):
        return bytes(value)
    return int(value.timestamp()) if isinstance(value, datetime) else value


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_properties_are_read_as_by_another_decoder(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        flags, before, entries, after, _ = random_properties(rng)
        data = frame(flags, before + (b"" if entries is None else sized(entries)) + after, body=7)
        found: Properties = whole(properties, data)
        ours = {name: getattr(found, name) for _, name in ORDER}
        if found.headers is not None:
            ours["headers"] = decode_table(found.headers, 0, len(found.headers))
        # Written out, because no two NaN are equal.
        theirs = by_pamqp(data)
        # This one is never None there.
        ours["cluster_id"] = found.cluster_id or ""
        assert repr(plain({"body": 7, **ours})) == repr(plain(theirs))


# --- Hostile bytes ---


@settings(max_examples=examples(200), deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_fuzz(seed: int) -> None:
    """Nothing but a result or a syntax error; and what comes out is the frame with the entries in one place."""
    rng = random.Random(seed)
    codes = {SYNTAX_ERROR}
    for _ in range(50):
        flags, before, entries, after, _ = random_properties(rng)
        payload = bytearray(frame(flags, before + (b"" if entries is None else sized(entries)) + after)[7:-1])
        if rng.random() < 0.2:
            payload = bytearray(rng.randbytes(rng.randrange(80)))
        for _ in range(rng.randrange(4)):
            if payload:
                payload[min(int(rng.expovariate(0.03)), len(payload) - 1)] = rng.choice((0, 255, rng.randrange(256)))
        data = short_frame(bytes(payload[: rng.randrange(len(payload) + 1)] if rng.random() < 0.3 else payload))
        for function in (body_size, priority, properties, traceparent):
            try:
                whole(function, data)
            except AmqpError as error:
                codes.add(error.code)
        limit = rng.choice((LIMIT, len(data) + len(ENTRY)))
        try:
            got = injected(data, limit=limit)
        except AmqpError as error:
            codes.add(error.code)
            continue
        if got is None:
            continue
        assert len(got) <= limit
        assert int.from_bytes(got[3:7], "big") == len(got) - 8
        at = got.rindex(ENTRY)
        behind = got[at + len(ENTRY) :]
        assert data.endswith(behind)
        assert got[7:19] == data[7:19]
        table = len(got) - len(data) == len(ENTRY)
        kept = got[21:at] if table else got[21 : at - 4]
        was = data[21 : len(data) - len(behind)]
        assert len(kept) == len(was)
        assert sum(a != b for a, b in zip(kept, was, strict=True)) <= (4 if table else 0)
    assert codes <= {SYNTAX_ERROR, UNEXPECTED_FRAME}
