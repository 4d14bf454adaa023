"""Comments in event streams that are silent: where they may stand, and what they do not keep alive."""

from __future__ import annotations

import pytest

from support.http import Client, Server
from support.models import Models, chunk

BEAT = b": heartbeat\n\n"


def streaming(it: Models, *fields: str, version: str = "1.1") -> tuple[Client, Server]:
    """A stream whose head its client has."""
    client = it.client()
    client.says(b"POST / HTTP/%b\r\nhost: t\r\ncontent-length: 2\r\n\r\n{}" % version.encode())
    server = it.upstream()
    server.hears()
    it.begins(server, *fields)
    assert client.heard().endswith(b"\r\n\r\n")
    return client, server


def test_a_comment_goes_into_a_silent_event_stream() -> None:
    it = Models(heartbeat=15.0, between_chunks=60.0)
    client, server = streaming(it)
    it.advance(15.1)
    assert client.heard() == chunk(BEAT), "the model is being loaded, say"
    server.says(chunk(b"data: a\n\n"))
    it.advance(14.0)
    assert client.heard() == chunk(b"data: a\n\n")
    it.advance(16.2)
    assert client.heard() == chunk(BEAT) * 2
    server.says(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    assert client.heard().endswith(b"0\r\n\r\n")
    it.advance(60.0)
    assert client.heard() == b""
    assert it.stats.filters["llm"].counts == {"heartbeats": 3}
    assert it.answered(it.prompts()).status == 200, "the server's connection is kept"
    it.over()


def test_only_between_whole_events_and_chunks() -> None:
    it = Models(heartbeat=15.0)
    client, server = streaming(it)
    for part, whole in (
        (chunk(b"data: a"), False),
        (chunk(b"\n"), False),
        (chunk(b"\n"), True),
        (chunk(b"data: b\r\n"), False),
        (chunk(b"\r\n"), True),
        (chunk(b"data: c\r\r"), True),
        (b"b\r\ndata: d\n\nda", False),
        (b"\r\n8\r\nta: e\n\n", False),
        (b"\n", False),
        (b"\r", False),
        (b"\n", True),
        (b"9", True),  # it does not go on before its line is complete
        (b"\r\ndata: f\n\n\r\n", True),
    ):
        server.says(part)
        client.heard()
        it.advance(15.1)
        assert client.heard() == (chunk(BEAT) if whole else b""), part
    it.over()


def test_comments_keep_nothing_alive() -> None:
    it = Models(heartbeat=7.0, between_chunks=20.0)
    client, server = streaming(it)
    server.says(chunk(b"data: a\n\n"))
    it.advance(20.1)
    assert not client.connected
    assert it.stories[-1]["events"][-1]["which"] == "llm.between_chunks"
    assert it.state == (0, 0)
    it.over()


def test_who_does_not_read_gets_none() -> None:
    it = Models(heartbeat=15.0, between_chunks=0)
    client, server = streaming(it)
    client.stops_reading()
    server.says(chunk(b"data: %b\n\n" % (b"x" * 200_000)))
    for _ in range(3):
        it.advance(16.0)
    assert it.stats.filters["llm"].counts == {"heartbeats": 0}
    client.breaks()
    it.over()


def test_a_slow_reader_is_waited_for() -> None:
    it = Models(heartbeat=15.0, between_chunks=60.0)
    client, server = streaming(it)
    client.stops_reading()
    server.says(chunk(b"data: %b\n\n" % (b"x" * 400_000)))
    for _ in range(20):
        it.advance(6.0)
        del client.transport.buffer[:10_000]
    assert not server.is_read(), "it is we who do not hear it"
    assert server.connected
    client.reads_again()
    it.advance(59.0)
    server.says(chunk(b"data: b\n\n"))
    assert client.heard().endswith(chunk(b"data: b\n\n"))
    it.advance(60.1)
    assert not client.connected
    it.over()


def test_one_that_has_stopped_reading_is_not() -> None:
    it = Models(heartbeat=15.0, between_chunks=60.0)
    client, server = streaming(it)
    client.stops_reading()
    server.says(chunk(b"data: %b\n\n" % (b"x" * 400_000)))
    it.advance(70.0)
    assert not client.connected
    assert it.stories[-1]["events"][-1]["which"] == "llm.between_chunks"
    it.over()


def test_http_1_0_gets_it_without_chunks() -> None:
    it = Models(heartbeat=15.0)
    client, server = streaming(it, version="1.0")
    server.says(chunk(b"data: a\n\n"))
    it.advance(15.1)
    assert client.heard() == b"data: a\n\n" + BEAT
    it.over()


@pytest.mark.parametrize(
    "fields",
    [
        ("content-type: text/event-stream", "content-length: 100"),
        ("content-type: text/event-stream", "content-encoding: gzip", "transfer-encoding: chunked"),
        ("content-type: application/x-ndjson", "transfer-encoding: chunked"),
        ("transfer-encoding: chunked",),
    ],
)
def test_none_where_it_does_not_belong(fields: tuple[str, ...]) -> None:
    it = Models(heartbeat=15.0)
    client, _ = streaming(it, *fields)
    it.advance(50.0)
    assert client.heard() == b""
    it.over()
