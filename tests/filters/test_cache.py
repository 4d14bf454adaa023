"""The response cache at a port: what is answered from memory, who waits for whom, and what is given in an outage."""

from __future__ import annotations

import pytest

from sidecar.cache.flights import PASS_SECONDS
from sidecar.config.cache import CacheSettings
from sidecar.config.fallback import StepSettings
from sidecar.config.traffic import Match
from sidecar.filters.cache import BODY_SECONDS, Cache
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.why.causes import cause_of
from support.cache import FRESH, JSON, TYPE, away, hit, stage, told
from support.http import Client, Stage
from support.ports import route_of


def cache(it: Stage) -> Cache:
    return it.filter(Cache)


# -- from memory -------------------------------------------------------------------------------------------------------


def test_what_is_fresh_is_answered_from_memory() -> None:
    it = stage()
    first = told(it, "GET /a", answer=(FRESH, "x-more: 1", "x-sidecar-note: no"))
    assert first.fields["cache-status"] == "sidecar; fwd=uri-miss; stored"
    it.advance(10.5)
    again = hit(it, "GET /a")
    assert again is not None
    assert (again.status, again.body, again.fields["x-more"], again.fields["age"]) == (200, b"kept", "1", "10")
    assert again.fields["cache-status"] == "sidecar; hit; ttl=49"
    assert "x-sidecar-note" not in again.fields
    head = it.asks("HEAD /a").heard()
    assert b"content-length: 4\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    assert it.stats.cache == {"miss": 1, "hit": 2}
    assert [record.endpoint for record in it.records] == ["10.0.0.1:1", None, None]
    it.advance(50.0)
    assert hit(it, "GET /a") is None
    it.over()


@pytest.mark.parametrize("line", ["GET /b", "GET /a?x", "GET /A"])
def test_other_targets_are_other_resources(line: str) -> None:
    it = stage()
    told(it, "GET /a")
    assert hit(it, line) is None
    it.over()


def test_chunks_are_kept_as_what_is_in_them() -> None:
    it = stage()
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n\r\n3\r\nabc\r\n")
    it.loop.settle()
    server.says(b"2\r\nde\r\n0\r\n\r\n")
    assert client.heard().endswith(b"0\r\n\r\n")
    again = hit(it, "GET /a")
    assert again is not None
    assert (again.body, again.fields["content-length"]) == (b"abcde", "5")
    assert "transfer-encoding" not in again.fields
    it.over()


def test_an_empty_body_is_kept_too() -> None:
    it = stage()
    told(it, "GET /a", body=b"")
    again = hit(it, "GET /a")
    assert again is not None
    assert again.body == b""
    it.over()


def test_what_is_cut_off_or_too_large_is_not_kept() -> None:
    it = stage(CacheSettings(max_body=8))
    told(it, "GET /a", body=b"123456789")
    assert hit(it, "GET /a") is None
    client = it.asks("GET /b")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\ncache-control: max-age=60\r\n\r\n1234")
    it.loop.settle()
    server.leaves()
    it.loop.settle()
    assert not client.connected
    assert len(cache(it).store) == 0
    it.over()


def test_its_memory_is_bounded() -> None:
    it = stage(CacheSettings(max_bytes=65536, max_body=65536))
    client = it.client()
    for number in range(20):
        client.asks(f"GET /{number}")
        server = it.upstream()
        server.hears()
        server.answers(200, bytes(10_000), FRESH)
        client.gets()
    view = cache(it).view()
    assert view["bytes"] <= 65536
    assert view["dropped"] > 0
    assert hit(it, "GET /19") is not None
    assert hit(it, "GET /0") is None
    it.over()


def test_ttl_is_for_answers_that_say_nothing_of_that() -> None:
    it = stage(CacheSettings(ttl=300.0))
    told(it, "GET /a", answer=())
    told(it, "GET /b", answer=("cache-control: max-age=0",))
    told(it, "GET /c", answer=(), status=500)
    assert hit(it, "GET /a") is not None
    assert hit(it, "GET /b") is None
    assert hit(it, "GET /c") is None
    it.over()


