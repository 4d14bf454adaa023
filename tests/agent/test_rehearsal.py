"""A rehearsal by itself: a record that is made by hand, and other settings."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.agent.rehearsal.rehearse import Rehearsal
from sidecar.core.decisions import (
    DETAIL,
    DETAILED,
    GIVEN_UP,
    LAST,
    REPLAYABLE,
    SEGMENT,
    TRIED,
    Decisions,
    Segment,
    Shape,
)
from sidecar.filters.decisions import FAILURES
from support.configs import config_of

RESET = FAILURES.index("reset")


PLACE = "bind: 127.0.0.1:9000, endpoints: ['10.0.0.1:80']"


class Book:
    """Writes a record as the filter does."""

    def __init__(self) -> None:
        self.segment = Segment(0)

    def add(self, at: float, *tries: tuple[str, float, int, int], status: int = 200, error: str = "", route: int = -1,
            path: bytes = b"/x", client: str = "10.9.9.1", flags: int = 0) -> None:  # fmt: skip
        """A request; of each try its endpoint, seconds, status and failure."""
        segment = self.segment
        key = (path, route)
        shape = segment.numbers.get(key)
        if shape is None:
            shape = segment.shape(key, Shape("shop", "GET", path, route))
        began = 0.0
        for endpoint, took, answer, failure in tries:
            last = not failure
            segment.details += DETAIL.pack(
                took if not last else began + took, began, began, began + took, shape, segment.name(endpoint, endpoint),
                0 if not last else segment.name(error, error), 0, status if last else 0, answer, failure,
                len(tries) if last else 0, TRIED | flags | (LAST | REPLAYABLE if last else 0),
            )  # fmt: skip
            began += took
        if not tries or tries[-1][3]:
            segment.details += DETAIL.pack(
                began, -1, -1, -1, shape, 0, segment.name(error, error), 0, status, 0, 0, len(tries), LAST | REPLAYABLE
            )
        number = segment.used
        segment.began[number] = at
        segment.seconds[number] = began
        segment.kind_of[number] = DETAILED
        segment.clients[number] = client
        segment.used += 1

    def rehearse(self, old: str, new: str) -> dict[str, Any]:
        """Of one upstream, with these policies before and after."""
        before, after = (
            config_of(f"service: {{name: edge}}\nupstreams: {{shop: {{{PLACE}, {it}}}}}") for it in (old, new)
        )
        return Rehearsal(before, after, [self.segment.taken()], 7, 0, 1000.0, 1_700_000_000.0).run()


def test_equal_settings_change_nothing_and_agree() -> None:
    book = Book()
    for n in range(50):
        book.add(100 + n, ("10.0.0.1:80", 0.01, 200, 0))
    told = book.rehearse("retry: off", "retry: off")
    assert (told["decisions"], told["agreement"]) == (50, 1.0)
    assert not any(told["changed"].values())
    assert told["examples"] == []


def test_rate_limits_go_by_the_recorded_times() -> None:
    book = Book()
    for burst in range(3):
        for n in range(20):
            book.add(100 + 60 * burst + n / 1000, ("10.0.0.1:80", 0.0, 200, 0), client=f"10.9.9.{n % 2}")
    told = book.rehearse("retry: off", "retry: off, rate_limit: {rate: 10/m, burst: 5}")
    assert told["changed"]["rejected"] == 60 - 5 * 3
    assert told["upstreams"][0]["after"]["rejected"] == {"rate_limited": 45}
    assert told["examples"][0]["setting"].startswith("upstreams.shop.rate_limit: ")
    told = book.rehearse("retry: off", "retry: off, rate_limit: {rate: 10/m, burst: 5, key: ip}")
    assert told["changed"]["rejected"] == 60 - 2 * 5 * 3


def test_retries_go_by_the_budget_and_by_what_peers_have_given_up() -> None:
    book = Book()
    for n in range(40):
        book.add(100 + n / 10, ("10.0.0.1:80", 0.01, 503, 0), status=503)
    off = "retry: off, circuit_breaker: off"
    told = book.rehearse(off, "retry: {max_attempts: 2, initial_delay: 0, budget: off}, circuit_breaker: off")
    assert told["changed"]["retried"] == 40
    budget = "budget: {ratio: 0, min: 1/s}"
    told = book.rehearse(off, f"retry: {{max_attempts: 2, initial_delay: 0, {budget}}}, circuit_breaker: off")
    assert told["changed"]["retried"] == 10
    for n in range(40):
        book.add(200 + n / 10, ("10.0.0.1:80", 0.01, 503, 0), status=503, flags=GIVEN_UP)
    told = book.rehearse(off, "retry: {max_attempts: 2, initial_delay: 0, budget: off}, circuit_breaker: off")
    assert told["changed"]["retried"] == 40


def test_a_second_try_beside_a_slow_one_is_tried_out() -> None:
    book = Book()
    for n in range(40):
        if n % 4:
            book.add(100 + n, ("10.0.0.2:80", 0.01, 200, 0))
        else:
            book.add(100 + n, ("10.0.0.1:80", 30.0, 0, FAILURES.index("timeout")), status=504, error="timeout")
    off = "retry: off, circuit_breaker: off"
    told = book.rehearse(off, "retry: {max_attempts: 1, hedge: {after: 100ms}}, circuit_breaker: off")
    assert told["changed"]["succeeded"] == 10


def test_bulkheads_go_by_how_long_requests_took() -> None:
    book = Book()
    for n in range(10):
        book.add(100 + n / 100, ("10.0.0.1:80", 2.0, 200, 0))
    told = book.rehearse("retry: off", "retry: off, bulkhead: {max_requests: 3, max_pending: 2, pending_timeout: 10s}")
    assert told["upstreams"][0]["after"]["rejected"] == {"overloaded": 5}
    assert "bulkhead" in told["examples"][0]["setting"]


def test_breakers_open_by_the_recorded_failures_and_retries_are_assumed() -> None:
    book = Book()
    for n in range(30):
        if n % 3:
            book.add(100 + n * 20, ("10.0.0.1:80", 0.01, 200, 0))
        else:
            book.add(100 + n * 20, ("10.0.0.2:80", 0.01, 0, RESET), status=502, error="upstream_reset")
    off = "retry: off, circuit_breaker: off"
    told = book.rehearse(off, "retry: off, circuit_breaker: {failure_threshold: 1, reset_timeout: 1h}")
    assert told["agreement"] == 1.0, told
    assert told["changed"]["breaker_openings"] == 1
    assert told["changed"]["rejected"] == 29
    told = book.rehearse(off, "retry: {max_attempts: 2, initial_delay: 0}, circuit_breaker: off")
    assert told["changed"]["retried"] == 10
    assert told["changed"]["succeeded"] == 10
    assert "10 tries were never made" in told["assumed"][1]


def test_timeouts_cut_what_took_longer() -> None:
    book = Book()
    for n in range(4):
        book.add(100 + n * 10, ("10.0.0.1:80", 1.0 + n, 200, 0))
    told = book.rehearse(
        "retry: off, circuit_breaker: off", "retry: off, circuit_breaker: off, timeout: {request: 2.5}"
    )
    assert told["changed"]["failed"] == 2
    assert told["examples"][0]["would"]["error"] == "timeout"
    assert told["examples"][0]["setting"].startswith("upstreams.shop.timeout.request: ")


def test_routes_by_unrecorded_fields_are_told_as_unsure() -> None:
    book = Book()
    for path, n in itertools.product((b"/api/1", b"/x"), range(5)):
        book.add(100 + n, ("10.0.0.1:80", 0.01, 200, 0), path=path)
    routes = 'routes: [{match: {path: "/api/*", headers: {x-tenant: a}}}, {match: {path: "/a*", methods: [GET]}}]'
    told = book.rehearse("retry: off", f"retry: off, {routes}")
    assert told["changed"]["rerouted"] == 5
    assert told["upstreams"][0]["after"]["routes"] == {"routes[1] /a*": 5}
    assert "5 requests" in told["not_rehearsed"][0]["what"]


def test_fields_are_compared_by_checksum() -> None:
    from sidecar.agent.rehearsal.conditions import meets

    shape = Shape("", "GET", b"/", -1, (b"x",), (1,), ((b"x", "a*"),), (True,))
    assert meets(shape, b"x", "a*", 0) is True
    assert meets(shape, b"x", "*", 0) is True
    assert meets(shape, b"x", "b", 0) is False
    assert meets(shape, b"x", "b*", 0) is None
    assert meets(shape, b"y", "b", 0) is None
    assert meets(Shape("", "GET", b"/", -1, (b"x",), (None,)), b"x", "b*", 0) is False


def test_what_cannot_be_rehearsed_is_named() -> None:
    book = Book()
    book.add(100, ("10.0.0.1:80", 0.01, 200, 0))
    told = book.rehearse("balancer: random", "balancer: round_robin, rate_limit: {rate: 1/s, key: 'header:x-a'}")
    assert {it["what"] for it in told["not_rehearsed"]} == {"upstreams.shop.balancer", "upstreams.shop.rate_limit"}
    assert not told["changed"]["rejected"]


def test_nothing_waits_or_is_answered_otherwise() -> None:
    book = Book()
    book.add(100, ("10.0.0.1:80", 0.01, 200, 0))
    told = book.rehearse("retry: off", "retry: off, wait: {}, fallback: [{on: [5xx], answer: {}}]")
    assert [it["what"] for it in told["not_rehearsed"]] == ["upstreams.shop.wait", "upstreams.shop.fallback"]
    assert not any(told["changed"].values())


@pytest.mark.parametrize("records", [1, SEGMENT * 3])
def test_the_record_is_bounded(records: int) -> None:
    decisions = Decisions(records)
    for n in range(SEGMENT * 10):
        segment = decisions.segment
        assert segment is not None
        if segment.used >= SEGMENT:
            segment = decisions.turn(float(n))
        segment.used += 1
        segment.newest = float(n)
    assert len(decisions) <= max(records, SEGMENT)
    assert len(decisions) > max(records, SEGMENT) - SEGMENT - 1
    decisions.turn(1e9)
    assert len(decisions.segments) == 1, "older than an hour"
    decisions.resize(0)
    assert (decisions.segment, len(decisions)) == (None, 0)


def test_long_paths_are_cut_and_their_bytes_bounded() -> None:
    decisions = Decisions(2_000_000)
    for n in range(60):
        segment = decisions.turn(float(n))
        segment.newest = float(n)
        for number in range(SEGMENT):
            segment.shape((n, number), Shape("", "GET", b"/" * 300, -1))
    assert len(decisions.segments) < 15
    assert decisions.segments[0].shapes[0].cut
    assert SimpleNamespace(**decisions.segments[0].taken()).shapes[0][2] == b"/" * 256
