"""Spans as OTLP/JSON: whatever a record holds, protobuf's own reader takes it; and what a collector answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import __version__
from sidecar.core.records import SpanRecord
from sidecar.core.text import utf8
from sidecar.telemetry.otlp import KINDS, attributes, encode, rejected
from support.collector import attributes as found_attributes
from support.collector import decode


def digits(count: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**count - 1).map(lambda n: f"{n:0{count}x}")


#: Whatever a peer may send: lone surrogates stand for bytes that are no UTF-8.
texts = st.text(st.characters(exclude_categories=()), max_size=30)
times = st.integers(0, 2**64 - 1)
records = st.builds(
    SpanRecord,
    trace_id=digits(32),
    span_id=digits(16),
    parent_id=st.just("") | digits(16),
    name=texts,
    kind=st.sampled_from(sorted(KINDS)),
    start_ns=times,
    end_ns=times,
    attributes=st.dictionaries(texts.map(utf8), texts | st.booleans() | st.integers(-(2**63), 2**63 - 1), max_size=5),
    ok=st.booleans(),
    links=st.lists(st.tuples(digits(32), digits(16)), max_size=3).map(tuple),
)


@given(st.lists(records, max_size=4), st.dictionaries(texts.map(utf8), texts, max_size=3))
def test_any_record_is_valid_otlp_and_nothing_of_it_is_lost(sent: list[SpanRecord], resource: dict[str, str]) -> None:
    (found,) = decode(encode(sent, attributes(resource))).resource_spans
    assert found_attributes(found.resource) == {key: utf8(value) for key, value in resource.items()}
    (scope,) = found.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("sidecar", __version__)
    assert len(scope.spans) == len(sent)
    for span, record in zip(scope.spans, sent, strict=True):
        assert (span.trace_id.hex(), span.span_id.hex()) == (record.trace_id, record.span_id)
        assert span.parent_span_id.hex() == record.parent_id
        assert span.name == utf8(record.name)
        assert span.SpanKind.Name(span.kind) == f"SPAN_KIND_{record.kind.upper()}"
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (record.start_ns, record.end_ns)
        assert found_attributes(span) == {
            key: utf8(value) if isinstance(value, str) else value for key, value in record.attributes.items()
        }
        assert span.status.code == (span.status.STATUS_CODE_UNSET if record.ok else span.status.STATUS_CODE_ERROR)
        assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == list(record.links)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (0, "")),
        (b"{}", (0, "")),
        (b'{"partialSuccess": {}}', (0, "")),
        (b'{"partialSuccess": null}', (0, "")),
        (b'{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}', (3, "too old")),
        (b'{"partialSuccess": {"rejectedSpans": 3}}', (3, "")),
        (b'{"partialSuccess": {"rejectedSpans": "999"}}', (64, "")),
        (b'{"partialSuccess": {"rejectedSpans": -1}}', (0, "")),
        (b'{"partialSuccess": {"rejectedSpans": 1e400}}', (0, "")),
        (b'{"partialSuccess": {"rejectedSpans": [1]}}', (0, "")),
        (b'{"partialSuccess": {"errorMessage": 5}}', (0, "")),
        (b'{"partialSuccess": {"rejectedSpans": 1, "errorMessage": "a\\n\\u001b[2J"}}', (1, "a\\n\\x1b[2J")),
        (b"[" * 50000, (0, "")),
        (b"\xff\x00", (0, "")),
    ],
)
def test_what_a_collector_did_not_take(body: bytes, expected: tuple[int, str]) -> None:
    assert rejected(body, 64) == expected


@given(st.binary(max_size=200))
def test_any_answer_can_be_read(body: bytes) -> None:
    count, _ = rejected(body, 64)
    assert 0 <= count <= 64
