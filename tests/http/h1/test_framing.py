"""Where a body ends, from the fields that say it."""

from __future__ import annotations

import pytest

from sidecar.core.replies import ProtocolError
from sidecar.http.h1.framing import CHUNKED, framing, merge

LONG = b"9" * 18


def told(name: bytes, value: bytes, *, version: int = 1, answer: bool = False) -> tuple[int, bytes]:
    """The length, and the value with which the field goes on: in its place as it came, or at the end, made usual."""
    raw = b"X\r\nA: b\r\n%b:%b\r\nC: d\r\n\r\n" % (name, value)
    length, onward = framing(raw, {name: value}, version, answer)
    if onward == raw:
        return length, value
    found = onward.partition(b"\r\n" + name + b":")[2][:-4]
    assert onward == b"X\r\nA: b\r\nC: d\r\n%b:%b\r\n\r\n" % (name, found)
    assert found != value, "it was usual already"
    return length, found


def refusal(fields: dict[bytes, bytes], *, version: int = 1, answer: bool = False) -> str:
    with pytest.raises(ProtocolError) as error:
        framing(b"X\r\n\r\n", fields, version, answer)
    return str(error.value)


@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    ("value", "length", "onward"),
    [
        (b" 0", 0, b" 0"),
        (b"5", 5, b"5"),
        (b" \t5\t ", 5, b" \t5\t "),
        (b" 10", 10, b" 10"),
        (b" " + LONG, int(LONG), b" " + LONG),
        (b" 05", 5, b" 5"),
        (b" 00", 0, b" 0"),
        (b" " + b"0" * 17 + b"7", 7, b" 7"),
    ],
)
def test_lengths(value: bytes, length: int, onward: bytes, version: int, answer: bool) -> None:
    assert told(b"content-length", value, version=version, answer=answer) == (length, onward)


@pytest.mark.parametrize(
    "value",
    [b"", b" ", b" x", b" +5", b" -5", b" 5 5", b" 0x5", b" 5;", b" \xb2", b" X5", b" 5X", b" 0X7", b" " + LONG + b"9"],
)
def test_what_is_no_length(value: bytes) -> None:
    for answer, what in ((False, "request"), (True, "answer")):
        assert refusal({b"content-length": value}, answer=answer) == f"the {what}'s Content-Length is not a number"


def test_only_an_answer_may_have_many_zeros_or_say_it_again() -> None:
    zeros = b" " + b"0" * 18 + b"7"
    assert refusal({b"content-length": zeros}) == "the request's Content-Length is not a number"
    assert told(b"content-length", zeros, answer=True) == (7, b" 7")
    assert told(b"content-length", b" 0" + LONG, answer=True) == (int(LONG), b" " + LONG)
    assert refusal({b"content-length": b" 5,5"}) == "the request's Content-Length is not a number"
    assert told(b"content-length", b" 5 ,\t05", answer=True) == (5, b" 5")
    for differ in (b" 5,6", b" 5,", b" ,5", b" 0,"):
        assert refusal({b"content-length": differ}, answer=True) == "more than one content-length field"


@pytest.mark.parametrize("value", [b" chunked", b"chunked", b" Chunked", b"  CHUNKED "])
def test_chunks(value: bytes) -> None:
    for answer, what in ((False, "request"), (True, "answer")):
        assert told(b"transfer-encoding", value, answer=answer) == (CHUNKED, value)
        fields = {b"transfer-encoding": value}
        text = f"the {what} is HTTP/1.0 and has a Transfer-Encoding"
        assert refusal(fields, version=0, answer=answer) == text
        text = f"the {what} has both Content-Length and Transfer-Encoding"
        assert refusal(fields | {b"content-length": b" 5"}, answer=answer) == text
        assert refusal(fields | {b"content-length": b" 5"}, version=0, answer=answer) == text


@pytest.mark.parametrize("value", [b"\tchunked", b" chunked\t", b" \tchunked \t"])
def test_tabs_around_chunks_are_for_answers(value: bytes) -> None:
    assert refusal({b"transfer-encoding": value}) == "the request's Transfer-Encoding is not exactly 'chunked'"
    assert told(b"transfer-encoding", value, answer=True) == (CHUNKED, b" chunked")


@pytest.mark.parametrize(
    "value",
    [b"", b" gzip", b" gzip, chunked", b" chunked, chunked", b" chunked;a=b", b" xchunked", b" Xchunked", b" chunkedX"],
)
def test_codings_that_hide_the_end(value: bytes) -> None:
    for answer, what in ((False, "request"), (True, "answer")):
        text = f"the {what}'s Transfer-Encoding is not exactly 'chunked'"
        assert refusal({b"transfer-encoding": value}, answer=answer) == text


def test_fields_that_come_again_are_a_list() -> None:
    pairs = [(b"Via", b" a"), (b"Connection", b" x"), (b"via", b" b"), (b"VIA", b"c")]
    assert merge(pairs) == {b"via": b" a, b,c", b"connection": b" x"}


@pytest.mark.parametrize("name", [b"host", b"transfer-encoding", b"expect"])
def test_fields_that_may_not_come_again(name: bytes) -> None:
    for lengths in (False, True):
        with pytest.raises(ProtocolError, match=f"^more than one {name.decode()} field$"):
            merge([(name, b" a"), (name.title(), b" a")], lengths)


def test_a_length_that_comes_again() -> None:
    with pytest.raises(ProtocolError, match=r"^content-length is given twice$"):
        merge([(b"Content-Length", b" 5"), (b"content-length", b"\t5 ")])
    for other in (b" 6", b" 5X", b" X5"):
        with pytest.raises(ProtocolError, match=r"^more than one content-length field$"):
            merge([(b"Content-Length", b" 5"), (b"content-length", other)])
        with pytest.raises(ProtocolError, match=r"^more than one content-length field$"):
            merge([(b"Content-Length", other), (b"content-length", b" 5")])
    again = [(b"Content-Length", b" 5"), (b"content-length", b" 6")]
    assert merge(again, lengths=True) == {b"content-length": b" 5, 6"}
