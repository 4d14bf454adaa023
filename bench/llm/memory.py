"""How much a prompt of 50 MiB takes of the sidecar's memory, when the server reads it slowly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from bench.goals import Goal
from bench.llm.client import head
from bench.llm.site import Site, upstream
from bench.processes import BenchError
from bench.sidecars import PATIENCE, Running
from sidecar.demo.ports import free_ports

SIZE: Final = 50 << 20
#: What the server reads at once, and how many seconds it takes for that.
PIECE: Final = 1 << 16
PAUSE: Final = 0.008
#: Of growth. It keeps ``max_body`` (1 MiB) of it, to look into it and to send it again, and some buffers.
GOAL: Final = 8 << 20


def mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def row(before: int, most: int, seconds: float) -> Goal:
    """``before`` and ``most``: resident bytes."""
    grown = most - before
    return Goal(
        f"memory under a prompt of {mib(SIZE)}, read in {seconds:.0f} s",
        f"{mib(before)}, at most {mib(most)} meanwhile: {mib(grown)} more", f"≤ {mib(GOAL)} more", grown <= GOAL,
    )  # fmt: skip


def measure(site: Site) -> Iterator[Goal]:
    """A row."""
    (port,) = free_ports(1)
    sidecar = site.sidecar("memory-sidecar", large=upstream(port))
    yield row(*asyncio.run(_run(sidecar, port)))


async def _run(sidecar: Running, port: int) -> tuple[int, int, float]:
    took = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal took
        try:
            while True:
                text = (await reader.readuntil(b"\r\n\r\n")).lower()
                left = length = int(text.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                while left and (data := await reader.read(min(left, PIECE))):
                    left -= len(data)
                    took += len(data) if length >= SIZE else 0
                    await asyncio.sleep(PAUSE if length >= SIZE else 0)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port, limit=PIECE):
        await _ask(sidecar, 1 << 20)  # what the first request alone costs, is not the prompt's doing
        before, began = sidecar.process.memory().rss, time.monotonic()
        asked = asyncio.create_task(_ask(sidecar, SIZE))
        most = before
        while not asked.done():
            most = max(most, sidecar.process.memory().rss)
            await asyncio.sleep(0.05)
        await asked
        if took < SIZE:
            raise BenchError(f"the server got {took} of {SIZE} bytes")
        return before, most, time.monotonic() - began


async def _ask(sidecar: Running, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.ports["large"])
    begin, end = b'{"model": "llama3.2", "prompt": "', b'"}'
    writer.write(head(size) + begin)
    left = size - len(begin) - len(end)
    async with asyncio.timeout(PATIENCE):
        while left:
            piece = min(left, PIECE)
            writer.write(b"x" * piece)
            await writer.drain()
            left -= piece
        writer.write(end)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    writer.close()
    if status != b"200":
        raise BenchError(f"a prompt of {size} bytes is answered with {status.decode()}")
