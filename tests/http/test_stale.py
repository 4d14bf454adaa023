"""Which answers are kept to be given again, and to whom they are given."""

from __future__ import annotations

import pytest

from sidecar.config.fallback import StepSettings
from sidecar.core.identity import IDENTITY
from sidecar.filters.fallback import Fallback
from sidecar.http import stale
from support.http import Client, Stage

STEPS = (StepSettings(on=frozenset({"5xx"}), stale=3600.0),)


def stage() -> Stage:
    return Stage(fallback=STEPS, retry=None, circuit_breaker=None)


def told(it: Stage, *fields: str, line: str = "GET /a", answer: tuple[str, ...] = (), body: bytes = b"kept") -> None:
    """The upstream answers well to such a request."""
    client = it.asks(line, *fields)
    server = it.upstream()
    server.hears()
    server.answers(200, body, *answer)
    client.gets()


def given(it: Stage, *fields: str, line: str = "GET /a") -> bytes:
    """What such a request gets once the upstream answers badly; empty: its bad answer."""
    client: Client = it.asks(line, *fields)
    server = it.upstream()
    server.hears()
    server.answers(500, b"")
    answer = client.gets()
    assert ("x-sidecar-fallback" in answer.fields) is (answer.status == 200)
    return answer.body


@pytest.mark.parametrize("control", [
    "no-store", "private", 'private="set-cookie"', "no-cache", "max-age=60, must-revalidate", "Proxy-Revalidate",
])  # fmt: skip
def test_what_must_not_be_given_stale_is_not_kept(control: str) -> None:
    it = stage()
    told(it, answer=("cache-control: public", f"Cache-Control: {control}"))
    assert given(it) == b""
    it.over()


@pytest.mark.parametrize("field", ["set-cookie: a=b", "vary: *"])
def test_nor_what_is_for_one_client(field: str) -> None:
    it = stage()
    told(it, answer=(field,))
    assert given(it) == b""
    it.over()


@pytest.mark.parametrize("field", [*sorted(f"{name}: x" for name in IDENTITY), "X-API-Key:"])
def test_answers_to_users_are_kept_when_they_are_public_only(field: str) -> None:
    it = stage()
    told(it, field)
    assert given(it) == given(it, field) == b""
    told(it)
    assert given(it) == b"kept"
    assert given(it, field) == b"", "one for all is not one for this user"
    it.advance(2.0)
    told(it, field, answer=("cache-control: public, max-age=60",))
    assert given(it) == given(it, field) == b"kept"
    it.over()


@pytest.mark.parametrize("field", ["range: bytes=0-1", 'if-match: "a"', "cache-control: max-age=0"])
def test_nor_does_a_user_get_one_for_all_who_asks_for_more(field: str) -> None:
    it = stage()
    told(it)
    assert given(it, field) == b"kept"
    assert given(it, field, "x-api-key: a") == b""
    it.over()


def test_answers_vary() -> None:
    it = stage()
    told(it, "accept: a", answer=("vary: Accept", "Vary: x-tenant"), body=b"a")
    told(it, "accept: b", "x-tenant: 1", answer=("vary: accept, x-tenant",), body=b"b")
    assert given(it, "accept: a") == b"a"
    assert given(it, "accept: b", "x-tenant: 1") == b"b"
    assert given(it, "accept: b") == given(it) == b""
    it.over()


def test_by_method_target_and_host() -> None:
    it = stage()
    told(it, line="GET /a?x=1")
    assert given(it, line="GET /a?x=2") == given(it, line="POST /a?x=1") == b""
    assert given(it, line="GET /a?x=1") == b"kept"
    told(it, line="POST /b")
    told(it, line="HEAD /b", body=b"")
    assert given(it, line="GET /b") == b""
    it.over()


@pytest.mark.parametrize("field", ["cache-control: no-store", "cache-control: no-cache"])
def test_who_wants_no_stored_answer_gets_none(field: str) -> None:
    it = stage()
    told(it)
    assert given(it, field) == b""
    assert given(it) == b"kept"
    it.over()


