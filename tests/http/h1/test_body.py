"""Body framing: the same verdict and the same end wherever the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.replies import ProtocolError
from sidecar.http.h1.body import Body, Chunked
from sidecar.http.h1.framing import CHUNKED, UNTIL_CLOSE

WHOLE = b'5;ext="a b"\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n'
AFTER = b"GET / HTTP/1.1\r\n"


def feed(body: Body | Chunked, pieces: list[bytes]) -> int:
    """How many bytes belong to the body."""
    used = 0
    for piece in pieces:
        taken = body.feed(piece)
        used += taken
        assert taken == len(piece) or body.done
        if body.done:
            break
    return used


@pytest.mark.parametrize("at", range(len(WHOLE) + 1))
def test_cut_anywhere(at: int) -> None:
    body = Chunked(decode=True)
    assert feed(body, [WHOLE[:at], WHOLE[at:] + AFTER]) == len(WHOLE)
    assert body.done
    assert (body.received, body.decoded()) == (15, b"hello0123456789")


def test_byte_by_byte() -> None:
    body = Chunked()
    assert feed(body, [WHOLE[n : n + 1] for n in range(len(WHOLE))] + [AFTER]) == len(WHOLE)
    assert body.done


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(0, 3000), max_size=12))
def test_any_chunks_cut_in_any_places(chunks: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    body = Chunked(decode=True)
    assert feed(body, [whole[a:b] for a, b in pairwise(places)]) == len(whole)
    assert body.done
    assert body.decoded() == b"".join(chunks)


sizes = st.text('0123ab;=" \t\\\r\nx\x7fü', max_size=30).map(lambda text: text.encode("latin-1"))


@given(st.binary(max_size=60) | sizes, st.integers(0, 60), st.booleans())
def test_garbage_is_judged_alike_whole_and_cut(data: bytes, cut: int, lenient: bool) -> None:
    verdicts: list[tuple[str, int]] = []
    for pieces in ([data], [data[:cut], data[cut:]], [data[n : n + 1] for n in range(len(data))]):
        body = Chunked(lenient=lenient)
        try:
            used = feed(body, pieces)
            verdicts.append(("done" if body.done else "not yet", used))
        except ProtocolError:
            verdicts.append(("refused", 0))
    assert len(set(verdicts)) == 1


@pytest.mark.parametrize(
    "limit", [b"1" * 20, b"5;" + b"x" * 300, b"0\r\n" + b"X: y\r\n" * 4000, b"0\r\nX: " + b"y" * 20000]
)
def test_lines_are_bounded(limit: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(Chunked(), [limit[n : n + 100] for n in range(0, len(limit), 100)])


def test_a_length() -> None:
    body = Body(5)
    assert (body.feed(b"abc"), body.closed()) == (3, False)
    assert (body.feed(b"defg"), body.done, body.received) == (2, True, 5)


def test_until_close() -> None:
    body = Body(UNTIL_CLOSE)
    assert (body.feed(b"abc"), body.done) == (3, False)
    assert (body.closed(), body.done) == (True, True)


def test_chunks_are_not_over_when_the_sender_closes() -> None:
    body = Body(CHUNKED)
    body.feed(b"3\r\nabc\r\n")
    assert not body.closed()
    assert body.received == 3


extensions = st.sampled_from([b"", b" ", b"\t;a", b";", b"; a = b ", b';"', b";\xc3\xbc", b";" + b"x" * 3000])


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(0, 30), extensions), max_size=6),
    st.lists(st.integers(0, 20000), max_size=10),
)
def test_what_goes_on_is_plain_wherever_it_was_cut(chunks: list[tuple[bytes, int, bytes]], cuts: list[int]) -> None:
    last = (b"", 1, b" ;last")
    whole = b"".join(
        b"%b%b%b\r\n%b\r\n" % (b"0" * zeros, b"%x" % len(data) if data else b"", extension, data)
        for data, zeros, extension in (*chunks, last)
    )
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    body = Chunked(lenient=True)
    onward = b""
    for a, b in pairwise(places):
        onward += body.onward(whole[a:b], body.feed(whole[a:b]))
    assert body.done
    assert onward == b"".join(b"%x\r\n%b\r\n" % (len(data), data) for data, _, _ in (*chunks, last))