def test_hits_take_no_token_and_no_slot() -> None:
    it = stage(rate_limit=RateLimitSettings(rate=1.0, burst=1))
    told(it, "GET /a")
    for _ in range(5):
        assert hit(it, "GET /a") is not None
    assert it.asks("GET /b").gets().error == "rate_limited"
    it.over()


def test_a_port_without_a_cache_has_none_of_its_hooks() -> None:
    it = Stage(retry=None)
    assert not any(isinstance(found, Cache) for found in it.listener.chain.filters)
    assert "cache-status" not in told(it, "GET /a").fields
    assert not it.stats.cache
    it.over()


def test_each_route_has_its_own() -> None:
    it = Stage(cache=None, retry=None, routes=(route_of(match=Match(path="/kept/*"), cache=CacheSettings()),))
    told(it, "GET /kept/a")
    told(it, "GET /a")
    assert hit(it, "GET /kept/a") is not None
    assert hit(it, "GET /a") is None
    it.over()


def test_a_reload_keeps_what_is_kept_unless_other_requests_are_the_same() -> None:
    it = stage()
    told(it, "GET /a")
    it.reload(cache=CacheSettings(ttl=1.0, max_bytes=1 << 20))
    assert hit(it, "GET /a") is not None
    it.reload(cache=CacheSettings(authorised="apart"))
    assert hit(it, "GET /a") is None
    it.over()


# -- one client's answer is not another's ------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["authorization: Bearer 1", "cookie: a=1", "x-api-key: 1", "Cookie:a=1"])
def test_what_is_asked_by_somebody_is_kept_only_if_it_is_public(field: str) -> None:
    it = stage(CacheSettings(ttl=60.0))
    told(it, "GET /a", field)
    assert hit(it, "GET /a", field) is None
    assert hit(it, "GET /a") is None
    told(it, "GET /b", field, answer=("cache-control: public",))
    assert hit(it, "GET /b") is not None
    assert hit(it, "GET /b", field) is not None
    told(it, "GET /c")  # of nobody: it is not for somebody
    assert hit(it, "GET /c", field) is None
    it.over()


def test_kept_apart_each_gets_its_own() -> None:
    it = stage(CacheSettings(authorised="apart"))
    told(it, "GET /a", "authorization: one", body=b"one")
    told(it, "GET /a", "authorization: two", body=b"two")
    told(it, "GET /a", body=b"none")
    for fields, body in ((("authorization: one",), b"one"), (("authorization: two",), b"two"), ((), b"none")):
        found = hit(it, "GET /a", *fields)
        assert found is not None
        assert found.body == body
    told(it, "DELETE /a", "authorization: one", status=204, body=b"")
    assert hit(it, "GET /a", "authorization: two") is None
    it.over()


@pytest.mark.parametrize("field", ["set-cookie: a=1", "vary: *", "cache-control: private", "cache-control: no-store"])
def test_what_is_for_one_client_is_not_kept(field: str) -> None:
    it = stage(CacheSettings(ttl=60.0))
    assert "stored" not in told(it, "GET /a", answer=(FRESH, field)).fields["cache-status"]
    assert hit(it, "GET /a") is None
    it.over()


# -- many who ask the same ---------------------------------------------------------------------------------------------


def test_a_hundred_that_ask_the_same_are_one_request() -> None:
    it = stage()
    clients = [it.asks("GET /a") for _ in range(100)]
    (server,) = it.asked()
    server.hears()
    server.answers(200, b"one", FRESH)
    assert {client.gets().body for client in clients} == {b"one"}
    assert it.stats.cache == {"miss": 1, "collapsed": 99}
    assert it.asked() == []
    it.over()