@pytest.mark.parametrize("field", ["cache-control: no-store", "range: bytes=0-1"])
def test_answers_to_such_requests_are_not_kept(field: str) -> None:
    it = stage()
    told(it, field)
    assert given(it) == b""
    it.over()


@pytest.mark.parametrize(("control", "after", "kept"), [
    ("max-age=1", 100, True), ("s-maxage=10", 9, True), ("s-maxage=10", 11, False),
    ("max-age=10, stale-if-error=20", 29, True), ("max-age=10, stale-if-error=20", 31, False),
    ("stale-if-error=5", 6, False), ("stale-if-error=nonsense", 1, False),
])  # fmt: skip
def test_how_old_an_answer_may_get_by_its_own_word(control: str, after: float, kept: bool) -> None:
    it = stage()
    told(it, answer=(f"cache-control: {control}",))
    it.advance(after)
    assert (given(it) == b"kept") is kept
    it.over()


def test_the_age_that_it_came_with_counts() -> None:
    it = stage()
    told(it, answer=("age: 3000",))
    it.advance(500)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(500)
    assert client.gets().fields["age"] == "3500"
    it.advance(200)
    assert given(it) == b""
    it.over()


def test_only_whole_bodies_of_a_bounded_size() -> None:
    it = stage()
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    server.breaks()
    assert client.transport.gone
    assert given(it) == b""
    told(it, body=b"x" * (stale.MOST_BODY + 1))
    assert given(it) == b""
    it.over()


def test_a_chunked_answer_is_kept_without_its_chunks() -> None:
    it = stage()
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", b"0\r\n\r\n")
    assert client.heard().endswith(b"0\r\n\r\n")
    assert given(it) == b"hello"
    it.over()


def test_chunks_that_never_end_are_given_up() -> None:
    it = stage()
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(20):
        server.says(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    keeper = it.filter(Fallback).keeper
    assert keeper.view() == {"entries": 0, "bytes": 0, "dropped": 0}
    client.breaks()
    it.over()


def test_the_newest_one_counts_but_not_more_than_one_in_a_second() -> None:
    it = stage()
    told(it, body=b"first")
    told(it, body=b"second")
    assert given(it) == b"first"
    it.advance(1.1)
    told(it, body=b"third")
    assert given(it) == b"third"
    it.over()


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale, "MOST_BYTES", 10_000)
    it = stage()
    for n in range(10):
        told(it, line=f"GET /{n}", body=b"x" * 1000)
    shown = it.filter(Fallback).keeper.view()
    assert shown["bytes"] <= 10_000
    assert shown["dropped"] > 0
    assert given(it, line="GET /0") == b""
    assert given(it, line="GET /9") == b"x" * 1000
    it.over()


def test_what_is_kept_outlives_a_reload() -> None:
    it = stage()
    told(it)
    it.reload(fallback=(StepSettings(on=frozenset({"500"}), stale=60.0),))
    assert given(it) == b"kept"
    it.reload(fallback=())
    assert given(it) == b""
    it.over()


def test_a_get_with_a_body_asks_in_it() -> None:
    it = stage()
    with_body = ("content-length: 0",)
    told(it, *with_body)  # an empty one asks nothing
    client = it.asks("GET /a", body=b"abc")
    server = it.upstream()
    server.hears()
    server.answers(500, b"bad")
    assert client.gets().body == b"bad"
    assert given(it) == b"kept"
    it.over()


def test_answers_that_vary_by_other_fields_are_others() -> None:
    it = stage()
    told(it, "accept: x", answer=("vary: accept",), body=b"accept")
    it.advance(2.0)
    told(it, "accept-language: y", answer=("vary: accept-language",), body=b"language")
    assert given(it, "accept-language: x") == b""
    assert given(it, "accept-language: y") == b"language"
    it.over()


def test_an_answer_that_varies_by_very_much_is_not_kept() -> None:
    it = stage()
    told(it, answer=("vary: " + ", ".join(f"x-{n}" for n in range(100)),))
    assert given(it) == b""
    it.over()
