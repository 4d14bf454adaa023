from __future__ import annotations

import struct
from typing import Any

import pamqp.commands
import pamqp.frame
import pamqp.header
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.amqp.spool.codec import BadRecordError, pack, unpack
from sidecar.amqp.spool.message import SpooledMessage, from_frames, to_frames
from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.methods import frame

MANDATORY = 1

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

NAMES = (
    "id", "vhost", "lane", "exchange", "routing_key", "header", "body", "flags", "priority", "user", "at", "expires",
    "attempts", "origin", "trace",
)  # fmt: skip

texts = st.text(max_size=20)


def header_payload(body: int, **properties: object) -> bytes:
    content = pamqp.header.ContentHeader(0, body, pamqp.commands.Basic.Properties(**properties))  # type: ignore[arg-type]
    return bytes(pamqp.frame.marshal(content, 1)[7:-1])


def publish(
    body: bytes = b"hello",
    exchange: str = "ai.tasks",
    key: str = "a.b",
    flags: int = 0,
    split: int = 3,
    **props: Any,
) -> bytes:
    method = b"\x00\x3c\x00\x28\x00\x00" + b"".join(bytes((len(it.encode()),)) + it.encode() for it in (exchange, key))
    return (
        frame(1, 5, method + bytes((flags,)))
        + frame(2, 5, header_payload(len(body), **props))
        + b"".join(frame(3, 5, body[at : at + split]) for at in range(0, len(body), split))
    )


def parts(frames: bytes) -> list[tuple[int, int, bytes]]:
    """(type, channel, payload) of each frame."""
    reader = FrameReader(1 << 30)
    found = reader.feed(frames)
    assert reader.error is None
    assert found[-1][3] == len(frames)
    return [(kind, channel, reader.data[start + 7 : end - 1]) for kind, channel, start, end in found]


def test_a_publish_is_taken_apart() -> None:
    frames = publish(
        b"0123456789",
        flags=1,
        priority=7,
        user_id="worker",
        expiration="60000",
        headers={"traceparent": TRACE, "x": 1},
        content_type="application/json",
    )
    message = from_frames(frames, "/", "lane", 1000.0, origin="celery")
    assert from_frames(frames, "/", "lane", 1000.0, user="publisher").user == "publisher"
    assert message.id == 0
    assert message.stream == ("/", "lane")
    assert (message.exchange, message.routing_key, message.flags) == ("ai.tasks", "a.b", 1)
    assert (message.priority, message.user, message.trace, message.origin) == (7, "worker", TRACE, "celery")
    assert message.body == b"0123456789"
    assert (message.at, message.expires) == (1000.0, 1060.0)
    assert message.size > 10 + len(message.header)


@pytest.mark.parametrize(
    ("expiration", "lifetime", "expires"),
    [
        (None, 0.0, 0.0),
        (None, 5.0, 1005.0),
        ("60000", 5.0, 1005.0),
        ("1000", 5.0, 1001.0),
        ("0", 5.0, 1000.0),
        ("soon", 5.0, 1005.0),
        ("-1", 0.0, 0.0),
        ("9" * 200, 0.0, 0.0),
    ],
)
def test_it_expires_by_its_own_time_or_by_the_rules_whichever_is_first(
    expiration: str | None, lifetime: float, expires: float
) -> None:
    assert from_frames(publish(expiration=expiration), "/", "", 1000.0, lifetime).expires == expires


@pytest.mark.parametrize(
    ("delivery", "expiration", "lifetime", "ttl", "lasting", "transient", "expires", "brief"),
    [
        (1, None, 0.0, 5.0, True, 0.0, 1005.0, True),
        (None, None, 0.0, 5.0, True, 0.0, 1005.0, True),
        (2, None, 0.0, 5.0, True, 0.0, 1005.0, False),  # somebody wants to know what became of it
        (2, None, 0.0, 5.0, False, 0.0, 1005.0, True),
        (1, "1000", 0.0, 5.0, True, 0.0, 1001.0, False),
        (1, None, 3.0, 5.0, True, 0.0, 1003.0, False),
        (1, None, 9.0, 5.0, True, 0.0, 1005.0, True),
        (2, None, 0.0, 0.0, False, 10.0, 1010.0, True),
        (None, None, 0.0, 0.0, False, 10.0, 1010.0, True),
        (1, None, 3600.0, 0.0, False, 10.0, 4600.0, False),  # that was asked for
        (1, "60000", 0.0, 0.0, False, 10.0, 1060.0, False),
        (1, None, 0.0, 0.0, True, 0.0, 0.0, False),
    ],
)
def test_it_is_kept_no_longer_than_where_it_leads_to(
    delivery: int | None,
    expiration: str | None,
    lifetime: float,
    ttl: float,
    lasting: bool,
    transient: float,
    expires: float,
    brief: bool,
) -> None:
    frames = publish(expiration=expiration, delivery_mode=delivery, flags=2)
    message = from_frames(frames, "/", "", 1000.0, lifetime, ttl=ttl, lasting=lasting, transient=transient)
    assert (message.expires, message.brief) == (expires, brief)
    again = unpack(pack(message))
    assert (again.expires, again.brief) == (expires, brief)
    found = from_frames(to_frames(message, 1, 0, 1000.0), "/", "", 1000.0)
    assert (found.flags, found.brief) == (3, False)  # immediate as it was, mandatory as all, and no bit of ours