def test_each_variant_is_asked_for_once() -> None:
    it = stage()
    clients = [(n % 2, it.asks("GET /a", f"x-v: {n % 2}")) for n in range(10)]
    for body in (b"0", b"1"):
        (server,) = it.asked()
        assert server.hears().fields["x-v"] == body.decode()
        server.answers(200, body, FRESH, "vary: x-v")
        it.loop.settle()
    assert [client.gets().body for _, client in clients] == [b"%d" % v for v, _ in clients]
    assert it.stats.cache == {"miss": 2, "collapsed": 8}
    it.over()


def test_what_is_not_for_others_lets_all_go_at_once() -> None:
    it = stage()
    clients = [it.asks("GET /a") for _ in range(3)]
    server = it.upstream()
    server.hears()
    server.answers(200, b"mine", "cache-control: private")
    assert clients[0].gets().body == b"mine"
    for number, server in enumerate(it.asked()):
        server.hears()
        server.answers(200, b"%d" % number, "cache-control: private")
    assert {client.gets().body for client in clients[1:]} == {b"0", b"1"}
    more = [it.asks("GET /a") for _ in range(2)]
    assert len(it.asked()) == 2, "for a while nobody waits"
    for server in it.asked():
        server.hears()
        server.answers(200, b"x", FRESH)
    assert [client.gets().body for client in more] == [b"x", b"x"]
    it.advance(PASS_SECONDS + 60.0)
    both = [it.asks("GET /a") for _ in range(2)]
    assert len(it.asked()) == 1
    it.over()
    assert not any(client.connected for client in both)


def test_when_the_one_that_was_sent_leaves_the_next_one_is() -> None:
    it = stage()
    first, second, third = (it.asks("GET /a") for _ in range(3))
    it.upstream().hears()
    first.breaks()
    it.loop.settle()
    (server,) = it.asked()
    server.hears()
    server.answers(200, b"well", FRESH)
    assert (second.gets().body, third.gets().body) == (b"well", b"well")
    it.over()


def test_when_the_upstream_fails_all_find_out_for_themselves() -> None:
    it = stage()
    clients = [it.asks("GET /a") for _ in range(3)]
    server = it.upstream()
    server.hears()
    server.leaves()
    it.loop.settle()
    assert clients[0].gets().error == "upstream_reset"
    for server in it.asked():
        server.hears()
        server.answers(200, b"well", FRESH)
    assert [client.gets().body for client in clients[1:]] == [b"well", b"well"]
    it.over()


def test_nobody_waits_for_ever() -> None:
    it = stage(CacheSettings(collapse=2.0))
    first, second = it.asks("GET /a"), it.asks("GET /a")
    slow = it.upstream()
    slow.hears()
    it.advance(2.1)
    (quick,) = it.asked()
    quick.hears()
    quick.answers(200, b"quick", FRESH)
    assert second.gets().body == b"quick"
    slow.answers(200, b"slow", FRESH)
    assert first.gets().body == b"slow"
    it.over()


def test_one_that_leaves_while_it_waits_is_not_waited_for() -> None:
    it = stage()
    first, second = it.asks("GET /a"), it.asks("GET /a")
    second.breaks()
    it.loop.settle()
    server = it.upstream()
    server.hears()
    server.answers(200, b"well", FRESH)
    assert first.gets().body == b"well"
    assert it.stats.cache == {"miss": 2}
    it.over()


@pytest.mark.parametrize("fields", [("authorization: x",), ("cache-control: no-cache",)])
def test_those_that_may_not_share_do_not_wait(fields: tuple[str, ...]) -> None:
    it = stage()
    clients = [it.asks("GET /a", *fields) for _ in range(2)]
    assert len(it.asked()) == 2
    it.over()
    assert not any(client.connected for client in clients)


def test_without_collapsing_each_asks() -> None:
    it = stage(CacheSettings(collapse=0.0))
    clients = [it.asks("GET /a") for _ in range(2)]
    assert len(it.asked()) == 2
    it.over()
    assert not any(client.connected for client in clients)


# -- asking whether it is still right ----------------------------------------------------------------------------------


