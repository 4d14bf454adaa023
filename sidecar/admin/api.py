"""The admin HTTP API: the server around :mod:`sidecar.admin.routes`. Bounded, and never in the way of traffic."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sidecar import __version__
from sidecar.admin import guard, index, openapi
from sidecar.admin.routes import Api, NotKnown, Route, answer
from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from sidecar.admin.view import Running
    from sidecar.telemetry.logs import LogWriter

logger = logging.getLogger("sidecar.admin")

#: The largest body that anybody needs to send, bytes.
MAX_BODY = 4096


class AdminServer:
    """The running server. ``address`` is where it really listens."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self.address: tuple[str, int] = (host, port)

    async def close(self) -> None:
        """Stop, giving running requests a moment."""
        await self._runner.cleanup()


async def start_admin(running: Running, log: LogWriter) -> AdminServer:
    """Serve on ``admin.bind``. Raises :class:`OSError` when that cannot be bound."""
    api = Api(running, log, Metrics(running))
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_middleware(running)])

    async def document(request: web.Request) -> web.Response:
        return answer(openapi.document(routes))

    async def start_page(request: web.Request) -> web.Response:
        if "text/html" in request.headers.get("Accept", ""):
            return web.Response(text=index.page(running, routes, __version__), content_type="text/html")
        return answer(
            {
                "service": running.config.service.name,
                "phase": running.phase,
                "version": __version__,
                "endpoints": [f"{route.method} {route.path}" for route in routes],
            }
        )

    routes = (
        Route("GET", "/", "What there is: this list", start_page, {200: "JSON, or a page for a browser"}),
        *api.routes(),
        Route("GET", "/openapi.json", "This API's description", document, {200: "OpenAPI 3.1"}),
    )
    for route in routes:
        app.router.add_route(route.method, route.path, route.handler)
    # Scrapers keep their connections; everybody else has no reason to hold one for long.
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75.0, shutdown_timeout=1.0)
    await runner.setup()
    bind = running.config.admin.bind
    try:
        await web.TCPSite(runner, bind.host, bind.port, backlog=128).start()
    except OSError:
        await runner.cleanup()
        raise
    return AdminServer(runner)


def _middleware(running: Running) -> Any:
    @web.middleware
    async def explain(request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse what may not be, and give every error the same shape."""
        try:
            guard.check(running.config.admin, request.method, request.path, request.headers)
            response: web.StreamResponse = await handler(request)
            return response
        except guard.Refused as refused:
            response = answer({"error": refused.code, "message": str(refused)}, refused.status)
            if refused.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            return response
        except NotKnown as error:
            return answer({"error": "not_found", "message": str(error)}, 404)
        except web.HTTPException as error:
            response = answer({"error": _code(error.status), "message": error.reason}, error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return answer({"error": "internal", "message": "that failed; the log says why"}, 500)

    return explain


def _code(status: int) -> str:
    return {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(status, "bad_request")
