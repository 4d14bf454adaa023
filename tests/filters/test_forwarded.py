"""``x-forwarded-for``, ``x-forwarded-proto`` and ``forwarded``."""

from __future__ import annotations

import re

import pytest

from sidecar.filters.forwarded import Forwarded
from support.http import Stage, request


def send(*fields: str, ip: str = "10.1.1.1") -> dict[str, list[str]]:
    x = Stage(inbound=True).exchange(request("GET / HTTP/1.1", *fields), ip)
    Forwarded().on_request(x)
    assert x.head.as_http1().endswith(b"\r\n\r\n")
    assert x.head.as_http1().count(b"\r\n\r\n") == 1
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?i)\r\n((?:x-)?forwarded[a-z-]*): ?([^\r]*)", x.head.as_http1().decode()):
        found.setdefault(name.lower(), []).append(value)
    return found


def test_made() -> None:
    assert send() == {"x-forwarded-for": ["10.1.1.1"], "x-forwarded-proto": ["http"]}


def test_appended() -> None:
    found = send("X-Forwarded-For: 192.0.2.1", "x-forwarded-for: 192.0.2.2", "X-Forwarded-Proto: https")
    assert found["x-forwarded-for"] == ["192.0.2.1, 192.0.2.2, 10.1.1.1"]
    assert found["x-forwarded-proto"] == ["https"]


def test_an_empty_one_is_replaced() -> None:
    assert send("x-forwarded-for: ")["x-forwarded-for"] == ["10.1.1.1"]


def test_forwarded_is_continued_where_one_came() -> None:
    found = send("Forwarded: for=192.0.2.1;proto=https")
    assert found["forwarded"] == ["for=192.0.2.1;proto=https, for=10.1.1.1;proto=http"]
    assert found["x-forwarded-for"] == ["10.1.1.1"]


@pytest.mark.parametrize(
    "value",
    ['for="9', 'for="a\\"', "for=a b", "for=", 'for="a"b', "=a", "for", "for=a;;by=c, =", 'for="a";host="b, for=c'],
)
def test_what_would_swallow_our_element_is_dropped(value: str) -> None:
    assert send(f"Forwarded: {value}")["forwarded"] == ["for=10.1.1.1;proto=http"]


@pytest.mark.parametrize("value", ['for="[2001:db8::1]:4711"', "for=_a;by=b ; host=c,  for=d", 'for="a, \\"b";x=y,'])
def test_what_is_a_list_stays(value: str) -> None:
    assert send(f"Forwarded: {value}")["forwarded"] == [f"{value}, for=10.1.1.1;proto=http"]


def test_other_fields_that_are_malformed_are_dropped() -> None:
    found = send('X-Forwarded-For: "192.0.2.1', "x-forwarded-proto: https;x")
    assert found == {"x-forwarded-for": ["10.1.1.1"], "x-forwarded-proto": ["http"]}
    assert send("X-Forwarded-For: 192.0.2.1:99, [2001:db8::1]:9, unknown")["x-forwarded-for"] == [
        "192.0.2.1:99, [2001:db8::1]:9, unknown, 10.1.1.1"
    ]


def test_ipv6() -> None:
    found = send("forwarded: for=a", ip="2001:db8::1")
    assert found["forwarded"] == ['for=a, for="[2001:db8::1]";proto=http']
    assert found["x-forwarded-for"] == ["2001:db8::1"]


def test_inbound_only() -> None:
    inbound, outbound = Stage(inbound=True), Stage()
    inbound.asks("GET /", "x-forwarded-for: 192.0.2.1")
    asked = inbound.upstream().hears()
    assert asked.fields["x-forwarded-for"] == "192.0.2.1, 10.1.1.1"
    assert asked.fields["x-forwarded-proto"] == "http"
    outbound.asks()
    assert "x-forwarded-for" not in outbound.upstream().hears().fields
