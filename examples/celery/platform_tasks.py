"""A Celery application that knows nothing of a sidecar: it dials a RabbitMQ at 127.0.0.1:5672.

A task's name is its route. ``ai.inference.*`` is what somebody waits for and goes first; ``ai.training.*`` may wait;
each has a queue of its own. Beat sends a heartbeat for ``monitoring.*`` every ten seconds.
"""

from __future__ import annotations

import os
import time

from celery import Celery
from kombu.entity import Exchange, Queue

TASKS = Exchange("ai.tasks", "topic", durable=True)

#: Queue → what leads to it. In each, a message of a higher priority is given out first: 0 to 9.
ROUTES = {
    "ai.inference": "ai.inference.#",
    "ai.training": "ai.training.#",
    "agents.tasks": "agents.#",
    "monitoring.events": "monitoring.#",
}
#: Tasks' names → what they get unless their caller says otherwise.
PRIORITIES = {"ai.inference": 8, "agents": 5, "ai.training": 2, "monitoring": 0}

app = Celery("platform", broker=os.environ.get("BROKER", "amqp://guest:guest@127.0.0.1:5672//"), backend="rpc://")


def route(
    name: str, args: object, kwargs: object, options: object, task: object = None, **_: object
) -> dict[str, object]:
    """Publish each task to the topic exchange by its name."""
    kind = next((kind for kind in PRIORITIES if name.startswith(f"{kind}.")), "")
    return {"exchange": TASKS, "routing_key": name, "priority": PRIORITIES.get(kind, 0)}


app.conf.update(
    task_queues=[Queue(name, TASKS, key, max_priority=9) for name, key in ROUTES.items()],
    task_routes=(route,),
    task_default_exchange="ai.tasks",
    task_default_exchange_type="topic",
    task_create_missing_queues=False,
    task_acks_late=True,  # a task whose worker dies runs again
    worker_prefetch_multiplier=1,  # what waits is in the queue, where priorities count
    broker_connection_retry_on_startup=True,
    worker_send_task_events=True,  # for Flower
    task_send_sent_event=True,
    beat_schedule={
        "heartbeat": {"task": "monitoring.heartbeat", "schedule": 10.0, "options": {"expires": 30}},
    },
)


@app.task(name="ai.inference.generate")
def generate(prompt: str, seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return f"{prompt}!"


@app.task(name="ai.training.finetune")
def finetune(model: str) -> str:
    return f"{model}, finer"


@app.task(name="agents.plan")
def plan(goal: str) -> list[str]:
    return [f"think about {goal}", f"do {goal}"]


@app.task(name="monitoring.heartbeat", ignore_result=True)
def heartbeat() -> None: ...
