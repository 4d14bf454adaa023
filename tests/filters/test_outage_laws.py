"""Whatever happens in an outage: each client gets one answer, and nothing is left of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.fallback import AnswerSettings, StepSettings
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.retry import HedgeSettings, RetrySettings
from sidecar.filters.wait import WaitSettings
from support.examples import examples
from support.http import Client, Stage

AWAY = frozenset({"circuit_open", "no_endpoints", "connect_failed", "connect_timeout", "timeout", "overloaded", "5xx"})
WAITS = {"wait": WaitSettings(timeout=5.0, max=5)}
FALLS_BACK = {
    "fallback": (
        StepSettings(on=AWAY, upstream="simple"),
        StepSettings(on=frozenset({"overloaded", "5xx"}), stale=60.0),
        StepSettings(on=AWAY, answer=AnswerSettings(status=202)),
    )
}

_ASKS = st.tuples(st.just("asks"), st.sampled_from(["GET /a", "GET /b", "POST /a", "POST /long"]))
_OTHERS = st.sampled_from([
    ("leaves", 0), ("leaves", 1), ("refuses", "10.0.0.1"), ("refuses", "10.0.0.2"), ("refuses", "10.0.0."),
    ("silent", "10.0.0.1"), ("accepts", ""), ("endpoints", 0), ("endpoints", 2), ("serve", 200), ("serve", 503),
    ("serve", 404), ("break", ""), ("rest", ""), ("advance", 0.1), ("advance", 1.0), ("advance", 6.0),
    ("reload", 1.0), ("reload", 9.0),
])  # fmt: skip


class Outage:
    """A port, its clients and what becomes of them."""

    def __init__(self, policies: dict[str, Any]) -> None:
        self.stage = Stage(
            retry=RetrySettings(max_attempts=2, initial_delay=0.1, jitter=False, hedge=HedgeSettings(after=0.2)),
            circuit_breaker=CircuitBreakerSettings(failure_threshold=2, half_open_requests=1),
            bulkhead=BulkheadSettings(max_requests=3, max_pending=2, pending_timeout=2.0),
            **policies,
        )
        self.stage.other("simple", bulkhead=BulkheadSettings(max_requests=2, max_pending=0))
        self.waiting: list[Client] = []
        self.unfinished: list[Client] = []
        self.answers = 0

    def does(self, what: str, how: Any) -> None:
        it = self.stage
        if what == "asks":
            self.asks(how)
        elif what == "leaves" and len(self.waiting) > how:
            client = self.waiting.pop(how)
            if client in self.unfinished:
                self.unfinished.remove(client)
            client.breaks()
        elif what in ("refuses", "silent", "accepts"):
            verdict = {"refuses": "refuse", "silent": "silent", "accepts": "accept"}[what]
            it.loop.dialled = lambda host, port: verdict if host.startswith(how) else "accept"
        elif what == "endpoints":
            it.endpoints(how)
        elif what == "serve":
            self.serve(how)
        elif what == "break":
            for server in it.asked()[:1]:
                server.breaks()
        elif what == "rest":
            self.rest()
        elif what == "advance":
            it.advance(how)
        elif what == "reload" and "wait" in it.config.policies:
            it.reload(wait=WaitSettings(timeout=how, max=3))
        self.collect()

    def asks(self, line: str) -> None:
        client = self.stage.client()
        if line.endswith("long"):
            client.says(f"{line} HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n01234".encode())
            self.unfinished.append(client)
        else:
            client.asks(line, body=b"x" if line.startswith("POST") else b"")
        self.waiting.append(client)

    def rest(self) -> None:
        """Those who have sent a part of their body send the rest."""
        for client in self.unfinished:
            if client.connected:
                client.says(b"56789")
        self.unfinished.clear()

    def serve(self, status: int) -> None:
        for server in self.stage.asked():
            while server.connected and (message := server.message()) is not None:
                server.answers(status, b"" if message.method == "HEAD" else b"answer")

    def collect(self) -> None:
        for client in list(self.waiting):
            found = client.message()
            if found is not None or not client.connected:
                self.waiting.remove(client)
                self.answers += found is not None
            if client.connected and found is not None and found.status == 200 and found.body == b"answer":
                assert client.silent(), "one answer to one request"

    def ends(self) -> None:
        """The upstream is back, and everybody is served."""
        it = self.stage
        it.loop.dialled = lambda host, port: "accept"
        it.endpoints(2)
        self.rest()
        for _ in range(100):
            if not self.waiting:
                break
            it.advance(0.5)
            self.serve(200)
            self.collect()
        assert not self.waiting
        assert it.stats.waiting == 0
        assert it.nothing_left()
        it.over()


@pytest.mark.parametrize("policies", [WAITS, FALLS_BACK, {**WAITS, **FALLS_BACK}], ids=["wait", "fallback", "both"])
@given(st.lists(st.one_of(_ASKS, _OTHERS), max_size=25))
@settings(max_examples=examples(60), deadline=None)
def test_each_client_gets_one_answer(policies: dict[str, Any], steps: list[tuple[str, Any]]) -> None:
    outage = Outage(policies)
    for what, how in steps:
        outage.does(what, how)
    outage.ends()
