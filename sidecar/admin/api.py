"""The admin HTTP API: the server around :mod:`sidecar.admin.routes`. Bounded, and never in the way of traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from sidecar import __version__
from sidecar.admin import auth, dead_letters, openapi
from sidecar.admin import start_page as index
from sidecar.admin.connection_limit import Door
from sidecar.admin.routes import Api, NotKnown, Route, answer
from sidecar.net.listen import Acceptor
from sidecar.resilience.token_bucket import TokenBucket
from sidecar.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from sidecar.admin.view import Running
    from sidecar.config.model import Address
    from sidecar.telemetry.logs import LogWriter

logger = logging.getLogger("sidecar.admin")
# aiohttp logs a traceback for every malformed request, so whoever can connect could fill the log with them. What fails
# in a handler never gets there: the middleware below logs it.
_malformed = logging.getLogger("sidecar.admin.malformed")
_malformed.setLevel(logging.CRITICAL)

#: The largest body that anybody needs to send, bytes.
MAX_BODY: Final = 4096
#: Scrapers, which come every 15 to 60 seconds, keep their connections.
KEEPALIVE_SECONDS: Final = 75.0

_CODES: Final = {
    404: ("not_found", "there is no such path; GET / lists what there is"),
    405: ("method_not_allowed", "this path has other methods; see the Allow header"),
    413: ("too_large", f"a body may have {MAX_BODY} bytes at most"),
}


class AdminServer:
    """The running server. ``address`` is where it really listens."""

    def __init__(self, runner: web.AppRunner, acceptor: Acceptor, door: Door, bind: Address) -> None:
        self._runner = runner
        self._acceptor = acceptor
        self._door = door
        host, port = acceptor.sockets[0].getsockname()[:2]
        if bind.host == "::":
            host = bind.host  # it has sockets of both families
        self.address: tuple[str, int] = (host, port)

    async def close(self) -> None:
        """Stop, giving running requests a moment."""
        self._acceptor.close()
        self._door.close()
        await self._runner.cleanup()


async def start_admin(running: Running, log: LogWriter, door: Door | None = None) -> AdminServer:
    """Serve on ``admin.bind``. Raises :class:`OSError` when that cannot be bound."""
    door = door or Door()
    runner = web.AppRunner(
        _application(running, log, door),
        access_log=None,
        logger=_malformed,
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=1.0,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    assert runner.server is not None
    door.server = runner.server
    bind = running.config.admin.bind
    try:
        acceptor = Acceptor(asyncio.get_running_loop(), door)
        await acceptor.start(bind.host, bind.port)
    except OSError:
        await runner.cleanup()
        raise
    return AdminServer(runner, acceptor, door, bind)


def _application(running: Running, log: LogWriter, door: Door) -> web.Application:
    async def document(request: web.Request) -> web.Response:
        return answer(openapi.document(routes))

    async def start_page(request: web.Request) -> web.Response:
        if "text/html" in request.headers.get("Accept", ""):
            page = web.Response(text=index.page(running, routes, __version__), content_type="text/html")
            # The last three do not follow default-src.
            page.headers["Content-Security-Policy"] = (
                "default-src 'none'; style-src 'unsafe-inline'; "
                "frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
            )
            return page
        return answer(
            {
                "service": running.config.service.name,
                "phase": running.phase,
                "version": __version__,
                "endpoints": [f"{route.method} {route.path}" for route in routes],
            }
        )

    routes = (
        Route("GET", "/", "What there is: this list", start_page, {200: "JSON, or a page for a browser"}, "Index",
              pages=("text/html",)),
        *Api(running, log, Metrics(running)).routes(),
        *dead_letters.Api(running).routes(),
        Route("GET", "/openapi.json", "This API's description", document, {200: "OpenAPI 3.1"}, "OpenApi"),
    )  # fmt: skip
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_middleware(running, door)])
    app.on_response_prepare.append(_common_headers)
    for route in routes:
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)  # HEAD comes with it
        else:
            app.router.add_route(route.method, route.path, route.handler)
    return app


async def _common_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "sidecar"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"


def _asked(request: web.Request) -> dict[str, str | None]:
    """Who asked for what, for the log: somebody may be trying tokens, or a page may be trying its luck."""
    return {"client": request.remote, "method": request.method, "path": request.path[:80]}


def _middleware(running: Running, door: Door) -> Any:
    lines = TokenBucket(0.1, 10, time.monotonic())

    @web.middleware
    async def explain(request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse what may not be, and give every error the same shape."""
        door.spoke(request.protocol)
        if not door.admits(request.protocol, _is_probe(request.path)):
            response = answer({"error": "overloaded", "message": "too many requests at once"}, 503)
            response.force_close()
            return response
        try:
            auth.check(running.config.admin, request.method, request.path, request.headers)
            if (request.content_length or 0) > MAX_BODY:
                raise web.HTTPRequestEntityTooLarge(MAX_BODY, request.content_length or 0)
            found: web.StreamResponse = await handler(request)
            return found
        except auth.Refused as refused:
            level = logging.DEBUG if lines.take(time.monotonic()) else logging.WARNING
            logger.log(level, "refused: %s", refused.code, extra=_asked(request))
            response = answer({"error": refused.code, "message": str(refused)}, refused.status)
            if refused.status == 401:
                response.headers["WWW-Authenticate"] = 'Bearer realm="sidecar"'
            return response
        except NotKnown as error:
            return answer({"error": "not_found", "message": str(error)}, 404)
        except web.HTTPException as error:
            code, message = _CODES.get(error.status, ("bad_request", error.reason))
            response = answer({"error": code, "message": message}, error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return answer({"error": "internal", "message": "that failed; the log says why"}, 500)
        finally:
            door.answered(request.protocol)

    return explain


def _is_probe(path: str) -> bool:
    """Whether that is asked for by whoever runs the workload, to see whether it is well."""
    return path in ("/ready", "/health", "/metrics") or (path.startswith("/health/") and path[8:12] != "deep")
