from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands, header
from pamqp import frame as pamqp_frame

from sidecar.amqp.flow import partitions
from sidecar.amqp.flow.partitions import MAX_REMEMBERED, Partition, Partitions, partition_of
from sidecar.amqp.wire.constants import BASIC_PUBLISH, PRECONDITION_FAILED, SYNTAX_ERROR, AmqpError
from sidecar.config.amqp_values import MessageKey
from sidecar.core.amqp_settings import AmqpPartition

CHANNEL = 5


def method(exchange: str = "ai.tasks", routing_key: str = "ai.inference", mandatory: bool = False) -> bytes:
    publish = commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return pamqp_frame.marshal(publish, CHANNEL)


def content(**properties: Any) -> bytes:
    return pamqp_frame.marshal(header.ContentHeader(0, 3, commands.Basic.Properties(**properties)), CHANNEL)


def with_table(table: bytes, after: bytes = b"") -> bytes:
    """A header frame whose headers are these bytes."""
    payload = b"\0\x3c\0\0\0\0\0\0\0\0\0\x03\x20\0" + len(table).to_bytes(4, "big") + table + after
    return b"\x02\0\x05" + len(payload).to_bytes(4, "big") + payload + b"\xce"


def rewritten(partition: Partition, publish: bytes, head: bytes) -> bytes:
    """The new method, for a header that stands between other frames."""
    return partition.rewrite(publish, b"\xce" * 7 + head + b"\x03\x00", 7, 7 + len(head))


def key_of(frame: bytes) -> str:
    consumed, channel, found = pamqp_frame.unmarshal(frame)
    assert (consumed, channel) == (len(frame), CHANNEL)
    assert isinstance(found, commands.Basic.Publish)
    assert found.routing_key is not None
    return found.routing_key


def spread(by: str, head: bytes, routing_key: str = "k", count: int = 1000) -> int:
    """The partition of a message."""
    key = key_of(rewritten(Partition(AmqpPartition(count=count, by=by)), method(routing_key=routing_key), head))
    before, _, number = key.rpartition(".")
    assert before == routing_key
    return int(number)


def lacks(by: str, head: bytes, routing_key: str = "k") -> bool:
    """Whether the message is one without a value."""
    partition = Partition(AmqpPartition(count=1000, by=by))
    rewritten(partition, method(routing_key=routing_key), head)
    return partition.without == 1


# Which partition


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("agent-1", [0, 1, 2, 2, 2, 2, 2, 62, 445]),
        ("agent-2", [0, 0, 0, 0, 0, 0, 0, 0, 772]),
        ("agent-17", [0, 0, 2, 2, 2, 2, 15, 15, 838]),
        ("é", [0, 1, 1, 1, 5, 5, 5, 75, 653]),
        ("7", [0, 1, 1, 4, 4, 4, 4, 93, 93]),
    ],
)
def test_it_is_the_same_for_ever(value: str, numbers: list[int]) -> None:
    """Vectors, checked against another implementation (JavaScript). If one of these has to change, so do the partitions
    of all users' messages."""
    assert [partition_of(value.encode(), count) for count in (1, 2, 3, 5, 10, 11, 16, 100, 1000)] == numbers


def test_the_hash_of_numbers_is_the_published_one() -> None:
    """As its authors' own code has it, for 1 to 19 buckets."""
    for key, buckets in (
        (0, [0] * 19),
        (1, [0] * 6 + [6] * 11 + [17] * 2),
        (0xDEADBEEF, [0, 1, 2, 3, 3] + [5] * 11 + [16] * 3),
        (0x0DDC0FFEEBADF00D, [0, 1] + [2] * 13 + [15] * 4),
    ):
        assert [partitions._jump(key, count) for count in range(1, 20)] == buckets


def test_it_is_the_same_in_every_process() -> None:
    code = "from sidecar.amqp.flow.partitions import partition_of as p; print([p(b'%d' % i, 97) for i in range(50)])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {f"{[partition_of(b'%d' % i, 97) for i in range(50)]}\n".encode()}


@given(st.binary(max_size=300), st.integers(1, 1000))
def test_a_value_stays_or_goes_to_the_new_partition(value: bytes, count: int) -> None:
    before, after = partition_of(value, count), partition_of(value, count + 1)
    assert 0 <= before < count
    assert after in (before, count)


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**32), st.sampled_from(["agent-%d", "%08x", "%d"]))
def test_one_more_partition_moves_its_share(count: int, start: int, form: str) -> None:
    values = [(form % (start + i)).encode() for i in range(2000)]
    moved = sum(partition_of(value, count) != partition_of(value, count + 1) for value in values)
    share = 1 / (count + 1)
    deviation = (2000 * share * (1 - share)) ** 0.5
    assert abs(moved - 2000 * share) < 6 * deviation + 1


def test_values_are_spread_evenly() -> None:
    found = Counter(partition_of(b"agent-%d" % i, 10) for i in range(20_000))
    assert set(found) == set(range(10))
    assert max(abs(count - 2000) for count in found.values()) < 6 * (2000 * 0.9) ** 0.5


