"""What the response cache takes for the same request, and what it forgets when something has changed."""

from __future__ import annotations

import pytest

from sidecar.agent.outage import apart
from sidecar.config.cache import CacheSettings
from sidecar.config.fallback import StepSettings
from sidecar.config.traffic import Match
from sidecar.filters.cache import Cache
from support.cache import FRESH, JSON, TYPE, away, hit, stage, told
from support.http import Stage
from support.ports import route_of

NEXT = "x-version: next"
COLD = b'{"temperature":0}'
BOTH = CacheSettings(key="json", methods=frozenset({"GET", "POST"}), ttl=60.0)


def body(it: Stage, line: str, *fields: str, sent: bytes = b"") -> bytes | None:
    """What is kept for such a request."""
    found = hit(it, line, *fields, sent=sent)
    return None if found is None else found.body


# -- routes ------------------------------------------------------------------------------------------------------------


def test_a_route_that_goes_by_a_header_has_a_memory_of_its_own() -> None:
    it = stage(routes=(route_of(match=Match(headers={"x-version": "next"})),))
    told(it, "GET /a", body=b"stable")
    assert body(it, "GET /a", NEXT) is None
    told(it, "GET /a", NEXT, body=b"next")
    it.reload(cache=CacheSettings(ttl=1.0))
    assert (body(it, "GET /a"), body(it, "GET /a", NEXT)) == (b"stable", b"next")
    told(it, "PUT /a", status=204, body=b"")
    assert (body(it, "GET /a"), body(it, "GET /a", NEXT)) == (None, None)
    it.over()


def test_and_one_that_goes_by_a_path_has_the_ports() -> None:
    it = stage(routes=(route_of(match=Match(path="/a", methods=("HEAD",)), retry=None),))
    told(it, "GET /a")
    assert it.asks("HEAD /a").heard().startswith(b"HTTP/1.1 200 ")
    assert not it.asked()
    it.over()


def test_what_routes_have_for_themselves() -> None:
    both = ("cache", "fallback")
    assert apart(route_of(match=Match(headers={"a": "b"}))) == both
    assert apart(route_of(match=Match(methods=("HEAD",)), split=(("next", 1),))) == both
    assert apart(route_of(match=Match(methods=("HEAD",)), retry=None)) == ()
    assert apart(route_of(match=Match(path="/a"), split=(("next", 1),))) == ()


def test_a_route_can_do_without() -> None:
    it = stage(routes=(route_of(match=Match(headers={"x-version": "next"}), cache=None),))
    told(it, "GET /a", NEXT)
    assert body(it, "GET /a", NEXT) is None
    it.over()


def test_what_a_fallback_keeps_is_for_its_route_too() -> None:
    step = StepSettings(on=frozenset({"connect_failed"}), stale=60.0)
    route = route_of(match=Match(headers={"x-version": "next"}))
    it = Stage(fallback=(step,), retry=None, circuit_breaker=None, routes=(route,))
    told(it, "GET /a", body=b"stable")
    away(it)
    assert it.asks("GET /a").gets().body == b"stable"
    assert it.asks("GET /a", NEXT).gets().error == "connect_failed"
    it.over()


# -- schemes and hosts -------------------------------------------------------------------------------------------------


def test_http_and_https_are_two_resources() -> None:
    it = stage(inbound=True)
    moved = (FRESH, "location: https://t/a")
    told(it, "GET /a", "x-forwarded-proto: http", status=301, answer=moved, body=b"moved")
    assert body(it, "GET /a", "X-Forwarded-Proto: https") is None
    told(it, "GET /a", "x-forwarded-proto: HTTPS", body=b"safe")
    assert (body(it, "GET /a"), body(it, "GET /a", "x-forwarded-proto:https")) == (b"moved", b"safe")
    told(it, "PUT /a", "x-forwarded-proto: https", status=204, body=b"")
    assert (body(it, "GET /a"), body(it, "GET /a", "x-forwarded-proto: https")) == (None, None)
    it.over()


@pytest.mark.parametrize("proto", [("spdy",), ("https, http",), ("http", "https"), ("",)])
def test_what_came_by_another_scheme_is_not_for_the_cache(proto: tuple[str, ...]) -> None:
    it = stage()
    fields = [f"x-forwarded-proto: {one}" for one in proto]
    assert told(it, "GET /a", *fields).fields["cache-status"] == "sidecar; fwd=bypass"
    assert body(it, "GET /a") is None
    it.over()


