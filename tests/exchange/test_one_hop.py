"""One hop tries again: who has given up says so, and no hop above repeats such an answer."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.agent.assembly import create_listener
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.retry import BudgetSettings, RetrySettings
from sidecar.resilience.given_up import MOST, GivenUp
from sidecar.why.causes import cause_of
from support.http import Message, Stage

FIELD = "x-sidecar-retried"


def stage(endpoints: int = 2, sidecars: bool = True, why: bool = False, **settings: Any) -> Stage:
    retry = RetrySettings(**{"jitter": False, "initial_delay": 0.0, **settings})
    it = Stage(retry=retry, circuit_breaker=CircuitBreakerSettings(failure_threshold=100), why=why)
    it.endpoints(endpoints, sidecars=sidecars)
    return it


def answers(it: Stage, status: int = 503, *fields: str, times: int = 1) -> None:
    for _ in range(times):
        upstream = it.upstream()
        upstream.hears()
        upstream.answers(status, b"", *fields)


def test_the_last_answer_says_how_many_tries_there_were() -> None:
    it = stage()
    client = it.asks()
    answers(it, times=3)
    assert client.gets().fields[FIELD] == "3"
    it.over()


def test_a_try_that_goes_well_says_nothing() -> None:
    it = stage()
    client = it.asks()
    answers(it)
    answers(it, 200)
    assert FIELD not in client.gets().fields
    it.over()


@pytest.mark.parametrize(("method", "status"), [("GET", 500), ("POST", 503), ("GET", 404)])
def test_what_is_not_tried_again_here_may_be_above(method: str, status: int) -> None:
    it = stage()
    client = it.asks(f"{method} /")
    answers(it, status)
    assert FIELD not in client.gets().fields
    it.over()


def test_an_answer_of_our_own_after_several_tries() -> None:
    it = stage()
    it.loop.dialled = lambda host, port: "refuse"
    client = it.asks("POST /")
    it.advance(10)
    answered = client.gets()
    assert (answered.error, answered.fields[FIELD]) == ("connect_failed", "3")
    it.over()


def test_an_answer_of_our_own_that_stands_for_none() -> None:
    it = Stage(endpoints=0)
    assert FIELD not in it.asks().gets().fields
    it.listener.breakers[0].force("open")
    answered = it.asks().gets()
    assert (answered.error, answered.fields[FIELD]) == ("circuit_open", "0")
    it.over()


def test_what_the_budget_does_not_pay_for_is_not_tried_above() -> None:
    it = stage(budget=BudgetSettings(ratio=0.0, min=0.0))
    client = it.asks()
    answers(it)
    assert client.gets().fields[FIELD] == "1"
    it.over()


@pytest.mark.parametrize("fields", [(), ("x-sidecar-error: connect_failed",), ("x-sidecar-error: timeout",)])
def test_what_a_peer_has_given_up_is_not_tried_again_and_goes_on(fields: tuple[str, ...]) -> None:
    it = stage(why=True)
    client = it.asks()
    answers(it, 503, f"{FIELD}: 3", *fields)
    answered = client.gets()
    assert (answered.status, answered.fields[FIELD]) == (503, "3")
    assert answered.head.lower().count(FIELD.encode()) == 1
    assert it.asked() == []
    assert it.stats.suppressed == {"retried": 1}
    assert "the sidecar there has tried again itself, and given up" in cause_of(it.stories[-1])[0]
    it.over()


@pytest.mark.parametrize("value", ["", "-1", "1000", "3, 3", "many", "9" * 5000, "\xb2"])
def test_a_number_that_no_sidecar_sends_says_nothing(value: str) -> None:
    it = stage()
    client = it.asks()
    answers(it, 503, f"{FIELD}: {value}")
    answers(it, 200)
    assert client.gets().status == 200
    it.over()


@pytest.mark.parametrize("name", [FIELD, "X-Sidecar-Retried", "x_sidecar_retried"])
def test_an_app_that_says_so_is_not_believed(name: str) -> None:
    it = stage(sidecars=False, max_attempts=2)
    client = it.asks()
    answers(it, 503, f"{name}: 3")
    answers(it, 200, f"{name}: 3")
    answered = client.gets()
    assert answered.status == 200
    assert b"retried" not in answered.head.lower()
    it.over()


def test_without_retries_a_peers_word_goes_on() -> None:
    it = Stage(retry=None)
    it.endpoints(1, sidecars=True)
    client = it.asks()
    answers(it, 503, f"{FIELD}: 3")
    assert client.gets().fields[FIELD] == "3"
    it.over()


# -- through an app --------------------------------------------------------------------------------------------------


class Hop:
    """A sidecar with its two ports, and its app between them: what it is asked, it asks on, with these fields of the
    request that it got."""

    def __init__(self, *passed: str) -> None:
        self.passed = passed
        self.inbound = Stage(inbound=True)
        self.outbound = stage()
        self.outbound.listener.given_up = self.inbound.listener.given_up

    def asks(self, status: int = 503, *, called: int = 503) -> Message:
        """A caller's request that this app answers with ``status``, after a call of its own that is answered
        ``called``."""
        for port in (self.inbound, self.outbound):
            port.advance(40)
        trace = f"traceparent: 00-{'ab' * 16}-{'cd' * 8}-00"
        caller = self.inbound.asks("GET /", "x-request-id: mine", trace)
        app = self.inbound.upstream()
        request = app.hears()
        fields = [f"{name}: {request.fields[name]}" for name in self.passed]
        client = self.outbound.asks("GET /", *fields)
        while self.outbound.asked():
            answers(self.outbound, called)
        client.gets()
        app.answers(status)
        return caller.gets()

    def over(self) -> None:
        self.inbound.over()
        self.outbound.over()


@pytest.mark.parametrize("passed", ["x-request-id", "traceparent"])
def test_the_apps_error_is_marked_when_its_call_was_given_up(passed: str) -> None:
    hop = Hop(passed)
    assert hop.asks(500).fields[FIELD] == "3"
    assert FIELD not in hop.asks(200).fields
    assert FIELD not in hop.asks(404).fields
    assert FIELD not in hop.asks(500, called=200).fields
    hop.over()


def test_an_app_that_passes_nothing_on_is_not_known_to_have_called() -> None:
    hop = Hop()
    assert FIELD not in hop.asks().fields
    hop.over()


def test_an_earlier_request_with_the_same_id_says_nothing() -> None:
    it = Stage(inbound=True)
    it.listener.given_up.add(("same",), it.loop() - 0.001, 3)
    client = it.asks("GET /", "x-request-id: same")
    answers(it, 500)
    assert FIELD not in client.gets().fields
    it.over()


def test_all_ports_of_a_sidecar_share_one_memory() -> None:
    first, second = Stage(), Stage()
    assembly: Any = first.listener.assembly
    other = create_listener(assembly._context, "other", second.config)
    assert other.given_up is first.listener.given_up
    assert second.listener.given_up is not first.listener.given_up


def test_the_memory_has_a_bound() -> None:
    memory = GivenUp()
    for number in range(2 * MOST):
        memory.add((str(number), f"t{number}"), float(number), 1)
    assert len(memory) == MOST
    assert memory.since((str(2 * MOST - 1),), 0.0) == 1
    assert memory.since(("0",), 0.0) == -1
    memory.add(("again",), 1.0, 2)
    memory.add(("again",), 2.0, 3)
    assert len(memory) == MOST
    assert memory.since(("none", "again"), 2.0) == 3
