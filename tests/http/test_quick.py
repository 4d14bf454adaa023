"""Answers from memory without an exchange: the same as with one, and only where nobody would miss it."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from sidecar.config.cache import CacheSettings
from sidecar.config.traffic import Match
from sidecar.core.records import AccessLog
from sidecar.http.h1.server import Downstream
from sidecar.http.listener import HttpListener
from sidecar.http.quick import MOST, MOST_BODY, MOST_BYTES
from support.http import Client, Stage
from support.ports import route_of

FRESH = "cache-control: max-age=60"


def stage(**more: Any) -> Stage:
    """A port whose accesses nobody wants to know."""
    quiet = AccessLog("errors", lambda record: None)
    return Stage(**{"cache": CacheSettings(), "retry": None, "circuit_breaker": None, "log": quiet, **more})


def known(it: Stage) -> dict[bytes, Any]:
    assert isinstance(it.listener, HttpListener)
    found: dict[bytes, Any] = it.listener.quick._known
    return found


def kept(
    it: Stage, line: str = "GET /a", *fields: str, answer: tuple[str, ...] = (FRESH,), body: bytes = b"kept"
) -> Client:
    """A client that has been answered from memory once, by an exchange."""
    client = it.asks(line, *fields)
    server = it.upstream()
    server.hears()
    server.answers(200, body, *answer)
    client.gets()
    client.asks(line, *fields)
    client.gets()
    return client


def test_the_second_hit_is_the_same_as_the_first() -> None:
    it = stage()
    client = kept(it)
    assert len(known(it)) == 1
    it.advance(5.0)
    client.asks("GET /a")
    answer = client.gets()
    assert (answer.status, answer.body) == (200, b"kept")
    assert (answer.fields["age"], answer.fields["cache-status"]) == ("5", "sidecar; hit; ttl=55")
    assert len(answer.fields["x-request-id"]) == 32
    assert it.stats.cache == {"miss": 1, "hit": 2}
    assert it.stats.requests == {("GET", 200): 3}
    assert it.stats.bytes_out == 12
    it.over()


def test_ages_are_right_at_any_time() -> None:
    it = stage()
    client = kept(it)
    before = 0.0
    for at in (0.25, 0.5, 0.999, 1.0, 1.5, 1.75, 2.0, 59.5):
        it.advance(at - before)
        before = at
        client.asks("GET /a")
        fields = client.gets().fields
        assert (fields["age"], fields["cache-status"]) == (f"{int(at)}", f"sidecar; hit; ttl={int(60 - at)}")
    assert it.stats.cache == {"miss": 1, "hit": 9}
    it.over()


def test_what_is_forgotten_is_not_given() -> None:
    it = stage()
    client = kept(it)
    client.asks("GET /a")
    client.gets()
    quick = next(iter(known(it).values()))
    quick.store.clear()
    client.asks("GET /a")
    assert it.upstream().hears().target == "/a"
    it.over()


def test_what_is_stale_or_gone_is_looked_for_as_ever() -> None:
    it = stage()
    client = kept(it)
    it.advance(61.0)
    client.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(200, b"new", FRESH)
    assert client.gets().body == b"new"
    assert not known(it)
    for _ in range(2):
        client.asks("GET /a")
        assert client.gets().body == b"new"
    other = it.asks("DELETE /a")
    server = it.upstream()
    server.hears()
    server.answers(204, b"")
    other.heard()
    client.asks("GET /a")
    assert it.upstream().hears().target == "/a"
    it.over()


@pytest.mark.parametrize(("line", "fields"), [
    ("HEAD /a", ()), ("GET /a", ("authorization: x",)), ("GET /a", ("x-request-id: 7",)), ("GET /a", ("b3: 0",)),
    ("GET /a", ("cache-control: max-age=9",)), ("GET /a", ("connection: close",)),
    ("GET /a", ("x-sidecar-deadline: 9000",)),    ("GET /a", (f"x: {'y' * MOST_BYTES}",)), ("GET /b", ()),
])  # fmt: skip
def test_other_requests_are_exchanges(line: str, fields: tuple[str, ...]) -> None:
    it = stage()
    kept(it)
    known(it).clear()
    client = it.asks(line, *fields)
    it.loop.settle()
    if it.asked():
        it.upstream().hears()
    assert not known(it)
    it.over()
    assert not client.connected


def test_each_varying_field_has_its_own() -> None:
    it = stage()
    answer = (FRESH, "vary: accept")
    for value in ("1", "2"):
        kept(it, "GET /a", f"accept: {value}", answer=answer)
    assert len(known(it)) == 2
    it.over()


def test_more_than_one_at_once_are_parsed() -> None:
    it = stage()
    client = kept(it)
    request = b"GET /a HTTP/1.1\r\nhost: t\r\n\r\n"
    client.says(request + request[:9])
    assert client.gets().body == b"kept"
    client.says(request[9:])
    assert client.gets().body == b"kept"
    it.over()


def test_while_somebody_watches_there_are_exchanges() -> None:
    records: list[Any] = []
    log = AccessLog("errors", records.append)
    it = stage(log=log)
    client = kept(it)
    log.set_mode("all")
    client.asks("GET /a")
    client.gets()
    assert len(records) == 1
    it.over()


def test_a_reload_that_begins_to_record_traces_is_heeded() -> None:
    it = stage()
    client = kept(it)
    sampling = it._context.sampling
    for share, spans in ((1.0, 1), (0.0, 0)):
        sampling.configure(share, False, inf)
        it.spans.clear()
        client.asks("GET /a")
        client.gets()
        assert len(it.spans) == spans
    it.over()


def test_a_draining_port_closes_after_it() -> None:
    it = stage()
    client = kept(it)
    it.listener.draining = True
    client.asks("GET /a")
    assert client.gets().fields["connection"] == "close"
    it.over()


def test_a_route_or_a_reload_without_a_cache_has_none() -> None:
    it = stage(cache=None, routes=(route_of(match=Match(path="/a"), cache=CacheSettings()),))
    kept(it)
    assert len(known(it)) == 1
    it.reload(routes=())
    assert isinstance(it.listener, HttpListener)
    assert it.listener.quick is None
    it.over()


def test_what_is_remembered_is_bounded() -> None:
    it = stage()
    client = kept(it)
    for number in range(MOST - 1):
        known(it)[b"%d" % number] = known(it)[next(iter(known(it)))]
    client.asks("GET /a", "accept: x")
    client.gets()
    assert len(known(it)) == 1
    it.over()


def test_large_answers_take_an_exchange() -> None:
    it = stage()
    kept(it, "GET /small", body=bytes(MOST_BODY))
    kept(it, "GET /large", body=bytes(MOST_BODY + 1))
    kept(it, "GET /long", answer=(FRESH, f"x: {'y' * MOST_BODY}"))
    assert [head.split()[1] for head in known(it)] == [b"/small"]
    it.over()


class _Upload(bytes):
    """What nobody looks at as a whole."""

    def __hash__(self) -> int:
        raise AssertionError


def test_what_is_too_long_to_be_known_is_not_looked_for() -> None:
    it = stage()
    kept(it)
    assert isinstance(it.listener, HttpListener)
    assert not it.listener.quick.answers(Downstream(it.listener), _Upload(MOST_BYTES + 1))
    it.over()
