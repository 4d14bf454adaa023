"""Which exchanges become a record, and that nothing is built for the others."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.records import AccessLog as Writer
from sidecar.core.records import AccessRecord
from sidecar.filters.access_log import AccessLog
from sidecar.filters.retry import RetrySettings
from support.http import Stage, request


def log_of(mode: str) -> tuple[Writer, list[AccessRecord]]:
    """A log, and what it has been given."""
    records: list[AccessRecord] = []
    return Writer(mode, records.append), records


def test_the_log_decides() -> None:
    log, records = log_of("errors")
    x = Stage().exchange()
    x.status = 200
    AccessLog(log, True).on_end(x)
    assert not records
    x.error = "timeout"
    AccessLog(log, True).on_end(x)
    assert [record.error for record in records] == ["timeout"]


def test_the_endpoint_is_the_last_one_tried() -> None:
    log, records = log_of("all")
    stage = Stage(endpoints=2)
    x = stage.exchange(request("GET /a?b=c HTTP/1.1"))
    stage.tries(x, 0)
    stage.tries(x, 1)
    x.leave_endpoint()
    stage.loop.advance(0.5)
    x.ended = stage.loop()
    AccessLog(log, True).on_end(x)
    (record,) = records
    assert (record.endpoint, record.attempts, record.target) == ("10.0.0.1:2", 2, "/a")
    assert record.duration == 0.5
    assert (record.error, record.trace_id) == (None, None)


def test_who_watches_is_told_of_what_gets_no_line() -> None:
    log, records = log_of("errors")
    told: list[Any] = []
    log.tap = told.append
    x = Stage().exchange(request("GET /a?token=hush HTTP/1.1"))
    x.status = 200
    AccessLog(log, True).on_end(x)
    assert not records
    assert [(record.status, record.target) for record in told] == [(200, "/a")]


def test_tcp_has_no_head() -> None:
    log, records = log_of("all")
    AccessLog(log, False).on_end(Stage(protocol="tcp", endpoints=0).tcp_exchange())
    (record,) = records
    assert (record.method, record.target, record.endpoint) == ("TCP", "", None)
    assert (record.began, record.sent, record.head, record.tries) == (-1.0, -1.0, -1.0, ())


def test_when_what_happened() -> None:
    stage = Stage()
    client = stage.asks()
    upstream = stage.upstream()
    upstream.hears()
    stage.loop.advance(0.2)
    upstream.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
    stage.loop.advance(0.3)
    upstream.says(b"k")
    assert client.gets().status == 200
    (record,) = stage.records
    assert (record.began, record.sent, record.kept) == (0.0, 0.0, False)
    assert (round(record.head, 6), round(record.duration, 6)) == (0.2, 0.5)
    assert record.tries == ()  # one that went well: the line says all there is
    client.asks()
    upstream.hears()
    stage.loop.advance(0.1)
    upstream.answers()
    client.gets()
    kept = stage.records[-1]
    assert (kept.kept, round(kept.head, 6)) == (True, 0.1)
    stage.over()


def test_attempts_are_listed_when_one_of_them_failed() -> None:
    stage = Stage(endpoints=2, circuit_breaker=None, retry=RetrySettings(max_attempts=2, initial_delay=0.0))
    verdicts = ["refuse"]
    stage.loop.dialled = lambda host, port: verdicts.pop() if verdicts else "accept"
    client = stage.asks()
    upstream = stage.upstream()
    upstream.hears()
    stage.loop.advance(0.25)
    upstream.answers(503, b"no")
    assert client.gets().status == 503
    (record,) = stage.records
    first, second = record.tries
    assert (first.failure, first.cause, first.status) == ("connect", "refused", 0)
    assert (second.failure, second.status) == ("", 503)
    assert {first.endpoint, second.endpoint} == {"10.0.0.1:1", "10.0.0.1:2"}
    assert (round(second.at, 6), round(second.seconds, 6)) == (0.0, 0.25)
    stage.over()


class Sampled:
    """A log that takes a half, and what is slow."""

    def __init__(self) -> None:
        self.records: list[AccessRecord] = []
        self.log = Writer("errors", self.records.append, 0.5, 2.0)

    def ends(self, x: Any) -> bool:
        before = len(self.records)
        x.ended = x.listener.clock()
        AccessLog(self.log, x.listener.stats.protocol == "http").on_end(x)
        return len(self.records) > before


def test_of_those_that_went_well_a_share_has_a_line() -> None:
    """The same ones whenever it is asked, so at each hop."""
    sampled = Sampled()
    stage = Stage()

    def wanted(number: int) -> bool:
        x = stage.exchange()
        x.status, x.request_id = 200, f"r-{number}"
        return sampled.ends(x)

    first = [wanted(n) for n in range(400)]
    assert [wanted(n) for n in range(400)] == first
    assert 150 < sum(first) < 250


def test_slow_ones_and_failures_always_have_one() -> None:
    sampled = Sampled()
    sampled.log.set_mode("errors", 0.0, 2.0)
    stage = Stage()

    def wanted(seconds: float, status: int = 200, head: float = 0.0) -> bool:
        x = stage.exchange()
        x.status, x.request_id = status, "r"
        stage.loop.advance(head)
        if head:
            x.head_at = stage.loop()
        stage.loop.advance(seconds - head)
        return sampled.ends(x)

    assert not wanted(1.9)
    assert wanted(2.0)
    assert wanted(0.1, 503)
    assert not wanted(60.0, head=0.5)  # a stream: its answer began in time


def test_without_ids_it_goes_by_counting() -> None:
    sampled = Sampled()
    sampled.log.set_mode("errors", 0.25)
    stage = Stage(protocol="tcp", endpoints=0)

    def wanted() -> bool:
        x = stage.tcp_exchange()
        x.status, x.error = 200, ""
        return sampled.ends(x)

    found = [wanted() for _ in range(12)]
    assert [n for n, it in enumerate(found) if it] == [3, 7, 11]


def test_the_mode_can_be_switched() -> None:
    sampled = Sampled()
    log = sampled.log
    log.set_mode("all", 0.5, 1.0)
    assert (log.enabled_for(200, None), log.choosy) == (True, False)
    log.set_mode("off")
    assert (log.enabled_for(500, "timeout"), log.choosy) == (False, False)
    with pytest.raises(ValueError, match="no such mode: 'loud'; there are all, errors, off"):
        log.set_mode("loud")
    assert log.mode == "off"
