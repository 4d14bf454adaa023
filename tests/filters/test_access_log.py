"""Which exchanges become a record, and that nothing is built for the others."""

from __future__ import annotations

from typing import Any

from sidecar.filters.access_log import AccessLog
from support.http import Stage, request


class Log:
    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.asked: list[tuple[int, str | None]] = []
        self.records: list[Any] = []

    def enabled_for(self, status: int, error: str | None) -> bool:
        self.asked.append((status, error))
        return self.enabled

    def record(self, record: Any) -> None:
        self.records.append(record)


def test_the_log_decides() -> None:
    log: Any = Log(enabled=False)
    x = Stage().exchange()
    x.status = 200
    AccessLog(log).on_end(x)
    assert (log.asked, log.records) == ([(200, "")], [])


def test_the_endpoint_is_the_last_one_tried() -> None:
    log: Any = Log(enabled=True)
    stage = Stage(endpoints=2)
    x = stage.exchange(request("GET /a?b=c HTTP/1.1"))
    stage.tries(x, 0)
    stage.tries(x, 1)
    x.leave_endpoint()
    stage.loop.advance(0.5)
    AccessLog(log).on_end(x)
    (record,) = log.records
    assert (record.endpoint, record.attempts, record.target) == ("10.0.0.1:2", 2, "/a")
    assert record.duration == 0.5
    assert (record.error, record.trace_id) == (None, None)


def test_tcp_has_no_head() -> None:
    log: Any = Log(enabled=True)
    AccessLog(log).on_end(Stage(protocol="tcp", endpoints=0).tcp_exchange())
    (record,) = log.records
    assert (record.method, record.target, record.endpoint) == ("TCP", "", None)
