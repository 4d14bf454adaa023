"""The sentence of cause and the setting, code by code, from stories as filters make them."""

from __future__ import annotations

from typing import Any

import pytest

import sidecar.filters.order  # noqa: F401 - filters declare their codes
from sidecar.core.replies import STATUS
from sidecar.why.causes import CAUSES, cause_of


def attempt(**more: Any) -> dict[str, Any]:
    return {"at_ms": 1.0, "what": "attempt", "endpoint": "10.0.0.7:80", "took_ms": 5.0, **more}


def refused(message: str, code: str = "x") -> dict[str, Any]:
    return {"at_ms": 2.0, "what": "refused", "code": code, "message": message}


def event(what: str, **more: Any) -> dict[str, Any]:
    return {"at_ms": 1.0, "what": what, **more}


OVER = event("time_over", which="timeout.request", after_ms=30_000.0)
BULKHEAD = {
    "active": 20, "limit": 20, "by": "max_requests", "pending": 3, "max_pending": 3, "pending_timeout_ms": 5000.0,
}  # fmt: skip
SLOTS = {"active": 4, "slots": 4, "pending": 100, "queue": 100, "queue_timeout_ms": 300_000.0}
FOUND_LIMIT = {**BULKHEAD, "by": "adaptive", "priority": "low"}
#: Endpoints of which none is in the rotation.
ALL_OUT = [
    {"endpoint": "10.0.0.7:1", "state": "healthy", "ejected_ms": 3000, "ejected_for": "consecutive",
     "ejection": "5 failures in a row"},
    {"endpoint": "10.0.0.8:1", "state": "unhealthy", "check": "GET /health: 500"},
    {"endpoint": "10.0.0.9:1", "state": "warning", "weight": 0},
    {"endpoint": "10.0.0.10:1", "state": "unhealthy"},
]  # fmt: skip
OPEN = event(
    "circuit_open", state="open", forced=False, failures=5, open_ms=12_000.0, again_in_ms=18_000.0,
    failed_within_ms=2100.0, last_endpoint="10.0.0.7:11434", last_failure="refused",
)  # fmt: skip
FOUND = {"from": "discover", "service": "ollama", "registry": "consul://c:8500", "up": True, "age_ms": 0}
STATIC = {"source": {"from": "endpoints"}}
INBOUND = {"direction": "inbound"}

