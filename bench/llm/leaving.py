"""How soon a slot is free again when its client leaves: while it waits, before the first byte, between two chunks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from bench.goals import Goal, quantile
from bench.llm.client import Client, prompt
from bench.llm.site import Server, Site, upstream
from bench.processes import BenchError
from bench.sidecars import PATIENCE, Running

GOAL: Final = 0.2


def told(what: str, seconds: Sequence[float]) -> Goal:
    """A row: the slowest counts."""
    found = f"{quantile(seconds, 0.5) * 1000:.0f} ms, at most {max(seconds) * 1000:.0f} ms ({len(seconds)} times)"
    return Goal(f"client leaves {what}: until its place is free", found, "≤ 200 ms", max(seconds) <= GOAL)


def measure(site: Site, times: int) -> Iterator[Goal]:
    """A row for each stage."""
    slow = site.server("leaving-server", slots=1, load=0, rate=1)  # a token a second
    loading = site.server("leaving-cold", slots=1, load=3600)
    sidecar = site.sidecar(
        "leaving-sidecar", slow=upstream(slow.port, slots=1), loading=upstream(loading.port, slots=1)
    )
    yield told("the queue", asyncio.run(_queue(sidecar, slow, times)))
    yield told("before the first byte", asyncio.run(_working(sidecar, "loading", loading, times, began=False)))
    yield told("between two chunks", asyncio.run(_working(sidecar, "slow", slow, times, began=True)))


async def _working(sidecar: Running, name: str, server: Server, times: int, *, began: bool) -> list[float]:
    """Until the server's slot is free."""
    found = []
    for _ in range(times):
        before = (await asked(server.port, "/bench"))["freed"]
        client = Client(sidecar.ports[name])
        reader = await client.send(prompt(500))
        if began:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"\n\r\n")
        else:
            await until(server.port, "/bench", lambda it: it["taken"] == 1)
        await asyncio.sleep(0.1)  # in the middle of it
        left = time.monotonic()
        client.close()
        after = await until(server.port, "/bench", lambda it, before=before: it["freed"] != before)
        found.append(after["freed"][-1] - left)
    return found


async def _queue(sidecar: Running, server: Server, times: int) -> list[float]:
    """Until the sidecar counts it no more. Nothing of it gets to the server, which is made sure of."""

    def waiting(it: Any) -> int:
        number: int = it["stats"]["filters"]["llm"]["waiting"]
        return number

    found = []
    path = "/upstreams/slow"
    async with Client(sidecar.ports["slow"]) as holder:
        await holder.send(prompt(500))
        await until(server.port, "/bench", lambda it: it["taken"] == 1)
        for _ in range(times):
            client = Client(sidecar.ports["slow"])
            await client.send(prompt())
            await until(sidecar.admin, path, lambda it: waiting(it) == 1)
            left = time.monotonic()
            client.close()
            await until(sidecar.admin, path, lambda it: waiting(it) == 0)
            found.append(time.monotonic() - left)
        came = sum((await asked(server.port, "/bench"))["asked"].values())
        if came != 1:
            raise BenchError(f"{came - 1} requests got to the server though their clients had left the queue")
    await until(server.port, "/bench", lambda it: it["taken"] == 0)
    return found


async def asked(port: int, path: str) -> Any:
    """A document from a port of this machine, over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
    data = await reader.read(-1)
    writer.close()
    return json.loads(data.partition(b"\r\n\r\n")[2])


async def until(port: int, path: str, condition: Any) -> Any:
    """Ask for a document until that is true of it."""
    end = time.monotonic() + PATIENCE
    while True:
        found = await asked(port, path)
        if condition(found):
            return found
        if time.monotonic() > end:
            raise BenchError(f"{path} does not come to what it should be: {found}")
        await asyncio.sleep(0.002)