# What is gone by


def test_a_header() -> None:
    assert spread("agent_id", content(headers={"agent_id": "agent-1"})) == 445
    assert spread("agent_id", content(headers={"a": 1, "agent_id": "agent-2", "z": {"agent_id": "x"}})) == 772
    everything = content(
        content_type="a",
        content_encoding="b",
        headers={"agent_id": "agent-17"},
        delivery_mode=2,
        priority=3,
        app_id="c",
    )
    assert spread("agent_id", everything) == 838


def test_whole_numbers_count_as_their_digits() -> None:
    seven = spread("n", content(headers={"n": "7"}))
    assert seven == 93
    for tagged in (
        b"b\x07",
        b"B\x07",
        b"s\0\x07",
        b"u\0\x07",
        b"I\0\0\0\x07",
        b"i\0\0\0\x07",
        b"l" + b"\0" * 7 + b"\x07",
    ):
        assert spread("n", with_table(b"\x01n" + tagged)) == seven
    minus = spread("n", content(headers={"n": "-2"}))
    for tagged in (
        b"b\xfe",
        b"s\xff\xfe",
        b"I\xff\xff\xff\xfe",
        b"l" + b"\xff" * 7 + b"\xfe",
        b"L" + b"\xff" * 7 + b"\xfe",
    ):
        assert spread("n", with_table(b"\x01n" + tagged)) == minus
    assert spread("n", with_table(b"\x01nB\xfe")) == spread("n", content(headers={"n": "254"}))
    assert spread("n", with_table(b"\x01nt\x01")) == spread("n", content(headers={"n": "true"})) == 567
    assert spread("n", with_table(b"\x01nx\0\0\0\x011")) == spread("n", content(headers={"n": "1"}))


@pytest.mark.parametrize(
    "head",
    [
        content(),
        content(delivery_mode=2, priority=1),
        content(headers={}),
        content(headers={"a": "b"}),
        content(headers={"n": ""}),
        content(headers={"n": None}),
        content(headers={"n": ["a"]}),
        content(headers={"n": {"n": "a"}}),
        content(headers={"n": 1.5}),
        content(headers={"x": {"n": "a"}}),
        content(headers={"x": "\x01nS\0\0\0\x01a"}),
        with_table(b"\x01nT" + b"\0" * 8),
        # Not well-formed; it is the broker's to say so.
        with_table(b"\x01n"),
        with_table(b"\x01n?"),
        with_table(b"\x01nS\0\0\0\x09a"),
        with_table(b"\x01a?\x01nS\0\0\0\x01a"),
    ],
)
def test_without_a_value_it_is_the_first_partition(head: bytes) -> None:
    partition = Partition(AmqpPartition(count=10, by="n"))
    assert key_of(rewritten(partition, method(), head)) == "ai.inference.0"
    assert partition.without == 1
    assert key_of(rewritten(partition, method(), head)) == "ai.inference.0"
    assert partition.without == 2


def test_of_two_headers_with_the_name_the_first_counts() -> None:
    table = b"\x01nS\0\0\0\x07agent-1" + b"\x01nS\0\0\0\x07agent-2"
    assert spread("n", with_table(table)) == 445


def argument_of(name: str) -> str:
    """How pamqp calls a property."""
    return "message_type" if name == "type" else name.replace("-", "_")


@pytest.mark.parametrize("name", MessageKey.properties)
def test_each_property(name: str) -> None:
    argument = {argument_of(name): "agent-17"}
    others: dict[str, Any] = {
        argument_of(each): "other"
        for each in ("content-type", "content-encoding", "expiration", *MessageKey.properties)
    }
    assert spread(f"property:{name}", content(**argument)) == 838
    table = {"headers": {"a": "b"}, "delivery_mode": 2, "priority": 7}
    assert spread(f"property:{name}", content(**(others | table | argument))) == 838
    assert lacks(f"property:{name}", content())
    assert lacks(f"property:{name}", content(**table))
    assert not lacks(f"property:{name}", content(**others))


@pytest.mark.parametrize(
    ("by", "routing_key", "word"),
    [
        ("key:1", "agent-1.task", "agent-1"),
        ("key:2", "task.agent-1", "agent-1"),
        ("key:2", "task.agent-1.more", "agent-1"),
        ("key:1", "agent-1", "agent-1"),
        ("key:3", "task.agent-1", ""),
        ("key:2", "task..x", ""),
        ("key:1", "", ""),
    ],
)
def test_a_word_of_the_routing_key(by: str, routing_key: str, word: str) -> None:
    if word:
        assert spread(by, content(), routing_key) == partition_of(word.encode(), 1000)
    assert lacks(by, content(), routing_key) == (not word)


def test_the_same_value_is_the_same_wherever_it_stands() -> None:
    assert (
        spread("a", content(headers={"a": "agent-9"}))
        == spread("property:type", content(message_type="agent-9"))
        == spread("key:1", content(), "agent-9")
    )


# What is written


