"""What happened to a message is told in the order in which it happened, however its clock was read."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.why.told import parts_of


def story(began: float, what: str, at: float) -> dict[str, Any]:
    return {
        "kind": "message", "direction": "outbound", "upstream": "rabbitmq", "began": began, "error": what,
        "events": [{"at_ms": at, "what": what}],
    }  # fmt: skip


@pytest.mark.parametrize(("began", "at"), [(10.0, 500.1), (9.999, 500.1), (10.2, 0.0)])
def test_what_was_told_later_happened_later(began: float, at: float) -> None:
    (part,) = parts_of([story(10.0, "held", 500.0), story(began, "nacked", at)])
    times = [event["at_ms"] for event in part["events"]]
    assert [event["what"] for event in part["events"]] == ["held", "nacked"]
    assert times == sorted(times)
    assert part["began"] == 10.0


def test_what_is_told_long_after_keeps_its_distance() -> None:
    (part,) = parts_of([story(10.0, "spooled", 1.0), story(70.0, "dead_lettered", 2.0)])
    assert [event["at_ms"] for event in part["events"]] == [1.0, 60_002.0]
