"""What is recorded of a request, for rehearsals."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.decisions import (
    AGE,
    DETAIL,
    DETAILED,
    GIVEN_UP,
    KEPT,
    LAST,
    MOST_PATH,
    REPLAYABLE,
    SEGMENT,
    TRIED,
    UPGRADE,
    Decisions,
)
from sidecar.endpoints.endpoint import Endpoint
from sidecar.exchange.attempt import Attempt
from sidecar.filters.decisions import FAILURES, LATE, Record
from sidecar.http.exchange import HttpExchange
from support.http import Stage, request


class Book:
    """A record of one listener, and the exchanges that it is told of."""

    def __init__(self, records: int = 10_000) -> None:
        self.stage = Stage()
        self.decisions = Decisions(records)
        self.filter = Record(self.decisions, "shop")

    def exchange(self, line: str = "GET /a?key=secret HTTP/1.1", *fields: str, **more: Any) -> HttpExchange:
        """One that went well over a kept connection, in half a second from time 10 on; ``more`` is otherwise."""
        x = self.stage.exchange(request(line, *fields))
        x.attempt = attempt(kept=True, status=200)
        well = {"started": 10.0, "ended": 10.5, "status": 200, "attempts": 1, "replayable": True}
        for name, value in {**well, **more}.items():
            setattr(x, name, value)
        return x

    def put(self, *line: str, **more: Any) -> None:
        self.filter.on_end(self.exchange(*line, **more))

    def taken(self) -> dict[str, Any]:
        segment = self.decisions.segment
        assert segment is not None
        return segment.taken()

    def details(self) -> list[tuple[Any, ...]]:
        return list(DETAIL.iter_unpack(self.taken()["details"]))


def attempt(began: float = 10.0, **more: Any) -> Attempt:
    found = Attempt(Endpoint("10.0.0.1", 80), began)
    for name, value in more.items():
        setattr(found, name, value)
    return found


def near(*seconds: float) -> Any:
    """These, as single precision has them."""
    return pytest.approx(seconds, abs=1e-5)


def test_what_went_well_is_a_number_of_its_kind_and_has_no_query() -> None:
    book = Book()
    x = book.exchange()
    for _ in range(3):
        book.filter.on_end(x)
    taken = book.taken()
    assert (taken["details"], taken["numbered"], len(taken["shapes"])) == (b"", [(0, 1, 200)], 1)
    assert taken["names"] == ["", "10.0.0.1:80"]
    assert "secret" not in str(taken)
    segment = book.decisions.segment
    assert segment is not None
    assert [*segment.seconds[:3]] == [0.5] * 3
    assert (segment.used, segment.newest) == (3, x.ended)


def test_another_status_is_another_kind_of_the_same_shape() -> None:
    book = Book()
    endpoint = Endpoint("10.0.0.1", 80)
    for status in (200, 404, 200):
        it = attempt(kept=True, status=status)
        it.endpoint = endpoint
        book.put(status=status, attempt=it)
    assert book.taken()["numbered"] == [(0, 1, 200), (0, 1, 404)]


def test_a_failure_has_the_details_of_each_try() -> None:
    book = Book()
    refused = attempt(failure="connect", cause="refused", took=0.1)
    late = attempt(10.2, failure="connect", cause="timeout", took=1.0)
    reset = attempt(11.5, failure="reset", sent=11.6, kept=True, took=0.25, status=0)
    book.put(tried=(refused, late), attempt=reset, status=502, error="upstream_reset", attempts=3, ended=11.75)
    first, second, last = book.details()
    names = book.taken()["names"]
    assert (first[10], second[10]) == (FAILURES.index("connect"), LATE)
    assert [names[it[5]] for it in (first, second, last)] == ["10.0.0.1:80"] * 3
    assert (first[12], last[12]) == (TRIED, LAST | TRIED | KEPT | REPLAYABLE)
    assert (names[last[6]], last[8], last[11]) == ("upstream_reset", 502, 3)
    assert first[:4] == near(0.1, 0.0, -1.0, 0.1)
    assert last[:4] == near(1.75, 1.5, 1.6, -1.0)


def test_a_try_that_had_a_connection_says_when() -> None:
    book = Book()
    tried = attempt(failure="timeout", sent=10.1, kept=True, took=0.5, status=503, peer_error="overloaded")
    book.put(tried=(tried,))
    first, last = book.details()
    assert first[:4] == near(0.5, 0.0, 0.1, 0.5)
    assert (first[9], first[10], first[12]) == (503, FAILURES.index("timeout"), TRIED | KEPT)
    assert book.taken()["names"][first[7]] == "overloaded"
    assert last[9] == 200


def test_a_request_that_was_never_tried_has_no_endpoint() -> None:
    book = Book()
    book.put("GET /chat HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", attempt=None, attempts=0,
             status=429, error="rate_limited", replayable=False)  # fmt: skip
    (only,) = book.details()
    assert (only[5], only[9], only[12]) == (0, 0, LAST | UPGRADE)


def test_a_long_answer_has_the_time_of_its_head() -> None:
    book = Book()
    book.put(head_at=10.2, ended=14.0)
    ((took, _, _, answered, *_),) = book.details()
    assert (took, answered) == near(4.0, 0.2)


def test_fields_that_count_are_checksums_and_conditions_their_outcome() -> None:
    book = Book()
    book.filter.watch(["X-Tenant"], [("X-Canary", "y*"), ("X-Absent", "*")])
    for tenant, canary in (("a", "yes"), ("a", "yes"), ("b", "no"), ("a", "yes")):
        book.put("GET /a HTTP/1.1", f"X-Tenant: {tenant}", f"X-Canary: {canary}")
    segment = book.decisions.segment
    assert segment is not None
    assert DETAILED not in segment.kind_of[:4], "they went well"
    first, second = segment.shapes
    assert (first.names, first.matched, second.matched) == (
        (b"x-absent", b"x-canary", b"x-tenant"), (True, False), (False, False),
    )  # fmt: skip
    assert first.watched[0] is None
    assert first.watched[2] != second.watched[2]
    assert "yes" not in str(book.taken())


def test_a_long_path_is_cut_and_says_so() -> None:
    book = Book()
    path = "/" + "x" * (2 * MOST_PATH)
    book.put(f"GET {path} HTTP/1.1")
    book.put(f"GET {path}y HTTP/1.1")
    segment = book.decisions.segment
    assert segment is not None
    (shape,) = segment.shapes
    assert (len(shape.path), shape.cut) == (MOST_PATH, True)


def test_a_full_segment_is_followed_by_another_and_the_oldest_go() -> None:
    book = Book(records=2 * SEGMENT)
    x = book.exchange()
    for _ in range(3 * SEGMENT + 1):
        book.filter.on_end(x)
    assert [it.used for it in book.decisions.segments] == [SEGMENT, 1]
    x.ended += AGE + 1
    for _ in range(SEGMENT):
        book.filter.on_end(x)
    assert [it.used for it in book.decisions.segments] == [SEGMENT], "what is an hour old is gone"


def test_where_little_happens_an_hour_is_an_hour_too() -> None:
    book = Book()
    book.put(ended=10.5)
    book.put(ended=20.0 + AGE)
    assert [it.used for it in book.decisions.segments] == [1]
    book.decisions.forget(30.0 + 2 * AGE)
    assert len(book.decisions) == 0


def test_many_changes_of_settings_cost_no_room() -> None:
    book = Book(records=SEGMENT)
    for n in range(60):
        book.put(ended=10.5 + n)
        book.decisions.changed()
    assert len(book.decisions) == 0
    book.decisions.resize(3 * SEGMENT)
    for n in range(60):
        book.put(ended=80.5 + n)
        book.decisions.changed()
    assert len(book.decisions) == 60
    sealed = book.decisions.segments[0]
    assert sealed.columns is not None
    assert len(sealed.columns[0]) == 1
    assert (sealed.began, sealed.clients, sealed.kinds, sealed.named) == ([], [], {}, {}), "nor on to what was used"
    assert sealed.taken()["names"] == ["", "10.0.0.1:80"]


def test_nothing_is_recorded_while_it_is_off() -> None:
    book = Book(records=0)
    book.put()
    assert book.decisions.segment is None
    book.decisions.changed()
    assert book.decisions.generation == 1
    book.decisions.resize(10)
    book.put()
    assert book.taken()["generation"] == 1
    book.decisions.resize(10)
    assert book.taken()["began"] != b"", "the same again changes nothing"
    book.decisions.resize(20)
    assert [it.used for it in book.decisions.segments] == [0], "one segment holds them all"
    book.decisions.resize(0)
    assert (book.decisions.segment, len(book.decisions.segments)) == (None, 0)


def test_a_change_of_settings_begins_another_segment_unless_it_is_empty() -> None:
    book = Book()
    book.decisions.changed()
    assert (len(book.decisions.segments), book.taken()["generation"]) == (1, 1)
    book.put()
    book.decisions.changed()
    assert [it.generation for it in book.decisions.segments] == [1, 2]


def test_that_a_peer_has_given_up_is_recorded() -> None:
    book = Book()
    book.put(status=503, attempt=attempt(kept=True, status=503, retried=3))
    book.put(tried=(attempt(9.0, took=1.0, status=503, retried=0),), attempts=2)
    assert [bool(detail[-1] & GIVEN_UP) for detail in book.details()] == [True, True, False]
