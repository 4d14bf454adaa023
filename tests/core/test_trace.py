"""Trace context on the wire."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.trace import _TRACEPARENT, Trace, b3_fields, parse_b3, parse_traceparent, traceparent

_IDS = st.integers(1, 2**128 - 1).map(lambda n: f"{n:032x}")
_SPANS = st.integers(1, 2**64 - 1).map(lambda n: f"{n:016x}")
_FLAGS = st.integers(0, 3)


@given(_IDS, _SPANS, _FLAGS)
def test_what_is_written_is_read_again(trace_id: str, span_id: str, flags: int) -> None:
    trace = Trace(trace_id, span_id, "", flags)
    assert trace.sampled is bool(flags & 1)
    assert parse_traceparent(traceparent(trace)) == (trace_id, span_id, flags)


@given(st.binary(max_size=2), st.integers(0, 55), st.integers(0, 55))
def test_the_usual_form_is_read_as_the_expression_would(other: bytes, begin: int, end: int) -> None:
    value = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    value = value[:begin] + other + value[end:]
    found = _TRACEPARENT.fullmatch(value)
    fits = found is not None and found[1] != b"ff" and not (found[1] == b"00" and found[5])
    wanted = None
    if fits and found is not None and found[2].strip(b"0") and found[3].strip(b"0"):
        wanted = (found[2].decode(), found[3].decode(), int(found[4], 16) & 3)
    assert parse_traceparent(value) == wanted


def test_ids_of_zeros_are_none() -> None:
    assert parse_traceparent(b"00-%b-b7ad6b7169203331-01" % (b"0" * 32)) is None
    assert parse_traceparent(b"00-0af7651916cd43dd8448eb211c80319c-%b-01" % (b"0" * 16)) is None


@given(_IDS, _SPANS, _SPANS, _FLAGS, st.booleans())
def test_the_same_for_b3(trace_id: str, span_id: str, parent_id: str, flags: int, single: bool) -> None:
    trace = Trace(trace_id, span_id, parent_id, flags)
    fields = dict(b3_fields(trace, single))
    assert (b"b3" in fields) is single
    assert parse_b3(fields) == (trace_id, span_id, trace.sampled)


@given(st.binary(max_size=64))
def test_nothing_that_comes_makes_it_fail(value: bytes) -> None:
    parse_traceparent(value)
    parse_b3({b"b3": value})
    parse_b3({b"x-b3-traceid": value, b"x-b3-spanid": value, b"x-b3-sampled": value, b"x-b3-flags": value})


def test_unusable_b3() -> None:
    good = {b"x-b3-traceid": b" 80f198ee56343ba864fe8b2a57d3eff7", b"x-b3-spanid": b" e457b5a2e4d86bd1"}
    assert parse_b3(good) == ("80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1", None)
    nothing = ("", "", None)
    assert parse_b3({}) == nothing
    assert parse_b3({**good, b"x-b3-spanid": b"0" * 16}) == nothing
    assert parse_b3({**good, b"x-b3-traceid": b"0" * 32}) == nothing
    assert parse_b3({**good, b"x-b3-traceid": b"xyz"}) == nothing
    assert parse_b3({**good, b"x-b3-spanid": good[b"x-b3-traceid"]}) == nothing
    assert parse_b3({b"b3": b"nonsense", **good}) == nothing
