"""A paced HTTP load over raw sockets, which remembers every answer."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

from support.patience import PATIENCE, until


@dataclass
class Answer:
    """One exchange as the client saw it; ``status`` 0: none, and ``error`` says why."""

    at: float
    seconds: float
    status: int
    name: str = ""
    error: str = ""


@dataclass
class Load:
    """``rate`` GETs per second over ``connections`` kept connections, until :meth:`stop`."""

    port: int
    rate: float
    connections: int = 20
    path: str = "/who"
    answers: list[Answer] = field(default_factory=list)

    def start(self) -> None:
        self._stopping = False
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self.connections)]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def errors(self) -> list[Answer]:
        """Whatever was not a 200."""
        return [answer for answer in self.answers if answer.status != 200]

    async def more(self, count: int) -> float:
        """Wait until so many of those that begin from now on are answered. What it is now, on the monotonic clock."""
        now, known = time.monotonic(), len(self.answers)
        await until(lambda: sum(it.at >= now for it in self.answers[known:]) >= count, f"{count} more are answered")
        return now

    def names(self, since: float = 0.0) -> set[str]:
        """Who answered since then."""
        return {answer.name for answer in self.answers if answer.at >= since and answer.name}

    async def _client(self, number: int) -> None:
        interval = self.connections / self.rate
        due = time.monotonic() + interval * number / self.connections
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopping:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += interval
            begun = time.monotonic()
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self.port)
                status, name, keep = await asyncio.wait_for(self._exchange(*streams), PATIENCE)
                self.answers.append(Answer(begun, time.monotonic() - begun, status, name))
                if not keep:
                    streams[1].close()
                    streams = None
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.answers.append(Answer(begun, time.monotonic() - begun, 0, error=repr(error)))
                if streams is not None:
                    streams[1].close()
                    streams = None
        if streams is not None:
            streams[1].close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, str, bool]:
        writer.write(b"GET %b HTTP/1.1\r\nHost: load\r\n\r\n" % self.path.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        size = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        status = int(head.split(b" ", 2)[1])
        return status, str(body.get("name", "")), b"connection: close" not in lower
