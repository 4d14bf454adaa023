"""A filter of another package that raises ends its own exchange, which is accounted for once, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.config.traffic import Upstream
from sidecar.core.replies import Reply
from sidecar.exchange.filter import HELD, Again, Answer, Filter, Wait
from sidecar.exchange.guard import QUIET_SECONDS, VERDICTS, Guard
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from support.clock import Clock
from support.foreign import HTTP, TCP, foreign, using
from support.http import Client, Stage
from support.ports import changed, site


def raising(*hooks: str, **members: Any) -> Any:
    """A filter whose hooks raise."""

    def fails(self: Any, *_: Any) -> Any:
        raise RuntimeError("it went wrong")

    def fails_with(self: Any, x: Any, _: Any) -> Any:
        raise RuntimeError("it went wrong")

    def fails_alone(self: Any, x: Any) -> Any:
        raise RuntimeError("it went wrong")

    two = ("on_body", "on_answer", "on_failure", "on_answer_body", "on_reply")
    return foreign("raising", **{hook: fails_with if hook in two else fails_alone for hook in hooks}, **members)


class Witness:
    """A second filter of another package, which notes what it is asked."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str]] = []
        ends = self.ends

        def on_end(self: Any, x: Any) -> None:
            ends.append((x.status, x.error))

        self.filter = foreign("witness", on_end=on_end)


def accounted(stage: Stage, witness: Witness, ends: int = 1) -> None:
    """Every exchange has ended once, and everything was given back."""
    assert stage.nothing_left()
    stats = stage.stats
    assert sum(stats.requests.values()) == len(stage.records) == len(witness.ends) == ends
    assert stats.duration.count() <= ends  # those that had a try


def answered(stage: Stage, line: str = "GET /", *fields: str, body: bytes = b"", status: int = 200) -> Client:
    """A client with a request, which the upstream answers if it gets it."""
    client = stage.asks(line, *fields, body=body)
    for upstream in stage.asked():
        upstream.hears()
        upstream.answers(status, b"12345")
    return client


@pytest.mark.parametrize("hook", ["on_request", "on_try", "on_answer", "on_body", "on_answer_body"])
def test_http(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    witness = Witness()
    stage = Stage(using(HTTP, raising(hook), witness.filter))
    answer = answered(stage, "POST /", body=b"abc").gets()
    assert (answer.status, answer.error) == (500, "filter_failed")
    assert b'"message":"the filter raising failed"' in answer.body
    accounted(stage, witness)
    assert witness.ends == [(500, "filter_failed")]
    assert stage.stats.rejected == {"filter_failed": 1}
    assert stage.stats.filters["raising"].failures == {hook: 1}
    (record,) = [r for r in caplog.records if r.name == "sidecar.filters"]
    assert (record.filter, record.hook, record.upstream) == ("raising", hook, "up")  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "it went wrong"
    stage.reload(filters=())
    assert answered(stage).gets().status == 200
    stage.over()


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), "fast", None])
def test_an_answer_whose_pace_is_none_goes_on_as_it_comes(rate: Any) -> None:
    witness = Witness()

    def on_pace(self: Any, x: Any, head: Any) -> Any:
        if rate is None:
            raise RuntimeError("it went wrong")
        return rate

    stage = Stage(using(HTTP, foreign("paces", on_pace=on_pace), witness.filter))
    answer = answered(stage).gets()
    assert (answer.status, answer.body) == (200, b"12345")
    accounted(stage, witness)
    assert stage.stats.filters["paces"].failures == {"on_pace": 1}
    stage.over()


