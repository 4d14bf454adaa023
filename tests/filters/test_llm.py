"""An upstream that runs language models: slots, the queue before them, its times, and whom nothing is held against."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.fallback import StepSettings
from sidecar.config.llm import LlmSettings
from sidecar.config.traffic import Match
from sidecar.core.metrics import Family
from sidecar.core.stats import MAX_MODELS, LlmStats
from sidecar.filters.circuit_breaker import CircuitBreaker
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.telemetry.llm_metrics import families
from support.configs import config_of, problem_of
from support.examples import examples
from support.http import Stage
from support.models import PROMPT, Models, chunk
from support.ports import route_of


def test_a_slot_then_the_queue_and_what_is_said_of_it() -> None:
    it = Models()
    first, second, third = it.prompts("a"), it.prompts("a"), it.prompts("b")
    assert it.state == (1, 2)
    assert len(it.asked()) == 1, "the others wait here"
    it.advance(8.0)
    assert "x-sidecar-queue-position" not in it.answered(first).fields
    got = it.answered(third)
    assert (got.fields["x-sidecar-queue-position"], got.fields["x-sidecar-queue-estimate"]) == ("2", "0.0")
    assert float(got.fields["x-sidecar-queue-time"]) == pytest.approx(8.0, abs=0.1)
    assert it.answered(second).fields["x-sidecar-queue-position"] == "1"
    it.over()


def test_the_place_and_the_estimate_of_later_ones() -> None:
    it = Models()
    first, second = it.prompts(), it.prompts()
    it.advance(8.0)
    it.answered(first)
    third = it.prompts()
    it.answered(second)
    got = it.answered(third)
    assert got.fields["x-sidecar-queue-position"] == "1"
    assert float(got.fields["x-sidecar-queue-estimate"]) == pytest.approx(8.0, abs=0.1)
    it.over()


def test_a_full_queue_and_who_has_to_go() -> None:
    it = Models(queue=1)
    it.prompts("a")
    waiting = it.prompts("a")
    got = it.prompts("a").gets()
    assert (got.status, got.error, got.fields["retry-after"]) == (503, "overloaded", "1")
    assert b"1 answers are being made and 1 requests wait" in got.body
    assert it.stories[-1]["events"][-2]["what"] == "llm_full"
    it.prompts("b")
    assert waiting.gets_nothing(), "both have one there"
    it.over()
    it = Models(queue=2)
    it.prompts("a")
    one, two = it.prompts("a"), it.prompts("a")
    three = it.prompts("b")
    it.loop.settle()
    got = two.gets()
    assert (got.status, got.error) == (503, "overloaded")
    assert "llm_displaced" in [event["what"] for event in it.stories[-1]["events"]]
    assert one.gets_nothing()
    assert three.gets_nothing()
    assert it.state == (1, 2)
    it.over()


def test_the_wait_has_an_end_of_its_own() -> None:
    it = Models(queue_timeout=300.0, first_byte=400.0)
    first, second = it.prompts(), it.prompts()
    it.advance(299.0)
    assert second.gets_nothing(), "timeout.request is not for it"
    it.advance(1.1)
    got = second.gets()
    assert (got.status, got.error) == (503, "overloaded")
    assert b"it was number 1 in the queue" in got.body
    assert it.state == (1, 0)
    assert it.answered(first).status == 200
    it.over()


def test_the_time_for_the_first_byte_begins_with_the_slot() -> None:
    it = Models(first_byte=120.0)
    first, second = it.prompts(), it.prompts()
    it.advance(100.0)
    it.answered(first)
    server = it.upstream()
    assert int(server.hears().fields["x-sidecar-deadline"]) == pytest.approx(120_000, abs=50)
    it.advance(119.0)
    assert second.gets_nothing()
    it.advance(1.1)
    got = second.gets()
    assert (got.status, got.error) == (504, "timeout")
    assert not server.connected, "its work is cancelled"
    over = next(event for event in it.stories[-1]["events"] if event["what"] == "time_over")
    assert (over["which"], over["after_ms"]) == ("llm.first_byte", 120_000.0)
    it.over()


def test_the_caller_and_the_whole_have_their_say() -> None:
    it = Models(queue_timeout=300.0, more={"timeout": TimeoutSettings(total=50.0)})
    it.prompts()
    assert int(it.upstream().hears().fields["x-sidecar-deadline"]) == pytest.approx(50_000, abs=50)
    got = it.asks("POST /", "x-sidecar-deadline: 2000", body=PROMPT)
    it.advance(2.1)
    assert got.gets().error == "overloaded"
    it.over()


def test_the_whole_includes_the_wait() -> None:
    others = route_of(match=Match(path="/long"), timeout=TimeoutSettings())
    it = Models(queue_timeout=300.0, more={"timeout": TimeoutSettings(total=50.0), "routes": (others,)})
    first = it.asks("POST /long", body=PROMPT)
    second = it.prompts()
    it.advance(49.0)
    assert second.gets_nothing()
    it.advance(1.1)
    assert second.gets().error == "overloaded"
    wait = it.stories[-1]["events"][0]
    assert (wait["what"], wait["which"], wait["wait_ms"]) == ("llm_wait", "timeout.total", 50_000.0)
    assert it.state == (1, 0)
    it.answered(first)
    it.over()


def test_the_silence_between_chunks() -> None:
    it = Models(between_chunks=60.0)
    client = it.prompts()
    server = it.upstream()
    server.hears()
    it.begins(server)
    for _ in range(3):
        it.advance(50.0)
        server.says(chunk(b"data: x\n\n"))
    assert not client.closed
    it.advance(68.0)
    assert not client.connected
    assert not server.connected
    assert it.stories[-1]["events"][-1]["which"] == "llm.between_chunks"
    assert it.state == (0, 0)
    it.over()


def test_a_slow_model_opens_no_breaker_and_loses_no_endpoint() -> None:
    it = Models(first_byte=60.0, more={"retry": RetrySettings(max_attempts=1)})
    for _ in range(6):
        client = it.prompts()
        it.upstream().hears()
        it.advance(60.1)
        assert client.gets().error == "timeout"
    assert it.filter(CircuitBreaker).mechanism.failures == 0
    assert [(e.failures, e.ejections) for e in it.listener.cluster.endpoints] == [(0, 0)]
    for _ in range(6):
        it.answered(it.prompts(), 503)
        it.advance(2.0)
    assert it.filter(CircuitBreaker).mechanism.failures == 0
    assert [(e.failures, e.ejections) for e in it.listener.cluster.endpoints] == [(0, 0)]
    it.over()


def test_one_that_is_dead_opens_it() -> None:
    it = Models(more={"retry": None})
    for _ in range(5):
        it.answered(it.prompts(), 500)
    assert it.prompts().gets().error == "circuit_open"
    assert it.state == (0, 0)
    it.over()


@pytest.mark.parametrize(("fields", "seconds"), [((), 1.0), (("retry-after: 7",), 7.0), (("retry-after: 900",), 60.0)])
def test_a_server_without_room_is_left_alone(fields: tuple[str, ...], seconds: float) -> None:
    it = Models(slots=2, more={"retry": None})
    first, second, third = it.prompts(), it.prompts(), it.prompts()
    assert it.answered(first, 429, b"", *fields).status == 429
    fourth = it.prompts()
    assert it.state == (1, 2)
    assert it.llm.view()["busy_ms"] == pytest.approx(seconds * 1000)
    it.answered(second)
    it.advance(seconds - 0.1)
    assert it.asked() == []
    it.advance(0.2)
    servers = it.asked()
    for server in servers:
        server.hears()
        server.answers()
    assert (third.gets().status, fourth.gets().status) == (200, 200)
    assert len(servers) == 2
    it.over()


def test_it_is_asked_again_when_one_comes_after_that() -> None:
    it = Models(more={"retry": None})
    it.answered(it.prompts(), 503)
    it.advance(1.5)
    assert it.llm.view()["busy_ms"] == 0.0
    it.answered(it.prompts())
    it.answered(it.prompts())
    it.over()


def test_another_instance_is_asked_before_an_answer_has_begun() -> None:
    it = Models(endpoints=2, more={"retry": RetrySettings(initial_delay=0.1, jitter=False)})
    client = it.prompts()
    server = it.upstream()
    server.hears()
    server.breaks()
    it.advance(0.2)
    assert it.answered(client).status == 200, "a POST, too"
    client = it.prompts()
    server = it.upstream()
    server.hears()
    server.answers(429)
    it.advance(0.2)
    assert it.answered(client).status == 200
    assert it.stats.requests == {("POST", 200): 2}
    assert it.stats.retries == {"reset": 1, "429": 1}
    it.over()


def test_not_after_it_has() -> None:
    it = Models(endpoints=2)
    client = it.prompts()
    server = it.upstream()
    server.hears()
    it.begins(server)
    server.leaves()
    it.loop.settle()
    assert not client.connected
    assert it.asked() == []
    assert it.state == (0, 0)
    it.over()


# -- whoever leaves, whenever ------------------------------------------------------------------------------------------


def test_who_leaves_while_it_waits_is_passed_over() -> None:
    it = Models()
    first, second, third = it.prompts(), it.prompts(), it.prompts()
    second.breaks()
    assert it.state == (1, 1)
    it.answered(first)
    it.answered(third)
    assert it.stats.requests == {("POST", 200): 2, ("POST", 499): 1}
    it.over()


def test_who_leaves_before_an_answer_or_in_it_has_its_work_cancelled() -> None:
    it = Models()
    for begun in (False, True):
        client = it.prompts()
        server = it.upstream()
        server.hears()
        if begun:
            it.begins(server)
        client.breaks()
        assert not server.connected
        assert it.state == (0, 0)
    it.over()


def test_a_slot_is_not_for_waiting_for_a_body() -> None:
    it = Models(max_body=1000)
    client = it.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(PROMPT))
    assert client.heard() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.says(PROMPT[:5])
    assert it.state == (0, 0)
    client.says(PROMPT[5:])
    assert it.state == (1, 0)
    assert it.answered(client).status == 200
    gone = it.client()
    gone.says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n")
    gone.breaks()
    assert it.state == (0, 0)
    it.over()


def test_what_is_too_large_asks_without_the_rest_of_its_body() -> None:
    it = Models(slots=5, max_body=1000)
    for begin in (b"content-length: 2000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n7d0\r\n"):
        client = it.client()
        client.says(b"POST / HTTP/1.1\r\nhost: t\r\n" + begin + b"x" * 1001)
        it.loop.settle()
    assert it.state == (2, 0)
    it.over()


@pytest.mark.parametrize("begin", [b"content-length: 2000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n7d0\r\n"])
def test_of_what_is_too_large_the_model_is_known_though_its_head_comes_alone(begin: bytes) -> None:
    it = Models(max_body=1000)
    client = it.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\n" + begin)
    body = PROMPT.ljust(2000)
    client.says(body[:900])
    assert it.state == (0, 0), "a slot is not for waiting for it"
    client.says(body[900:1100])
    assert it.state == (1, 0)
    server = it.upstream()
    client.says(body[1100:] + (b"\r\n0\r\n\r\n" if b"chunked" in begin else b""))
    assert body[1100:] in server.heard()
    server.answers()
    assert client.gets().status == 200
    assert it.stats.llm is not None
    assert list(it.stats.llm.models) == ["llama3.2"]
    it.over()


def test_who_stalls_has_no_slot() -> None:
    it = Models(first_byte=60.0)
    client = it.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\nx")
    it.advance(59.0)
    assert client.gets_nothing()
    assert it.state == (0, 0)
    it.advance(2.0)
    assert client.gets().error == "timeout"
    it.over()


def test_only_so_many_bodies_come_at_once() -> None:
    it = Models(slots=1, queue=1)
    for _ in range(3):
        it.client().says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\nx")
    assert it.state == (1, 0), "the third one does not wait for its body"
    it.over()
    assert it.state == (0, 0)


@pytest.mark.parametrize("heartbeat", [0.0, 15.0])
def test_a_head_alone_is_no_first_byte(heartbeat: float) -> None:
    it = Models(first_byte=120.0, between_chunks=30.0, heartbeat=heartbeat)
    client = it.prompts()
    server = it.upstream()
    server.hears()
    it.begins(server)
    it.advance(110.0)
    assert not client.closed
    server.says(chunk(b"data: a\n\n"))
    it.advance(29.0)
    assert not client.closed
    it.advance(6.0)
    assert not client.connected
    it.prompts()
    it.begins(it.upstream())
    it.advance(125.0)
    assert it.state == (0, 0)
    it.over()


@pytest.mark.parametrize("heartbeat", [0.0, 15.0])
@pytest.mark.parametrize("between", [0.0, 300.0])
def test_the_time_for_the_first_byte_goes_on_behind_a_head(heartbeat: float, between: float) -> None:
    it = Models(first_byte=120.0, between_chunks=between, heartbeat=heartbeat)
    client = it.prompts()
    server = it.upstream()
    it.begins(server)
    it.advance(119.0)
    assert server.connected
    it.advance(1.1)
    assert not client.connected
    assert it.stories[-1]["events"][-1]["which"] == "llm.first_byte"
    assert it.state == (0, 0)
    client = it.prompts()
    server = it.upstream()
    it.begins(server)
    it.advance(119.0)
    server.says(chunk(b"data: a\n\n"))
    it.advance(299.0)
    assert client.connected, "from there on, silence is"
    it.over()


@pytest.mark.parametrize("between", [0.0, 30.0])
def test_an_upload_behind_a_head_has_its_time(between: float) -> None:
    it = Models(max_body=10, first_byte=120.0, between_chunks=between)
    client = it.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 30\r\n\r\n" + b"x" * 20)
    server = it.upstream()
    it.begins(server)
    it.advance(100.0)
    client.says(b"x" * 10)
    it.advance(119.0)
    assert server.connected
    it.advance(1.1)
    assert not client.connected
    assert it.state == (0, 0)
    it.over()


@pytest.mark.parametrize("heartbeat", [0.0, 15.0])
def test_a_callers_time_is_for_the_head_alone(heartbeat: float) -> None:
    it = Models(first_byte=120.0, between_chunks=0, heartbeat=heartbeat)
    client = it.asks("POST /", "x-sidecar-deadline: 2000", body=PROMPT)
    it.begins(it.upstream())
    it.advance(119.0)
    assert client.connected
    it.over()


def test_what_asks_for_no_answer_of_a_model_takes_no_slot() -> None:
    it = Models()
    it.prompts()
    it.upstream().hears()
    assert it.answered(it.asks("GET /api/ps")).status == 200
    assert it.state == (1, 0)
    it.over()


def test_a_route_without() -> None:
    route = route_of(match=Match(path="/api/show"), llm=None)
    it = Models(more={"routes": (route,)})
    it.prompts()
    it.upstream().hears()
    assert it.answered(it.asks("POST /api/show", body=PROMPT)).status == 200
    it.over()


def test_another_upstream_answers_in_place_of_it() -> None:
    steps = (StepSettings(on=frozenset({"overloaded", "timeout"}), upstream="simple"),)
    it = Models(queue_timeout=10.0, more={"fallback": steps})
    it.other("simple")
    it.prompts()
    it.upstream().hears()
    waiting = it.prompts()
    it.advance(10.1)
    assert it.state == (1, 0), "it waits for the other one"
    assert it.answered(waiting).fields["x-sidecar-fallback"] == "1"
    it.over()


OPS = st.lists(
    st.tuples(st.sampled_from(["ask", "leave", "answer", "fail", "busy", "time", "body"]), st.integers(0, 9)),
    max_size=25,
)


@given(OPS, st.integers(1, 2), st.integers(0, 3))
@settings(max_examples=examples(60), deadline=None)
def test_no_slot_is_lost_whatever_happens(ops: list[tuple[str, int]], slots: int, queue: int) -> None:
    it = Models(
        slots=slots, queue=queue, queue_timeout=20.0, first_byte=10.0, more={"retry": None, "circuit_breaker": None}
    )
    for what, n in ops:
        open_ones = [client for client in it.clients if client.connected]
        servers = it.asked()
        if what == "ask":
            it.prompts("abc"[n % 3])
        elif what == "body":
            it.client().says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n")
        elif what == "leave" and open_ones:
            open_ones[n % len(open_ones)].breaks()
        elif what in ("answer", "busy") and servers:
            servers[0].hears()
            servers[0].answers(200 if what == "answer" else 503)
        elif what == "fail" and servers:
            servers[0].breaks()
        elif what == "time":
            it.advance(float(n))
        it.loop.settle()
        used, waiting = it.state
        assert used <= slots
        assert waiting <= queue
    it.over()
    assert it.llm.limiter.keys == 0


# -- settings and what is seen -----------------------------------------------------------------------------------------


def test_agents_take_turns_by_what_the_key_says() -> None:
    for key, fields, keys in (
        ("header:x-tenant", ["x-tenant: 1", "x-tenant: 2", "x-other: 3"], 3),
        ("ip", ["a: 1", "a: 2"], 1),
        ("path", ["a: 1", "a: 2"], 1),
        ("none", ["a: 1"], 1),
    ):
        it = Models(key=key)
        for field in fields:
            it.asks("POST /x", field, body=PROMPT)
        assert it.llm.view()["keys"] == keys
        it.over()


def test_a_reload_keeps_who_waits() -> None:
    it = Models()
    first, second = it.prompts(), it.prompts()
    it.reload(llm=LlmSettings(slots=2))
    assert it.state == (2, 0)
    it.answered(first)
    it.answered(second)
    assert it.stats.llm is not None
    assert it.stats.llm.slots == 2
    it.over()


@pytest.mark.parametrize("max_body", [10, 1 << 20])
def test_a_reload_lets_what_is_uploaded_go_on(max_body: int) -> None:
    it = Models(max_body=70000)
    client = it.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 200000\r\n\r\n" + b"x" * 60000)
    it.reload(llm=LlmSettings(max_body=max_body))
    client.says(b"x" * 40000)
    assert it.state == (1, 0), "no more is read of it until it has a slot"
    client.says(b"x" * 100000)
    assert it.answered(client).status == 200
    it.over()


def samples(stats: Any) -> dict[str, dict[tuple[str, ...], float]]:
    """By family, what is counted; of histograms how often."""
    return {
        it.name: {tuple(labels): value for labels, value in it.samples}
        | {tuple(labels): float(value.count()) for labels, value in it.histograms}
        for it in list[Family](families([stats]))
    }


def test_metrics_by_model() -> None:
    it = Models(slots=2)
    assert families([Stage().stats]) == ()
    client = it.prompts()
    server = it.upstream()
    server.hears()
    it.begins(server, "content-type: application/x-ndjson", "transfer-encoding: chunked")
    it.advance(2.0)
    server.says(chunk(b'{"response":"a"}\n{"response":"b"}\n'))
    server.says(chunk(b'{"eval_count":3,"eval_duration":1500000000}\n') + b"0\r\n\r\n")
    it.prompts(body=b"{}")
    found = samples(it.stats)
    model = ("up", "llama3.2")
    assert found["sidecar_llm_chunks"][model] == 3
    assert found["sidecar_llm_tokens"][model] == 3
    assert found["sidecar_llm_token_seconds"][model] == 1.5
    assert found["sidecar_llm_first_byte_seconds"][model] == found["sidecar_llm_queue_seconds"][model] == 1
    assert found["sidecar_llm_slots"] == {("up", "used"): 1, ("up", "free"): 1, ("up", "waiting"): 0}
    assert ("up", "unknown") in found["sidecar_llm_queue_seconds"]
    assert client.connected
    it.over()


@pytest.mark.parametrize("heartbeat", [0.0, 15.0])
def test_events_are_counted_without_the_chunks_that_they_come_in(heartbeat: float) -> None:
    it = Models(heartbeat=heartbeat)
    it.prompts()
    server = it.upstream()
    it.begins(server)
    for text in (b"event: x\n", b"data: a\n\n", b"data: b\r\n", b"\r\n", b"data: c\r\rdata: d\n\n"):
        server.says(chunk(text))
    assert samples(it.stats)["sidecar_llm_chunks"]["up", "llama3.2"] == 4
    it.over()


def test_models_are_bounded() -> None:
    stats = LlmStats()
    for n in range(MAX_MODELS + 10):
        stats.of(f"m{n}").chunks += 1
    assert len(stats.models) == MAX_MODELS + 1
    assert stats.models["other"].chunks == 10


@pytest.mark.parametrize(
    ("where", "line", "field", "model"),
    [
        ("header:x-model", "POST /", "x-model: gpt", "gpt"),
        ("path", "POST /v1/m", "a: b", "/v1/m"),
        ("json:m", "POST /", "a: b", "unknown"),
    ],
)
def test_where_the_model_stands(where: str, line: str, field: str, model: str) -> None:
    it = Models(model=where)
    it.answered(it.asks(line, field, body=PROMPT))
    assert it.stats.llm is not None
    assert list(it.stats.llm.models) == [model]
    it.over()


def test_the_profile_is_the_filter_with_its_defaults() -> None:
    port = "    bind: 127.0.0.1:9\n    endpoints: [127.0.0.1:8]\n    profile: llm\n"
    begin = f"service: {{name: tasks}}\nupstreams:\n  ollama:\n{port}"
    config = config_of(begin).upstreams["ollama"]
    assert (config.profile, config.policies["llm"].slots) == ("llm", 4)
    assert config_of(begin + "    llm: {slots: 8}\n").upstreams["ollama"].policies["llm"].slots == 8
    assert config_of(begin + "    llm: off\n").upstreams["ollama"].policies["llm"] is None
    assert config_of(begin.replace("    profile: llm\n", "")).upstreams["ollama"].policies["llm"] is None
    problem = problem_of(begin + "    llm: {model: jsn:model}\n")
    assert (problem.path, problem.nearest) == ("upstreams.ollama.llm.model", "json:model")
    assert "profile" in problem_of(begin + "    protocol: tcp\n    balancer: random\n").path
