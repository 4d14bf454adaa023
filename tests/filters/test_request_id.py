"""``x-request-id``: kept, made, or replaced."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from sidecar.filters.request_id import RequestId, new_request_id
from support.http import Stage, request


def send(*fields: str) -> Any:
    x = Stage().exchange(request("GET / HTTP/1.1", *fields))
    RequestId(random.Random(1)).on_request(x)
    return x


def sent(x: Any) -> list[bytes]:
    return re.findall(rb"(?i)\r\nx-request-id: ?([^\r]*)", x.head.as_http1())


@pytest.mark.parametrize("given", ["abc", "7f3a-1", "x" * 128, "!~"])
def test_a_usable_one_is_kept_byte_for_byte(given: str) -> None:
    x = send(f"X-Request-ID:   {given} ")
    assert x.request_id == given
    assert x.head.as_http1() == request("GET / HTTP/1.1", f"X-Request-ID:   {given} ").raw


@pytest.mark.parametrize("fields", [("x-request-id:",), ("x-request-id: a b",), ("x-request-id: " + "x" * 129,),
                                    ("x-request-id: é",), ("x-request-id: a", "x-request-id: b")])  # fmt: skip
def test_an_unusable_one_is_replaced(fields: tuple[str, ...]) -> None:
    x = send(*fields)
    assert re.fullmatch("[0-9a-f]{32}", x.request_id)
    assert sent(x) == [x.request_id.encode()]


def test_one_is_made_where_none_came() -> None:
    x = send()
    assert sent(x) == [x.request_id.encode()]
    assert x.head.as_http1().endswith(b"\r\n\r\n")


def test_new_ones_differ() -> None:
    rng = random.Random(1)
    assert len({new_request_id(rng) for _ in range(1000)}) == 1000


def test_a_reply_carries_it() -> None:
    stage = Stage(endpoints=0)
    refused = stage.asks("GET /", "x-request-id: mine").gets()
    assert refused.fields["x-request-id"] == "mine"
    assert b'"request_id":"mine"' in refused.body
    assert stage.records[0].request_id == "mine"
    stage.over()