#: Code, events, what else the story has; then the setting, and parts of the sentence.
CASES: list[tuple[str, list[dict[str, Any]], dict[str, Any], str | None, list[str]]] = [
    ("bad_request", [refused("a bare CR or LF in the head")], {}, None, ["malformed", "a bare CR or LF in the head"]),
    ("bad_request", [refused("the request head was not complete in time")], {}, "upstreams.up.timeout.head", []),
    ("headers_too_large", [refused("the request head is larger than 65536 bytes")], {},
     "upstreams.up.limits.head", ["65536"]),
    ("headers_too_large", [refused("the request has more than 100 header fields")], {},
     "upstreams.up.limits.headers", ["100 header fields"]),
    ("headers_too_large", [refused("the request target is longer than 8192 bytes")], {},
     "upstreams.up.limits.target", ["8192"]),
    ("body_too_large", [refused("the request body is larger than 10 bytes")], INBOUND,
     "inbound.limits.body", ["10 bytes"]),
    ("rate_limited", [event("rate_limit", rate=10.0, burst=20, key="ip", wait_ms=90.0)], {},
     "upstreams.up.rate_limit.rate", ["10 per second", "burst 20", "one address", "90 ms"]),
    ("rate_limited", [event("rate_limit", rate=1.0, burst=1, key="header:x-agent", wait_ms=900.0)],
     {"route": "routes[2]", "own": ["rate_limit"]}, "upstreams.up.routes[2].rate_limit.rate", ["header:x-agent"]),
    ("no_endpoints", [event("no_endpoint", candidates=[])], STATIC, "upstreams.up.endpoints", []),
    ("no_endpoints", [event("no_endpoint", candidates=[], problem="x.test: no such name")], STATIC,
     "upstreams.up.endpoints", ["no such name"]),
    ("no_endpoints", [event("no_endpoint", candidates=[], problem="no instance is in it", subset="next")], STATIC,
     "upstreams.up.subsets.next", ["no instance is in it"]),
    ("no_endpoints", [event("no_endpoint", candidates=[])], {"source": FOUND},
     "upstreams.up.discover.service", ["consul://c:8500 has no healthy instance of ollama"]),
    ("no_endpoints", [event("no_endpoint", candidates=[])], {"source": {**FOUND, "tag": "gpu"}},
     "upstreams.up.discover.tag", ["with the tag gpu"]),
    ("no_endpoints", [event("no_endpoint", candidates=[])], {"source": {**FOUND, "up": False, "age_ms": 34_000}},
     "registry", ["has not answered for 34 s"]),
    ("no_endpoints", [event("no_endpoint", candidates=ALL_OUT)], STATIC, "upstreams.up.health.when_none",
     ["10.0.0.7:1 is ejected for 3 s (5 failures in a row)", "10.0.0.8:1 is unhealthy (GET /health: 500)",
      "10.0.0.9:1 asks for no traffic", "and 1 more"]),
    ("circuit_open", [OPEN], {}, "upstreams.up.circuit_breaker.reset_timeout",
     ["5 calls in a row failed within 2.1 s", "the last because 10.0.0.7:11434 refused the connection",
      "open for 12 s", "again in 18 s"]),
    ("circuit_open", [{**OPEN, "state": "half_open"}], {}, "upstreams.up.circuit_breaker.half_open_requests",
     ["half-open"]),
    ("circuit_open", [{**OPEN, "forced": True, "held": "held open by ann: outage"}], {}, None,
     ["held open by ann: outage", "/upstreams/up/breaker/auto"]),
    ("overloaded", [event("bulkhead_full", **BULKHEAD)], {}, "upstreams.up.bulkhead.max_requests",
     ["20 requests were in progress", "3 waited"]),
    ("overloaded", [event("bulkhead_wait", **BULKHEAD), event("waited_too_long")], {},
     "upstreams.up.bulkhead.pending_timeout", ["waited 5 s"]),
    ("overloaded", [event("bulkhead_full", **{**BULKHEAD, "priority": "low"})], {},
     "upstreams.up.bulkhead.max_requests", ["there was no place left for what is low"]),
    ("overloaded", [event("bulkhead_full", **FOUND_LIMIT)], {}, "upstreams.up.bulkhead.max_pending",
     ["as many as up was found to have room for (bulkhead.adaptive: 20)"]),
    ("overloaded", [event("bulkhead_shed", because="stale", waited_ms=12.0, **FOUND_LIMIT)], INBOUND,
     "inbound.bulkhead.adaptive",
     ["waited 12 ms for one of 20 slots", "given up for what is low", "than could be done"]),
    ("overloaded", [event("bulkhead_shed", because="displaced", waited_ms=12.0, **BULKHEAD)], {},
     "upstreams.up.bulkhead.priority", ["something more important came", "20 in progress, 3 waiting"]),
    ("overloaded", [event("llm_full", **SLOTS)], {}, "upstreams.up.llm.queue",
     ["4 answers were being made (llm.slots 4)", "100 requests waited"]),
    ("overloaded", [event("llm_wait", place=9, **SLOTS), event("llm_displaced", **SLOTS)], {}, "upstreams.up.llm.queue",
     ["the queue was full (llm.queue 100)"]),
    ("overloaded", [event("llm_wait", place=9, **SLOTS), event("waited_too_long")], {},
     "upstreams.up.llm.queue_timeout", ["waited 5 min for one of 4 slots", "as number 9"]),
    ("overloaded", [event("llm_wait", place=9, which="timeout.total", wait_ms=50_000.0, **SLOTS),
                    event("waited_too_long")], {}, "upstreams.up.timeout.total", ["waited 50 s for one of 4 slots"]),
    ("overloaded", [event("llm_wait", place=9, which="x-sidecar-deadline", wait_ms=2000.0, **SLOTS),
                    event("waited_too_long")], {}, None, ["waited 2 s for one of 4 slots", "its caller gave it"]),
    ("overloaded", [event("llm_wait", place=9, **SLOTS), event("llm_passed"), event("bulkhead_wait", **BULKHEAD),
                    event("waited_too_long")], {}, "upstreams.up.bulkhead.pending_timeout", ["waited 5 s"]),
    ("timeout", [event("time_over", which="llm.between_chunks", after_ms=60_000.0)], {},
     "upstreams.up.llm.between_chunks", ["neither side said anything for 60 s"]),
    ("overloaded", [event("connections_in_use")], {}, "upstreams.up.bulkhead.max_connections", []),
    ("overloaded", [event("tunnels_full", active=7)], {}, "upstreams.up.bulkhead.max_tunnels", ["7 upgraded"]),
    ("overloaded", [refused("3 clients are connected, more are not taken")], {}, "upstreams.up.limits.connections",
     ["3 clients"]),
    ("draining", [refused("tasks is being shut down")], INBOUND, "drain.timeout", ["drains"]),
    ("connect_failed", [attempt(failure="connect", cause="refused")], STATIC,
     "upstreams.up.endpoints", ["10.0.0.7:80 refused the connection"]),
    ("connect_failed", [attempt(failure="connect", cause="no_route"),
                        event("not_again", why="attempts", max_attempts=1)],
     {"source": FOUND}, "upstreams.up.discover", ["no route", "all 1 tries were used"]),
    ("connect_failed", [attempt(failure="connect", cause="refused")], INBOUND, "service.app", ["the app"]),
    ("connect_timeout", [attempt(failure="connect", cause="timeout"),
                         event("time_over", which="timeout.connect", after_ms=1000.0)], {},
     "upstreams.up.timeout.connect", ["within 1 s"]),
    ("timeout", [attempt(failure="timeout", waiting_ms=30_000.0), OVER,
                 event("not_again", why="method", method="POST")], {},
     "upstreams.up.timeout.request", ["no answer within the 30 s", "POST is not tried again"]),
    ("timeout", [attempt(failure="timeout"), event("time_over", which="circuit_breaker.timeout_duration",
                                                    after_ms=100.0)], {},
     "upstreams.up.circuit_breaker.timeout_duration", ["100 ms"]),
    ("timeout", [event("time_over", which="timeout.idle", after_ms=300_000.0)], {}, "upstreams.up.timeout.idle",
     ["5 min"]),
    ("timeout", [event("time_over", which="timeout.total", after_ms=60_000.0)], {}, "upstreams.up.timeout.total", []),
    ("timeout", [event("client_stalled", which="timeout.request", silent_ms=30_000.0, bytes=7)], {},
     "upstreams.up.timeout.request", ["nothing more of its body for 30 s", "7 bytes"]),
    ("timeout", [event("client_stalled", which="limits.body_rate", body_rate=1024, bytes=7)], {},
     "upstreams.up.limits.body_rate", ["1024 bytes per second"]),
    ("upstream_reset", [attempt(failure="reset", waiting_ms=300.0), event("not_again", why="method", method="POST")],
     {}, "upstreams.up.retry.methods", ["closed the connection before it answered, after 300 ms"]),
    ("upstream_reset", [attempt(failure="reset", kept=True)], INBOUND, "inbound.timeout.keepalive",
     ["kept connection"]),
    ("upstream_reset", [event("cut_off", endpoint="10.0.0.7:80", bytes=12)], {}, None, ["in the middle", "12 bytes"]),
    ("bad_upstream", [attempt(failure="malformed"), refused("up at 10.0.0.7:80: not valid HTTP")], {},
     "upstreams.up.protocol", ["not valid HTTP"]),
    ("bad_upstream", [attempt(failure="malformed"), refused("up at 10.0.0.7:80: the answer's head is too large")], {},
     "upstreams.up.limits.head", []),
    ("local_shortage", [event("shortage", reason="Too many open files")], {}, None, ["Too many open files", "ulimit"]),
    ("outcome_unknown", [], {}, "upstreams.up.queue.path", ["disk"]),
    ("filter_failed", [refused("the filter mtime failed")], {}, "upstreams.up.filters", ["mtime"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "events", "more", "setting", "parts"), CASES, ids=[f"{n}-{it[0]}" for n, it in enumerate(CASES)]
)
def test_cause(
    code: str, events: list[dict[str, Any]], more: dict[str, Any], setting: str | None, parts: list[str]
) -> None:
    story = {"direction": "outbound", "upstream": "up", "error": code, "status": 503, "events": events, **more}
    found = cause_of(story)
    assert found.setting == setting, found
    assert [part for part in parts if part not in found.sentence] == [], found.sentence
    assert "None" not in found.sentence


def test_every_code_has_a_cause() -> None:
    assert set(CAUSES) == set(STATUS)


@pytest.mark.parametrize("code", sorted(CAUSES))
def test_a_story_without_events_has_a_cause(code: str) -> None:
    """What a peer sends may lack anything."""
    found = cause_of({"direction": "outbound", "upstream": "up", "error": code, "events": "nonsense"})
    assert found.sentence


def test_another_packages_code() -> None:
    story = {"upstream": "up", "error": "too_late", "events": [refused("the train has left")]}
    assert cause_of(story) == ("the train has left", "upstreams.up.filters")


#: Status, events, the rest; then the setting, and parts of the sentence.
WITHOUT: list[tuple[int, list[dict[str, Any]], dict[str, Any], str | None, list[str]]] = [
    (200, [attempt(failure="connect", cause="refused"), attempt(endpoint="10.0.0.8:80")], {}, None,
     ["answered 200 by try 2", "10.0.0.7:80 refused the connection"]),
    (200, [attempt(status=503), attempt()], {}, None,
     ["by try 2", "10.0.0.7:80 itself answered 503"]),
    (200, [attempt(connecting_ms=1.0, waiting_ms=1900.0)], {"duration_ms": 2000.0}, None,
     ["after 2 s", "1.9 s of it waiting for the answer of 10.0.0.7:80"]),
    (200, [event("bulkhead_wait"), {**event("bulkhead_passed"), "at_ms": 1500.0}, attempt(waiting_ms=3.0)],
     {"duration_ms": 1600.0}, "upstreams.up.bulkhead.max_requests", ["waiting for a slot"]),
    (200, [attempt(waiting_ms=3.0)], {"duration_ms": 9000.0, "head_ms": 1100.0}, None, ["body"]),
    (503, [attempt(status=503, peer_error="overloaded")], {}, None,
     ["the sidecar at 10.0.0.7:80 answered overloaded in place of its app"]),
    (502, [attempt(status=502),
           event("not_again", why="method", method="POST")], {}, "upstreams.up.retry.methods", ["itself answered 502"]),
    (500, [], INBOUND, None, ["the app itself answered 500"]),
    (499, [event("client_left", **{"while": "sent"})], {"duration_ms": 3200.0}, None,
     ["the client left after 3.2 s", "up had not answered yet"]),
    (202, [refused("nobody is there", "no_endpoints"), event("stored", queue_id="q")], {}, None, ["it was stored"]),
    (200, [], {"duration_ms": 3.0}, None, ["answered 200 after 3 ms"]),
]  # fmt: skip


@pytest.mark.parametrize(("status", "events", "more", "setting", "parts"), WITHOUT)
def test_without_a_code(
    status: int, events: list[dict[str, Any]], more: dict[str, Any], setting: str | None, parts: list[str]
) -> None:
    story = {"direction": "outbound", "upstream": "up", "error": "", "status": status, "events": events, **more}
    found = cause_of(story)
    assert found.setting == setting, found
    assert [part for part in parts if part not in found.sentence] == [], found.sentence


#: Events of a message; then the setting, and parts of the sentence.
MESSAGES: list[tuple[list[dict[str, Any]], str | None, list[str]]] = [
    ([event("held", waited_for="rate of ai.tasks, #", after_ms=600.0)], "amqp.publish",
     ["held for 600 ms", "rate of ai.tasks"]),
    ([event("held", waited_for="queue tasks of /", after_ms=600.0)], "amqp.queues", ["queue tasks of /"]),
    ([event("held", waited_for="alarm of the broker", after_ms=9000.0)], None, ["9 s", "alarm of the broker"]),
    ([event("held", waited_for="", after_ms=9000.0)], None, ["behind others of its channel"]),
    ([event("nacked", by="sidecar", waited_for="room in the spool", after_ms=0.0)], "amqp.spool.max_bytes",
     ["refused at once", "room in the spool"]),
    ([event("nacked", by="sidecar", waited_for="queue q of /", after_ms=31_000.0, timeout_ms=30_000)],
     "amqp.hold.timeout", ["held for 31 s", "queue q of /"]),
    ([event("nacked", by="broker", after_ms=2.0)], None, ["the broker refused it (basic.nack)"]),
    ([event("spooled", waited_for="a broker", after_ms=1.0)], None, ["stored in the spool", "for a broker"]),
    ([event("spooled"), event("dead_lettered", reason="nacked", attempts=5)], "amqp.dead_letters.after",
     ["did not take it 5 times"]),
    ([event("dead_lettered", reason="access_refused", attempts=1, code=403, text="ACCESS_REFUSED")], None,
     ["may not publish it", "403 ACCESS_REFUSED"]),
    ([event("dead_lettered", reason="expired", attempts=0)], "amqp.publish", ["it expired in the spool"]),
    ([event("dead_lettered", reason="new", attempts=0)], None, ["refused it for good"]),
]  # fmt: skip


@pytest.mark.parametrize(("events", "key", "parts"), MESSAGES)
def test_messages(events: list[dict[str, Any]], key: str | None, parts: list[str]) -> None:
    story = {"direction": "outbound", "upstream": "up", "kind": "message", "error": "held", "events": events}
    found = cause_of(story)
    assert found.setting == (key and f"upstreams.up.{key}")
    assert [part for part in parts if part not in found.sentence] == [], found.sentence
