"""Filters of other packages on the wire: each of their verdicts, what they see, and what a reload keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sidecar.admin import report
from sidecar.config.declared import Settings, Used, key
from sidecar.config.model import Match, Route
from sidecar.config.values import Text
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Again, Answer, Wait
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from support.foreign import HTTP, TCP, foreign, used, using
from support.live import Live, Origin, fetch, ok, read_answer, run, until
from support.ports import changed
from support.processes import free_port


def hook(verdict: Callable[[Any], Any]) -> Any:
    """A hook that takes the exchange alone."""

    def it(self: Any, x: Any) -> Any:
        return verdict(x)

    return it


def hook_of_two(verdict: Callable[[Any, Any], Any]) -> Any:
    """A hook that takes one thing more."""

    def it(self: Any, x: Any, more: Any) -> Any:
        return verdict(x, more)

    return it


def test_an_answer_in_place_of_the_upstream() -> None:
    async def main() -> None:
        answer = Answer(203, [("x-from", "filter")], b"hello")
        config = using(HTTP, foreign(on_request=hook(lambda x: answer)))
        async with Origin() as origin, Live(config, origin.port) as live:
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            for method in ("GET", "HEAD", "GET"):  # on one connection
                writer.write(f"{method} / HTTP/1.1\r\nhost: t\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 203 Non-Authoritative Information\r\nx-from: filter\r\n")
                assert b"content-length: 5\r\n" in head
                assert method == "HEAD" or await reader.readexactly(5) == b"hello"
            writer.transport.abort()
            await until(live.nothing_left)
            assert not origin.requests
            assert [(r.status, r.error) for r in live.log.records] == [(203, None)] * 3

    run(main)


def test_an_answer_in_place_of_the_upstreams() -> None:
    async def main() -> None:
        seen: list[int] = []

        def on_answer(x: Any, head: Any) -> Answer | None:
            seen.append(head.status)
            return Answer(200, [("x-from", "filter")], b"hello") if head.status == 404 else None

        config = using(HTTP, foreign(on_answer=hook_of_two(on_answer)))
        async with Origin(ok(b"no", status="404 Not Found")) as origin, Live(config, origin.port) as live:
            answer = await fetch(live.port)
            assert (answer.status, answer.body, answer.fields["x-from"]) == (200, b"hello", "filter")
            origin.handler = ok(b"yes")
            assert (await fetch(live.port)).body == b"yes"
            await until(live.nothing_left)
            assert seen == [404, 200]
            assert live.stats.upstream_idle == 1  # the answer that was not used was whole: its connection is kept

    run(main)


def test_an_answer_over_tcp_ends_the_connection() -> None:
    async def main() -> None:
        config = using(TCP, foreign(on_request=hook(lambda x: Answer(200))))
        async with Live(config) as live:
            assert (await fetch(live.port)).status == 0
            await until(live.nothing_left)
            assert [(r.status, r.error) for r in live.log.records] == [(200, None)]

    run(main)


def test_an_error_of_the_table() -> None:
    async def main() -> None:
        config = using(HTTP, foreign(on_try=hook(lambda x: Reply("rate_limited", "not now", 3))))
        async with Live(config) as live:
            answer = await fetch(live.port)
            assert (answer.status, answer.error, answer.fields["retry-after"]) == (429, "rate_limited", "3")

    run(main)


@pytest.mark.parametrize("config", [HTTP, TCP], ids=["http", "tcp"])
def test_a_wait_for_a_time(config: Any) -> None:
    async def main() -> None:
        waits = foreign(on_request=hook(lambda x: Wait(x.listener.clock() + 5)))
        async with Origin(ok(b"ok", "connection: close")) as origin, Live(using(config, waits), origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: live.stats.active)
            live.time.advance(4.5)
            await asyncio.sleep(0)
            assert not client.done()
            assert not live.listener.cluster.endpoints[0].active
            live.time.advance(1)
            assert (await client).status == 200
            await until(live.nothing_left)
            assert len(live.log.records) == 1

    run(main)


def test_a_wait_that_ends_in_an_answer() -> None:
    async def main() -> None:
        late = Reply("overloaded", "too late")
        waits = foreign(on_request=hook(lambda x: Wait(x.listener.clock() + 5, late)))
        async with Origin() as origin, Live(using(HTTP, waits), origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: live.stats.active)
            live.time.advance(6)
            assert (await client).error == "overloaded"
            await until(live.nothing_left)
            assert not origin.requests

    run(main)


def test_a_wait_for_a_grant() -> None:
    async def main() -> None:
        waiting: list[Any] = []
        ended: list[Any] = []

        def on_request(x: Any) -> Wait:
            waiting.append(x)
            return Wait(x.listener.clock() + 60, Reply("overloaded", "too late"))

        gate = foreign(on_request=hook(on_request), on_end=hook(ended.append))
        async with Origin() as origin, Live(using(HTTP, gate), origin.port) as live:
            clients = [asyncio.ensure_future(fetch(live.port)) for _ in range(2)]
            await until(lambda: len(waiting) == 2)
            assert not origin.requests
            waiting[0].grant()
            await until(lambda: any(client.done() for client in clients))
            assert [client.done() for client in clients].count(True) == 1
            waiting[1].grant()
            waiting[1].grant()  # for nothing
            assert [(await client).status for client in clients] == [200, 200]
            gone = asyncio.ensure_future(fetch(live.port))
            await until(lambda: len(waiting) == 3)
            gone.cancel()
            await until(live.nothing_left)
            waiting[2].grant()  # it has left
            await asyncio.sleep(0)
            assert len(origin.requests) == 2
            assert len(ended) == len(live.log.records) == 3

    run(main)


def test_another_try() -> None:
    async def main() -> None:
        def on_answer(x: Any, head: Any) -> Again | None:
            return Again(2.0, "busy") if head.status == 202 and x.attempts < 3 else None

        config = using(changed(HTTP, retry=None), foreign(on_answer=hook_of_two(on_answer)))
        async with Origin(ok(status="202 Accepted")) as origin, Live(config, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port, method="POST", body=b"abc"))
            for tries in (1, 2):
                await until(lambda tries=tries: live.stats.retries["busy"] == tries)  # type: ignore[misc]
                assert len(origin.requests) == tries
                live.time.advance(2.1)
            assert (await client).status == 202
            assert [request.body for request in origin.requests] == [b"abc"] * 3
            await until(live.nothing_left)
            assert [record.attempts for record in live.log.records] == [3]

    run(main)


@pytest.mark.parametrize("config", [HTTP, TCP], ids=["http", "tcp"])
def test_another_try_after_a_failure(config: Any) -> None:
    async def main() -> None:
        def on_failure(x: Any, kind: str) -> Again | Reply:
            return Again(0.0, "mine") if x.attempts < 2 else Reply("overloaded", f"after a {kind}")

        config_ = using(changed(config, retry=None), foreign(on_failure=hook_of_two(on_failure)))
        async with Live(config_, free_port(), free_port()) as live:
            answer = await fetch(live.port)
            assert answer.error == ("overloaded" if config is HTTP else "")
            await until(live.nothing_left)
            assert live.stats.retries == {"mine": 1}
            assert live.stats.rejected == {"overloaded": 1}

    run(main)


def test_bodies() -> None:
    async def main() -> None:
        said: list[tuple[str, bytes]] = []
        sees = foreign(
            on_request=hook(lambda x: said.append(("request", b""))),
            on_body=hook_of_two(lambda x, data: said.append(("body", data))),
            on_answer=hook_of_two(lambda x, head: said.append(("answer", b""))),
            on_answer_body=hook_of_two(lambda x, data: said.append(("answer body", data))),
            on_end=hook(lambda x: said.append(("end", b""))),
        )
        async with Origin(ok(b"hello")) as origin, Live(using(HTTP, sees), origin.port) as live:
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\n\r\nabc")  # a part with the head
            await until(lambda: len(said) == 2)
            writer.write(b"def")
            assert (await read_answer(reader)).body == b"hello"
            await until(live.nothing_left)
            assert said == [
                ("request", b""), ("body", b"abc"), ("body", b"def"), ("answer", b""), ("answer body", b"hello"),
                ("end", b""),
            ]  # fmt: skip
            assert origin.requests[0].body == b"abcdef"
            said.clear()
            writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
            assert (await read_answer(reader)).body == b"hello"
            assert [what for what, _ in said] == ["request", "answer", "answer body", "end"]
            writer.transport.abort()

    run(main)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_may_be_refused(at_once: bool) -> None:
    async def main() -> None:
        def on_body(x: Any, data: bytes) -> Reply | None:
            return Reply("body_too_large", "it says no") if b"no" in data else None

        async with (
            Origin() as origin,
            Live(using(HTTP, foreign(on_body=hook_of_two(on_body))), origin.port) as live,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\n\r\n" + (b"no" if at_once else b""))
            if not at_once:
                await until(lambda: live.stats.active)
                writer.write(b"no")
            answer = await read_answer(reader)
            assert (answer.error, answer.fields["connection"]) == ("body_too_large", "close")
            assert await reader.read() == b""
            writer.transport.abort()
            await until(live.nothing_left)
            assert len(live.log.records) == 1
            assert (await fetch(live.port, method="POST", body=b"yes")).status == 200

    run(main)


def test_an_answers_body_may_be_refused() -> None:
    async def main() -> None:
        def see(x: Any, data: bytes) -> Reply | None:
            return Reply("bad_upstream", "a secret") if b"secret" in data else None

        config = using(HTTP, foreign(on_answer_body=hook_of_two(see)))
        async with Origin(ok(b"a secret")) as origin, Live(config, origin.port) as live:
            answer = await fetch(live.port)
            assert answer.error == "bad_upstream"
            assert b'"message":"a secret"' in answer.body
            await until(live.nothing_left)
            assert len(live.log.records) == 1

    run(main)


def test_what_it_remembers_of_an_exchange() -> None:
    async def main() -> None:
        seen: list[object] = []

        def on_request(self: Any, x: Any) -> None:
            x.state[self.place] = x.head.target

        def on_end(self: Any, x: Any) -> None:
            seen.append(x.state[self.place])

        members = {"stateful": True, "on_request": on_request, "on_end": on_end}
        config = using(HTTP, foreign("one", **members), foreign("two", **members))
        async with Origin() as origin, Live(config, origin.port) as live:
            await fetch(live.port, "/a")
            await until(live.nothing_left)
            assert seen == [b"/a", b"/a"]

    run(main)


# -- reloads -------------------------------------------------------------------------------------------------------


class TagSettings(Settings):
    """Counts requests."""

    tag: str = key(Text("a word"), "Shown.", default="a")


def counting() -> Any:
    """A filter that counts, shows a setting, and remembers how often it was asked."""

    def on_request(self: Any, x: Any) -> None:
        self.asked = getattr(self, "asked", 0) + 1
        self.count("seen")

    def view(self: Any) -> dict[str, Any]:
        return {"tag": self.config.tag, "asked": getattr(self, "asked", 0)}

    return foreign(
        "counting", settings_class=TagSettings, counters={"seen": "Requests."}, on_request=on_request, view=view
    )


def shown(live: Live) -> Any:
    return report.listener(live.stats)["filters"]


def test_a_reload_keeps_what_did_not_change() -> None:
    async def main() -> None:
        it = counting()
        config = replace(HTTP, filters=(used(it),))
        async with Origin() as origin, Live(config, origin.port) as live:
            await fetch(live.port)
            before = live.listener.chain.filters
            live.reload(
                timeout=TimeoutSettings(request=7.0),
                retry=RetrySettings(),
                rate_limit=RateLimitSettings(rate=100.0, burst=10),
            )
            await fetch(live.port)
            after = live.listener.chain.filters
            assert [f for f in before if f.name == "counting"] == [f for f in after if f.name == "counting"]
            assert shown(live) == {"counting": {"seen": 2, "tag": "a", "asked": 2}}
            live.reload(filters=(used(it, tag="b"),))  # another one, whose counters go on
            await fetch(live.port)
            assert shown(live) == {"counting": {"seen": 3, "tag": "b", "asked": 1}}
            assert not any(f is before[-1] for f in live.listener.chain.filters if f.name == "counting")

    run(main)


def test_what_a_removed_filter_showed_is_shown_no_more() -> None:
    async def main() -> None:
        it = counting()
        async with Origin() as origin, Live(replace(HTTP, filters=(used(it),)), origin.port) as live:
            await fetch(live.port)
            live.reload(filters=())
            assert shown(live) == {}
            assert live.stats.filters["counting"].counts == {"seen": 1}  # a counter must not begin anew
            assert (await fetch(live.port)).status == 200
            live.reload(filters=(used(it),))
            assert shown(live) == {"counting": {"seen": 1, "tag": "a", "asked": 0}}

    run(main)


def test_of_several_the_ports_own_is_shown() -> None:
    async def main() -> None:
        it = counting()

        def config(own: tuple[Used, ...], of_route: str) -> dict[str, Any]:
            return {"filters": own, "routes": (Route(match=Match(path="/r"), filters=(used(it, tag=of_route),)),)}

        async with Live(replace(HTTP, **config((used(it, tag="own"),), "route"))) as live:
            assert shown(live)["counting"]["tag"] == "own"
            live.reload(**config((used(it, tag="own"),), "changed"))
            assert shown(live)["counting"]["tag"] == "own"
            live.reload(**config((), "changed"))
            assert shown(live)["counting"]["tag"] == "changed"
            live.reload(filters=(), routes=())
            assert shown(live) == {}

    run(main)
