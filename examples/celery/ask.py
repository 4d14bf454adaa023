"""Asks the workers of :mod:`platform_tasks` for one thing of each kind, and looks at who goes first."""

from __future__ import annotations

import time

from celery.result import ResultSet
from platform_tasks import app, finetune, generate, plan

WAIT = 60.0


def main() -> None:
    print("ai.inference.generate:", generate.delay("hello").get(timeout=WAIT))
    print("ai.training.finetune: ", finetune.delay("llama").get(timeout=WAIT))
    print("agents.plan:          ", plan.delay("lunch").get(timeout=WAIT))

    # One keeps the worker busy; what is asked for meanwhile is done by its priority.
    busy = generate.delay("busy", 1.0)
    time.sleep(0.3)
    asked = {generate.apply_async((f"{n}",), priority=n): f"priority {n}" for n in (1, 9, 5)}
    names = {result.id: name for result, name in asked.items()}
    done = [names[id] for id, _ in ResultSet(list(asked)).iter_native(timeout=WAIT)]
    busy.get(timeout=WAIT)
    print("done in this order:   ", ", ".join(done))
    workers = app.control.inspect(timeout=5, limit=1).active_queues() or {}
    for worker, queues in workers.items():
        print(f"{worker} serves", ", ".join(sorted(queue["name"] for queue in queues)))


if __name__ == "__main__":
    main()
