"""A Celery application that lives through a restart of its broker: a classic queue and a quorum queue, unlimited
prefetch, results over ``rpc://``, a task every second from beat. Each run of a task is a line in the file ``runs``,
each tick that beat has sent one in ``ticks``.

In the environment: ``BROKER``; ``FOLDER``, where that file is; ``QUEUE``, the only one there is (a worker's: it decides
about the global prefetch limit by the queues it knows of); ``CONFIRM=1`` to publish with confirms.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import after_task_publish
from kombu.entity import Exchange, Queue

FOLDER = Path(os.environ["FOLDER"])
QUEUES = {
    "classic": Queue("classic"),
    # Celery leaves the waiting for an ETA to the broker, for quorum queues behind a topic exchange.
    "quorum": Queue("quorum", Exchange("work", "topic"), "quorum", queue_arguments={"x-queue-type": "quorum"}),
}
QUEUE = os.environ.get("QUEUE")

app = Celery("restart_tasks", broker=os.environ["BROKER"], backend="rpc://")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True} if os.environ.get("CONFIRM") == "1" else {},
    broker_native_delayed_delivery_queue_type="classic",
    task_default_queue="classic",
    task_queues=[queue for name, queue in QUEUES.items() if QUEUE in (None, name)],
    task_create_missing_queues=False,
    worker_prefetch_multiplier=0,
    beat_schedule={"tick": {"task": "restart_tasks.tick", "schedule": 1.0, "options": {"queue": "classic"}}},
)


def _write(name: str, line: str) -> None:
    file = os.open(FOLDER / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{line}\n".encode())  # whole, whoever else writes
    os.close(file)


def _runs(task: Task, what: str) -> None:
    _write("runs", f"{task.request.id} {what} {time.time()}")


@after_task_publish.connect(sender="restart_tasks.tick")
def _tick_sent(headers: dict[str, Any], **_: Any) -> None:
    _write("ticks", headers["id"])


@app.task(bind=True)
def work(self: Task, number: int) -> int:
    _runs(self, "work")
    return 2 * number


@app.task(bind=True, acks_late=True)
def gate(self: Task, name: str) -> str:
    """Waits until there is a file of that name."""
    _runs(self, "gate")
    while not (FOLDER / name).exists():
        time.sleep(0.05)
    return name


@app.task(bind=True, ignore_result=True)
def tick(self: Task) -> None:
    _runs(self, "tick")
