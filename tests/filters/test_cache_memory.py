"""How much the response cache has in memory, and how it counts what it does."""

from __future__ import annotations

import pytest

from sidecar.cache.flights import PASS_SECONDS
from sidecar.config.cache import CacheSettings
from sidecar.config.fallback import StepSettings
from sidecar.filters.cache import Cache
from sidecar.filters.fallback import Fallback
from sidecar.filters.retry import RetrySettings
from support.cache import FRESH, JSON, TYPE, hit, stage, told
from support.http import Client, Server, Stage

SMALL = CacheSettings(max_bytes=65536, max_body=65536)
TWICE = RetrySettings(max_attempts=2, initial_delay=0.5, jitter=False)
HEAD = b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 40000\r\n\r\n"


def begun(it: Stage, line: str) -> tuple[Client, Server]:
    """The answer to such a request has begun: 30000 bytes of 40000 have come."""
    client = it.asks(line)
    server = it.upstream()
    server.hears()
    server.says(HEAD + bytes(30000))
    it.loop.settle()
    return client, server


def on_their_way(it: Stage) -> int:
    return it.filter(Cache)._room.size


def test_what_is_on_its_way_is_bounded_together() -> None:
    it = stage(SMALL)
    all_ = [begun(it, f"GET /{number}") for number in range(4)]
    assert on_their_way(it) == 60000
    for client, server in all_:
        server.says(bytes(10000))
        assert len(client.heard()) > 40000
    assert on_their_way(it) == 0
    assert it.filter(Cache).store.size <= 65536
    assert [hit(it, f"GET /{number}") is not None for number in range(4)] == [False, True, False, False], (
        "the first one was in excess again"
    )
    told(it, "GET /5", body=bytes(10000))
    assert hit(it, "GET /5") is not None
    it.over()


def test_who_leaves_or_is_cut_off_takes_no_room() -> None:
    it = stage(SMALL)
    (client, _), (_, server) = begun(it, "GET /a"), begun(it, "GET /b")
    assert on_their_way(it) == 60000
    client.breaks()
    it.loop.settle()
    server.leaves()
    it.loop.settle()
    assert on_their_way(it) == 0
    it.over()


def test_a_reload_bounds_it_anew() -> None:
    it = stage(CacheSettings())
    begun(it, "GET /a")
    it.reload(cache=SMALL)
    begun(it, "GET /b")
    begun(it, "GET /c")
    assert on_their_way(it) == 60000
    it.over()


def test_what_a_fallback_is_to_keep_is_bounded_too() -> None:
    it = Stage(fallback=(StepSettings(on=frozenset({"5xx"}), stale=60.0),), retry=None, circuit_breaker=None)
    keeper = it.filter(Fallback).keeper
    keeper._room.most = 80000
    all_ = [begun(it, f"GET /{number}") for number in range(3)]
    assert keeper._room.size == 60000
    for client, server in all_[1:]:
        server.says(bytes(10000))
        assert len(client.heard()) > 40000
    assert keeper._room.size == 30000
    all_[0][0].breaks()
    it.loop.settle()
    assert keeper._room.size == 0
    assert keeper.view()["entries"] == 1
    it.over()


def test_what_is_known_by_its_body_is_counted_once() -> None:
    it = stage(JSON)
    told(it, "POST /v1", TYPE, sent=b'{"temperature":0}', answer=())
    for _ in range(3):
        assert hit(it, "POST /v1", TYPE, sent=b'{"temperature":0}') is not None
    assert it.stats.cache == {"miss": 1, "hit": 3}
    it.over()


def test_entries_are_answers() -> None:
    it = stage()
    for number in range(3):
        told(it, "GET /a", f"x-v: {number}", answer=(FRESH, "vary: x-v"))
    assert it.filter(Cache).view()["entries"] == 3
    assert it.filter(Cache).store.clear() == 3
    it.over()


def test_of_what_nobody_waits_for_little_is_remembered_however_long_a_target_is() -> None:
    it = stage()
    told(it, "GET /" + "x" * 8000, answer=("cache-control: no-store",))
    (known,) = map(repr, it.filter(Cache)._flights._passed._found)
    assert len(known) < 100
    it.over()


# -- one for many, and tries -------------------------------------------------------------------------------------------


def test_those_who_wait_wait_for_all_tries() -> None:
    it = stage(retry=TWICE)
    clients = [it.asks("GET /a") for _ in range(5)]
    (server,) = it.asked()
    server.hears()
    server.answers(503, b"")
    it.loop.settle()
    assert it.asked() == []
    it.advance(0.6)
    (server,) = it.asked()
    server.hears()
    server.answers(200, b"well", FRESH)
    assert [client.gets().body for client in clients] == [b"well"] * 5
    assert it.stats.cache == {"miss": 1, "collapsed": 4}
    it.over()


@pytest.mark.parametrize("last", ["confirmed", "reset"])
def test_what_was_said_of_one_try_is_not_of_the_next(last: str) -> None:
    """An answer that nobody else is to have, and then one that they may; or none."""
    it = stage(retry=RetrySettings(max_attempts=2, initial_delay=0.5, jitter=False, on=frozenset({"429"})))
    told(it, "GET /a", answer=("cache-control: max-age=10", 'etag: "1"'))
    it.advance(20.0)
    clients = [it.asks("GET /a") for _ in range(2)]
    server = it.upstream()
    server.hears()
    server.answers(429, b"")
    it.advance(0.6)
    (server,) = it.asked()
    server.hears()
    if last == "confirmed":
        server.says(b'HTTP/1.1 304 x\r\netag: "1"\r\ncache-control: max-age=10\r\n\r\n')
        assert [client.gets().body for client in clients] == [b"kept", b"kept"]
        assert it.stats.cache == {"miss": 1, "revalidated": 1, "collapsed": 1}
    else:
        server.leaves()
    it.loop.settle()
    assert not it.filter(Cache)._flights._passed._found
    it.over()


def test_and_find_out_for_themselves_when_the_last_one_fails() -> None:
    it = stage(retry=TWICE)
    clients = [it.asks("GET /a") for _ in range(3)]
    for _ in range(2):
        (server,) = it.asked()
        server.hears()
        server.answers(503, b"")
        it.loop.settle()
        it.advance(0.6)
    assert clients[0].gets().status == 503
    for server in it.asked():
        server.hears()
        server.answers(200, b"well", FRESH)
    assert [client.gets().body for client in clients[1:]] == [b"well", b"well"]
    it.over()


def test_an_error_that_is_not_kept_is_nothing_to_wait_for() -> None:
    it = stage()
    clients = [it.asks("GET /a") for _ in range(2)]
    (server,) = it.asked()
    server.hears()
    server.answers(404, b"none")
    assert clients[0].gets().status == 404
    (server,) = it.asked()
    server.hears()
    more = it.asks("GET /a")
    assert len(it.asked()) == 1, "for a while nobody waits"
    server.answers(404, b"none")
    assert clients[1].gets().status == 404
    (server,) = it.asked()
    server.hears()
    server.answers(404, b"none")
    assert more.gets().status == 404
    it.advance(PASS_SECONDS + 1.0)
    both = [it.asks("GET /a") for _ in range(2)]
    assert len(it.asked()) == 1
    it.over()
    assert not any(client.connected for client in both)
