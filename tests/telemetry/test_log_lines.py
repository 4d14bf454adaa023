"""What lines look like, and that what a peer sends cannot forge one."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.records import AccessRecord, Try
from sidecar.core.secret import Secret
from sidecar.core.text import timestamp
from sidecar.telemetry.access_lines import access_fields
from sidecar.telemetry.log_lines import (
    MAX_TEXT,
    JsonLines,
    Lines,
    TextLines,
    record_fields,
)

FORMATS: list[Lines] = [JsonLines(), TextLines(), TextLines(colour=True)]
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too

ACCESS = AccessRecord(
    time=1700000000.1239,
    direction="outbound",
    upstream="ollama",
    method="POST",
    target="/api/generate",
    status=503,
    error="circuit_open",
    duration=0.0123456789,
    bytes_in=10,
    bytes_out=20,
    endpoint=None,
    attempts=0,
    client="127.0.0.1",
    request_id="r-1",
    trace_id="0af7651916cd43dd8448eb211c80319c",
)


def record(message: Any = "hello", *args: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("sidecar.test", level, "f.py", 1, message, args, None)
    made.created = 1700000000.5
    made.__dict__.update(extra)
    return made


def fields(made: logging.LogRecord) -> dict[str, Any]:
    return record_fields(made, "tasks")


def as_json(made: dict[str, Any]) -> dict[str, Any]:
    line = JsonLines().line(made)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_json() -> None:
    found = as_json(fields(record("%s is %s", "it", 1, trace_id="abc", listeners={"a": 1})))
    assert found == {
        "ts": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "logger": "sidecar.test",
        "msg": "it is 1",
        "service": "tasks",
        "trace_id": "abc",
        "listeners": {"a": 1},
    }
    assert list(found)[:5] == ["ts", "level", "logger", "msg", "service"]


def test_text() -> None:
    line = TextLines().line(fields(record("hello", level=logging.WARNING, n=1, empty="", said='a "b"')))
    assert line == b'2023-11-14T22:13:20.500Z warning sidecar.test hello n=1 empty="" said="a \\"b\\""\n'


def test_colour_is_for_what_matters() -> None:
    lines = TextLines(colour=True)
    assert b"\x1b" not in lines.line(fields(record()))
    assert lines.line(fields(record(level=logging.ERROR))).startswith(b"\x1b[31m")


def test_extra_cannot_replace_what_every_line_has() -> None:
    found = as_json(fields(record(level=logging.ERROR, ts="never", service="other", logger="x")))
    assert (found["level"], found["service"], found["logger"]) == ("error", "tasks", "sidecar.test")


def test_an_exception_is_a_string() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    found = as_json(fields(made))
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: a\nb")
    text = TextLines().line(fields(made)).decode().splitlines()
    assert all(line.startswith("    ") for line in text[1:])


def test_long_texts_are_cut() -> None:
    found = fields(record("x" * 10**6))
    assert len(found["msg"]) == MAX_TEXT + 1


def test_secrets_do_not_show() -> None:
    for lines in FORMATS:
        secret = Secret("hush")
        line = lines.line(fields(record("token %s", secret, token=secret, nested={"a": [secret]})))
        assert b"hush" not in line


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize("lines", FORMATS)
@pytest.mark.parametrize(
    "made",
    [
        record("%d", "text"),
        record("too many", 1, 2),
        record("%s", Unshowable()),
        record(extra=Unshowable()),
        record(extra={1: Unshowable()}),
        record(extra=2**70),
        record(extra=float("nan")),
        record("\udc80", extra="\ud800"),
        record(None),
    ],
)
def test_nothing_is_unloggable(lines: Lines, made: logging.LogRecord) -> None:
    assert lines.line(fields(made)).endswith(b"\n")


@given(ANY_TEXT, ANY_TEXT)
def test_text_lines_cannot_be_forged(message: str, extra: str) -> None:
    line = TextLines().line(fields(record("%s", message, extra=extra))).decode()
    first, *more = line.removesuffix("\n").split("\n")
    assert first.startswith("2023-11-14T22:13:20.500Z info    sidecar.test ")
    assert all(further.startswith("    ") for further in more)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", line)


@given(ANY_TEXT)
def test_json_lines_cannot_be_forged(text: str) -> None:
    found = as_json(fields(record("%s", text, extra=text)))
    if text.isprintable():
        assert (found["msg"], found["extra"]) == (text, text)


def test_an_access_line() -> None:
    assert as_json(access_fields(ACCESS, "tasks")) == {
        "ts": "2023-11-14T22:13:20.123Z",
        "level": "warning",
        "logger": "sidecar.access",
        "msg": "POST /api/generate 503",
        "service": "tasks",
        "direction": "outbound",
        "upstream": "ollama",
        "method": "POST",
        "target": "/api/generate",
        "status": 503,
        "error": "circuit_open",
        "duration": 0.012346,
        "waited": 0.012346,
        "bytes_in": 10,
        "bytes_out": 20,
        "attempts": 0,
        "client": "127.0.0.1",
        "request_id": "r-1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_a_good_exchange_is_info_and_zeros_stay() -> None:
    found = access_fields(ACCESS._replace(status=200, error=None, bytes_in=0), "tasks")
    assert (found["level"], found["bytes_in"], "error" in found) == ("info", 0, False)


@given(ANY_TEXT)
def test_a_target_cannot_forge_a_line(target: str) -> None:
    made = access_fields(ACCESS._replace(target=target), "tasks")
    as_json(made)
    for lines in FORMATS[1:]:
        text = lines.access(made).decode()
        assert text.endswith("\n")
        assert not re.search(r"[\x00-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029\u202e]", text[:-1])
    assert "\x1b" not in TextLines().access(made).decode()


TRIES = (
    Try("10.0.0.1:80", 0.25, "connect", "refused", 0, "", 0.002),
    Try("10.0.0.2:80", 1.252, "", "", 503, "draining", 0.1),
)


def test_an_access_line_of_several_attempts() -> None:
    """Where the time went: a quarter of a second in a queue, one between the attempts."""
    made = access_fields(
        ACCESS._replace(
            status=503, error=None, peer_error="draining", duration=1.352, began=1.252, sent=1.262, head=1.352,
            endpoint="10.0.0.2:80", attempts=2, tries=TRIES, span_id="b7ad6b7169203331",
        ),
        "tasks",
    )  # fmt: skip
    assert (made["waited"], made["connecting"], made["first_byte"]) == (1.25, 0.01, 1.352)
    assert made["tries"] == [
        {"endpoint": "10.0.0.1:80", "at": 0.25, "seconds": 0.002, "failure": "connect", "cause": "refused"},
        {"endpoint": "10.0.0.2:80", "at": 1.252, "seconds": 0.1, "status": 503, "peer_error": "draining"},
    ]
    assert (made["peer_error"], made["span_id"]) == ("draining", "b7ad6b7169203331")
    assert TextLines().access(made).decode() == (
        "2023-11-14T22:13:20.123Z warning outbound ollama POST /api/generate 503 draining 1.352s waited=1.250s "
        "connecting=10ms first_byte=1.352s bytes_in=10 bytes_out=20 endpoint=10.0.0.2:80 attempts=2 "
        'tries="10.0.0.1:80 connect refused 2ms, 10.0.0.2:80 503 draining 100ms" client=127.0.0.1 request_id=r-1 '
        "trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331\n"
    )


def test_timings_of_attempts_that_did_not_come_to_an_answer() -> None:
    one = (Try("10.0.0.1:80", 0.0, "connect", "timeout", 0, "", 1.0),)
    made = access_fields(ACCESS._replace(began=0.0, duration=1.0, tries=one), "tasks")
    assert made["connecting"] == 1.0
    assert not {"waited", "first_byte"} & made.keys()
    kept = access_fields(ACCESS._replace(began=0.0, sent=0.0, kept=True, head=0.5, duration=0.5), "tasks")
    assert "connecting" not in kept
    # It gave up while it waited for its next attempt.
    assert access_fields(ACCESS._replace(began=0.0, duration=3.0, tries=one), "tasks")["waited"] == 2.0


def test_colours_of_access_lines() -> None:
    made = access_fields(ACCESS, "tasks")
    assert b"\x1b[31m503\x1b[0m circuit_open" in TextLines(colour=True).access(made)
    assert b"\x1b" not in TextLines().access(made)


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1.9996, "1970-01-01T00:00:01.999Z")])
def test_timestamps(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text