def _stale(it: Stage, *fields: str, seconds: float = 2.0) -> None:
    told(it, "GET /a", answer=("cache-control: max-age=1", *fields), body=b"old")
    it.advance(seconds)


def test_a_304_makes_it_fresh_again() -> None:
    it = stage()
    _stale(it, 'etag: "v1"', "last-modified: Mon, 02 Nov 2026 10:00:00 GMT", "x-n: 1")
    client = it.asks("GET /a", 'if-none-match: "mine"')
    server = it.upstream()
    asked = server.hears()
    assert asked.fields["if-none-match"] == '"v1"'
    assert asked.fields["if-modified-since"] == "Mon, 02 Nov 2026 10:00:00 GMT"
    server.says(b'HTTP/1.1 304 x\r\netag: "v1"\r\ncache-control: max-age=60\r\nx-n: 2\r\nset-cookie: s=1\r\n\r\n')
    answer = client.gets()
    assert (answer.status, answer.body, answer.fields["x-n"], answer.fields["age"]) == (200, b"old", "2", "0")
    assert answer.fields["cache-status"] == "sidecar; fwd=stale; fwd-status=304"
    assert answer.fields["set-cookie"] == "s=1"
    again = hit(it, "GET /a")
    assert again is not None
    assert (again.body, again.fields["x-n"], "set-cookie" in again.fields) == (b"old", "2", False)
    assert it.stats.cache == {"miss": 1, "revalidated": 1, "hit": 1}
    it.over()


def test_many_share_one_validation() -> None:
    it = stage()
    _stale(it, 'etag: "v1"')
    clients = [it.asks("GET /a") for _ in range(10)]
    (server,) = it.asked()
    server.hears()
    server.says(b'HTTP/1.1 304 x\r\netag: "v1"\r\ncache-control: max-age=60\r\n\r\n')
    assert {client.gets().body for client in clients} == {b"old"}
    assert it.stats.cache == {"miss": 1, "revalidated": 1, "collapsed": 9}
    it.over()


def test_a_new_answer_takes_its_place() -> None:
    it = stage()
    _stale(it, 'etag: "v1"')
    answer = told(it, "GET /a", body=b"new", answer=(FRESH, 'etag: "v2"'))
    assert (answer.body, answer.fields["cache-status"]) == (b"new", "sidecar; fwd=stale; stored")
    found = hit(it, "GET /a")
    assert found is not None
    assert found.body == b"new"
    it.over()


def test_a_304_about_something_else_is_asked_again() -> None:
    it = stage()
    _stale(it, 'etag: "v1"')
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b'HTTP/1.1 304 x\r\netag: "v9"\r\n\r\n')
    again = it.upstream()
    assert "if-none-match" not in again.hears().fields
    again.answers(200, b"new", FRESH)
    assert client.gets().body == b"new"
    it.over()


@pytest.mark.parametrize(("field", "status"), [
    ('if-none-match: "v1"', 304), ('if-none-match: W/"v1", "v7"', 304), ("if-none-match: *", 304),
    ('if-none-match: "v2"', 200), ("if-modified-since: Mon, 02 Nov 2026 10:00:00 GMT", 304),
    ("if-modified-since: Mon, 02 Nov 2026 09:59:59 GMT", 200), ("if-modified-since: yesterday", 200),
])  # fmt: skip
def test_clients_have_their_conditions_answered(field: str, status: int) -> None:
    it = stage()
    told(it, "GET /a", answer=(FRESH, 'etag: "v1"', "last-modified: Mon, 02 Nov 2026 10:00:00 GMT"))
    client = it.asks("GET /a", field)
    head = client.heard()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (b"content-length" in head) is (status == 200)
    it.over()


# -- while the upstream is down ----------------------------------------------------------------------------------------


