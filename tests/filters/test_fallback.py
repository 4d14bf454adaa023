"""Answers in place of an upstream that cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.config.fallback import AnswerSettings, StepSettings
from sidecar.config.traffic import Match
from sidecar.core.limits import Limits
from sidecar.exchange.filter import KEEP
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.fallback import Fallback
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.filters.wait import WaitSettings
from sidecar.resilience.breaker import OPEN
from sidecar.why.causes import cause_of
from support.http import Server, Stage
from support.ports import route_of

SIMPLE = AnswerSettings(headers={"content-type": "application/json"}, body='{"mode":"simple"}')


def step(*on: str, **does: Any) -> StepSettings:
    return StepSettings(on=frozenset(on), **(does or {"answer": SIMPLE}))


def stage(*steps: StepSettings, **more: Any) -> Stage:
    return Stage(**{"fallback": steps, "retry": None, "why": True, "circuit_breaker": None, **more})


def refuses(it: Stage, host: str = "10.0.0.1") -> None:
    it.loop.dialled = lambda to, port: "refuse" if to == host else "accept"


# -- a static answer ---------------------------------------------------------------------------------------------------


def test_a_static_answer_is_marked_with_the_number_of_its_step() -> None:
    it = stage(step("overloaded", answer=AnswerSettings(status=503)), step("no_endpoints"), endpoints=0)
    answer = it.asks("GET /a").gets()
    assert (answer.status, answer.body) == (200, b'{"mode":"simple"}')
    assert answer.fields["x-sidecar-fallback"] == "2"
    assert answer.fields["content-type"] == "application/json"
    assert answer.error == ""
    assert it.stats.fallbacks == {2: 1}
    assert not it.stats.rejected
    assert (it.records[-1].fallback, it.records[-1].error) == (2, None)
    it.over()


def test_head_gets_no_body() -> None:
    it = stage(step("no_endpoints"), endpoints=0)
    client = it.asks("HEAD /a")
    data = client.heard()
    assert b"content-length: 17\r\n" in data
    assert data.endswith(b"\r\n\r\n")
    it.over()


def test_the_story_has_the_step_and_what_was_wrong() -> None:
    it = stage(step("connect_failed"))
    refuses(it)
    it.asks("GET /a").gets()
    (story,) = it.stories
    assert story["status"] == 200
    cause = cause_of(story)
    assert cause.sentence == (
        "step 1 of the fallback gave its own answer, because up: 10.0.0.1:1 refused the connection"
    )
    assert cause.setting == "upstreams.up.fallback"
    it.over()


def test_what_no_step_is_for_is_answered_as_ever() -> None:
    it = stage(step("circuit_open"), endpoints=0)
    answer = it.asks("GET /a").gets()
    assert (answer.error, "x-sidecar-fallback" in answer.fields) == ("no_endpoints", False)
    it.over()


@pytest.mark.parametrize(("on", "status", "taken"), [
    ("5xx", 500, True), ("5xx", 599, True), ("5xx", 404, False), ("404", 404, True), ("503", 500, False),
])  # fmt: skip
def test_bad_answers_by_their_status(on: str, status: int, taken: bool) -> None:
    it = stage(step(on))
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(status, b"no")
    answer = client.gets()
    assert (answer.status, answer.body) == ((200, b'{"mode":"simple"}') if taken else (status, b"no"))
    it.over()


def test_the_breaker_counts_what_a_step_has_answered() -> None:
    it = stage(step("5xx", "circuit_open"), circuit_breaker=CircuitBreakerSettings(failure_threshold=2))
    client = it.client()
    for _ in range(2):
        client.asks("GET /a")
        server = it.upstream()
        server.hears()
        server.answers(500)
        assert client.gets().status == 200
    assert it.breaker_states == [OPEN]
    client.asks("GET /a")
    assert client.gets().fields["x-sidecar-fallback"] == "1"
    assert it.asked() == []
    it.over()


def test_retries_come_first() -> None:
    it = stage(step("5xx"), retry=RetrySettings(max_attempts=2, initial_delay=0.0, jitter=False))
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(503)
    assert client.gets_nothing()
    again = it.upstream()
    again.hears()
    again.answers(200, b"well")
    answer = client.gets()
    assert (answer.body, "x-sidecar-fallback" in answer.fields) == (b"well", False)
    assert not it.stats.fallbacks
    client.asks("GET /a")
    for _ in range(2):
        server = it.upstream()
        server.hears()
        server.answers(503)
    assert client.gets().fields["x-sidecar-fallback"] == "1"
    assert it.stats.fallbacks == {1: 1}
    it.over()


def test_waiting_comes_first_too() -> None:
    it = stage(step("no_endpoints"), wait=WaitSettings(timeout=1.0), endpoints=0)
    client = it.asks("GET /a")
    assert client.gets_nothing()
    it.advance(1.1)
    assert client.gets().fields["x-sidecar-fallback"] == "1"
    assert "it had waited" in cause_of(it.stories[-1]).sentence
    it.over()


def test_refusals_of_all_kinds_that_stand_behind_it() -> None:
    it = stage(step("rate_limited"), rate_limit=RateLimitSettings(rate=1.0, burst=1))
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(200)
    client.gets()
    client.asks("GET /a")
    assert client.gets().fields["x-sidecar-fallback"] == "1"
    it.over()


def test_no_stranger_marks_its_answers() -> None:
    it = stage(step("5xx"))
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(200, b"ok", "x-sidecar-fallback: 7", "X_Sidecar_Fallback: 7")
    assert b"allback" not in client.gets().head
    it.over()


def test_a_peers_code_counts_as_ours() -> None:
    it = stage(step("connect_failed"))
    it.endpoints(1, sidecars=True)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(502, b"{}", "x-sidecar-error: connect_failed")
    assert client.gets().fields["x-sidecar-fallback"] == "1"
    client.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(502, b"{}", "x-sidecar-error: nobody_knows")
    assert client.gets().status == 502
    it.over()


def test_a_route_has_its_own_or_none() -> None:
    routes = (
        route_of(match=Match(path="/off"), fallback=()),
        route_of(match=Match(path="/own"), fallback=(step("no_endpoints", answer=AnswerSettings(status=202)),)),
    )
    it = stage(step("no_endpoints"), routes=routes, endpoints=0)
    client = it.client()
    statuses = []
    for path in ("/a", "/off", "/own"):
        client.asks(f"GET {path}")
        statuses.append(client.gets().status)
    assert statuses == [200, 503, 202]
    it.over()


def test_without_one_nothing_stands_in_the_chain() -> None:
    it = Stage()
    assert not it.listener.chain.on_reply
    assert not it.listener.chain.on_answer_body
    it = stage(step("5xx"))
    assert not it.listener.chain.on_answer_body, "only a step with stale looks at bodies"


def test_view_and_reload() -> None:
    it = stage(step("no_endpoints"), endpoints=0)
    before = it.filter(Fallback)
    it.asks("GET /a").gets()
    assert before.view() == {"steps": [{"on": ["no_endpoints"], "by": "answer"}], "answered": {"1": 1}}
    it.reload(fallback=(step("no_endpoints", answer=AnswerSettings(status=204)),))
    assert it.filter(Fallback) is before
    assert it.asks("GET /a").gets().status == 204
    it.over()


# -- a stale answer ----------------------------------------------------------------------------------------------------


def test_a_stale_answer_carries_its_age_until_it_is_too_old() -> None:
    it = stage(step("connect_failed", "5xx", stale=60.0))
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(200, b"hello", "content-type: text/plain", "date: today", "x-request-id: old")
    client.gets()
    it.advance(59.0)
    client.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(503)
    answer = client.gets()
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.fields["age"] == "59"
    assert answer.fields["x-sidecar-fallback"] == "1"
    assert answer.fields["date"] == "today"
    assert answer.fields["x-request-id"] != "old"
    assert it.filter(Fallback).view()["stale"]["entries"] == 1
    it.advance(2.0)
    client.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(503, b"no")
    assert client.gets().body == b"no", "its own answer, as there is none that is better"
    it.over()


# -- another upstream --------------------------------------------------------------------------------------------------


def with_other(*steps: StepSettings, other: dict[str, Any] | None = None, **more: Any) -> Stage:
    it = stage(*(steps or (step("connect_failed", "no_endpoints", "5xx", upstream="simple"),)), **more)
    it.other("simple", **{"retry": None, "circuit_breaker": None, **(other or {})})
    return it


def gone(it: Stage, name: str = "simple") -> None:
    """All is over at the other upstream, too."""
    it.loop.settle()
    assert not it.others[name].stats.active
    it.over()


def test_another_upstream_is_asked_and_its_answer_is_marked() -> None:
    it = with_other()
    refuses(it)
    client = it.asks("POST /a?b", "x-own: kept", body=b"hello")
    server = it.upstream()
    asked = server.hears()
    assert (asked.method, asked.target, asked.body) == ("POST", "/a?b", b"hello")
    assert asked.fields["x-own"] == "kept"
    server.answers(201, b"simple", "x-theirs: 1")
    answer = client.gets()
    assert (answer.status, answer.body, answer.error) == (201, b"simple", "")
    assert answer.fields["x-sidecar-fallback"] == "1"
    assert answer.fields["x-theirs"] == "1"
    assert asked.fields["x-request-id"] == it.records[-1].request_id
    assert it.stats.requests == {("POST", 201): 1}
    assert it.others["simple"].stats.requests == {("POST", 201): 1}
    assert it.stats.fallbacks == {1: 1}
    assert {(record.upstream, record.fallback) for record in it.records} == {("up", 1), ("simple", 0)}
    story = next(it for it in it.stories if it["upstream"] == "up")
    assert "sent it to simple" in cause_of(story).sentence
    client.asks("GET /b")  # the connection is used again
    it.upstream().answers(200)
    assert client.gets().status == 200
    gone(it)


def test_a_bad_answer_is_followed_by_another_upstreams() -> None:
    it = with_other()
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(500)
    other = it.upstream()
    assert other.hears().target == "/a"
    other.answers(200, b"simple")
    assert client.gets().body == b"simple"
    gone(it)


def test_its_callers_deadline_goes_along() -> None:
    it = with_other(step("timeout", "connect_failed", upstream="simple"))
    refuses(it)
    client = it.asks("GET /a", "x-sidecar-deadline: 2000")
    assert it.upstream().hears().fields["x-sidecar-deadline"] == "2000"
    client.breaks()
    it.loop.dialled = lambda host, port: "accept"
    late = it.asks("GET /b", "x-sidecar-deadline: 1000")
    it.advance(1.1)
    assert late.gets().error == "timeout"
    assert "no time left" in str(it.stories[-1])
    gone(it)


def test_a_long_answer_streams_at_its_clients_pace() -> None:
    it = with_other()
    refuses(it)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"a" * 1000)
    client.stops_reading()
    server.says(b"b" * 200000)
    assert not server.is_read()
    client.transport.read_again()
    it.loop.settle()
    assert server.is_read()
    server.says(b"c" * 99000)
    answer = client.gets()
    assert len(answer.body) == 300000
    assert it.stats.bytes_out == 300000
    gone(it)


def test_an_answer_that_breaks_off_is_not_taken_for_whole() -> None:
    it = with_other()
    refuses(it)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    server.breaks()
    assert client.transport.gone
    assert it.records[-1].error == "upstream_reset"
    gone(it)


def test_a_client_that_leaves_ends_the_call_to_the_other_upstream() -> None:
    it = with_other()
    refuses(it)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    client.breaks()
    assert not server.connected
    assert it.others["simple"].stats.requests == {("GET", 499): 1}
    gone(it)


def test_the_other_upstreams_policies_apply() -> None:
    steps = (step("connect_failed", upstream="simple"), step("connect_failed"))
    it = with_other(*steps, other={"bulkhead": BulkheadSettings(max_requests=1, max_pending=0)})
    refuses(it)
    first, second = it.asks("GET /a"), it.asks("GET /b")
    answer = second.gets()
    assert answer.fields["x-sidecar-fallback"] == "2"
    assert "simple: overloaded" in cause_of(it.stories[-1]).sentence
    server = it.upstream()
    server.hears()
    server.answers(200, b"simple")
    assert first.gets().fields["x-sidecar-fallback"] == "1"
    gone(it)


def test_what_is_at_another_upstream_holds_no_slot_of_its_own() -> None:
    it = with_other(bulkhead=BulkheadSettings(max_requests=1, max_pending=0))
    refuses(it)
    clients = [it.asks("GET /a"), it.asks("GET /b")]
    for server in it.asked():
        server.hears()
        server.answers(200)
    assert [client.gets().fields["x-sidecar-fallback"] for client in clients] == ["1", "1"]
    gone(it)


def test_the_other_upstreams_times_apply() -> None:
    steps = (step("connect_failed", upstream="simple"), step("connect_failed"))
    it = with_other(*steps, other={"timeout": TimeoutSettings(connect=1.0, request=2.0)})
    refuses(it)
    client = it.asks("GET /a")
    it.upstream().hears()
    it.advance(1.9)
    assert client.gets_nothing()
    it.advance(0.2)
    assert client.gets().fields["x-sidecar-fallback"] == "2"
    assert "simple: timeout" in cause_of(it.stories[-1]).sentence
    gone(it)


def test_after_its_own_time_another_upstream_has_a_time_of_its_own() -> None:
    it = with_other(step("timeout", upstream="simple"), timeout=TimeoutSettings(connect=1.0, request=1.0))
    client = it.asks("GET /a")
    it.upstream().hears()
    it.advance(1.1)
    other = it.upstream()
    other.hears()
    it.advance(5.0)
    other.answers(200, b"simple")
    answer = client.gets()
    assert (answer.body, answer.fields["x-sidecar-fallback"]) == (b"simple", "1")
    gone(it)


def test_a_silent_answer_of_the_other_one_is_cut() -> None:
    it = with_other(other={"timeout": TimeoutSettings(idle=5.0)})
    refuses(it)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    it.advance(6.0)
    assert client.transport.gone
    assert it.records[-1].error == "timeout"
    gone(it)


def test_the_other_upstreams_limit_of_bodies_applies() -> None:
    it = with_other(other={"limits": Limits(body=3)})
    refuses(it)
    assert it.asks("POST /a", body=b"1234").gets().error == "connect_failed"
    assert "at most 3 bytes" in str(it.stories[-1])
    gone(it)


def test_a_request_that_turns_out_bad_is_told_so() -> None:
    it = with_other(step("no_endpoints", upstream="simple"), step("no_endpoints", "bad_request"), endpoints=0)
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel")
    client.says(b"lo\r\nnonsense\r\n")
    assert client.gets().error == "bad_request"
    it.over()


def test_with_both_away_the_answer_is_the_first_ones() -> None:
    it = with_other()
    it.loop.dialled = lambda host, port: "refuse"
    client = it.asks("GET /a")
    answer = client.gets()
    assert (answer.status, answer.error) == (502, "connect_failed")
    assert json.loads(answer.body)["upstream"] == "up"
    assert not it.stats.fallbacks
    notes = [event for event in it.stories[-1]["events"] if event["what"] == "no_fallback"]
    assert notes[0]["because"] == ["simple: connect_failed"]
    client.asks("GET /again")
    assert client.gets().error == "connect_failed"
    gone(it)


def test_a_bad_answer_of_both_is_passed_on_when_no_step_is_left() -> None:
    it = with_other()
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    server.answers(500, b"first")
    other = it.upstream()
    other.hears()
    other.answers(500, b"second")
    answer = client.gets()
    assert (answer.status, answer.body, answer.fields["x-sidecar-fallback"]) == (500, b"second", "1")
    gone(it)


@pytest.mark.parametrize("body", [b"short", b"x" * 100])
def test_a_bad_answer_of_the_other_one_is_dropped_for_the_next_step(body: bytes) -> None:
    it = with_other(step("connect_failed", upstream="simple"), step("connect_failed"))
    refuses(it)
    client = it.asks("GET /a")
    server = it.upstream()
    server.hears()
    if len(body) < 10:
        server.answers(500, body)
    else:
        server.says(b"HTTP/1.1 500 x\r\ncontent-length: 1000\r\n\r\n" + body)
    it.loop.settle()
    assert client.gets().fields["x-sidecar-fallback"] == "2"
    assert it.others["simple"].stats.requests == {("GET", 500): 1}
    gone(it)


def test_the_rest_of_a_body_is_waited_for() -> None:
    it = with_other(endpoints=0)
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n")
    assert client.heard() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.says(b"01234")
    assert it.asked() == []
    client.says(b"56789")
    asked = it.upstream().hears()
    assert asked.body == b"0123456789"
    assert "expect" not in asked.fields
    it.accepted[-1].answers(200)
    assert client.gets().status == 200
    gone(it)


def test_a_body_that_is_too_large_goes_to_no_other_upstream() -> None:
    it = with_other(step("no_endpoints", upstream="simple"), step("no_endpoints"), endpoints=0)
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n" % (KEEP + 1))
    assert client.gets().fields["x-sidecar-fallback"] == "2"
    chunked = it.client()
    chunked.says(b"POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n")
    assert chunked.gets_nothing()
    chunked.says(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
    assert chunked.gets().fields["x-sidecar-fallback"] == "2"
    it.over()


def test_a_chunked_request_and_a_chunked_answer() -> None:
    it = with_other(endpoints=0)
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    server = it.upstream()
    assert server._unread.endswith(b"5\r\nhello\r\n0\r\n\r\n")
    server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    server.says(b"0\r\n\r\n")
    data = client.heard()
    assert b"x-sidecar-fallback: 1\r\n" in data
    assert data.endswith(b"5\r\nhello\r\n0\r\n\r\n")
    gone(it)


def test_an_upgrade_goes_nowhere_else() -> None:
    it = with_other(endpoints=0)
    client = it.asks("GET /a", "connection: upgrade", "upgrade: websocket")
    assert client.gets().error == "no_endpoints"
    it.over()


def test_an_http_1_0_client_gets_what_it_can_read() -> None:
    it = with_other(endpoints=0)
    client = it.client()
    client.says(b"GET /a HTTP/1.0\r\n\r\n")
    server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    data = client.heard()
    assert b"transfer-encoding" not in data
    assert data.endswith(b"\r\n\r\nhello")
    assert client.transport.closing
    gone(it)


def test_a_fallback_of_the_fallback() -> None:
    it = with_other(other={"fallback": (step("connect_failed"), step("no_endpoints"))})
    it.loop.dialled = lambda host, port: "refuse"
    answer = it.asks("GET /a").gets()
    assert (answer.body, answer.fields["x-sidecar-fallback"]) == (b'{"mode":"simple"}', "1")
    assert answer.head.count(b"x-sidecar-fallback") == 1
    assert [record.fallback for record in it.records] == [1, 1]
    it.over()


def test_an_upstream_that_is_not_there_any_more() -> None:
    it = stage(step("no_endpoints", upstream="nobody"), endpoints=0)
    client = it.asks("GET /a")
    assert client.gets().error == "no_endpoints"
    assert "there is no such upstream" in str(it.stories[-1])
    it.over()


def test_steps_that_are_others_by_then() -> None:
    it = with_other(endpoints=0)
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\na")
    it.reload(fallback=(step("no_endpoints"),))
    client.says(b"b")
    assert client.gets().error == "no_endpoints"
    it.over()


def test_a_client_that_sends_no_more_is_not_waited_for_for_ever() -> None:
    it = with_other(step("no_endpoints", upstream="simple"), step("no_endpoints", "timeout"), endpoints=0)
    client = it.client()
    client.says(b"POST /a HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\na")
    it.advance(40.0)
    assert client.gets().error == "timeout"
    it.over()


def test_interim_answers_of_the_other_upstream_are_left_out() -> None:
    it = with_other()
    refuses(it)
    client = it.asks("GET /a")
    server: Server = it.upstream()
    server.hears()
    server.says(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert client.gets().status == 200
    gone(it)