def test_a_host_that_others_have_seen_counts() -> None:
    it = stage()
    told(it, "GET /a", "x-forwarded-host: evil", body=b"evil")
    assert body(it, "GET /a") is None
    told(it, "GET /a", body=b"well")
    assert body(it, "GET /a", "x-forwarded-host: T") == b"well", "it is the same one"
    assert body(it, "GET /a", "x-forwarded-host: EVIL") == b"evil"
    told(it, "DELETE /a", status=204, body=b"")
    assert body(it, "GET /a", "x-forwarded-host: evil") is None
    it.over()


@pytest.mark.parametrize("field", ["x-forwarded-proto: https", "x-forwarded-host: evil", "x-forwarded-proto: odd"])
def test_what_a_fallback_keeps_is_for_that_scheme_and_host(field: str) -> None:
    step = StepSettings(on=frozenset({"connect_failed"}), stale=60.0)
    it = Stage(fallback=(step,), retry=None, circuit_breaker=None)
    told(it, "GET /a", field, body=b"other")
    told(it, "GET /b", body=b"plain")
    away(it)
    assert it.asks("GET /a").gets().error == "connect_failed"
    assert it.asks("GET /b", field).gets().error == "connect_failed"
    assert it.asks("GET /b").gets().body == b"plain"
    it.over()


# -- what is forgotten -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["PUT /v1", "DELETE /v1"])
def test_what_is_known_by_a_body_is_forgotten_too(line: str) -> None:
    it = stage(JSON)
    told(it, "POST /v1", TYPE, sent=COLD, answer=())
    told(it, "POST /v2", TYPE, sent=COLD, answer=())
    told(it, line, status=204, body=b"", answer=())
    assert body(it, "POST /v1", TYPE, sent=COLD) is None
    assert body(it, "POST /v2", TYPE, sent=COLD) == b"kept"
    it.over()


def test_answers_by_bodies_may_vary_each_by_something_else() -> None:
    it = stage(JSON)
    stream = b'{"temperature":0,"stream":true}'
    told(it, "POST /v1", TYPE, sent=COLD, answer=("vary: x-v",))
    assert told(it, "POST /v1", TYPE, sent=stream, answer=()).fields["cache-status"] == "sidecar; fwd=uri-miss; stored"
    assert body(it, "POST /v1", TYPE, sent=COLD) == b"kept"
    assert body(it, "POST /v1", TYPE, "x-v: 1", sent=COLD) is None
    assert body(it, "POST /v1", TYPE, "x-v: 1", sent=stream) == b"kept"
    it.over()


def test_one_body_whose_answer_is_not_kept_says_nothing_of_others() -> None:
    it = stage(JSON)
    told(it, "POST /v1", TYPE, sent=b'{"temperature":0,"n":1}', answer=("cache-control: private",))
    both = [it.asks("POST /v1", TYPE, body=COLD) for _ in range(2)]
    (server,) = it.asked()
    server.hears()
    server.answers(200, b"one")
    assert [client.gets().body for client in both] == [b"one", b"one"]
    it.over()


def test_where_post_asks_it_changes_nothing_that_is_asked_for_so() -> None:
    it = stage(BOTH)
    told(it, "POST /v1", TYPE, sent=COLD, answer=())
    told(it, "GET /v1", body=b"got")
    told(it, "POST /v1", TYPE, sent=b'{"temperature":0,"n":1}', answer=())
    assert body(it, "GET /v1") == b"got"
    told(it, "POST /v1", TYPE, sent=b'{"temperature":1}', answer=())
    assert body(it, "GET /v1") is None, "that may have changed something"
    assert body(it, "POST /v1", TYPE, sent=COLD) == b"kept"
    it.over()


@pytest.mark.parametrize("own", [False, True])
def test_what_is_changed_by_another_route_is_forgotten(own: bool) -> None:
    """By one without a cache, or with one of its own."""
    writes = CacheSettings() if own else None
    it = Stage(
        cache=writes,
        retry=None,
        circuit_breaker=None,
        routes=(route_of(match=Match(methods=("GET",)), cache=CacheSettings()),),
    )
    told(it, "GET /a", body=b"old")
    assert body(it, "GET /a") == b"old"
    told(it, "PUT /a", status=500)
    assert body(it, "GET /a") == b"old"
    assert ("cache-status" in told(it, "PUT /a", status=204, body=b"").fields) is own
    assert body(it, "GET /a") is None
    it.over()


