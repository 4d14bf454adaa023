"""``python -m bench.services``: the two services of ``examples`` beside their sidecars, under what the reports ask of
them; some minutes. Prints a table; the exit code is 1 if a goal is missed.

Real Consul, RabbitMQ and Redis, and a stand-in for Ollama. ``--serve`` starts all of it and says where it is, until
Ctrl-C. What is measured: decompositions at 50 a second (sent when their time has come, whatever has become of those
before, and measured from then on) with Ollama and without; the creation of workspaces; tasks over messages while
RabbitMQ restarts; workspaces while Redis does; each service killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp

from bench.goals import Goal, printed

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.processes import get
from support.rabbitmq import broker
from support.services import TASKS, VHOST, WORKSPACES, Services, ask, services

RESULT: Final = "task.decomposition.result"
TEXT: Final = "Collect the logs and the metrics, then find the cause; write a report and tell everybody"
#: Seconds after which what has not come is taken for lost.
PATIENCE: Final = 120.0


class Paced(NamedTuple):
    """Milliseconds of all answers, what they were, and how late a request was sent: the machine's doing."""

    times: list[float]
    modes: Counter[str]
    late: float

    def quantile(self, share: float) -> float:
        return sorted(self.times)[min(len(self.times) - 1, int(len(self.times) * share))]


async def paced(site: Services, rate: float, seconds: float) -> Paced:
    """Decompositions at that rate."""
    found = Paced([], Counter(), 0.0)
    late = 0.0

    async def one(session: aiohttp.ClientSession, due: float) -> None:
        async with session.post(site.tasks + TASKS, json={"task": TEXT}) as answer:
            told = await answer.json()
            found.modes[told.get("mode", str(answer.status)) if answer.status == 200 else str(answer.status)] += 1
        found.times.append((time.perf_counter() - due) * 1000)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for i in range(int(rate * seconds)):
            due = began + i / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            late = max(late, time.perf_counter() - due)
            group.create_task(one(session, due))
    return found._replace(late=late * 1000)


class Restarted(NamedTuple):
    """Tasks that were accepted over HTTP, those that nobody has decomposed, results that came twice."""

    accepted: int
    refused: int
    lost: list[str]
    twice: int


def restarted(site: Services, count: int, rate: float, restart: Callable[[], object]) -> Restarted:
    """Tasks are handed in at that rate; RabbitMQ restarts when a quarter of them has been."""
    accepted: set[str] = set()
    refused, quarter = [], threading.Event()

    def hand_in() -> None:
        began = time.monotonic()
        for i in range(count):
            time.sleep(max(0.0, began + i / rate - time.monotonic()))
            name = f"task-{i}"
            status, told = site.task(TEXT, wait=False, id=name)
            if status == 202:
                accepted.add(name)
            else:
                refused.append(told)
            if i >= count // 4:
                quarter.set()

    thread = threading.Thread(target=hand_in)
    thread.start()
    quarter.wait(PATIENCE)
    restart()
    thread.join()
    results = Counter(_results(site, accepted))
    return Restarted(
        len(accepted), len(refused), sorted(accepted - results.keys()), sum(results.values()) - len(results)
    )


def _results(site: Services, wanted: set[str]) -> Iterator[str]:
    """The ids of results, until all that are wanted have come or nothing more comes."""
    missing, last = set(wanted), time.monotonic()
    with site.rabbitmq.channel(VHOST) as channel:
        while missing and time.monotonic() - last < PATIENCE:
            method, _, body = channel.basic_get(RESULT, auto_ack=True)
            if method is None:
                time.sleep(0.05)
                continue
            last = time.monotonic()
            name = json.loads(body)["id"]
            missing.discard(name)
            yield name


class Killed(NamedTuple):
    """Seconds until the service itself answered again, and the statuses of what was asked meanwhile."""

    back: float
    statuses: Counter[int]
    #: Requests that its sidecar has stored, and how many of them have come to a good end.
    stored: int
    delivered: int


def killed(site: Services, module: str) -> Killed:
    """The app is killed and started again at once, as a container's restart policy does it."""
    url = site.tasks + TASKS if module == "task_decomposition" else site.workspaces + WORKSPACES
    document = {"task": TEXT} if module == "task_decomposition" else None
    began = time.monotonic()
    site.processes[module].kill()
    site.start_app(module)
    statuses: Counter[int] = Counter()
    locations = []
    while True:
        status, told = ask("POST" if document else "GET", url, document)
        statuses[status] += 1
        if status == 200:
            break
        if status == 202:
            locations.append(told["location"])
        assert time.monotonic() - began < PATIENCE, statuses
        time.sleep(0.05)
    back = time.monotonic() - began
    site.processes[module].ready()
    return Killed(back, statuses, len(locations), sum(_good(site.tasks + it) for it in locations))


