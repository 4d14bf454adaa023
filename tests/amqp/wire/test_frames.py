from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.wire.constants import FRAME_ERROR, FRAME_MIN_SIZE, AmqpError
from sidecar.amqp.wire.frames import FrameReader
from support.examples import examples

LIMIT = FRAME_MIN_SIZE

FRAMES = st.lists(
    st.tuples(st.sampled_from((1, 2, 3, 8)), st.integers(0, 0xFFFF), st.binary(max_size=60)), min_size=1, max_size=12
)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


class Taker:
    """Feeds a reader, and copies what it gives as one that uses it would: before the next bytes come."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.reader = FrameReader(limit)
        self.frames: list[tuple[int, int, bytes]] = []

    def feed(self, data: bytes) -> int:
        found = self.reader.feed(data)
        for kind, channel, start, end in found:
            whole = self.reader.data[start:end]
            assert whole[-1] == 0xCE
            self.frames.append((kind, channel, whole[7:-1]))
        return len(found)

    def error(self) -> AmqpError:
        assert self.reader.error is not None
        return self.reader.error


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]


@settings(max_examples=examples(300), deadline=None)
@given(frames=FRAMES, cuts=st.lists(st.integers(0, 900), max_size=30))
def test_the_same_frames_wherever_the_stream_is_split(frames: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(frame(*each) for each in frames)
    taker = Taker()
    for piece in split(stream, cuts):
        taker.feed(piece)
    assert taker.frames == frames
    assert taker.reader.error is None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9])
def test_pieces_of_a_few_bytes(size: int) -> None:
    frames = [(1, 1, b"a"), (2, 1, b""), (3, 0xFFFF, b"x" * (LIMIT - 8)), (8, 0, b""), (3, 1, b"\xce" * 20)]
    stream = b"".join(frame(*each) for each in frames)
    taker = Taker()
    for at in range(0, len(stream), size):
        taker.feed(stream[at : at + size])
    assert taker.frames == frames


def test_every_place_of_a_single_split() -> None:
    frames = [(1, 7, b"method"), (2, 7, b"header"), (3, 7, b"body"), (8, 0, b"")]
    stream = b"".join(frame(*each) for each in frames)
    for cut in range(len(stream) + 1):
        taker = Taker()
        taker.feed(stream[:cut])
        whole = len(taker.frames)
        taker.feed(stream[cut:])
        assert taker.frames == frames
        assert taker.frames[:whole] == frames[:whole], "what was whole did not wait for the rest"
        assert sum(len(payload) + 8 for _, _, payload in frames[:whole]) <= cut


def test_a_frame_is_given_with_its_last_byte_and_not_before() -> None:
    taker = Taker()
    whole = frame(3, 2, b"body")
    assert taker.feed(frame(1, 2, b"m") + whole[:-1]) == 1
    assert taker.feed(b"") == 0
    assert taker.feed(whole[-1:]) == 1
    assert taker.frames == [(1, 2, b"m"), (3, 2, b"body")]


def test_the_positions_are_those_of_whole_frames_one_after_the_other() -> None:
    reader = FrameReader(LIMIT)
    stream = frame(1, 1, b"abc") + frame(8, 0, b"") + frame(3, 2, b"")
    assert reader.feed(stream + b"\x01") == [(1, 1, 0, 11), (8, 0, 11, 19), (3, 2, 19, 27)]
    assert reader.data[:27] == stream


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (frame(0, 1, b""), "frame type 0"),
        (frame(4, 1, b"payload"), "frame type 4"),
        (b"AMQP\x00\x00\x09\x01", "frame type 65"),
        (b"GET / HTTP/1.1\r\n", "frame type 71"),
        (frame(3, 1, b"x" * (LIMIT - 7)), f"{LIMIT + 1} bytes"),
        (b"\x01\x00\x01\xff\xff\xff\xff\x00", "4294967303 bytes"),
        (frame(1, 1, b"payload")[:-1] + b"\xcd", "end octet"),
        (frame(8, 0, b"")[:-1] + b"\x00", "end octet"),
    ],
)
def test_a_broken_stream(broken: bytes, text: str) -> None:
    """501, whatever it is; the whole frames before it are given, nothing after it is, and it stays that way."""
    good = [(1, 1, b"before"), (8, 0, b"")]
    stream = b"".join(frame(*each) for each in good) + broken + frame(1, 1, b"after")
    for size in (1, 5, 8, len(stream)):
        taker = Taker()
        for at in range(0, len(stream), size):
            taker.feed(stream[at : at + size])
        assert taker.frames == good
        error = taker.error()
        assert (error.code, error.method, error.channel) == (FRAME_ERROR, 0, 0)
        assert error.text.startswith("FRAME_ERROR - ")
        assert text in error.text
        taker.feed(frame(1, 1, b"later"))
        assert taker.frames == good
        assert taker.error() is error


def test_a_frame_too_large_is_refused_by_its_first_eight_bytes() -> None:
    taker = Taker()
    start = frame(3, 1, b"x" * (LIMIT - 7))
    taker.feed(start[:7])
    assert taker.reader.error is None
    taker.feed(start[7:8])
    assert taker.error().code == FRAME_ERROR


def test_the_limit_counts_the_frame_around_the_payload_and_may_change() -> None:
    taker = Taker()
    largest = frame(3, 1, b"x" * (LIMIT - 8))
    assert len(largest) == LIMIT
    assert taker.feed(largest) == 1
    taker.reader.limit = 131072
    assert taker.feed(frame(3, 1, b"x" * (131072 - 8))) == 1
    taker.reader.limit = LIMIT
    taker.feed(frame(3, 1, b"x" * (LIMIT - 7)))
    assert taker.error().code == FRAME_ERROR


def kept(reader: FrameReader) -> int:
    """Bytes that the reader keeps of an unfinished frame."""
    return sum(map(len, reader._parts))


def test_less_than_a_frame_is_kept() -> None:
    rng = random.Random(5)
    stream = b"".join(frame(3, 1, bytes(rng.randrange(LIMIT - 7))) for _ in range(50))
    taker = Taker()
    at = 0
    while at < len(stream):
        size = rng.choice((1, 100, 3000, 20000))
        taker.feed(stream[at : at + size])
        at += size
        assert kept(taker.reader) < LIMIT
    assert len(taker.frames) == 50
    assert kept(taker.reader) == 0


@settings(max_examples=examples(300), deadline=None)
@given(seed=st.integers(0, 2**64 - 1))
def test_hostile_bytes(seed: int) -> None:
    """Nothing but frames or an error, whatever comes; and never more is kept than the largest frame."""
    rng = random.Random(seed)
    stream = bytearray(b"".join(frame(rng.choice((1, 2, 3, 8)), 1, rng.randbytes(rng.randrange(40))) for _ in range(9)))
    for _ in range(rng.randrange(4)):
        stream[rng.randrange(len(stream))] = rng.randrange(256)
    if rng.random() < 0.3:
        stream = bytearray(rng.randbytes(200))
    taker = Taker()
    at = 0
    while at < len(stream):
        size = rng.randrange(1, 60)
        taker.feed(bytes(stream[at : at + size]))
        at += size
        assert kept(taker.reader) < LIMIT
    read = b"".join(frame(*each) for each in taker.frames)
    assert bytes(stream).startswith(read), "what is given is what was sent"
    if taker.reader.error is None:
        assert len(read) + kept(taker.reader) == len(stream)
