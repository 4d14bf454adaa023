"""What answers say of themselves, and how many pieces they have."""

from __future__ import annotations

import pytest

from sidecar.llm.usage import Pieces, usage_of


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (b'{"done":true,"eval_count":290,"eval_duration":4709213000}\n', (290, 4.709213)),
        (b'"usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}}', (10, 0.0)),
        (b'"eval_count":1} "eval_count":2}', (2, 0.0)),
        (b'"eval_duration":5', (0, 0.0)),
        (b'"prompt_eval_count":5', (0, 0.0)),
        (b"", (0, 0.0)),
    ],
)
def test_usage(tail: bytes, usage: tuple[int, float]) -> None:
    assert usage_of(tail) == usage


def test_pieces() -> None:
    events = Pieces(b"text/event-stream; charset=utf-8")
    assert [events.take(it) for it in (b"data: a\n\ndata: b\n", b"\n", b"\ndata: c\n\n")] == [1, 1, 1]
    events = Pieces(b"text/event-stream")
    parts = (b"data: a\r\n\r\ndata: b\r\n", b"\r", b"\ndata: c\r", b"", b"\rdata: d\r", b"\n\r\n", b"\n")
    assert [events.take(it) for it in parts] == [1, 1, 0, 0, 1, 1, 0]
    lines = Pieces(b"application/x-ndjson")
    assert [lines.take(it) for it in (b"{}\n{}\n", b"{", b"}", b"\n")] == [2, 0, 0, 1]
    assert [Pieces(b"application/json").take(it) for it in (b"{", b"}")] == [1, 1]
