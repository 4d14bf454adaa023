"""What tests of queued requests do over and over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sidecar.config import model
from sidecar.registry.api import Instance
from support.plane import Answer, Peer, Plane
from support.processes import free_port

POST = b"POST /tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
OK = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-App: yes\r\n\r\nok"


def queued(path: Path, **more: Any) -> dict[str, Any]:
    settings = {"queue": model.Queue(path=str(path), **more), "retry": None, "circuit_breaker": None}
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