def test_what_is_stale_is_given_while_nobody_can_be_reached() -> None:
    it = stage(why=True)
    _stale(it)
    away(it)
    answer = it.asks("GET /a").gets()
    assert (answer.status, answer.body, answer.fields["age"], answer.error) == (200, b"old", "2", "")
    assert answer.fields["cache-status"] == 'sidecar; hit; ttl=-1; detail="connect_failed"'
    assert it.stats.cache == {"miss": 1, "stale": 1}
    cause = cause_of(it.stories[-1])
    assert cause.sentence == ("the cache gave an answer that is 2 s old, because up: 10.0.0.1:1 refused the connection")
    assert cause.setting == "upstreams.up.cache"
    it.advance(3600.0)
    assert it.asks("GET /a").gets().error == "connect_failed"
    it.over()


@pytest.mark.parametrize(("status", "field", "given"), [
    (503, "x-y: z", True), (500, "x-y: z", False), (404, "x-y: z", False),
    (500, "cache-control: stale-if-error=60", True), (503, "cache-control: stale-if-error=0", False),
    (503, "cache-control: must-revalidate", False),
    (503, "cache-control: s-maxage=1", False), (503, "cache-control: s-maxage=1, stale-if-error=60", True),
])  # fmt: skip
def test_bad_answers_are_a_reason_too(status: int, field: str, given: bool) -> None:
    it = stage()
    _stale(it, field)
    answer = told(it, "GET /a", status=status, body=b"bad")
    assert answer.body == (b"old" if given else b"bad")
    it.over()


def test_who_insists_gets_nothing_stale() -> None:
    it = stage()
    _stale(it)
    away(it)
    assert it.asks("GET /a", "cache-control: no-cache").gets().error == "connect_failed"
    it.over()


def test_stale_can_be_switched_off() -> None:
    it = stage(CacheSettings(stale=0.0))
    _stale(it)
    away(it)
    assert it.asks("GET /a").gets().error == "connect_failed"
    it.over()


def test_another_upstream_gets_the_conditions_of_the_client() -> None:
    step = StepSettings(on=frozenset({"connect_failed"}), upstream="spare")
    it = stage(CacheSettings(stale=0.0), fallback=(step,))
    it.other("spare")
    _stale(it, 'etag: "v1"')
    for server in it.accepted:
        server.leaves()
    it.loop.dialled = lambda host, port: "refuse" if host == "10.0.0.1" else "accept"
    client = it.asks("GET /a", 'if-none-match: "mine"')
    server = it.upstream()
    assert server.hears().fields["if-none-match"] == '"mine"'
    server.answers(200, b"spare")
    assert client.gets().body == b"spare"
    it.over()


# -- changes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "status", "fields", "forgotten"), [
    ("PUT /a", 204, (), True), ("DELETE /a", 200, (), True), ("FROB /a", 200, (), True), ("POST /a", 500, (), False),
    ("OPTIONS /a", 200, (), False), ("POST /b", 201, ("location: /a",), True),
    ("POST /b", 201, ("content-location: http://T/a",), True), ("POST /b", 201, ("location: http://else/a",), False),
    ("POST /b/c", 303, ("location: ../a",), True),
])  # fmt: skip
def test_what_is_changed_is_forgotten(line: str, status: int, fields: tuple[str, ...], forgotten: bool) -> None:
    it = stage()
    told(it, "GET /a")
    answer = told(it, line, answer=fields, status=status, body=b"")
    assert answer.fields["cache-status"] == "sidecar; fwd=method"
    assert (hit(it, "GET /a") is None) is forgotten
    it.over()


