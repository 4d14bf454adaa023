"""``python -m bench.adaptive``: a limit that is found, before an app whose slots are known, with real processes.

The app does 8 requests at once, each in 50 ms, then 16, then 8 again; more wait in it. An inbound port with
``bulkhead: {adaptive: …, priority: …}`` stands before it, and twice as much is asked for as it can do, in the mean of
which two tenths are critical and four are low. What is printed: the limit, as the sidecar's metrics have it from ten
seconds after each change on; answers of what the app could give; p99 of what was answered, beside p99 at half the load;
and the share of each priority that was shed. It takes about a minute, and wants a quiet machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.page import table
from bench.processes import BenchError, Child
from sidecar.demo.ports import free_ports

SECONDS: Final = 0.05
MIX: Final = ("critical",) * 2 + ("normal",) * 4 + ("low",) * 4
#: Seconds until something has to be there.
PATIENCE: Final = 30.0

#: An app with slots: ``/`` takes one for some time, ``/slots/N`` changes their number, ``/served`` says how many
#: requests it did, and in how many slots together it worked at the end of each.
APP: Final = """
import asyncio, sys

class App:
    def __init__(self, slots, seconds):
        self.slots, self.seconds, self.busy, self.waiting = slots, seconds, 0, []
        self.served = self.together = 0

    async def work(self):
        if self.busy >= self.slots:
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn
        else:
            self.busy += 1
        await asyncio.sleep(self.seconds)
        self.served += 1
        self.together += self.busy
        self.busy -= 1
        self.more()

    def more(self):
        while self.waiting and self.busy < self.slots:
            self.busy += 1
            self.waiting.pop(0).set_result(None)

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\\r\\n\\r\\n")
                path = head.split(b" ", 2)[1].decode()
                if path == "/":
                    await self.work()
                elif path.startswith("/slots/"):
                    self.slots = int(path[7:])
                    self.more()
                body = b"%d %d" % (self.served, self.together)
                writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n%b" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