def _good(location: str) -> bool:
    """Whether the outcome of a stored request is a graph."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        status, told = get(f"{location}/outcome")
        if status != 202:
            return status == 200 and "steps" in told
        time.sleep(0.1)
    return False


# -- the report


def goals(site: Services, rate: float, seconds: float, tasks: int) -> Iterator[Goal]:
    yield from _decompositions(site, rate, seconds)
    yield from _workspaces(site)
    yield _broker(site, tasks)
    yield _redis(site)
    for module, seconds_allowed in (("task_decomposition", 30), ("workspace_isolation", 60)):
        it = killed(site, module)
        kept = f"; {it.delivered} of {it.stored} stored requests delivered" if it.stored else ""
        found = f"answers after {it.back:.1f} s{kept}"
        yield Goal(
            f"{module} killed", found, f"{seconds_allowed} s", it.back < seconds_allowed and it.delivered == it.stored
        )


def _decompositions(site: Services, rate: float, seconds: float) -> Iterator[Goal]:
    asyncio.run(paced(site, rate, 2))
    for name in ("with Ollama", "Ollama away"):
        if name == "Ollama away":
            site.processes["ollama"].kill()
        it = asyncio.run(paced(site, rate, seconds))
        found = (
            f"p50 {it.quantile(0.5):.0f} ms, p99 {it.quantile(0.99):.0f} ms, {dict(it.modes)}; "
            f"sent at most {it.late:.0f} ms late"
        )
        good = it.quantile(0.99) < 200 and set(it.modes) <= {"simple", "model"}
        if name == "Ollama away":
            good = good and set(it.modes) == {"simple"}
        yield Goal(f"{rate:.0f} tasks/s, {name}", found, "p99 < 200 ms", good)
    site.start_ollama()


def _workspaces(site: Services) -> Iterator[Goal]:
    times, statuses = [], []
    for _ in range(11):
        began = time.perf_counter()
        statuses.append(site.workspace(owner="bench")[0])
        times.append(time.perf_counter() - began)
    slowest = max(times[:10])
    yield Goal(
        "ten workspaces", f"the slowest after {slowest * 1000:.0f} ms", "5 s", slowest < 5 and {*statuses[:10]} == {201}
    )
    yield Goal("an eleventh", f"status {statuses[10]}", "refused", statuses[10] == 429)


def _broker(site: Services, tasks: int) -> Goal:
    it = restarted(site, tasks, 50, site.rabbitmq.restart)
    found = f"{it.accepted} accepted, {it.refused} refused, {len(it.lost)} lost, {it.twice} results twice"
    return Goal(f"RabbitMQ restarts under {tasks} tasks", found, "none lost", not it.lost and it.accepted == tasks)


def _redis(site: Services) -> Goal:
    before = site.all_workspaces()
    site.processes["redis"].terminate()
    site.start_redis()
    killed(site, "workspace_isolation")  # what it knows now, it has from Redis
    after = site.all_workspaces()
    site.destroy_all()
    return Goal("Redis restarts, then the service", f"{len(after)} of {len(before)} workspaces", "all", after == before)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.services", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="start all of it, and measure nothing")
    parser.add_argument("--rate", type=float, default=50.0, help="decompositions a second (default: 50)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two (default: 60)")
    parser.add_argument("--tasks", type=int, default=1000, help="while RabbitMQ restarts (default: 1000)")
    options = parser.parse_args()
    with (
        broker() as rabbitmq,
        tempfile.TemporaryDirectory(prefix="services-") as folder,
        services(Path(folder), rabbitmq) as site,
    ):
        if options.serve:
            return _serve(site)
        missed = printed(goals(site, options.rate, options.seconds, options.tasks))
    return 1 if missed else 0


def _serve(site: Services) -> int:
    print(f"task decomposition    {site.tasks}{TASKS}")
    print(f"workspace isolation   {site.workspaces}{WORKSPACES}")
    for module in ("task_decomposition", "workspace_isolation"):
        print(f"its sidecar           {site.sidecar(module).admin}/     ({module})")
    print(f"RabbitMQ              127.0.0.1:{site.rabbitmq.port}, vhost {VHOST}, guest")
    print(f"Consul                http://127.0.0.1:{site.consul.http_port}/ui/")
    print("Ctrl-C ends all of it.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
