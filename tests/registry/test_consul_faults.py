"""What a real agent does not do on demand: answers that are refusals, cut off, nonsense, or go back in time."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from consul import ConsulException
from consul.exceptions import ACLPermissionDenied, ClientError

from sidecar.registry import consul_client, consul_watch
from sidecar.registry.consul import ConsulRegistry
from sidecar.registry.consul_client import MAX_ANSWER
from sidecar.registry.consul_registration import ConsulRegistration
from sidecar.registry.link import Link
from support.registries import Seen, consul_settings, tasks, until


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
        async with asyncio.timeout(100), server:
            registry = ConsulRegistry(
                consul_settings(server.sockets[0].getsockname()[1]), clock=asyncio.get_running_loop().time
            )
            seen = Seen()
            registry.watch("web", "", seen)
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


def compressed(body: bytes) -> bytes:
    answer = http(200, gzip.compress(body), "6")
    return answer.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)


#: Answers; what makes one that takes long to make, which each worker would do that collects.
BAD: dict[str, bytes | Callable[[], bytes]] = {
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
    "redirect": b"HTTP/1.1 301 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "redirect without a place": http(302, b"", "6"),
    "upgrade": b"HTTP/1.1 101 X\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n",
    "compressed": compressed(b"[]"),
    "a bomb": lambda: compressed(b" " * (64 << 20)),
    "deep": http(200, b"[" * 100_000, "6"),
    "many empty ones": http(200, b"[" + b"[]," * 250_000 + b"[]]", "6"),
    "many instances": lambda: http(200, json.dumps(nodes("a") * 4097).encode(), "6"),
    "two lists": http(200, b"[] []", "6"),
    "cut list": http(200, b"[{}", "6"),
    "no comma": http(200, b"[{} {}]", "6"),
    "comma at the end": http(200, b"[{},]", "6"),
    "long entry": http(200, b'["' + b"x" * 300_000 + b'"]', "6"),
    "large": http(200, b"[" + b" " * MAX_ANSWER + b"]", "6"),
    "large index": good("9" * 30, "x"),
    "long field": good("6", "x").replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 1),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_answer_changes_nothing_and_is_asked_again(
    bad: bytes | Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(fake: FakeAgent, registry: ConsulRegistry, seen: Seen) -> None:
        await until(lambda: len(fake.asked) >= 2 and not fake.answers, "the bad answer was given")
        await until(lambda: seen.ids == ["a", "b"], "and the next good one counts")
        assert [sorted(i.id for i in known) for known in seen.sets] == [["a"], ["a", "b"]]
        await until(lambda: registry.up, "up")

    watching(main, monkeypatch, good("5", "a"), bad() if callable(bad) else bad, good("6", "a", "b"))


class Endless:
    """Begins an answer as it is told, then goes on with ``more`` for as long as the client listens."""

    def __init__(self, head: bytes, more: bytes, pause: float = 0.0) -> None:
        self.head, self.more, self.pause = head, more, pause
        self.written = 0
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            writer.write(self.head)
            while True:
                writer.write(self.more)
                await writer.drain()
                self.written += len(self.more)
                await asyncio.sleep(self.pause)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


CHUNKED = b"HTTP/1.1 200 X\r\nX-Consul-Index: 5\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 629145600\r\n\r\n", b" " * 65536),
        (b"HTTP/1.1 500 X\r\nContent-Length: 629145600\r\n\r\n", b" " * 65536),
        (b"HTTP/1.1 200 X\r\nX: ", b"x" * 65536),
    ],
    ids=["chunks", "length", "error", "head"],
)
def test_an_endless_answer_is_left_at_its_bound(
    head: bytes, more: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consul_watch, "backoff", lambda failures, error: 60.0)
    endless = Endless(head, more)

    async def main() -> None:
        server = await asyncio.start_server(endless.serve, "127.0.0.1", 0)
        async with asyncio.timeout(100), server:
            port = server.sockets[0].getsockname()[1]
            registry = ConsulRegistry(consul_settings(port), clock=asyncio.get_running_loop().time)
            registry.watch("web", "", Seen())
            await until(lambda: caplog.records, "the failure is told")
            await registry.close()

    asyncio.run(main())
    assert endless.written < MAX_ANSWER + (16 << 20)  # what the kernel's buffers take
    assert len(caplog.records[0].getMessage()) < 600


def test_a_body_that_drips_has_an_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(consul_watch, "backoff", lambda failures, error: 60.0)
    monkeypatch.setattr(consul_client, "BODY", 0.2)
    dripping = Endless(CHUNKED, b"1\r\n \r\n", pause=0.02)

    async def main() -> None:
        server = await asyncio.start_server(dripping.serve, "127.0.0.1", 0)
        async with asyncio.timeout(100), server:
            port = server.sockets[0].getsockname()[1]
            registry = ConsulRegistry(consul_settings(port), clock=asyncio.get_running_loop().time)
            registry.watch("web", "", Seen())
            await until(lambda: caplog.records, "the failure is told")
            await registry.close()

    asyncio.run(main())
    assert "no answer in time" in caplog.text


def test_a_redirect_is_not_followed_and_the_token_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = FakeAgent()

    async def main() -> None:
        other = await asyncio.start_server(elsewhere.serve, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        monkeypatch.setattr(consul_watch, "backoff", lambda failures, error: 0.01)
        away = b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:%d/v1\r\nContent-Length: 0\r\n\r\n" % port
        fake = FakeAgent(*[away] * 100)
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        async with asyncio.timeout(100), server, other:
            settings = consul_settings(server.sockets[0].getsockname()[1], token="secret")
            registry = ConsulRegistry(settings, clock=asyncio.get_running_loop().time)
            registry.watch("web", "", Seen())
            registry.register()
            registry.set_health("passing", "")
            await until(lambda: len(fake.asked) >= 4, "asked again and again, reading and writing")
            await registry.deregister()
            await registry.close()

    asyncio.run(main())
    assert elsewhere.asked == []


def test_one_service_that_is_answered_badly_leaves_the_other_watches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes no sense is no outage, after which everybody would ask again."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            asked.append(path)
            if "/bad" in path:
                writer.write(http(200, b"{}", "6"))
            elif "index" in path:
                await reader.read()
            else:
                writer.write(good("5", "a"))
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        monkeypatch.setattr(consul_watch, "backoff", lambda failures, error: 0.01)
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with asyncio.timeout(100), server:
            settings = consul_settings(server.sockets[0].getsockname()[1])
            registry = ConsulRegistry(settings, clock=asyncio.get_running_loop().time)
            for service in ("bad", "one", "two"):
                registry.watch(service, "", Seen())
            await until(lambda: sum("/bad" in path for path in asked) >= 5, "the bad one is asked again")
            assert sum("/one" in path for path in asked) == 2
            await registry.close()
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_an_agent_that_describes_us_with_odd_types_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"Service": "tasks", "Address": "a", "Port": 1, "Tags": [1, None, "x"], "Meta": [], "Weights": "heavy"}
    for found in (told, [told], None, 5, "text", told | {"Tags": 5}, told | {"Tags": {"a": []}}):
        assert not asyncio.run(known_to_agent({"tasks-1": found}))
    odd: tuple[Any, ...] = ([], 5, "text", None)
    for services in odd:
        assert not asyncio.run(known_to_agent(services))


async def known_to_agent(services: Any) -> bool:
    class Agent:
        @property
        def agent(self) -> Agent:
            return self

        async def services(self, filter_expr: str) -> Any:
            return services

    loop = asyncio.get_running_loop()
    registration = ConsulRegistration(tasks(port=1, address="127.0.0.1"), Agent, Link("consul", loop.time), loop.time)
    try:
        return await registration._known_to_agent()
    finally:
        await registration.stop(deregister=False)


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


@pytest.mark.parametrize(
    "said", [b"[5]", b"5", b'{"a": "b"}', b'[{"Value": 5}]', b'[["Value"]]', b"\xff", b"[[[[", b""]
)
def test_notes_that_are_something_else_are_one_error_that_says_so(said: bytes) -> None:
    """As far as they get, by py-consul and by what is made of it here."""

    async def run() -> None:
        fake = FakeAgent(http(200, said), http(200, said))
        server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        async with asyncio.timeout(100), server:
            registry = ConsulRegistry(consul_settings(server.sockets[0].getsockname()[1]), clock=lambda: 0.0)
            try:
                with pytest.raises(OSError, match=r"Consul's answer|Failed to decode JSON"):
                    await registry.exchange("a", "1" * 16, None)
            finally:
                await registry.close()

    asyncio.run(run())
