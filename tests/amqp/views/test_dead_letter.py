"""Dead letters as plain data."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.amqp.views import dead_letter
from sidecar.amqp.wire.constants import EXPIRATION, HEADERS
from support.fake_spool import TAKEN, damaged, header, letter, message

NOW = TAKEN + 3660.0


def test_in_short() -> None:
    found = letter(
        17,
        message(b"12345", user="guest", priority=4, expires=TAKEN + 30, trace="00-1-2-01"),
        reason="expired",
        code=0,
        died=TAKEN + 60.0044,
    )
    found.message.attempts = 2  # type: ignore[union-attr]
    assert dead_letter.summary(found, NOW) == {
        "id": 17,
        "died": "2026-01-01T00:01:00.004Z",
        "age": 3599.996,
        "reason": "expired",
        "code": 0,
        "text": "",
        "readable": True,
        "vhost": "/",
        "exchange": "ai.tasks",
        "routing_key": "ai.inference.go",
        "user": "guest",
        "origin": "pika/guest",
        "trace": "00-1-2-01",
        "published": "2026-01-01T00:00:00.000Z",
        "expires": "2026-01-01T00:00:30.000Z",
        "priority": 4,
        "attempts": 2,
        "bytes": 5,
    }


def test_with_everything() -> None:
    headers = {
        "text": "ö", "number": 7, "real": 1.5, "yes": True, "nothing": None, "bytes": b"\xff\x00", "inner": {"a": [1]},
        "no number": float("nan"),
    }  # fmt: skip
    found = dead_letter.whole(letter(1, message(headers=headers, flags=1)), NOW)
    assert found["mandatory"] is True
    assert found["properties"] == {
        "content_type": "application/json",
        "correlation_id": "c-1",
        "message_id": "m-1",
    }
    assert found["headers"] == headers | {"bytes": "/wA=", "no number": "nan"}
    assert found["body"] == {"size": 11, "cut": False, "encoding": "text", "content": '{"task": 1}'}
    short = dead_letter.summary(letter(1, message()), NOW)
    assert {key: found[key] for key in short} == short


def test_of_what_cannot_be_read_the_rest_is_there() -> None:
    found = dead_letter.whole(damaged(3), NOW)
    assert (found["readable"], found["reason"], found["published"], found["bytes"]) == (False, "corrupt", None, 17)
    assert b64decode(found["body"]["content"]) == b"\xff not a record"
    assert found.keys() == dead_letter.whole(letter(3), NOW).keys()


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"", ""),
        ("zwei\n\tZeilen\r\n€".encode(), "zwei\n\tZeilen\r\n€"),
        (b"\xff", None),
        (b"bell \x07", None),
        (b"\x1b[2J", None),
        ("right to left \u202e".encode(), None),
    ],
)
def test_a_body_is_text_when_it_can_be_printed(data: bytes, content: str | None) -> None:
    found = dead_letter.body(data)
    assert (found["size"], found["cut"]) == (len(data), False)
    if content is None:
        assert (found["encoding"], b64decode(found["content"])) == ("base64", data)
    else:
        assert (found["encoding"], found["content"]) == ("text", content)


def test_a_large_body_is_cut_and_not_within_a_character() -> None:
    data = ("x" + "é" * dead_letter.SHOWN).encode()
    found = dead_letter.body(data)
    assert (found["size"], found["cut"], found["encoding"]) == (len(data), True, "text")
    assert found["content"] == "x" + "é" * (dead_letter.SHOWN // 2 - 1)
    assert dead_letter.body(data, None)["content"] == data.decode()
    whole = dead_letter.body(b"x" * dead_letter.SHOWN)
    assert (whole["cut"], len(whole["content"])) == (False, dead_letter.SHOWN)
    binary = dead_letter.body(b"\xff" * (dead_letter.SHOWN + 1))
    assert (binary["cut"], b64decode(binary["content"])) == (True, b"\xff" * dead_letter.SHOWN)


def test_a_very_large_body_is_not_searched_for_what_is_no_text() -> None:
    data = b"x" * (dead_letter.MOST_TEXT + 1)
    assert dead_letter.body(data, None) == {
        "size": len(data),
        "cut": False,
        "encoding": "base64",
        "content": b64encode(data).decode(),
    }


@pytest.mark.parametrize("at", [1e300, float("inf"), float("nan"), -1e15])
def test_times_beyond_any_calendar(at: float) -> None:
    assert dead_letter.moment(at) is None


def test_a_header_that_is_cut_off_shows_none_of_its_properties() -> None:
    whole = header(1, a=1)
    for end in range(len(whole)):
        found = dead_letter.whole(letter(1, message(b"x", header=whole[:end])), NOW)
        assert found["body"]["content"] == "x"
    assert found["properties"] == {}


@given(
    st.binary(max_size=40).map(lambda rest: bytes(12) + (HEADERS | EXPIRATION).to_bytes(2, "big") + rest)
    | st.binary(max_size=60),
    st.binary(max_size=60),
    st.text(max_size=20),
    st.floats(),
)
def test_whatever_is_in_a_message_is_json(raw: bytes, body: bytes, name: str, at: float) -> None:
    names: dict[str, Any] = dict.fromkeys(("vhost", "exchange", "routing_key", "user", "origin"), "\udcff" + name)
    names = {key: value.encode("utf-8", "replace").decode() + "\udcff" for key, value in names.items()}
    found = dead_letter.whole(letter(1, message(body, header=raw, at=at, expires=at, **names), died=at), NOW)
    orjson.loads(orjson.dumps(found))
