"""Filters of other packages on the wire: each of their verdicts, what they see, and what a reload keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sidecar.admin import report
from sidecar.config.declared import Settings, Used, key
from sidecar.config.traffic import Match, Route
from sidecar.config.values import Text
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Again, Answer, Wait
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from support.foreign import HTTP, TCP, foreign, used, using
from support.http import Message, Stage
from support.ports import changed


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


def answered(stage: Stage, line: str = "GET /", status: int = 200, body: bytes = b"ok") -> Message:
    """What a client gets for a request that the upstream answers so."""
    client = stage.asks(line)
    upstream = stage.upstream()
    upstream.hears()
    upstream.answers(status, body)
    return client.gets()


def ends(stage: Stage) -> list[tuple[int, str | None]]:
    """How exchanges ended, of which nothing is left."""
    assert stage.nothing_left()
    return [(record.status, record.error) for record in stage.records]


def test_an_answer_in_place_of_the_upstream() -> None:
    answer = Answer(203, [("x-from", "filter")], b"hello")
    stage = Stage(using(HTTP, foreign(on_request=hook(lambda x: answer))))
    client = stage.client()
    for method in ("GET", "HEAD", "GET"):  # on one connection
        client.asks(f"{method} /")
        text = client.heard()
        assert text.startswith(b"HTTP/1.1 203 Non-Authoritative Information\r\nx-from: filter\r\n")
        assert b"content-length: 5\r\n" in text
        assert text.endswith(b"\r\n\r\n" if method == "HEAD" else b"\r\n\r\nhello")
    assert stage.accepted == []
    assert ends(stage) == [(203, None)] * 3
    stage.over()


def test_an_answer_in_place_of_the_upstreams() -> None:
    seen: list[int] = []

    def on_answer(x: Any, head: Any) -> Answer | None:
        seen.append(head.status)
        return Answer(200, [("x-from", "filter")], b"hello") if head.status == 404 else None

    stage = Stage(using(HTTP, foreign(on_answer=hook_of_two(on_answer))))
    answer = answered(stage, status=404, body=b"no")
    assert (answer.status, answer.body, answer.fields["x-from"]) == (200, b"hello", "filter")
    assert answered(stage, body=b"yes").body == b"yes"
    assert seen == [404, 200]
    assert stage.stats.upstream_idle == 1  # the answer that was not used was whole: its connection is kept
    assert len(stage.accepted) == 1
    assert stage.nothing_left()
    stage.over()


def test_an_answer_over_tcp_ends_the_connection() -> None:
    stage = Stage(using(TCP, foreign(on_request=hook(lambda x: Answer(200)))))
    client = stage.client()
    assert client.silent()
    assert not client.connected
    assert ends(stage) == [(200, None)]
    stage.over()


def test_an_error_of_the_table() -> None:
    stage = Stage(using(HTTP, foreign(on_try=hook(lambda x: Reply("rate_limited", "not now", 3)))))
    answer = stage.asks().gets()
    assert (answer.status, answer.error, answer.fields["retry-after"]) == (429, "rate_limited", "3")
    stage.over()


@pytest.mark.parametrize("config", [HTTP, TCP], ids=["http", "tcp"])
def test_a_wait_for_a_time(config: Any) -> None:
    waits = foreign(on_request=hook(lambda x: Wait(x.listener.clock() + 5)))
    stage = Stage(using(config, waits))
    client = stage.asks()
    stage.advance(4.5)
    assert client.gets_nothing()
    assert stage.accepted == []
    assert not stage.listener.cluster.endpoints[0].active
    stage.advance(1)
    upstream = stage.upstream()
    upstream.hears()
    upstream.answers(200, b"ok", "connection: close")
    upstream.leaves()
    assert client.gets().status == 200
    client.leaves()
    assert len(ends(stage)) == 1
    stage.over()


def test_a_wait_that_ends_in_an_answer() -> None:
    late = Reply("overloaded", "too late")
    stage = Stage(using(HTTP, foreign(on_request=hook(lambda x: Wait(x.listener.clock() + 5, late)))))
    client = stage.asks()
    stage.advance(6)
    assert client.gets().error == "overloaded"
    assert stage.nothing_left()
    assert stage.accepted == []
    stage.over()


def test_a_wait_for_a_grant() -> None:
    waiting: list[Any] = []
    ended: list[Any] = []

    def on_request(x: Any) -> Wait:
        waiting.append(x)
        return Wait(x.listener.clock() + 60, Reply("overloaded", "too late"))

    stage = Stage(using(HTTP, foreign(on_request=hook(on_request), on_end=hook(ended.append))))
    clients = [stage.asks(), stage.asks()]
    assert stage.asked() == []
    for client, x in zip(clients, list(waiting), strict=True):
        assert client.gets_nothing()
        x.grant()
        x.grant()  # for nothing
        upstream = stage.upstream()
        upstream.hears()
        upstream.answers()
        assert client.gets().status == 200
    stage.asks().breaks()
    assert stage.nothing_left()
    waiting[2].grant()  # it has left
    assert stage.asked() == []
    assert len(ended) == len(stage.records) == 3
    stage.over()


def test_another_try() -> None:
    def on_answer(x: Any, head: Any) -> Again | None:
        return Again(2.0, "busy") if head.status == 202 and x.attempts < 3 else None

    stage = Stage(using(changed(HTTP, retry=None), foreign(on_answer=hook_of_two(on_answer))))
    client = stage.asks("POST /", body=b"abc")
    for tries in (0, 1, 2):
        assert stage.stats.retries["busy"] == tries
        upstream = stage.upstream()
        assert upstream.hears().body == b"abc"
        upstream.answers(202)
        stage.advance(1.9)
        assert stage.asked() == []
        stage.advance(0.2)
    assert client.gets().status == 202
    assert stage.nothing_left()
    assert [record.attempts for record in stage.records] == [3]
    stage.over()


@pytest.mark.parametrize("config", [HTTP, TCP], ids=["http", "tcp"])
def test_another_try_after_a_failure(config: Any) -> None:
    def on_failure(x: Any, kind: str) -> Again | Reply:
        return Again(0.0, "mine") if x.attempts < 2 else Reply("overloaded", f"after a {kind}")

    stage = Stage(using(changed(config, retry=None), foreign(on_failure=hook_of_two(on_failure))), endpoints=2)
    stage.loop.dialled = lambda host, port: "refuse"
    client = stage.asks()
    if config is HTTP:
        assert client.gets().error == "overloaded"
    else:
        assert client.silent()
        assert not client.connected
    assert stage.nothing_left()
    assert stage.stats.retries == {"mine": 1}
    assert stage.stats.rejected == {"overloaded": 1}
    stage.over()


def test_bodies() -> None:
    said: list[tuple[str, bytes]] = []
    sees = foreign(
        on_request=hook(lambda x: said.append(("request", b""))),
        on_body=hook_of_two(lambda x, data: said.append(("body", data))),
        on_answer=hook_of_two(lambda x, head: said.append(("answer", b""))),
        on_answer_body=hook_of_two(lambda x, data: said.append(("answer body", data))),
        on_end=hook(lambda x: said.append(("end", b""))),
    )
    stage = Stage(using(HTTP, sees))
    client = stage.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\n\r\nabc")  # a part with the head
    assert said == [("request", b""), ("body", b"abc")]
    client.says(b"def")
    upstream = stage.upstream()
    assert upstream.hears().body == b"abcdef"
    upstream.answers(200, b"hello")
    assert client.gets().body == b"hello"
    assert stage.nothing_left()
    assert said[2:] == [("body", b"def"), ("answer", b""), ("answer body", b"hello"), ("end", b"")]
    said.clear()
    client.asks()
    upstream.hears()
    upstream.answers(200, b"hello")
    assert client.gets().body == b"hello"
    assert [what for what, _ in said] == ["request", "answer", "answer body", "end"]
    stage.over()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_body_may_be_refused(at_once: bool) -> None:
    def on_body(x: Any, data: bytes) -> Reply | None:
        return Reply("body_too_large", "it says no") if b"no" in data else None

    stage = Stage(using(HTTP, foreign(on_body=hook_of_two(on_body))))
    client = stage.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\n\r\n" + (b"no" if at_once else b""))
    if not at_once:
        assert client.gets_nothing()
        client.says(b"no")
    answer = client.gets()
    assert (answer.error, answer.fields["connection"]) == ("body_too_large", "close")
    assert stage.nothing_left()
    assert len(stage.records) == 1
    client = stage.asks("POST /", body=b"yes")
    upstream = stage.upstream()
    upstream.hears()
    upstream.answers()
    assert client.gets().status == 200
    stage.over()


def test_an_answers_body_may_be_refused() -> None:
    def see(x: Any, data: bytes) -> Reply | None:
        return Reply("bad_upstream", "a secret") if b"secret" in data else None

    stage = Stage(using(HTTP, foreign(on_answer_body=hook_of_two(see))))
    answer = answered(stage, body=b"a secret")
    assert answer.error == "bad_upstream"
    assert b'"message":"a secret"' in answer.body
    assert stage.nothing_left()
    assert len(stage.records) == 1
    stage.over()


def test_the_slowest_pace_counts() -> None:
    def paced(number: int, rate: float | None) -> Any:
        return foreign(f"paces_{number}", on_pace=hook_of_two(lambda x, head: rate))

    paces = [paced(number, rate) for number, rate in enumerate((400, None, 100.0))]
    stage = Stage(using(HTTP, *paces))
    client = stage.asks("GET /a")
    stage.upstream().answers(200, b"x" * 100)
    stage.advance(0.5)
    assert 30 < len(client.heard().partition(b"\r\n\r\n")[2]) < 60
    stage.advance(0.7)
    assert len(client.heard()) > 40
    assert stage.nothing_left()
    stage.over()


def test_what_it_remembers_of_an_exchange() -> None:
    seen: list[object] = []

    def on_request(self: Any, x: Any) -> None:
        x.state[self.place] = x.head.target

    def on_end(self: Any, x: Any) -> None:
        seen.append(x.state[self.place])

    members = {"stateful": True, "on_request": on_request, "on_end": on_end}
    stage = Stage(using(HTTP, foreign("one", **members), foreign("two", **members)))
    answered(stage, "GET /a")
    assert stage.nothing_left()
    assert seen == [b"/a", b"/a"]
    stage.over()


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


def shown(stage: Stage) -> Any:
    return {name: it for name, it in report.listener(stage.stats)["filters"].items() if name != "retry"}


def test_a_reload_keeps_what_did_not_change() -> None:
    it = counting()
    stage = Stage(replace(HTTP, filters=(used(it),)))
    answered(stage)
    before = stage.listener.chain.filters
    stage.reload(
        timeout=TimeoutSettings(request=7.0),
        retry=RetrySettings(),
        rate_limit=RateLimitSettings(rate=100.0, burst=10),
    )
    answered(stage)
    after = stage.listener.chain.filters
    assert [f for f in before if f.name == "counting"] == [f for f in after if f.name == "counting"]
    assert shown(stage) == {"counting": {"seen": 2, "tag": "a", "asked": 2}}
    stage.reload(filters=(used(it, tag="b"),))  # another one, whose counters go on
    answered(stage)
    assert shown(stage) == {"counting": {"seen": 3, "tag": "b", "asked": 1}}
    assert not any(f is before[-1] for f in stage.listener.chain.filters if f.name == "counting")
    stage.over()


def test_what_a_removed_filter_showed_is_shown_no_more() -> None:
    it = counting()
    stage = Stage(replace(HTTP, filters=(used(it),)))
    answered(stage)
    stage.reload(filters=())
    assert shown(stage) == {}
    assert stage.stats.filters["counting"].counts == {"seen": 1}  # a counter must not begin anew
    assert answered(stage).status == 200
    stage.reload(filters=(used(it),))
    assert shown(stage) == {"counting": {"seen": 1, "tag": "a", "asked": 0}}
    stage.over()


def test_of_several_the_ports_own_is_shown() -> None:
    it = counting()

    def config(own: tuple[Used, ...], of_route: str) -> dict[str, Any]:
        return {"filters": own, "routes": (Route(match=Match(path="/r"), filters=(used(it, tag=of_route),)),)}

    stage = Stage(replace(HTTP, **config((used(it, tag="own"),), "route")))
    assert shown(stage)["counting"]["tag"] == "own"
    stage.reload(**config((used(it, tag="own"),), "changed"))
    assert shown(stage)["counting"]["tag"] == "own"
    stage.reload(**config((), "changed"))
    assert shown(stage)["counting"]["tag"] == "changed"
    stage.reload(filters=(), routes=())
    assert shown(stage) == {}
