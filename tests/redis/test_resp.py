"""Redis' protocol as bytes: what is well-formed in any pieces, and what is not, within bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.redis import resp
from sidecar.redis.resp import ErrorReply, Malformed, Reader, Reply, encode
from support.examples import examples

_LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
_SINGLE: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.integers(-(10**18), 10**18),
    st.binary(max_size=40),
    _LINES.map(ErrorReply),
)
_REPLIES = st.recursive(_SINGLE, lambda inner: st.lists(inner, max_size=4), max_leaves=6)


def written(reply: Reply) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, ErrorReply):
        return b"-%b\r\n" % reply.text.encode()
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(written(it) for it in reply)


@settings(max_examples=examples(50))
@given(st.lists(_REPLIES, max_size=3), st.data())
def test_replies_come_through_in_any_pieces(replies: list[Any], data: st.DataObject) -> None:
    rest = b"".join(written(it) for it in replies)
    reader, found = Reader(), []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += reader.feed(rest[:size])
        rest = rest[size:]
    assert found == replies


@given(st.binary(max_size=200), st.integers(1, 20))
def test_anything_is_read_the_same_in_any_pieces_or_refused(data: bytes, size: int) -> None:
    def read(pieces: list[bytes]) -> tuple[list[Any], str]:
        reader, found = Reader(), []
        try:
            for piece in pieces:
                found += reader.feed(piece)
        except Malformed as error:
            return [], str(error)
        return found, ""

    assert read([data]) == read([data[at : at + size] for at in range(0, len(data), size)])


@pytest.mark.parametrize(
    "data",
    [
        b"?\r\n",
        b":\r\n",
        b":1x\r\n",
        b":" + b"1" * 20 + b"\r\n",
        b"$-2\r\n",
        b"$%d\r\n" % (resp.MAX_TEXT + 1),
        b"$1\r\nabc",
        b"*-3\r\n",
        b"*%d\r\n" % (resp.MAX_ITEMS + 1),
        b"*1\r\n" * (resp.MAX_DEPTH + 1),
        b"*%d\r\n" % resp.MAX_ITEMS + b":1\r\n" * 10 + b"*9\r\n",
        b"+" + b"x" * (resp.MAX_LINE + 1),
        b"+" + b"x" * (resp.MAX_LINE + 1) + b"\r\n",
        b"*100\r\n" + (b"$%d\r\n" % resp.MAX_TEXT + b"x" * resp.MAX_TEXT + b"\r\n") * 65,
    ],
)
def test_what_is_malformed_or_too_large(data: bytes) -> None:
    with pytest.raises(Malformed):
        Reader().feed(data)


def test_a_text_byte_by_byte_takes_one_look_at_each() -> None:
    reader = Reader()
    data = b"$%d\r\n" % resp.MAX_TEXT + b"x" * resp.MAX_TEXT + b"\r\n"
    found = [reply for byte in data for reply in reader.feed(bytes((byte,)))]
    assert found == [b"x" * resp.MAX_TEXT]


def test_a_command() -> None:
    assert encode("SET", b"\0", 12) == b"*3\r\n$3\r\nSET\r\n$1\r\n\0\r\n$2\r\n12\r\n"


def test_an_error_knows_its_kind() -> None:
    (error,) = Reader().feed(b"-MOVED 1 a:1\r\n")
    assert error == ErrorReply("MOVED 1 a:1")
    assert isinstance(error, ErrorReply)
    assert (error.kind, hash(error)) == ("MOVED", hash(ErrorReply("MOVED 1 a:1")))
    assert repr(error) == "ErrorReply('MOVED 1 a:1')"