def test_a_body_that_comes_later() -> None:
    witness = Witness()
    stage = Stage(using(HTTP, raising("on_body"), witness.filter))
    client = stage.client()
    client.says(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 6\r\n\r\n")
    assert client.gets_nothing()
    client.says(b"abc")
    answer = client.gets()
    assert answer.status == 500
    assert answer.fields["connection"] == "close"  # where the next message would begin is not known
    accounted(stage, witness)
    stage.over()


def test_an_answer_that_has_begun_is_cut() -> None:
    witness = Witness()

    def on_answer_body(self: Any, x: Any, data: bytes) -> None:
        if data.startswith(b"2"):
            raise RuntimeError("it went wrong")

    stage = Stage(using(HTTP, foreign("late", on_answer_body=on_answer_body), witness.filter))
    client = stage.asks()
    upstream = stage.upstream()
    upstream.says(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n111")
    assert client.heard().endswith(b"111")
    upstream.says(b"222")
    assert client.heard() == b""
    assert client.aborted
    accounted(stage, witness)
    assert witness.ends == [(200, "filter_failed")]
    stage.over()


def test_trying_again_counts_less() -> None:
    witness = Witness()
    stage = Stage(using(HTTP, raising("on_answer", "on_failure"), witness.filter))
    assert answered(stage, status=503).gets().error == "filter_failed"
    assert stage.asked() == []
    stage.endpoints(0)
    stage.endpoints(1)
    stage.loop.dialled = lambda host, port: "refuse"
    assert stage.asks().gets().error == "filter_failed"
    accounted(stage, witness, 2)
    assert stage.stats.filters["raising"].failures == {"on_answer": 1, "on_failure": 1}
    assert not stage.stats.retries
    stage.over()


def test_a_kept_connection_that_closes_just_then() -> None:
    witness = Witness()
    stage = Stage(using(HTTP, raising("on_failure"), witness.filter))
    assert answered(stage).gets().status == 200
    client = stage.asks()
    upstream = stage.upstream()
    upstream.hears()
    upstream.leaves()
    assert client.gets().error == "filter_failed"
    accounted(stage, witness, 2)
    assert len(stage.accepted) == 1
    stage.over()


def test_an_upgrade() -> None:
    witness = Witness()
    stage = Stage(using(HTTP, raising("on_upgrade"), witness.filter))
    client = stage.asks("GET /", "connection: upgrade", "upgrade: x")
    upstream = stage.upstream()
    upstream.hears()
    upstream.says(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
    assert client.gets().error == "filter_failed"
    accounted(stage, witness)
    stage.over()


@pytest.mark.parametrize("config", [HTTP, TCP], ids=["http", "tcp"])
def test_the_end_of_the_others_is_not_skipped(config: Upstream) -> None:
    witness = Witness()
    stage = Stage(using(config, raising("on_end"), witness.filter))
    client = stage.asks()
    upstream = stage.upstream()
    upstream.hears()
    upstream.answers(200, b"ok", "connection: close")
    upstream.leaves()
    client.leaves()
    accounted(stage, witness)
    assert witness.ends == [(200, "")]
    assert stage.stats.filters["raising"].failures == {"on_end": 1}
    stage.over()


def test_an_error_that_is_about_to_be_answered_stands() -> None:
    witness = Witness()
    stage = Stage(using(HTTP, raising("on_reply"), witness.filter), endpoints=0)
    assert stage.asks().gets().error == "no_endpoints"
    accounted(stage, witness)
    assert stage.stats.filters["raising"].failures == {"on_reply": 1}
    stage.over()


@pytest.mark.parametrize("hook", ["on_request", "on_try", "on_connected", "on_failure"])
def test_tcp(hook: str) -> None:
    witness = Witness()
    stage = Stage(using(changed(TCP, circuit_breaker=CircuitBreakerSettings()), raising(hook), witness.filter))
    if hook == "on_failure":
        stage.loop.dialled = lambda host, port: "refuse"
    client = stage.asks()
    assert client.silent()
    assert not client.connected
    accounted(stage, witness)
    assert witness.ends == [(500, "filter_failed")]
    assert stage.stats.rejected == {"filter_failed": 1}
    stage.reload(filters=())
    stage.loop.dialled = lambda host, port: "accept"
    assert answered(stage).gets().status == 200
    stage.over()


@pytest.mark.parametrize("config", [HTTP, TCP], ids=["http", "tcp"])
def test_one_that_cannot_be_made_lets_nothing_pass(config: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    def init(self: Any, config: Any, site: Any) -> None:
        raise RuntimeError("it went wrong")

    stage = Stage(config)
    stage.reload(filters=using(config, foreign("raising", __init__=init)).filters)
    stage.asks()
    assert stage.asked() == []
    assert stage.nothing_left()
    assert stage.stats.rejected == {"filter_failed": 1}
    assert stage.stats.filters["raising"].failures == {"__init__": 1, "on_request": 1}
    assert caplog.records[0].hook == "__init__"  # type: ignore[attr-defined]
    stage.reload(filters=())
    assert answered(stage).gets().status == 200
    stage.over()


def test_its_own_hooks_alone_are_guarded() -> None:
    chain = Stage(using(HTTP, raising("on_request"))).listener.chain
    assert [f.name for f in chain.filters if f.guard is not None] == ["raising"]
    assert len([it for it in chain.on_request if it not in chain.filters]) == 1


# -- without a listener --------------------------------------------------------------------------------------------


def guard(clock: Clock, failures: dict[str, int]) -> Guard:
    return Guard("it", site(clock), failures)


def fails(*_: object) -> Any:
    raise RuntimeError("it went wrong")


def test_what_goes_on_failing_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    clock, failures = Clock(), dict[str, int]()
    run_it = guard(clock, failures).hook("on_request", fails)
    for _ in range(1000):
        assert run_it(None).code == "filter_failed"
    assert len(caplog.records) == 1
    clock.now += QUIET_SECONDS
    run_it(None)
    assert [r.more_since_the_last_line for r in caplog.records] == [0, 999]  # type: ignore[attr-defined]
    assert failures == {"on_request": 1001}
    assert caplog.records[0].levelno == logging.ERROR


#: Made within the hook: the compiled build refuses some of them at once.
BAD: list[tuple[str, Callable[[], object]]] = [
    ("on_request", lambda: "no verdict"),
    ("on_request", lambda: Again(0.0, "x")),
    ("on_body", lambda: Answer(200)),
    ("on_request", lambda: Reply("no_such_code", "")),
    ("on_request", lambda: Reply("timeout", "\ud800")),
    ("on_request", lambda: Reply("timeout", "", float("nan"))),
    ("on_request", lambda: Answer(101)),
    ("on_request", lambda: Answer("200")),  # type: ignore[arg-type]
    ("on_request", lambda: Answer(200, [("x", "a\r\ny: b")])),
    ("on_request", lambda: Answer(200, [("x y", "a")])),
    ("on_request", lambda: Answer(200, [("x", "\u20ac")])),
    ("on_request", lambda: Answer(200, [("Content-Length", "5")])),
    ("on_request", lambda: Answer(200, [("x",)])),  # type: ignore[list-item]
    ("on_request", lambda: Answer(200, (), "text")),  # type: ignore[arg-type]
    ("on_request", lambda: Wait(float("inf"))),
    ("on_request", lambda: Wait(1.0, Reply("no_such_code", ""))),
    ("on_answer", lambda: Again(None, "x")),  # type: ignore[arg-type]
    ("on_answer", lambda: Again(1.0, 5)),  # type: ignore[arg-type]
    ("on_reply", lambda: Wait(1.0)),
]


@pytest.mark.parametrize(("hook", "verdict"), BAD)
def test_what_could_not_be_carried_out_is_a_failure(hook: str, verdict: Callable[[], object]) -> None:
    failures: dict[str, int] = {}
    got = guard(Clock(), failures).hook(hook, lambda *_: verdict())(None)
    assert got is None if hook == "on_reply" else got.code == "filter_failed"
    assert failures == {hook: 1}


GOOD: list[tuple[str, object]] = [
    ("on_request", None),
    ("on_request", Reply("timeout", "later", 1)),
    ("on_request", Answer(200, [("x-a", "b c")], b"body")),
    ("on_request", Wait(5, Reply("timeout", "over"))),
    ("on_answer", Again(0.0, "x")),
    ("on_reply", HELD),
    ("on_end", "whatever"),
]


@pytest.mark.parametrize(("hook", "verdict"), GOOD)
def test_verdicts_pass_as_they_are(hook: str, verdict: object) -> None:
    failures: dict[str, int] = {}
    assert guard(Clock(), failures).hook(hook, lambda *_: verdict)(None) is verdict
    assert not failures


def test_every_hook_has_its_verdicts() -> None:
    assert set(VERDICTS) == {name for name in dir(Filter) if name.startswith("on_")}


@pytest.mark.parametrize("show", [fails, lambda: "text", lambda: {"a": object()}, lambda: {"a": float("nan")}])
def test_a_view_that_fails_is_empty(show: Callable[[], Any]) -> None:
    failures: dict[str, int] = {}
    assert guard(Clock(), failures).view(show)() == {}
    assert failures == {"view": 1}
    assert guard(Clock(), failures).view(lambda: {"a": [1]})() == {"a": [1]}
