"""The ring: bounded in entries and in bytes whatever is put in, and found by id."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from sidecar.why.ring import BYTES_EACH, MOST_BYTES, MOST_OF_ONE, Ring


def story(request_id: str = "a", upstream: str = "up", error: str = "timeout", **more: Any) -> dict[str, Any]:
    return {"request_id": request_id, "upstream": upstream, "error": error, "events": [], **more}


def test_the_oldest_go() -> None:
    ring = Ring(3)
    for name in "abcd":
        ring.put(story(name))
    assert [entry.request_id for entry in ring.recent()] == ["d", "c", "b"]
    assert ring.find("a") == []
    assert [it["request_id"] for it in ring.find("b")] == ["b"]
    assert ring.dropped == 1


def test_one_id_several_times() -> None:
    ring = Ring(100)
    for number in range(MOST_OF_ONE + 5):
        ring.put(story(number=number))
    assert [it["number"] for it in ring.find("a")] == list(range(5, MOST_OF_ONE + 5))
    for _ in range(100):
        ring.put(story("b"))
    assert ring.find("a") == []


def test_recent_by_upstream_and_error() -> None:
    ring = Ring(10)
    ring.put(story("a", "up", "timeout"))
    ring.put(story("b", "other", "timeout"))
    ring.put(story("c", "up", ""))
    assert [it.request_id for it in ring.recent("up")] == ["c", "a"]
    assert [it.request_id for it in ring.recent(error="timeout")] == ["b", "a"]
    assert [it.request_id for it in ring.recent("up", "timeout")] == ["a"]


def test_none_are_kept() -> None:
    ring = Ring(0)
    ring.put(story())
    assert len(ring) == 0


def test_fewer_from_now_on() -> None:
    ring = Ring(10)
    for name in "abcd":
        ring.put(story(name))
    ring.resize(1)
    assert [it.request_id for it in ring.recent()] == ["d"]
    ring.resize(0)
    assert (len(ring), ring.size) == (0, 0)


def test_a_story_is_cut() -> None:
    ring = Ring(10)
    events = [{"at_ms": n, "what": "attempt", "endpoint": "x" * 1000} for n in range(64)]
    ring.put(story(events=events, path="y" * 20_000))
    (found,) = ring.find("a")
    assert ring.size < MOST_BYTES + 1000
    assert found["events_left_out"] == 44
    assert found["events"][0]["at_ms"] == 0
    assert found["events"][-1]["at_ms"] == 63


def test_text_that_is_no_unicode() -> None:
    ring = Ring(10)
    ring.put(story(path="\udcff"))
    assert ring.find("a")[0]["path"] == "?"


def test_memory_is_bounded_whatever_comes() -> None:
    ring = Ring(500)
    for number in range(100_000):
        ring.put(story(f"id-{number}", path=f"/{number}/" + "p" * (number % 300)))
    assert len(ring) <= 500
    assert ring.size <= 500 * BYTES_EACH
    assert ring.dropped == 100_000 - len(ring)


def test_one_large_event_among_many_is_cut_too() -> None:
    ring = Ring(10)
    crowd = [{"endpoint": "x" * 200, "state": "healthy"} for _ in range(20)]
    events: list[dict[str, object]] = [{"at_ms": n, "what": "no_endpoint", "candidates": crowd} for n in range(19)]
    ring.put(story(events=[*events, {"at_ms": 19, "what": "refused", "message": "z" * 100_000}]))
    assert ring.size < MOST_BYTES + 1000
    assert ring.find("a")[0]["events"][0]["what"] == "refused"


def test_stories_take_no_more_memory_than_they_say() -> None:
    """In a process of its own, whose memory nothing else moves."""
    code = """
import resource
from pathlib import Path
from sidecar.why.ring import Ring

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

ring = Ring(2000)
ring.put({"request_id": "first", "upstream": "up", "error": "", "events": []})
before = resident()
for number in range(2000):
    ring.put({"request_id": f"{number:032}", "upstream": "up", "error": "", "events": [], "detail": f"{number:0400}"})
print(ring.size, resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, taken = map(int, done.stdout.split())
    assert taken < 2 * said, (said, taken)
