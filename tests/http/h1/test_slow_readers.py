"""Clients that ask on without reading their answers, and those that ask in pieces."""

from __future__ import annotations

import pytest

from sidecar.config.cache import CacheSettings
from sidecar.core.records import AccessLog
from sidecar.filters.timeout import TimeoutSettings
from support.http import Client, Stage
from support.loop import HIGH_WATER

SIZE = 10_000
#: An answer that its client is not sent at once.
LARGE = HIGH_WATER + 1
REQUEST = b"GET /a HTTP/1.1\r\nhost: t\r\n\r\n"


def kept(size: int) -> tuple[Stage, Client]:
    """A port that has an answer of so many bytes in memory, and its client."""
    it = Stage(
        cache=CacheSettings(), retry=None, circuit_breaker=None, timeout=TimeoutSettings(idle=5),
        log=AccessLog("errors", lambda record: None),
    )  # fmt: skip
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(200, bytes(size), "cache-control: max-age=60")
    client.gets()
    return it, client


@pytest.mark.parametrize("size", [100, SIZE], ids=["quick", "an exchange"])
def test_who_does_not_read_gets_no_more_answers_until_it_does(size: int) -> None:
    it, client = kept(size)
    client.stops_reading()
    asked = 4 * HIGH_WATER // size
    for _ in range(asked):
        client.says(REQUEST)
    assert len(client.transport.buffer) <= HIGH_WATER + size + 1000
    client.reads_again()
    answers = 0
    while client.message() is not None:
        answers += 1
    assert answers == asked
    it.over()


def test_neither_is_it_read_from_without_end() -> None:
    it, client = kept(LARGE)
    client.stops_reading()
    while client.is_read():
        client.says(REQUEST)
    assert len(client.transport.buffer) < 2 * LARGE
    it.advance(6.0)
    assert client.transport.gone or client.transport.closing
    it.over()


def test_a_head_that_comes_in_pieces_before_the_answer_is_read_is_answered() -> None:
    it, client = kept(LARGE)
    client.stops_reading()
    client.says(REQUEST)
    client.says(REQUEST[:20])
    client.says(REQUEST[20:])
    client.reads_again()
    assert client.gets().status == 200
    assert client.gets().status == 200
    it.over()


def test_an_empty_line_in_pieces_is_no_beginning_of_a_head() -> None:
    it, client = kept(100)
    client.says(b"\r\n", pieces=1)
    it.advance(11.0)
    assert client.gets_nothing(), "it was idle, and is told nothing"
    assert client.transport.closing
    it.over()
