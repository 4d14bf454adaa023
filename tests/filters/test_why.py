"""Which exchanges are remembered."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sidecar.core.records import Stories
from sidecar.core.trace import Trace
from sidecar.endpoints.endpoint import Endpoint
from sidecar.exchange.attempt import Attempt
from sidecar.exchange.story import Note
from sidecar.filters.why import Why, refusal_of, story_of
from sidecar.http.exchange import HttpExchange
from support.http import Stage


@pytest.fixture
def put() -> list[dict[str, Any]]:
    return []


def exchange(**more: Any) -> HttpExchange:
    """One that went well at once, at time 10; unless ``more`` says otherwise."""
    stage = Stage()
    stage.advance(10.0 - stage.loop.now)
    x = stage.exchange()
    for name, value in {"status": 200, "attempts": 1, "request_id": "id", "ended": 10.0, **more}.items():
        setattr(x, name, value)
    return x


def why(put: list[dict[str, Any]], sample: float = 0.0, http: bool = True, **settings: Any) -> Why:
    stories = Stories(put.append, sample=sample, slow=1.0, **settings)
    return Why(stories, random.Random(1), http)


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({}, False),
        ({"status": 404}, False),
        ({"status": 500}, True),
        ({"status": 499}, True),
        ({"error": "timeout", "status": 504}, True),
        ({"started": 8.0}, True),
        ({"started": 8.0, "head_at": 8.1}, False),
        ({"started": 8.0, "status": 101}, False),
        ({"status": 429}, False),
    ],
)
def test_what_is_remembered(put: list[dict[str, Any]], more: dict[str, Any], kept: bool) -> None:
    why(put).on_end(exchange(**more))
    assert bool(put) is kept


def test_a_connection_is_as_long_as_it_likes_and_has_an_id(put: list[dict[str, Any]]) -> None:
    it = why(put, http=False)
    it.on_end(exchange(started=0.0, request_id=""))
    assert put == []
    x = exchange(error="connect_failed", status=502, request_id="")
    it.on_end(x)
    assert x.request_id == put[0]["request_id"] != ""


def test_nothing_while_it_is_off(put: list[dict[str, Any]]) -> None:
    why(put, sample=1.0, enabled=False).on_end(exchange(error="timeout"))
    assert put == []


@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.0, 0, 0), (0.01, 70, 130), (0.5, 4800, 5200), (1.0, 10_000, 10_000)]
)
def test_the_sample(put: list[dict[str, Any]], share: float, least: int, most: int) -> None:
    it = why(put, sample=share)
    x = exchange()
    for _ in range(10_000):
        it.on_end(x)
    assert least <= len(put) <= most


@pytest.mark.parametrize("share", [5e-324, 1e-300, 1e-17, 1e-9])
def test_a_tiny_share_is_hardly_ever_drawn(put: list[dict[str, Any]], share: float) -> None:
    it = why(put, sample=share)
    x = exchange()
    for _ in range(10):
        it.on_end(x)
    assert put == []


def test_another_share_counts_at_once(put: list[dict[str, Any]]) -> None:
    it = why(put)
    it.on_end(exchange())
    it._stories.use(True, 1.0, 1.0)
    it.on_end(exchange())
    assert len(put) == 1


def test_what_was_chosen_stands_before_the_try() -> None:
    attempt = Attempt(Endpoint("10.0.0.1", 80), 10.0)
    told = story_of(exchange(attempt=attempt, story=[Note(10.0, "chosen", {})]), 0.0)
    assert [event["what"] for event in told["events"]] == ["chosen", "attempt"]


def test_an_attempt_tells_all_that_is_known_of_it() -> None:
    endpoint = Endpoint("10.0.0.1", 80)
    endpoint.hostname, endpoint.admin = "shop.local", 15000
    first = Attempt(endpoint, 10.0)
    first.failure, first.cause, first.problem, first.took = "connect", "refused", "nothing listens there", 0.5
    second = Attempt(endpoint, 10.5)
    second.kept, second.sent, second.status, second.peer_error = True, 10.6, 503, "overloaded"
    x = exchange(tried=(first,), attempt=second, started=10.0, head_at=11.0, error="overloaded", status=503)
    x.trace = Trace("a" * 32, "b" * 16, "", 0)
    told = story_of(x, 0.0)
    one, two = told["events"]
    assert (one["failure"], one["cause"], one["problem"], one["took_ms"]) == (
        "connect", "refused", "nothing listens there", 500.0,
    )  # fmt: skip
    assert (one["host"], one["admin"], "kept" in one, "status" in one) == ("shop.local", "10.0.0.1:15000", False, False)
    assert (two["kept"], two["status"], two["peer_error"]) == (True, 503, "overloaded")
    assert (two["connecting_ms"], two["waiting_ms"]) == (100.0, 400.0)
    assert (told["head_ms"], told["trace_id"]) == (1000.0, "a" * 32)
    assert "source" in told


@pytest.mark.parametrize(("protocol", "status"), [("http", 400), ("tcp", None)])
def test_what_was_refused_has_the_status_that_its_client_got(protocol: str, status: int | None) -> None:
    listener = Stage(protocol=protocol).listener
    assert refusal_of(listener, 0.0, "bad_request", "odd", "", "").get("status") == status