@given(
    body=st.binary(max_size=100),
    exchange=texts,
    key=texts,
    flags=st.integers(0, 3),
    split=st.integers(1, 50),
    priority=st.none() | st.integers(0, 255),
    correlation=st.none() | texts,
    reply_to=st.none() | texts,
    delivery=st.none() | st.integers(1, 2),
    headers=st.none() | st.dictionaries(st.text(min_size=1, max_size=10), st.integers(0, 1 << 30) | texts, max_size=3),
    frame_max=st.sampled_from([0, 4096, 1 << 17]),
)
def test_to_frames_makes_the_same_publish_anew_but_mandatory(
    body: bytes,
    exchange: str,
    key: str,
    flags: int,
    split: int,
    priority: int | None,
    correlation: str | None,
    reply_to: str | None,
    delivery: int | None,
    headers: dict[str, object] | None,
    frame_max: int,
) -> None:
    frames = publish(
        body,
        exchange,
        key,
        flags,
        split,
        priority=priority,
        correlation_id=correlation,
        reply_to=reply_to,
        delivery_mode=delivery,
        headers=headers,
    )
    message = from_frames(frames, "/", "lane", 1000.0)
    message.id = 5
    again = parts(to_frames(unpack(pack(message)), 77, frame_max, 2000.0))
    assert {channel for _, channel, _ in again} == {77}
    before = parts(frames)
    assert again[0][2] == before[0][2][:-1] + bytes((flags | MANDATORY,))
    assert again[1][2] == before[1][2]
    assert b"".join(it[2] for it in again[2:]) == body
    assert [it[0] for it in again] == [1, 2] + [3] * (len(again) - 2)


def test_a_large_body_is_split_to_the_connections_frames() -> None:
    body = bytes(range(256)) * 64
    message = from_frames(publish(body, split=100_000), "/", "lane", 0.0)
    frames = to_frames(message, 1, 4096, 0.0)
    found = parts(frames)
    assert max(len(payload) for _, _, payload in found) == 4088
    assert len(found) == 2 + 5
    assert from_frames(frames, "/", "lane", 0.0).body == body
    assert len(parts(to_frames(message, 1, 0, 0.0))) == 3
    empty = from_frames(publish(b""), "/", "lane", 0.0)
    assert len(parts(to_frames(empty, 1, 4096, 0.0))) == 2


@pytest.mark.parametrize(
    ("expiration", "age", "left"), [("60000", 12.5, "47500"), ("60000", 100.0, "0"), ("60000", -5.0, "60000")]
)
def test_the_time_spent_here_is_taken_off_the_expiration_and_nothing_else_changes(
    expiration: str, age: float, left: str
) -> None:
    properties: dict[str, Any] = {
        "content_type": "a",
        "content_encoding": "b",
        "headers": {"k": "v"},
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "message_id": "m",
        "user_id": "u",
        "app_id": "app",
    }
    message = from_frames(publish(expiration=expiration, **properties), "/", "lane", 1000.0)
    sent = parts(to_frames(message, 1, 0, 1000.0 + age))[1][2]
    assert sent == header_payload(5, expiration=left, **properties)


def test_what_is_no_number_of_milliseconds_stays_for_the_broker_to_refuse() -> None:
    message = from_frames(publish(expiration="soon"), "/", "lane", 1000.0)
    assert parts(to_frames(message, 1, 0, 2000.0))[1][2] == message.header


def test_properties_that_do_not_fit_a_frame_are_too_large() -> None:
    message = from_frames(publish(headers={"k": "v" * 5000}), "/", "lane", 0.0)
    with pytest.raises(AmqpError, match="311"):
        to_frames(message, 1, 4096, 0.0)
    assert to_frames(message, 1, 8192, 0.0)


@given(cut=st.integers(0, 200), noise=st.binary(max_size=40))
def test_nothing_but_amqp_errors_comes_of_frames_that_are_no_publish(cut: int, noise: bytes) -> None:
    whole = publish(headers={"traceparent": TRACE}, expiration="5")
    for frames in (whole[:cut] + noise, whole[: cut // 2] + noise + whole[cut // 2 :], noise):
        if frames == whole:
            continue
        try:
            message = from_frames(frames, "/", "lane", 1.0)
            to_frames(message, 1, 4096, 2.0)
        except AmqpError:
            pass


@given(
    names=st.lists(st.binary(max_size=40), min_size=7, max_size=7), body=st.binary(max_size=50), where=st.floats(0, 1)
)
def test_a_record_keeps_every_byte(names: list[bytes], body: bytes, where: float) -> None:
    start = int(len(body) * where)
    vhost, lane, exchange, routing_key, user, origin = (it.decode("utf-8", "surrogateescape") for it in names[1:])
    message = SpooledMessage(
        vhost, lane, exchange, routing_key, names[0], body, 1, 7, user, 1.5, 4.5, origin, "trace", start, len(body)
    )
    message.id = 1 << 40
    assert message.body == body[start:]
    again = unpack(pack(message))
    for name in NAMES:
        assert getattr(again, name) == getattr(message, name)


@given(st.data())
def test_a_record_that_is_not_what_was_written_is_noticed(data: st.DataObject) -> None:
    message = from_frames(publish(), "/", "lane", 1.5)
    message.id = 7
    record = bytearray(pack(message))
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadRecordError):
        unpack(bytes(record))
    with pytest.raises(BadRecordError):
        unpack(bytes(pack(message)[:at]))


def test_a_record_of_a_later_version_is_not_guessed_at() -> None:
    message = from_frames(publish(), "/", "lane", 1.5)
    record = pack(message)
    from zlib import crc32

    changed = b"\x02" + record[5:]
    with pytest.raises(BadRecordError, match="version 2"):
        unpack(struct.pack(">I", crc32(changed)) + changed)
