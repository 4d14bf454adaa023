"""What tests of queued requests do over and over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from sidecar.core.instance import Instance
from sidecar.http_queue.database import Database
from sidecar.http_queue.record import Found, Request
from sidecar.http_queue.settings import QueueSettings
from sidecar.http_queue.store import Store
from sidecar.storage.errors import SpoolError
from support.plane import Answer, Peer, Plane, run
from support.processes import free_port

POST = b"POST /tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
OK = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-App: yes\r\n\r\nok"


def queued(path: Path, **more: Any) -> dict[str, Any]:
    settings = {"queue": QueueSettings(path=str(path), **more), "retry": None, "circuit_breaker": None}
    return settings


def away(plane: Plane) -> None:
    plane.listener.cluster.update([Instance(host="127.0.0.1", port=free_port())])


def back(plane: Plane) -> None:
    plane.listener.cluster.update([Instance(host="127.0.0.1", port=plane.upstream.port)])


async def ask(client: Peer, path: str, method: str = "GET") -> Answer:
    client.send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return await client.answer(method)


async def post(client: Peer, head: bytes = POST, body: bytes = b"hello") -> Answer:
    client.send(head + b"\r\n" + body)
    return await client.answer("POST")


async def finished(client: Peer, location: str) -> dict[str, Any]:
    """The status, once it is an end."""
    while True:
        answer = await ask(client, location)
        assert answer.status == 200, answer
        status: dict[str, Any] = json.loads(answer.body)
        if status["status"] in ("done", "failed"):
            return status


def says(answer: Answer, status: int, code: str) -> bool:
    """An error of the sidecar's own, as all of them are."""
    body = json.loads(answer.body)
    assert body["message"]
    assert body["upstream"]
    assert body["request_id"] == answer.fields["x-request-id"]
    return answer.status == status and body["error"] == answer.fields["x-sidecar-error"] == code


def outcomes(plane: Plane) -> dict[str, int]:
    assert plane.stats.queue is not None
    return dict(plane.stats.queue.outcomes)


def put(one: Request, database: Database) -> Found | None:
    """As a job of a store."""
    return database.put(one)


class Held:
    """A store in the hands of a test."""

    def __init__(self, folder: Path, max_outcomes: int = 1 << 30) -> None:
        self.database = Database(folder, "up~queue", max_outcomes, lambda: 3.0)
        self.store = Store(self.database, asyncio.get_running_loop())

    async def do(self, work: Callable[[Database], Any]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: SpoolError | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.store.submit(work, done)
        return await future

    async def put(self, *requests: Request) -> None:
        assert await asyncio.gather(*(self.do(partial(put, one)) for one in requests)) == [None for _ in requests]

    async def bodies(self, lane: str = "") -> list[bytes]:
        found, _ = await self.do(lambda it: it.fetch(lane, 0, 1000, 1 << 30))
        return [it.body for it in found]


def holding(folder: Path, test: Callable[[Held], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        held = Held(folder, **settings)
        held.store.open()
        try:
            await test(held)
        finally:
            await held.store.close()

    run(main())
