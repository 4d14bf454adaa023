"""What a real agent does not do on demand: answers that are refusals, cut off, nonsense, or go back in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from consul import ConsulException
from consul.exceptions import ACLPermissionDenied, ClientError

from sidecar.config.model import Discover
from sidecar.registry import consul_watch
from sidecar.registry.consul import ConsulRegistry
from support.registries import Seen, consul_config, until


def nodes(*ids: str) -> list[dict[str, Any]]:
    return [
        {
            "Node": {"Address": "10.0.0.1"},
            "Service": {"ID": id, "Address": "", "Port": 80 + n, "Weights": {"Passing": 1, "Warning": 1}},
            "Checks": [],
        }
        for n, id in enumerate(ids)
    ]


def good(index: str, *ids: str) -> bytes:
    return http(200, json.dumps(nodes(*ids)).encode(), index)


def http(status: int, body: bytes, index: str = "1") -> bytes:
    return b"HTTP/1.1 %d X\r\nX-Consul-Index: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        status, index.encode(), len(body), body,
    )  # fmt: skip


class FakeAgent:
    """Gives the answers of a list, one per request, closing the connection after each; when they are used up,
    queries block. Remembers what it was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            query = parse_qs(urlsplit(head.split(b" ")[1].decode()).query)
            self.asked.append({key: values[0] for key, values in query.items()})
            if not self.answers:
                await reader.read()  # until the client leaves
            else:
                writer.write(self.answers.pop(0))
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


def watching(
    main: Callable[[FakeAgent, ConsulRegistry, Seen], Awaitable[None]], monkeypatch: pytest.MonkeyPatch, *answers: bytes
) -> None:
    """Run ``main`` with a watch of ``web`` at a fake agent, and without waiting between tries."""
    monkeypatch.setattr(consul_watch, "backoff", lambda failures, error: 0.01)

    async def run() -> None:
        fake = FakeAgent(*answers)
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        async with asyncio.timeout(20), server:
            registry = ConsulRegistry(
                consul_config(server.sockets[0].getsockname()[1]), clock=asyncio.get_running_loop().time
            )
            seen = Seen()
            registry.watch(Discover(service="web"), seen)
            try:
                await main(fake, registry, seen)
            finally:
                await registry.close()
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_an_index_that_goes_back_starts_again_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(fake: FakeAgent, registry: ConsulRegistry, seen: Seen) -> None:
        await until(lambda: len(fake.asked) == 4, "four queries")
        assert [query.get("index") for query in fake.asked] == [None, "50", None, "7"]
        # That is lost data: what is missing is held, what is new counts.
        assert seen.ids == ["a", "b", "c"]
        assert registry.up

    watching(main, monkeypatch, good("50", "a", "b"), good("7", "c"), good("7", "c"))


def test_an_index_below_one_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(fake: FakeAgent, registry: ConsulRegistry, seen: Seen) -> None:
        await until(lambda: len(fake.asked) == 3, "three queries")
        assert [query.get("index") for query in fake.asked] == [None, "1", "1"]
        assert len(seen.sets) == 1

    watching(main, monkeypatch, good("0", "a"), good("-3", "a"))


def test_a_blocking_query_waits_nearly_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(fake: FakeAgent, registry: ConsulRegistry, seen: Seen) -> None:
        await until(lambda: len(fake.asked) == 2, "the blocking query")
        assert 270 <= int(fake.asked[1]["wait"].removesuffix("s")) <= 300
        assert "tag" not in fake.asked[1]

    watching(main, monkeypatch, good("5", "a"))


BAD = {
    "429": http(429, b"Your IP is issuing too many concurrent connections"),
    "500": http(500, b"No cluster leader"),
    "403": http(403, b"ACL not found"),
    "404": http(404, b""),
    "half": good("6", "x")[:-20],
    "no index": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "odd index": good("six", "x"),
    "not JSON": http(200, b"<html>", "6"),
    "not UTF-8": http(200, b'["\xff\xfe"]', "6"),
    "not a list": http(200, b'{"a": 1}', "6"),
    "null": http(200, b"null", "6"),
    "not HTTP": b"\x15\x03\x01\x00\x02\x02\x28",
    "nothing": b"",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_answer_changes_nothing_and_is_asked_again(bad: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(fake: FakeAgent, registry: ConsulRegistry, seen: Seen) -> None:
        await until(lambda: len(fake.asked) >= 2 and not fake.answers, "the bad answer was given")
        await until(lambda: seen.ids == ["a", "b"], "and the next good one counts")
        assert [sorted(i.id for i in known) for known in seen.sets] == [["a"], ["a", "b"]]
        await until(lambda: registry.up, "up")

    watching(main, monkeypatch, good("5", "a"), bad, good("6", "a", "b"))


def test_entries_that_make_no_sense_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[Any] = [None, 1, {}, {"Service": None}, {"Service": {"Port": "x"}, "Node": {"Address": "h"}}]
    body = json.dumps(broken + nodes("a")).encode()

    async def main(fake: FakeAgent, registry: ConsulRegistry, seen: Seen) -> None:
        await until(lambda: seen.ids == ["a"], "the good one")

    watching(main, monkeypatch, http(200, body, "5"))


def test_the_backoff_is_short_for_silence_and_longer_for_a_refusal() -> None:
    for error, cap in (
        (ConnectionRefusedError(), 10.0),
        (TimeoutError(), 10.0),
        (ConsulException("500 No cluster leader"), 10.0),
        (ClientError("429"), 30.0),
        (ACLPermissionDenied("403"), 30.0),
    ):
        delays = [consul_watch.backoff(1000, error) for _ in range(300)]
        assert max(delays) <= cap
        assert max(delays) > cap * 0.8
        assert min(delays) < cap * 0.2
        assert all(consul_watch.backoff(1, error) <= 0.2 for _ in range(50))