def test_what_was_asked_before_a_change_is_not_kept_after_it() -> None:
    it = stage()
    reader = it.asks("GET /a")
    old = it.upstream()
    old.hears()
    told(it, "PUT /a", status=204, body=b"", sent=b"x")
    later = it.asks("GET /a")
    new = it.upstream()
    new.hears()
    old.answers(200, b"old", FRESH)
    assert reader.gets().body == b"old"
    assert later.gets_nothing()
    new.answers(200, b"new", FRESH)
    assert later.gets().body == b"new"
    found = hit(it, "GET /a")
    assert found is not None
    assert found.body == b"new"
    it.over()


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_the_same_json_is_the_same_request_however_it_is_written() -> None:
    it = stage(JSON)
    told(it, "POST /v1", TYPE, sent=b'{"temperature": 0, "prompt": "a"}', answer=(), body=b"said")
    found = hit(it, "POST /v1", TYPE, sent=b'{"prompt":"\\u0061","temperature":0}')
    assert found is not None
    assert (found.body, found.fields["cache-status"]) == (b"said", "sidecar; hit; ttl=60")
    for other in (b'{"prompt":"b","temperature":0}', b'{"prompt":"a","temperature":0.0}'):
        assert hit(it, "POST /v1", TYPE, sent=other) is None
    assert hit(it, "POST /v2", TYPE, sent=b'{"prompt":"a","temperature":0}') is None
    it.over()


@pytest.mark.parametrize("body", [
    b'{"prompt":"a"}', b'{"temperature":0.7}', b'{"temperature":0,"options":{"temperature":1}}', b'{"temperature":"0"}',
    b'{"temperature":0,"temperature":0}', b"nonsense", b'{"temperature":0,"n":NaN}', b'{"temperature":false}', b"[0]",
])  # fmt: skip
def test_only_what_is_deterministic_is_kept(body: bytes) -> None:
    it = stage(JSON)
    assert told(it, "POST /v1", TYPE, sent=body, answer=()).fields["cache-status"] == "sidecar; fwd=bypass"
    assert hit(it, "POST /v1", TYPE, sent=body) is None
    it.over()


def test_a_body_that_comes_late_is_waited_for() -> None:
    it = stage(JSON)
    told(it, "POST /v1", TYPE, sent=b'{"temperature":0}', answer=(), body=b"said")
    client = it.client()
    client.says(b"POST /v1 HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n")
    assert it.asked() == []
    client.says(b'{"tempera')
    client.says(b'ture":0}')
    assert client.gets().body == b"said"
    it.over()


def test_of_bodies_that_come_late_one_is_sent() -> None:
    it = stage(JSON)
    clients = [it.client() for _ in range(3)]
    for client in clients:
        client.says(b"POST /v1 HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n")
    for client in clients:
        client.says(b'{"temperature":0}')
    (server,) = it.asked()
    assert server.hears().body == b'{"temperature":0}'
    server.answers(200, b"said")
    assert {client.gets().body for client in clients} == {b"said"}
    it.over()


def test_but_not_for_long() -> None:
    it = stage(JSON)
    client = it.client()
    client.says(b"POST /v1 HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{")
    it.advance(BODY_SECONDS + 0.1)
    server = it.upstream()
    client.says(b'"temperature":0}')
    assert server.hears().body == b'{"temperature":0}'
    server.answers(200, b"said")
    assert client.gets().fields["cache-status"] == "sidecar; fwd=bypass"
    it.over()


def test_many_of_the_same_json_are_one_request() -> None:
    it = stage(JSON)
    clients: list[Client] = [it.asks("POST /v1", TYPE, body=b'{"temperature":0}') for _ in range(10)]
    (server,) = it.asked()
    server.hears()
    server.answers(200, b"said")
    assert {client.gets().body for client in clients} == {b"said"}
    it.over()


def test_a_rule_of_ones_own() -> None:
    it = stage(CacheSettings(key="json", methods=frozenset({"POST"}), ttl=60.0, when={"options.seed": 7, "mode": "x"}))
    body = b'{"mode":"x","options":{"seed":7}}'
    told(it, "POST /v1", TYPE, sent=body, answer=())
    assert hit(it, "POST /v1", TYPE, sent=body) is not None
    other = b'{"mode":"y","options":{"seed":7}}'
    assert told(it, "POST /v1", TYPE, sent=other, answer=()).fields["cache-status"] == "sidecar; fwd=bypass"
    it.over()