# -- conditions --------------------------------------------------------------------------------------------------------


def test_a_post_is_sent_without_conditions() -> None:
    it = stage(JSON)
    told(it, "POST /v1", TYPE, sent=COLD, answer=('etag: "v1"',))
    it.advance(61.0)
    client = it.asks("POST /v1", TYPE, body=COLD)
    server = it.upstream()
    assert "if-none-match" not in server.hears().fields
    server.answers(200, b"new")
    assert client.gets().fields["cache-status"] == "sidecar; fwd=stale; stored"
    assert body(it, "POST /v1", TYPE, sent=COLD) == b"new"
    it.over()


@pytest.mark.parametrize("field", ['if-none-match: "v1"', "if-modified-since: Mon, 02 Nov 2026 10:00:00 GMT"])
def test_a_post_with_conditions_is_not_for_the_cache(field: str) -> None:
    it = stage(JSON)
    answer = ('etag: "v1"', "last-modified: Mon, 02 Nov 2026 10:00:00 GMT")
    told(it, "POST /v1", TYPE, sent=COLD, answer=answer)
    client = it.asks("POST /v1", TYPE, field, body=COLD)
    server = it.upstream()
    assert server.hears().fields[field.partition(":")[0]] == field.partition(": ")[2]
    server.answers(412, b"")
    answered = client.gets()
    assert (answered.status, answered.fields["cache-status"]) == (412, "sidecar; fwd=bypass")
    it.over()


def test_a_query_has_its_conditions_answered() -> None:
    it = stage(CacheSettings(key="json", methods=frozenset({"QUERY"}), ttl=60.0))
    told(it, "QUERY /v1", TYPE, sent=COLD, answer=('etag: "v1"',))
    assert it.asks("QUERY /v1", TYPE, 'if-none-match: "v1"', body=COLD).heard().startswith(b"HTTP/1.1 304 ")
    it.over()


def test_a_304_about_something_else_leaves_what_else_is_known_by_bodies() -> None:
    it = stage(CacheSettings(key="json", methods=frozenset({"QUERY"}), ttl=60.0))
    told(it, "QUERY /v1", TYPE, sent=COLD, answer=('etag: "v1"', "cache-control: max-age=1"))
    told(it, "QUERY /v1", TYPE, sent=b'{"temperature":0,"n":1}', answer=())
    it.advance(2.0)
    client = it.asks("QUERY /v1", TYPE, body=COLD)
    server = it.upstream()
    assert server.hears().fields["if-none-match"] == '"v1"'
    server.says(b'HTTP/1.1 304 x\r\netag: "v9"\r\n\r\n')
    again = it.upstream()
    again.hears()
    again.answers(200, b"new")
    assert client.gets().body == b"new"
    assert body(it, "QUERY /v1", TYPE, sent=b'{"temperature":0,"n":1}') == b"kept"
    it.over()


# -- what outlives a reload --------------------------------------------------------------------------------------------


def test_what_is_changed_is_remembered_once_for_all_routes() -> None:
    it = stage(routes=(route_of(match=Match(path="/own/*"), cache=CacheSettings(ttl=1.0)),))
    caches = it.filter(Cache).caches
    assert len([*caches.all]) == 2
    assert all(one.caches is caches for one in caches.all)
    told(it, "PUT /own/a", status=204, body=b"")
    assert caches.changes.number == 1
    it.reload(cache=None)
    assert len([*caches.all]) == 1
    it.over()


@pytest.mark.parametrize("route", ["/write/*", "/off/*"])
def test_a_change_that_was_under_way_at_a_reload_is_for_the_caches_that_there_are_then(route: str) -> None:
    """By a route whose cache is dropped, or that has none."""
    routes = (
        route_of(match=Match(path="/write/*"), cache=CacheSettings(ttl=1.0)),
        route_of(match=Match(path="/off/*"), cache=None),
    )
    it = stage(routes=routes)
    writer = it.asks(f"PUT {route[:-1]}a", body=b"new")
    server = it.upstream()
    server.hears()
    it.reload(cache=None, routes=())
    it.reload(cache=CacheSettings())
    told(it, "GET /a", body=b"old")
    assert body(it, "GET /a") == b"old"
    server.answers(204, b"", "location: /a")
    assert writer.heard()
    assert body(it, "GET /a") is None
    it.over()
