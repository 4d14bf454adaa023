"""Faults that are injected on purpose: which exchanges get one, and what becomes of them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.cache import CacheSettings
from sidecar.config.fallback import AnswerSettings, StepSettings
from sidecar.config.faults import FaultSettings
from sidecar.config.traffic import Match
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.faults import Faults, told
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.why.causes import cause_of
from support.examples import examples
from support.http import Stage, request
from support.ports import route_of, site


def stage(*faults: dict[str, Any], **more: Any) -> Stage:
    given_ = tuple(FaultSettings(**it) for it in faults)
    return Stage(**{"faults": given_, "retry": None, "circuit_breaker": None, "why": True, **more})


def test_without_faults_no_hook_of_theirs_is_called() -> None:
    it = Stage(why=True)
    assert not any(isinstance(f, Faults) for f in it.listener.chain.filters)
    assert not it.listener.chain.on_pace
    assert not it.listener.chain.sees_bodies
    it.over()


# -- delay -------------------------------------------------------------------------------------------------------------


def test_a_delay_comes_before_the_upstream_is_asked() -> None:
    it = stage({"delay": 2.0})
    client = it.asks("GET /a")
    it.advance(1.9)
    assert not it.accepted
    it.advance(0.2)
    it.upstream().answers(200, b"late")
    assert client.gets().body == b"late"
    assert it.stats.faults == {"delay": 1}
    (story,) = it.stories
    cause = cause_of(story)
    assert cause.sentence.startswith("it was made to wait 2 s by a fault of the configuration: it was answered 200")
    assert cause.setting == "upstreams.up.faults"
    it.over()


def test_a_delay_is_a_part_of_the_time_for_the_answer() -> None:
    it = stage({"delay": 5.0}, timeout=TimeoutSettings(request=3.0))
    client = it.asks("GET /a")
    it.advance(3.1)
    answer = client.gets()
    assert (answer.status, answer.error) == (504, "timeout")
    assert not it.accepted
    assert "a fault" in cause_of(it.stories[0]).sentence
    it.over()


def test_what_is_delayed_holds_a_slot() -> None:
    it = stage({"delay": 5.0}, bulkhead=BulkheadSettings(max_requests=1, max_pending=0))
    it.asks("GET /a")
    assert it.asks("GET /b").gets().error == "overloaded"
    it.advance(5.1)
    it.upstream().answers()
    assert it.nothing_left()
    it.over()


def test_a_client_that_leaves_while_it_is_delayed_leaves_nothing() -> None:
    it = stage({"delay": 5.0, "abort": 503})
    it.asks("GET /a").breaks()
    assert it.nothing_left()
    it.advance(6.0)
    assert it.stats.faults == {"delay": 1}
    it.over()


# -- abort -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 418, 429, 503, 599])
def test_an_abort_has_the_status_given(status: int) -> None:
    it = stage({"abort": status})
    client = it.asks("GET /a")
    answer = client.gets()
    assert (answer.status, answer.error) == (status, "fault_injected")
    assert json.loads(answer.body)["error"] == "fault_injected"
    assert not it.accepted
    assert it.stats.rejected == {"fault_injected": 1}
    assert it.stats.faults == {"abort": 1}
    cause = cause_of(it.stories[0])
    assert cause.sentence == (f"it was answered {status} on purpose, by a fault of the configuration: up was not asked")
    client.asks("GET /b")  # the connection goes on
    assert client.gets().status == status
    it.over()


def test_an_abort_after_a_delay() -> None:
    it = stage({"delay": 1.0, "abort": 500})
    client = it.asks("GET /a")
    assert client.gets_nothing()
    it.advance(1.1)
    assert client.gets().status == 500
    assert it.stats.faults == {"delay": 1, "abort": 1}
    it.over()


def test_an_abort_is_neither_tried_again_nor_held_against_the_upstream() -> None:
    it = stage({"abort": 503}, retry=RetrySettings(), **{"circuit_breaker": None})
    it.asks("GET /a").gets()
    assert not it.stats.retries
    assert it.listener.cluster.endpoints[0].failures == 0
    it.over()


def test_a_fallback_answers_in_place_of_an_abort() -> None:
    simple = StepSettings(on=frozenset(["5xx"]), answer=AnswerSettings(body="simple"))
    it = stage({"abort": 503}, fallback=(simple,))
    answer = it.asks("GET /a").gets()
    assert (answer.status, answer.body) == (200, b"simple")
    assert it.stats.fallbacks == {1: 1}
    assert "the fallback gave its own answer" in cause_of(it.stories[0]).sentence
    it.over()


def test_what_a_cache_has_is_not_hit() -> None:
    it = stage(cache=CacheSettings())
    it.asks("GET /a")
    it.upstream().answers(200, b"kept", "cache-control: max-age=60")
    it.reload(faults=(FaultSettings(abort=500),))
    assert it.asks("GET /a").gets().body == b"kept"
    assert it.asks("GET /b").gets().error == "fault_injected"
    it.over()


# -- reset -------------------------------------------------------------------------------------------------------------


def test_a_reset_cuts_the_client_off() -> None:
    it = stage({"reset": True})
    client = it.asks("GET /a")
    assert client.transport.aborted
    assert client.heard() == b""
    assert not it.accepted
    assert it.stats.faults == {"reset": 1}
    assert it.records[-1].error == "fault_injected"
    assert cause_of(it.stories[0]).sentence.startswith("its client was reset on purpose")
    assert it.nothing_left()
    it.over()


def test_a_tcp_connection_is_delayed_and_reset() -> None:
    it = stage({"delay": 3.0, "reset": True}, protocol="tcp")
    client = it.client()
    it.advance(2.9)
    assert not it.stats.faults.get("reset")
    it.advance(0.2)
    assert client.transport.aborted
    assert it.stats.faults == {"delay": 1, "reset": 1}
    assert it.nothing_left()
    it.over()


def test_a_delayed_tcp_connection_goes_on() -> None:
    it = stage({"delay": 3.0}, protocol="tcp")
    client = it.client()
    client.says(b"hello")
    it.advance(3.1)
    (server,) = it.accepted
    assert server.heard() == b"hello"
    server.says(b"good day")
    assert client.heard() == b"good day"
    it.over()


def test_a_detour_that_is_reset_is_no_answer() -> None:
    steps = (
        StepSettings(on=frozenset(["5xx"]), upstream="other"),
        StepSettings(on=frozenset(["5xx"]), answer=AnswerSettings()),
    )
    it = stage({"abort": 503}, fallback=steps)
    other = it.other("other", faults=(FaultSettings(reset=True),))
    answer = it.asks("GET /a").gets()
    assert (answer.status, answer.fields["x-sidecar-fallback"]) == (200, "2")
    assert other.stats.faults == {"reset": 1}
    assert other.stats.active == 0
    it.over()


# -- throttle ----------------------------------------------------------------------------------------------------------


def test_a_body_that_comes_at_once_goes_on_at_its_pace() -> None:
    it = stage({"throttle": 1000})
    client = it.asks("GET /a")
    it.upstream().answers(200, b"x" * 3000)
    assert client.heard().endswith(b"\r\n\r\n")
    it.advance(1.0)
    assert 900 <= len(client.heard()) <= 1100
    it.advance(2.2)
    assert len(client.heard()) >= 1900
    assert it.nothing_left()
    assert it.stats.faults == {"throttle": 1}
    (story,) = it.stories
    assert "its answer was slowed to 1000 bytes per second by a fault" in cause_of(story).sentence
    client.asks("GET /b")  # the same connections go on
    it.upstream().answers(200, b"y")
    it.advance(1.0)
    assert client.gets().body == b"y"
    assert len(it.accepted) == 1
    it.over()


def test_what_is_held_is_bounded_and_the_upstream_not_read_from() -> None:
    it = stage({"throttle": 1000})
    client = it.asks("GET /a")
    upstream = it.upstream()
    upstream.says(b"HTTP/1.1 200 x\r\ncontent-length: 4000\r\n\r\n")
    upstream.says(b"x" * 2000)
    assert upstream.transport.paused
    upstream.says(b"y" * 2000)  # waits where it is
    it.advance(2.2)
    it.advance(2.2)
    assert client.heard().partition(b"\r\n\r\n")[2] == b"x" * 2000 + b"y" * 2000
    assert it.nothing_left()
    it.over()


def test_chunks_pass_as_they_are() -> None:
    it = stage({"throttle": 1000})
    client = it.asks("GET /a")
    body = b"".join(b"64\r\n%b\r\n" % (b"x" * 100) for _ in range(10)) + b"0\r\n\r\n"
    it.upstream().says(b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n" + body)
    it.advance(0.5)
    half = client.heard().partition(b"\r\n\r\n")[2]
    assert 300 < len(half) < 600
    it.advance(1.0)
    assert half + client.heard() == body
    assert it.nothing_left()
    it.over()


def test_a_body_that_ends_with_its_connection_is_whole() -> None:
    it = stage({"throttle": 1000})
    client = it.asks("GET /a")
    upstream = it.upstream()
    upstream.says(b"HTTP/1.1 200 x\r\n\r\n" + b"x" * 900)
    upstream.leaves()
    it.advance(1.2)
    assert client.heard().partition(b"\r\n\r\n")[2] == b"x" * 900
    assert it.records[-1].error is None
    assert it.nothing_left()
    it.over()


def test_a_client_that_does_not_read_gets_the_rest_when_it_does() -> None:
    it = stage({"throttle": 1_000_000})
    client = it.asks("GET /a")
    client.stops_reading()
    it.upstream().answers(200, b"x" * 300_000)
    it.advance(2.0)
    client.reads_again()
    it.advance(2.0)
    assert client.heard().endswith(b"x" * 200_000)
    assert it.nothing_left()
    it.over()


def test_a_client_may_leave_in_the_middle() -> None:
    it = stage({"throttle": 100})
    client = it.asks("GET /a")
    it.upstream().answers(200, b"x" * 3000)
    it.advance(1.0)
    client.leaves()
    it.advance(1.0)
    assert it.nothing_left()
    it.over()


def test_an_answer_without_a_body_is_not_slowed() -> None:
    it = stage({"throttle": 10})
    client = it.asks("HEAD /a")
    it.upstream().says(b"HTTP/1.1 200 x\r\ncontent-length: 3000\r\n\r\n")
    assert b" 200 " in client.heard()
    assert not it.stats.faults
    it.over()


# -- which -------------------------------------------------------------------------------------------------------------


def test_faults_are_for_what_matches() -> None:
    match = Match(path="/slow*", methods=("GET",), headers={"x-chaos": "y*"})
    it = stage({"match": match, "abort": 500})
    assert it.asks("GET /slow/a", "x-chaos: yes").gets().error == "fault_injected"
    for line, field in (("GET /fast", "x-chaos: yes"), ("PUT /slow", "x-chaos: yes"), ("GET /slow", "x-chaos: no")):
        client = it.asks(line, field)
        it.upstream().answers()
        assert client.gets().status == 200, (line, field)
    client = it.asks("GET /%73low")
    it.upstream().answers()
    client.gets()
    assert it.asks("GET /x/../%73low", "x-chaos: y").gets().error == "fault_injected"  # as routes see paths
    it.over()


def test_a_route_has_faults_of_its_own_or_none() -> None:
    routes = (
        route_of(match=Match(path="/a"), faults=(FaultSettings(abort=418),)),
        route_of(match=Match(path="/b"), faults=()),
    )
    it = stage({"abort": 503}, routes=routes)
    assert it.asks("GET /a").gets().status == 418
    assert it.asks("GET /c").gets().status == 503
    client = it.asks("GET /b")
    it.upstream().answers()
    assert client.gets().status == 200
    assert cause_of(it.stories[0]).setting == "upstreams.up.routes[0].faults"
    it.over()


def test_a_fault_is_over_when_its_time_has_come() -> None:
    it = stage({"abort": 500, "until": time.time() + 60.0})
    assert it.asks("GET /a").gets().status == 500
    it.advance(61.0)
    client = it.asks("GET /a")
    it.upstream().answers()
    assert client.gets().status == 200
    it.over()


def test_one_that_is_over_stands_in_no_chain() -> None:
    it = stage({"abort": 500, "until": time.time() - 1.0})
    assert not any(isinstance(f, Faults) for f in it.listener.chain.filters)
    it.over()


def test_a_reload_changes_what_is_injected() -> None:
    it = stage({"abort": 500})
    it.reload(faults=(FaultSettings(abort=418),))
    assert it.asks("GET /a").gets().status == 418
    it.reload(faults=())
    client = it.asks("GET /a")
    it.upstream().answers()
    assert client.gets().status == 200
    it.over()


@given(st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.3]), min_size=1, max_size=3))
@settings(max_examples=examples(30), deadline=None)
def test_each_fault_gets_its_share(shares: list[float]) -> None:
    """Whatever stands before it, as long as all together are no more than everything."""
    it = Stage()
    filter = Faults([FaultSettings(share=share, abort=500 + n) for n, share in enumerate(shares)], site(it.loop))
    x = it.exchange(request())
    hits = [0] * len(shares)
    draws = 400
    rng = iter((n + 0.5) / draws for n in range(draws))
    filter._rng.random = lambda: next(rng)  # type: ignore[method-assign]
    for _ in range(draws):
        found = filter._drawn(x)
        if found is not None:
            hits[found.number] += 1
    assert hits == [pytest.approx(share * draws, abs=1) for share in shares]
    x.client_gone()


def test_in_words() -> None:
    match = Match(path="/slow*", methods=("GET", "PUT"), headers={"x-a": "b"})
    fault = FaultSettings(match=match, share=0.1, delay=2.0, throttle=1024, until=0.0, by="127.0.0.1")
    assert told(fault) == (
        "10 % of GET,PUT /slow* with x-a are delayed by 2 s and throttled to 1024 bytes/s, "
        "until 1970-01-01T00:00:00.000Z (by 127.0.0.1)"
    )
    assert told(fault, brief=True).startswith("10 % of what matches are delayed by 2 s")
    assert told(FaultSettings(reset=True)) == "100 % of all are reset (by the configuration)"


def test_the_view_says_what_is_on() -> None:
    it = stage({"abort": 500})
    it.asks("GET /a").gets()
    view = it.stats.filters["faults"].view
    assert view is not None
    assert view() == {"on": ["100 % of all are answered 500 (by the configuration)"], "injected": {"abort": 1}}
    it.over()
