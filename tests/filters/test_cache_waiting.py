"""Who waits for another one's answer has time for its own when that does not come, or is not for it."""

from __future__ import annotations

import pytest

from sidecar.cache.flights import PASS_SECONDS
from sidecar.config.cache import CacheSettings
from sidecar.filters.cache import Cache
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from support.cache import FRESH, JSON, TYPE, stage
from support.http import Client, Server, Stage

TAKES = 20.0


def both(it: Stage, *fields: str) -> tuple[Client, Client, Server]:
    """Two ask the same; the first one is sent."""
    first, second = it.asks("GET /a"), it.asks("GET /a", *fields)
    (server,) = it.asked()
    server.hears()
    return first, second, server


def slow(it: Stage, client: Client, seconds: float = TAKES) -> None:
    """That one is asked for now, and has an answer after so long."""
    (server,) = it.asked()
    server.hears()
    it.advance(seconds)
    server.answers(200, b"its own")
    assert client.gets().body == b"its own"
    it.over()


def test_with_the_defaults_it_goes_on_alone_when_a_client_reads_slowly() -> None:
    it = stage()
    first, second, server = both(it)
    first.stops_reading()
    server.says(b"HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\ncontent-length: 900000\r\n\r\n" + bytes(300_000))
    it.advance(29.9)
    assert it.asked() == []
    it.advance(0.2)
    assert it.filter(Cache).view()["under_way"] == 1
    slow(it, second)


def test_what_was_waited_is_not_missing_when_the_answer_is_for_nobody_else() -> None:
    it = stage()
    first, second, server = both(it)
    it.advance(TAKES)
    server.answers(200, b"mine", "cache-control: no-store")
    assert first.gets().body == b"mine"
    slow(it, second)


def test_nor_when_the_upstream_fails() -> None:
    it = stage()
    first, second, server = both(it)
    it.advance(TAKES)
    server.leaves()
    it.loop.settle()
    assert first.gets().error == "upstream_reset"
    slow(it, second)


def test_nor_when_the_one_that_was_sent_has_left() -> None:
    it = stage()
    first, second, _ = both(it)
    it.advance(TAKES)
    first.breaks()
    slow(it, second)


def test_nor_when_it_was_told_to_wait_again() -> None:
    """For one with the same values of what answers vary by: all in all it waits for ``collapse``."""
    it = stage(CacheSettings(collapse=25.0))
    clients = [it.asks("GET /a", f"x-v: {number}") for number in (0, 1, 1)]
    (server,) = it.asked()
    server.hears()
    it.advance(TAKES)
    server.answers(200, b"0", FRESH, "vary: x-v")
    assert clients[0].gets().body == b"0"
    (server,) = it.asked()
    assert server.hears().fields["x-v"] == "1"
    it.advance(4.9)
    assert it.asked() == []
    it.advance(0.2)
    slow(it, clients[2])


def test_nor_of_what_is_known_by_its_body() -> None:
    it = stage(JSON)
    first, second = (it.asks("POST /v1", TYPE, body=b'{"temperature":0}') for _ in range(2))
    (server,) = it.asked()
    server.hears()
    it.advance(TAKES)
    server.answers(500, b"")
    assert first.gets().status == 500
    slow(it, second)


@pytest.mark.parametrize(("total", "granted"), [(12.0, ()), (None, ("x-sidecar-deadline: 12000",))])
def test_where_its_end_is_known_half_of_that_is_waited_for(total: float | None, granted: tuple[str, ...]) -> None:
    it = stage(timeout=TimeoutSettings(total=total) if total else TimeoutSettings(), why=True)
    _, second, _ = both(it, *granted)
    it.advance(5.9)
    assert it.asked() == []
    it.advance(0.2)
    (server,) = it.asked()
    server.hears()
    it.advance(5.8)
    assert second.gets_nothing()
    it.advance(0.2)
    assert second.gets().error == "timeout"
    it.over()


# -- an error that is not kept -----------------------------------------------------------------------------------------


def test_an_error_lets_all_go_when_its_body_does() -> None:
    it = stage(retry=RetrySettings(max_attempts=2, initial_delay=0.5, jitter=False))
    first, second, server = both(it)
    server.says(b"HTTP/1.1 404 x\r\ncontent-length: 10\r\n\r\nno")
    it.loop.settle()
    assert b"no" in first.heard()
    slow(it, second, PASS_SECONDS)


def test_but_not_one_that_is_tried_again() -> None:
    it = stage(retry=RetrySettings(max_attempts=2, initial_delay=0.5, jitter=False, on=frozenset({"429"})))
    first, second, server = both(it)
    server.says(b"HTTP/1.1 429 x\r\ncontent-length: 10\r\n\r\nno")
    it.advance(0.6)
    (server,) = it.asked()
    server.hears()
    server.answers(200, b"well", FRESH)
    assert [client.gets().body for client in (first, second)] == [b"well", b"well"]
    it.over()
