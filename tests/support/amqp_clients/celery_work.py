"""What Celery's users do with :mod:`tasks`, as a process beside its worker; a line of JSON per piece of work."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tasks
from celery import group
from celery.result import AsyncResult

WAIT = 60.0


def results() -> None:
    asked = [tasks.add.delay(n, n) for n in range(100)]
    assert [result.get(timeout=WAIT) for result in asked] == [2 * n for n in range(100)]


def groups() -> None:
    assert group(tasks.add.s(n, 1) for n in range(20))().get(timeout=WAIT) == [n + 1 for n in range(20)]


def large_arguments() -> None:
    assert tasks.size.delay("x" * 500_000).get(timeout=WAIT) == 500_000


def failures() -> None:
    assert str(tasks.fails.delay().get(timeout=WAIT, propagate=False)) == "on purpose"


def retries() -> None:
    assert tasks.third_time_lucky.delay().get(timeout=WAIT) == 2


def eta() -> None:
    """A worker keeps a task whose time has not come and lets the broker give it more (``basic.qos``)."""
    now = time.time()
    late = tasks.started_at.apply_async(countdown=2.0)
    soon = tasks.started_at.delay()
    assert max(soon.get(timeout=WAIT), now + 1.9) < late.get(timeout=WAIT)


def waiting_in(queue: str) -> int:
    with tasks.app.connection_for_read() as connection:
        found: int = connection.default_channel.queue_declare(queue, passive=True).message_count
    return found


def priorities() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gate = os.path.join(folder, "open")
        first = tasks.remember.apply_async(("first", gate), queue="celery.priority")
        asked = (("taken", 0), ("low", 1), ("high", 9), ("middle", 5))
        waiting = [tasks.remember.apply_async((name,), queue="celery.priority", priority=p) for name, p in asked]
        looks = 0
        while looks < 20 and (there := waiting_in("celery.priority")) < len(waiting):
            looks = looks + 1 if there == len(waiting) - 1 else 0  # then one of them is with the worker
            time.sleep(0.1)
        Path(gate).touch()
        first.get(timeout=WAIT)
    for result in [first, *waiting]:
        result.get(timeout=WAIT)
    order = tasks.remember.delay("last").get(timeout=WAIT)
    assert order[0] == "first"
    assert [name for name in order if name in ("low", "middle", "high")] == ["high", "middle", "low"], order


def remote_control() -> None:
    """Broadcasts through a fanout exchange, answers through a queue of one's own."""
    assert tasks.app.control.ping(timeout=60, limit=1) == [{"w1@here": {"ok": "pong"}}]
    queues = tasks.app.control.inspect(timeout=60, limit=1).active_queues()
    assert [queue["name"] for queue in queues["w1@here"]] == ["celery.work", "celery.priority"]


def traces() -> None:
    """A task can tell which request it belongs to."""
    assert tasks.headers.delay().get(timeout=WAIT).get("traceparent", "").startswith("00-")


def steady(count: int) -> None:
    """So many tasks, one every 50 ms, then all their results. The test sees from outside that they are sent."""
    asked: list[AsyncResult] = []
    for number in range(count):
        asked.append(tasks.add.delay(number, 1))
        time.sleep(0.05)
    assert [result.get(timeout=WAIT) for result in asked] == list(range(1, count + 1))


WORK: list[Callable[[], None]] = [
    results, groups, large_arguments, failures, retries, eta, priorities, remote_control, traces,
]  # fmt: skip


def main() -> None:
    """``steady COUNT`` does that alone."""
    for work in [partial(steady, int(sys.argv[2]))] if sys.argv[1:] else WORK:
        problem = None
        try:
            work()
        except Exception:
            problem = traceback.format_exc()
        print(json.dumps({"name": getattr(work, "__name__", "steady"), "problem": problem}), flush=True)


if __name__ == "__main__":
    main()
