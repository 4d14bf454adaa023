"""A Celery application as people write them; the broker is in ``BROKER``, results come back over ``rpc://``."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, Task
from kombu.entity import Queue

app = Celery("tasks", broker=os.environ["BROKER"], backend="rpc://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_default_queue="celery.work",
    task_queues=[Queue("celery.work"), Queue("celery.priority", queue_arguments={"x-max-priority": 10})],
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    result_expires=60,
)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def size(text: str) -> int:
    return len(text)


@app.task(bind=True, max_retries=5)
def third_time_lucky(self: Task) -> int:
    """Fails twice; each try is a message of its own."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return int(self.request.retries)


@app.task
def fails() -> None:
    raise ValueError("on purpose")


@app.task
def started_at() -> float:
    return time.time()


@app.task(bind=True)
def headers(self: Task) -> dict[str, Any]:
    return dict(self.request.headers or {})


order: list[str] = []


@app.task
def remember(name: str, until: str = "") -> list[str]:
    """The names in the order in which this worker got them. ``until``: a file that there is when it may go on."""
    while until and not os.path.exists(until):
        time.sleep(0.02)
    order.append(name)
    return order
