"""Requests that never become an exchange have a line in the access log, bounded in number and in what it says."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.limits import Limits
from sidecar.http.refusals import MAX_TEXT, MOST, beginning
from support.http import Stage


def refused(it: Stage, data: bytes) -> str:
    """What a client that sends this is told."""
    client = it.client()
    client.says(data)
    return client.gets().error


@pytest.mark.parametrize(
    ("data", "code", "method", "target", "reason"),
    [
        (b"GET /a?token=hush HTTP/1.1\r\n\r\n", "bad_request", "GET", "/a", "the Host field is missing"),
        (b"GET /a HTTP/1.1\r\nhost: t\r\nbad header: hush\r\n\r\n", "bad_request", "GET", "/a",
         "a header name with a space or a forbidden character"),
        (b"POST /up HTTP/1.1\r\nhost: t\r\ncontent-length: 2000\r\n\r\nhush", "body_too_large", "POST", "/up",
         "the request body is larger than 1000 bytes"),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n", "headers_too_large", "GET", "/" + "x" * (MAX_TEXT - 1) + "…",
         "the request head is larger than 4096 bytes"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01hush", "bad_request", "", "",
         "a control byte, or a bare CR or LF, in the request head"),
        (b"GET http://hush@h/ HTTP/1.1\r\nhost: \x7f\r\n\r\n", "bad_request", "GET", "", None),
        (b"GET /\xff\x9b31m HTTP/1.1\r\nhost: a b\r\n\r\n", "bad_request", "GET", "/ÿ\\x9b31m", None),
    ],
)  # fmt: skip
def test_a_line_for_each(data: bytes, code: str, method: str, target: str, reason: str | None) -> None:
    it = Stage(limits=Limits(head=4096, body=1000))
    assert refused(it, data) == code
    (record,) = it.records
    assert (record.error, record.method, record.target, record.client) == (code, method, target, "10.1.1.1")
    assert reason is None or record.reason == reason
    assert (record.attempts, record.endpoint, record.direction, record.upstream) == (0, None, "outbound", "up")
    assert "hush" not in str(record)
    assert it.stats.rejected == {code: 1}
    assert it.stats.requests == {("other", record.status): 1}
    assert it.stats.duration.count() == 0
    it.over()


def test_the_client_can_name_its_line() -> None:
    it = Stage()
    client = it.client()
    client.says(b"nonsense\r\n\r\n")
    assert client.gets().fields["x-request-id"] == it.records[0].request_id
    it.over()


def test_a_head_that_does_not_come() -> None:
    it = Stage()
    client = it.client()
    client.says(b"GET /slow HTTP/1.1\r\n")
    it.loop.run_until(it.loop.now + 11)
    assert client.gets().error == "bad_request"
    (record,) = it.records
    assert (record.method, record.target) == ("GET", "/slow")
    assert record.reason == "the request head was not complete in time"
    it.over()


def test_a_flood_has_few_lines_and_a_count(caplog: pytest.LogCaptureFixture) -> None:
    it = Stage()
    with caplog.at_level(logging.WARNING, "sidecar.http"):
        for _ in range(3 * MOST):
            refused(it, b"nonsense\r\n\r\n")
        assert len(it.records) == MOST
        assert not caplog.messages
        it.loop.run_until(it.loop.now + 1.5)
        assert caplog.messages == [f"{2 * MOST} refused requests were left out of the access log"]
        refused(it, b"nonsense\r\n\r\n")
        assert len(it.records) == MOST + 1
        it.loop.run_until(it.loop.now + 5)
    assert len(caplog.messages) == 1
    assert it.stats.rejected == {"bad_request": 3 * MOST + 1}
    it.over()


def test_what_was_left_out_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    it = Stage()
    refusals = it.listener.refusals  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, "sidecar.http"):
        for _ in range(MOST + 1):
            refusals.add("bad_request", "no", "10.0.0.1", "r", b"")
        refusals.close()
        refusals.close()
    assert caplog.messages == ["1 refused request was left out of the access log"]
    it.over()


@given(st.binary(max_size=3000))
def test_what_is_taken_of_a_request_is_short_and_safe(data: bytes) -> None:
    for method, path in (beginning(data), beginning(b"GET /" + data)):
        assert len(method) <= 32
        assert method.isascii()
        assert len(path) <= 4 * MAX_TEXT + 1
        assert path.isprintable()
        assert "?" not in path