@given(
    st.from_regex(r"[a-z.:_-]{0,60}", fullmatch=True),
    st.text(max_size=60),
    st.booleans(),
    st.text(max_size=20),
    st.integers(1, 1000),
    st.booleans(),
)
def test_nothing_but_the_routing_key_changes(
    exchange: str, key: str, mandatory: bool, value: str, count: int, immediate: bool
) -> None:
    publish = commands.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory, immediate=immediate)
    before = pamqp_frame.marshal(publish, CHANNEL)
    partition = Partition(AmqpPartition(count=count, by="a"))
    after = rewritten(partition, before, content(headers={"a": value}))
    number = partition_of(value.encode(), count) if value else 0
    publish.routing_key = f"{key}.{number}" if key else str(number)
    assert after == pamqp_frame.marshal(publish, CHANNEL)


def test_a_routing_key_that_cannot_grow() -> None:
    partition = Partition(AmqpPartition(count=10, by="a"))
    head = content(headers={"a": "b"})
    assert len(key_of(rewritten(partition, method(routing_key="x" * 253), head))) == 255
    with pytest.raises(AmqpError) as caught:
        rewritten(partition, method(routing_key="x" * 254), head)
    assert (caught.value.code, caught.value.channel) == (PRECONDITION_FAILED, CHANNEL)
    assert caught.value.method == BASIC_PUBLISH


def test_bad_frames() -> None:
    partition = Partition(AmqpPartition(count=10, by="property:type"))
    head = content(message_type="agent-1")
    good = method()
    bad = [good[:n] for n in range(len(good))] + [good[:-1] + b"\0\xce", good[:13] + b"\xff" + good[14:]]
    for publish in bad:
        with pytest.raises(AmqpError) as caught:
            rewritten(partition, publish, head)
        assert caught.value.code == SYNTAX_ERROR
    for end in range(len(head)):
        with pytest.raises(AmqpError):
            partition.rewrite(good, head[:end], 0, end)
    # Lengths that lead out of the frame, into what stands behind it.
    flags = bytearray(content(message_type="agent-1"))
    flags[21] = 200
    with pytest.raises(AmqpError):
        rewritten(partition, good, bytes(flags))


def test_a_second_word_of_flags_is_stepped_over() -> None:
    head = bytearray(content(message_type="agent-1"))
    size = int.from_bytes(head[3:7], "big") + 2
    head[3:7] = size.to_bytes(4, "big")
    head[20] |= 1
    head[21:21] = b"\0\0"
    assert spread("property:type", bytes(head)) == 445
    head[22] = 1
    with pytest.raises(AmqpError):
        spread("property:type", bytes(head[:23]) + b"\xce")


@settings(deadline=None)
@given(st.data())
def test_whatever_a_client_sends(data: st.DataObject) -> None:
    by = data.draw(st.sampled_from(["a", "property:type", "property:app-id", "key:2"]))
    partition = Partition(AmqpPartition(count=10, by=by))
    generator = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(50):
        publish = bytearray(method(routing_key="a.b"))
        head = bytearray(
            content(content_type="t", headers={"a": "b", "c": [1]}, priority=1, message_type="x", app_id="y")
        )
        for frame in (publish, head):
            for _ in range(generator.randrange(4)):
                frame[generator.randrange(len(frame))] = generator.choice((0, 1, 255, generator.randrange(256)))
        cut = generator.choice((0, 0, generator.randrange(len(head))))
        try:
            after = rewritten(partition, bytes(publish), bytes(head[: len(head) - cut]))
        except AmqpError:
            continue
        assert len(after) - len(publish) in (1, 2)


# What is remembered


def test_what_is_remembered_is_bounded() -> None:
    partition = Partition(AmqpPartition(count=10, by="key:1"))
    head = content()
    most = 0
    for i in range(MAX_REMEMBERED + 10):
        key = key_of(rewritten(partition, method(routing_key=f"agent-{i}"), head))
        assert key == f"agent-{i}.{partition_of(b'agent-%d' % i, 10)}"
        most = max(most, len(partition._suffixes))
    assert most == MAX_REMEMBERED
    assert len(partition._suffixes) == 10


def test_what_is_long_is_not_remembered() -> None:
    partition = Partition(AmqpPartition(count=10, by="a"))
    for size, remembered in ((255, 1), (256, 1), (100_000, 1)):
        value = "x" * size
        key = key_of(rewritten(partition, method(), content(headers={"a": value})))
        assert key == f"ai.inference.{partition_of(value.encode(), 10)}"
        assert len(partition._suffixes) == remembered


def test_other_settings() -> None:
    wanted = {"a": AmqpPartition(count=2, by="x"), "b": AmqpPartition(count=2, by="x")}
    found = Partitions(wanted)
    a, b = found.find("a"), found.find("b")
    assert a is not None
    assert b is not None
    assert found.find("c") is None
    found.update(
        {
            "a": AmqpPartition(count=2, by="x"),
            "b": AmqpPartition(count=3, by="x"),
            "c": AmqpPartition(count=1, by="key:1"),
        }
    )
    assert found.find("a") is a
    changed = found.find("b")
    assert changed is not None
    assert changed is not b
    assert changed.count == 3
    found.update({})
    assert found.find("a") is None