async def main():
    app = App(int(sys.argv[2]), float(sys.argv[3]))
    server = await asyncio.start_server(app.serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()

asyncio.run(main())
"""


class Answer(NamedTuple):
    """A request: when it began (seconds of the machine's clock), how long it took, its status, its priority."""

    began: float
    seconds: float
    status: int
    priority: str


class Clients:
    """Requests that come at random at ``rate`` per second, whatever became of those before; over kept connections."""

    def __init__(self, port: int, seed: int = 1) -> None:
        self.port = port
        self.answers: list[Answer] = []
        self._random = random.Random(seed)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self, rate: float, seconds: float) -> None:
        """Ask for so many per second, for so long."""
        now = time.monotonic()
        end = now + seconds
        while now < end:
            now += self._random.expovariate(rate)
            await asyncio.sleep(max(0.0, now - time.monotonic()))
            task = asyncio.create_task(self._ask(self._random.choice(MIX)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Wait for what is under way, and close the connections."""
        await asyncio.gather(*self._tasks)
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, priority: str) -> None:
        began = time.monotonic()
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET / HTTP/1.1\r\nhost: app\r\nx-priority: {priority}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        self._idle.append((reader, writer))
        self.answers.append(Answer(began, time.monotonic() - began, int(head[9:12]), priority))


class Mesh:
    """The app and its sidecar, as processes."""

    def __init__(self, folder: Path, slots: int, python: str = sys.executable) -> None:
        self.app, self.port, self.admin = free_ports(3)
        config = {
            "service": {"name": "app", "app": f"127.0.0.1:{self.app}"},
            "admin": {"bind": f"127.0.0.1:{self.admin}"},
            "inbound": {
                "bind": f"127.0.0.1:{self.port}",
                "bulkhead": {"adaptive": {"min": 4, "max": 1000}, "priority": "header:x-priority"},
            },
        }
        file = folder / "sidecar.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        self.children = [
            Child("app", [python, "-c", APP, str(self.app), str(slots), str(SECONDS)], None, folder / "app.log"),
            Child("sidecar", [python, "-m", "sidecar", "run", file], None, folder / "sidecar.log"),
        ]

    def ready(self) -> None:
        """Wait until both answer. Raises :class:`BenchError`."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.get(self.admin, "/ready")
                self.served()
                return
            except OSError as error:
                if time.monotonic() > end:
                    raise BenchError(f"the app or its sidecar does not answer: {error}") from error
                time.sleep(0.1)

    def end(self) -> None:
        for child in self.children:
            child.end()

    def get(self, port: int, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            body: bytes = answer.read()
        return body

    def served(self) -> int:
        """How many requests the app has done."""
        return int(self.get(self.app, "/served").split()[0])

    def together(self) -> int:
        """In how many slots it worked at the end of each, in all."""
        return int(self.get(self.app, "/served").split()[1])

    def resize(self, slots: int) -> None:
        """Give the app so many slots."""
        self.get(self.app, f"/slots/{slots}")

    def bulkhead(self) -> dict[str, Any]:
        """What the sidecar shows of its bulkhead."""
        found: dict[str, Any] = json.loads(self.get(self.admin, "/inbound"))["stats"]["filters"]["bulkhead"]
        return found


class Stage(NamedTuple):
    """What came of one number of slots, after the first ``skip`` seconds."""

    slots: int
    limits: Sequence[int]
    served: float
    p99: float
    shed: dict[str, float]


async def stage(mesh: Mesh, clients: Clients, slots: int, seconds: float, skip: float) -> Stage:
    """Ask for twice as much as the app can do with so many slots."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, mesh.resize, slots)
    load = asyncio.create_task(clients.load(2 * slots / SECONDS, seconds))
    await asyncio.sleep(skip)
    begin, before = time.monotonic(), await loop.run_in_executor(None, mesh.served)
    limits = []
    while not load.done():
        limits.append((await loop.run_in_executor(None, mesh.bulkhead))["limit"])
        await asyncio.sleep(0.25)
    took, after = time.monotonic() - begin, await loop.run_in_executor(None, mesh.served)
    await load
    answers = [it for it in clients.answers if it.began >= begin]
    asked = Counter(it.priority for it in answers)
    shed = Counter(it.priority for it in answers if it.status == 503)
    return Stage(
        slots,
        limits,
        (after - before) / took / (slots / SECONDS),
        p99(answers),
        {priority: shed[priority] / max(1, asked[priority]) for priority in ("critical", "normal", "low")},
    )


def p99(answers: Sequence[Answer]) -> float:
    """Of what was answered by the app."""
    times = sorted(it.seconds for it in answers if it.status == 200)
    return times[int(0.99 * len(times))] if times else 0.0


async def measure(mesh: Mesh, seconds: float = 17.0, skip: float = 10.0) -> tuple[float, list[Stage]]:
    """p99 at half the load, and three stages."""
    clients = Clients(mesh.port)
    await clients.load(0.5 * 8 / SECONDS, 5.0)
    baseline = p99(clients.answers)
    stages = [await stage(mesh, clients, slots, seconds, skip) for slots in (8, 16, 8)]
    await clients.end()
    return baseline, stages


def main() -> int:
    """Run it, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder), 8)
        try:
            mesh.ready()
            baseline, stages = asyncio.run(measure(mesh))
        finally:
            mesh.end()
    rows = [
        [
            str(it.slots),
            f"{sum(it.limits) / len(it.limits):.1f} ({min(it.limits)}–{max(it.limits)})",
            f"{it.served:.1%}",
            f"{it.p99 * 1000:.0f} ms ({it.p99 / baseline:.2f} ×)",
            *(f"{it.shed[priority]:.2%}" for priority in ("critical", "normal", "low")),
        ]
        for it in stages
    ]
    head = ["slots", "limit, from 10 s on", "done of what could be", "p99, of p99 at half the load"]
    print(table([*head, "critical shed", "normal shed", "low shed"], rows))
    print(f"\np99 at half the load: {baseline * 1000:.0f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
