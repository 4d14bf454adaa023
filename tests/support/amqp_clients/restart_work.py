"""What a user of :mod:`restart_tasks` does before, during and after a restart of the broker, as a process of its own.

Each line of standard input is a word, and is answered by a line of JSON: the problems of each step, and what else the
caller wants to know.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from restart_tasks import app, gate, work

WAIT = 60.0
QUEUES = ("classic", "quorum")
WORKERS = {"classic@here", "quorum@here"}
FAR = 30  # tasks for another day, which a worker of a classic queue holds until then


class User:
    def __init__(self) -> None:
        self.accepted: list[str] = []  # what apply_async returned for, and so has to run
        self.refused = 0
        self.facts: dict[str, Any] = {}
        self.gates: dict[str, AsyncResult] = {}
        self.away_asked: list[AsyncResult] = []
        self.far: list[str] = []
        self.calm = threading.Event()
        self.thread = threading.Thread(target=self._steady, daemon=True)

    # -- steps

    def results(self) -> None:
        asked = [work.apply_async((n,), queue=queue) for n in range(10) for queue in QUEUES]
        self.facts.setdefault("once", []).extend(result.id for result in asked)
        assert [result.get(timeout=WAIT) for result in asked] == [2 * n for n in range(10) for _ in QUEUES]

    def eta(self) -> None:
        """As late as they shall be; and those that are revoked meanwhile never, not even when both workers hear of it
        only just in time."""
        now = time.time()
        asked = [work.apply_async((1,), queue=queue, countdown=1) for queue in QUEUES]
        for countdown in (2, 20, 60):  # one will be late enough for a machine with much else to do
            due = time.time() + countdown
            revoked = [work.apply_async((1,), queue=queue, countdown=countdown) for queue in QUEUES]
            answers = app.control.revoke([task.id for task in revoked], reply=True, timeout=WAIT, limit=2)
            assert {name for answer in answers for name in answer} == WORKERS, answers
            if time.time() < due:
                break
        self.facts.setdefault("revoked", []).extend(task.id for task in revoked)
        self.facts.setdefault("once", []).extend(task.id for task in asked)
        self.facts.setdefault("due", {}).update({task.id: now + 1 for task in asked})
        assert [task.get(timeout=WAIT) for task in asked] == [2, 2]
        for task in revoked:
            try:
                raise AssertionError(f"it ran: {task.get(timeout=WAIT)}")
            except TaskRevokedError:
                pass

    def more_than_any_prefetch_limit(self) -> None:
        """Those wait at the worker, and one that is due passes them."""
        self.far = [work.apply_async((n,), queue="classic", countdown=3600).id for n in range(FAR)]
        assert work.apply_async((1,), queue="classic").get(timeout=WAIT) == 2
        assert self._scheduled() == set(self.far)

    def gates_begin(self) -> None:
        """Acknowledged late, and so not until after the restart; the caller opens them."""
        for queue in QUEUES:
            for when in ("away", "after"):
                self.gates[f"{queue}.{when}"] = result = gate.apply_async((f"{queue}.{when}",), queue=queue)
                self.accepted.append(result.id)
        self.facts["gates"] = {name: result.id for name, result in self.gates.items()}

    def due_later(self) -> None:
        """A worker has them when the broker goes, those of the classic queue."""
        asked = [work.apply_async((1,), queue=queue, countdown=6, ignore_result=True) for queue in QUEUES]
        self.accepted += [task.id for task in asked]

    def inspect(self) -> None:
        asked = app.control.inspect(timeout=WAIT, limit=2)
        for answers in (asked.ping(), asked.active(), asked.registered(), asked.stats()):
            assert set(answers or ()) == WORKERS, answers
        names = asked.registered()["classic@here"]
        assert {"restart_tasks.work", "restart_tasks.gate", "restart_tasks.tick"} <= set(names)
        prefetch = {name: stats["prefetch_count"] for name, stats in asked.stats().items()}
        assert prefetch == {"classic@here": 0, "quorum@here": 0}, prefetch

    def control(self) -> None:
        for answers in (
            app.control.rate_limit("restart_tasks.work", "1000/s", reply=True, timeout=WAIT, limit=2),
            app.control.pool_grow(1, reply=True, timeout=WAIT, limit=2),
        ):
            assert {name for answer in answers for name, said in answer.items() if "ok" in said} == WORKERS, answers

    def again(self) -> None:
        """Both workers hear and answer; how long it took them."""
        started = time.monotonic()
        heard: set[str] = set()
        while heard != WORKERS and time.monotonic() < started + WAIT:
            try:
                heard = {name for answer in app.control.ping(timeout=0.5) for name in answer}
            except (OperationalError, *app.connection().connection_errors):
                time.sleep(0.1)
        self.facts["back"] = round(time.monotonic() - started, 1)
        assert heard == WORKERS, heard

    def meanwhile(self) -> None:
        """The answers to what was asked while there was no broker."""
        for result in self.away_asked:
            assert result.get(timeout=WAIT) == 2

    def revoke_old(self) -> None:
        """The worker has what it had before, and hears that it is not to be."""
        deadline = time.monotonic() + WAIT
        while missing := set(self.far) - self._scheduled():
            assert time.monotonic() < deadline, missing
            time.sleep(0.1)
        app.control.revoke(self.far, reply=True, timeout=WAIT, limit=2)
        revoked = app.control.inspect(timeout=WAIT, limit=2).revoked()["classic@here"]
        assert set(self.far) <= set(revoked)

    def _scheduled(self) -> set[str]:
        tasks = app.control.inspect(timeout=WAIT, limit=2).scheduled()["classic@here"]
        return {task["request"]["id"] for task in tasks}

    # -- sending

    def _steady(self) -> None:
        while not self.calm.wait(0.2):
            for queue in QUEUES:
                self._send(queue)

    def _send(self, queue: str) -> None:
        try:
            result = work.apply_async((1,), queue=queue, retry=False, ignore_result=True)
        except Exception:  # it knows that this was not taken
            self.refused += 1
        else:
            self.accepted.append(result.id)

    def send_away(self) -> None:
        """Without a broker, with nobody in its place either: refused soon, and the app knows. Else taken."""
        for queue in QUEUES:
            self._send(queue)

    def ask_away(self) -> None:
        self.away_asked = [work.apply_async((1,), queue=queue) for queue in QUEUES]
        self.accepted += [result.id for result in self.away_asked]

    def gates_end(self) -> None:
        """Their answers reach who kept the connection on which the queue of answers is."""
        for name, result in self.gates.items():
            assert result.get(timeout=WAIT) == name

    # -- words

    def do(self, word: str) -> dict[str, str]:
        steps: dict[str, list[Callable[[], None]]] = {
            "before": [
                self.results, self.eta, self.more_than_any_prefetch_limit, self.inspect, self.gates_begin,
                self.due_later,
            ],
            "steady": [self.thread.start],
            "away": [self.send_away],
            "ask": [self.ask_away],
            "calm": [self.calm.set, self.thread.join],
            "again": [self.again],
            "after": [self.results, self.meanwhile, self.inspect, self.control, self.revoke_old, self.eta],
            "gates": [self.gates_end],
        }  # fmt: skip
        problems: dict[str, str] = {}
        for step in steps[word]:
            try:
                step()
            except Exception:
                problems[step.__name__] = traceback.format_exc()
        return problems


def main() -> None:
    user = User()
    for line in sys.stdin:
        problems = user.do(line.strip())
        answer = {
            "problems": problems, "facts": user.facts, "accepted": user.accepted, "refused": user.refused,
        }  # fmt: skip
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
