"""An HTTP port at 127.0.0.1 until SIGTERM. What is under way is finished first."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from examples.common.context import log


class Refused(Exception):
    """An answer other than the one that was asked for."""

    def __init__(self, status: int, code: str, message: str, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.document = {"error": code, "message": message, **more}


@web.middleware
async def refusing(request: web.Request, handler: Any) -> web.StreamResponse:
    """Say what was refused as JSON."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except Refused as refusal:
        return web.json_response(refusal.document, status=refusal.status)


async def document_of(request: web.Request) -> dict[str, Any]:
    """The JSON object in a request's body; an empty body is an empty one."""
    return object_of(await request.read())


def object_of(body: bytes) -> dict[str, Any]:
    """The JSON object in a body."""
    try:
        found = json.loads(body or b"{}")
    except ValueError as error:
        raise Refused(400, "bad_request", f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "bad_request", "the body is not a JSON object")
    return found


def metrics_at(app: web.Application, registry: CollectorRegistry) -> None:
    """``GET /metrics``."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    app.router.add_get("/metrics", metrics)


async def serve(app: web.Application, port: int, *, cancelling: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. ``on_shutdown`` of the app runs when nothing new is accepted, ``on_cleanup`` when
    the last answer has gone. ``cancelling``: what a client asked for is given up once it has left."""
    asked = asyncio.Event()
    for it in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(it, asked.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=20, handler_cancellation=cancelling)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=128).start()
        log("serving", {}, port=port)
        await asked.wait()
    finally:
        await runner.cleanup()
    log("ended", {})
