"""A limit that is found, and priorities, before a real app that is asked for more than it can do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.adaptive import Mesh
from support.patience import PATIENCE

SLOTS = 8
#: Connections of each, on which one request follows the other. What is critical fits into the slots.
CONNECTIONS = {"critical": 4, "normal": 10, "low": 26}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path, SLOTS)
    try:
        mesh.ready()
        yield mesh
    finally:
        mesh.end()


class Crowd:
    """Those connections. Who is refused asks again a little later."""

    def __init__(self, port: int) -> None:
        self.port = port
        #: (priority, status or the sidecar's own code) → how often.
        self.seen: Counter[tuple[str, str]] = Counter()
        self._over = False
        self._tasks = [asyncio.create_task(self._ask(name)) for name, n in CONNECTIONS.items() for _ in range(n)]

    async def end(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _ask(self, priority: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        request = f"GET / HTTP/1.1\r\nhost: app\r\nx-priority: {priority}\r\n\r\n".encode()
        while not self._over:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(int(head.partition("content-length:")[2].split("\r\n", 1)[0]))
            code = head.partition("x-sidecar-error: ")[2].split("\r\n", 1)[0] or head[9:12]
            self.seen[priority, code] += 1
            if code != "200":
                await asyncio.sleep(0.05)
        writer.close()

    def answered(self) -> int:
        return sum(n for (_, code), n in self.seen.items() if code == "200")


def test_the_limit_is_found_the_app_is_busy_and_what_is_critical_is_not_shed(mesh: Mesh) -> None:
    async def asked() -> None:
        loop = asyncio.get_running_loop()
        crowd = Crowd(mesh.port)
        before: Counter[tuple[str, str]] | None = None
        limits = []
        served = together = 0
        while crowd.answered() < (sum(n for (_, code), n in before.items() if code == "200") + 300 if before else 9e9):
            found = await loop.run_in_executor(None, mesh.bulkhead)
            limits.append(found["limit"])
            if before is None and found["limit"] <= SLOTS + 4:
                before = crowd.seen.copy()
                served, together = await loop.run_in_executor(None, lambda: (mesh.served(), mesh.together()))
            await asyncio.sleep(0.05)
        served = await loop.run_in_executor(None, mesh.served) - served
        together = await loop.run_in_executor(None, mesh.together) - together
        await crowd.end()
        assert before is not None
        seen = crowd.seen - before
        assert {code for _, code in seen} == {"200", "overloaded"}
        assert seen["critical", "overloaded"] == 0
        assert seen["low", "overloaded"] > 100
        assert limits[0] == 20
        assert min(limits) >= 4
        # While it was full, as it says itself: nearly all of its slots worked at the end of each request.
        assert together / served > 0.6 * SLOTS
        assert mesh.served() == crowd.answered(), "nothing was done for nobody"

    asyncio.run(asyncio.wait_for(asked(), PATIENCE))
    shown = mesh.bulkhead()
    assert shown["shed"]["critical"] == 0
    assert shown["in_flight"] == 0
    metrics = mesh.get(mesh.admin, "/metrics").decode()
    assert f'sidecar_concurrency_limit{{upstream="app"}} {float(shown["limit"])}' in metrics
    assert 'sidecar_shed_total{direction="inbound",priority="low",upstream="app"}' in metrics or (
        'sidecar_shed_total{direction="inbound",upstream="app",priority="low"}' in metrics
    )
    why = json.loads(mesh.get(mesh.admin, "/why?error=overloaded&limit=1"))
    assert "overloaded" in json.dumps(why)
