"""The admin HTTP API: the server around all operations. Bounded, and never in the way of traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson
from aiohttp import web

from sidecar import __version__
from sidecar.admin import auth, openapi
from sidecar.admin.commands import Commands
from sidecar.admin.connection_limit import Door
from sidecar.admin.dashboard import start_page
from sidecar.admin.dashboard.files import Files
from sidecar.admin.feed import Feed
from sidecar.admin.history import History
from sidecar.admin.mesh.operations import Api as MeshApi
from sidecar.admin.operations import Api
from sidecar.admin.schemas import SCHEMAS
from sidecar.admin.streams import Streams
from sidecar.core.address import Address
from sidecar.core.build import build, scanner
from sidecar.core.operations import Answer, Call, Contribution, NotKnown, Operation, Page
from sidecar.net.listen import Acceptor
from sidecar.resilience.token_bucket import TokenBucket

logger = logging.getLogger("sidecar.admin")
# aiohttp logs a traceback for every malformed request, so whoever can connect could fill the log with them. What fails
# in a handler never gets there: the middleware below logs it.
_malformed = logging.getLogger("sidecar.admin.malformed")
_malformed.setLevel(logging.CRITICAL)

#: The largest body that anybody needs to send, bytes; and how long it may take to come in, seconds.
MAX_BODY: Final = 4096
BODY_SECONDS: Final = 5.0
#: Scrapers, which come every 15 to 60 seconds, keep their connections.
KEEPALIVE_SECONDS: Final = 75.0

_NOWHERE: Final = "there is no such path; GET / lists what there is"
_CODES: Final = {
    405: ("method_not_allowed", "this path has other methods; see the Allow header"),
    413: (
        "too_large",
        f"a body may have {MAX_BODY} bytes at most (of POST /rehearse: 1 MiB)",
    ),
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


async def start_admin(
    commands: Commands, contributed: Sequence[Contribution], bind: Address, door: Door | None = None
) -> AdminServer:
    """Serve at ``bind``. Raises :class:`OSError` when that cannot be bound."""
    door = door or Door()
    return await serve(application(commands, contributed, door), bind, door)


async def serve(app: web.Application, bind: Address, door: Door) -> AdminServer:
    """Serve what ``app`` answers, to those whom the door lets in. Raises :class:`OSError`."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_malformed,
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=1.0,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    assert runner.server is not None
    door.server = runner.server
    try:
        acceptor = Acceptor(asyncio.get_running_loop(), door)
        await acceptor.start(bind.host, bind.port)
    except OSError:
        await runner.cleanup()
        raise
    return AdminServer(runner, acceptor, door, bind)


def application(commands: Commands, contributed: Sequence[Contribution], door: Door) -> web.Application:
    """Return what answers requests: the API's own operations, and those of other rooms. The door counts them."""

    async def document(call: Call) -> Answer:
        return Answer(openapi.document(operations, schemas))

    async def index(call: Call) -> Answer | Page:
        if "text/html" in call.accept:
            return start_page.page(commands, operations, __version__, await files.head())
        now = commands.snapshot()
        return Answer(
            {
                "service": now.service,
                "phase": now.phase,
                "version": __version__,
                "build": build(),
                "scanner": scanner(),
                "endpoints": [f"{operation.method} {operation.path}" for operation in operations],
            }
        )

    files, history = Files(), History(commands)
    own = (Feed(commands), history, MeshApi(commands, history.recent))
    contributed = (*(it.contribution() for it in own), *contributed, files.contribution())
    operations = (
        Operation("GET", "/", "What there is: this list", index, {200: "JSON, or a page for a browser"}, "Index",
                  pages=("text/html",)),
        *Api(commands).operations(),
        *(operation for it in contributed for operation in it.operations),
        Operation("GET", "/openapi.json", "This API's description", document, {200: "OpenAPI 3.1"}, "OpenApi"),
    )  # fmt: skip
    schemas = dict(SCHEMAS)
    for it in contributed:
        schemas |= it.schemas
    app = routed(operations, commands.access, door)
    app.on_startup.append(history.start)
    app.on_cleanup.append(history.stop)
    return app


def routed(
    operations: Sequence[Operation], access: Callable[[], auth.Access], door: Door, nowhere: str = _NOWHERE
) -> web.Application:
    """Return what answers these operations, and with ``nowhere`` for every other path. The door counts requests."""
    largest = {(it.method, it.path): it.largest for it in operations if it.largest}
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_middleware(access, door, nowhere, largest)])
    app.on_response_prepare.append(_common_headers)
    streams = Streams()
    app.on_shutdown.append(streams.end)
    for operation in operations:
        handler = _handler(operation, streams)
        if operation.method == "GET":
            app.router.add_get(operation.path, handler)  # HEAD comes with it
        else:
            app.router.add_route(operation.method, operation.path, handler)
    return app


def _handler(operation: Operation, streams: Streams) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        found = await operation.handler(
            Call(
                parts=request.match_info,
                query=tuple(request.query.items()),
                client=request.remote,
                accept=request.headers.get("Accept", ""),
                accept_encoding=request.headers.get("Accept-Encoding", ""),
                last_event_id=request.headers.get("Last-Event-ID", ""),
                read=partial(_body, request, operation.largest),
            )
        )
        if isinstance(found, Answer):
            return _json(found.data, found.status)
        if isinstance(found, Page):
            return web.Response(body=found.body, headers={"Content-Type": found.media, **found.headers})
        return await streams.send(request, found)

    return handle


async def _body(request: web.Request, largest: int) -> bytes:
    if largest:
        request = request.clone(client_max_size=largest)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def _json(data: Any, status: int = 200) -> web.Response:
    """JSON, readable for people too."""
    body = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)
    return web.Response(body=body, status=status, content_type="application/json")


def _refusal(status: int, code: str, message: str) -> web.Response:
    return _json({"error": code, "message": message}, status)


async def _common_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "sidecar"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"


def _asked(request: web.Request) -> dict[str, str | None]:
    """Who asked for what, for the log: somebody may be trying tokens, or a page may be trying its luck."""
    return {"client": request.remote, "method": request.method, "path": request.path[:80]}


def _middleware(
    access: Callable[[], auth.Access], door: Door, nowhere: str, largest: Mapping[tuple[str, str], int]
) -> Any:
    codes = _CODES | {404: ("not_found", nowhere)}
    lines = TokenBucket(0.1, 10, time.monotonic())

    @web.middleware
    async def explain(request: web.Request, handler: Any) -> web.StreamResponse:
        """Refuse what may not be, and give every error the same shape."""
        door.spoke(request.protocol)
        if not door.admits(request.protocol, _is_probe(request.path)):
            response = _refusal(503, "overloaded", "too many requests at once")
            response.force_close()
            return response
        try:
            auth.check(access(), request.method, request.path, request.headers)
            most = largest.get((request.method, request.path), MAX_BODY)
            if (request.content_length or 0) > most:
                raise web.HTTPRequestEntityTooLarge(most, request.content_length or 0)
            found: web.StreamResponse = await handler(request)
            return found
        except auth.Refused as refused:
            level = logging.DEBUG if lines.take(time.monotonic()) else logging.WARNING
            logger.log(level, "refused: %s", refused.code, extra=_asked(request))
            response = _refusal(refused.status, refused.code, str(refused))
            if refused.status == 401:
                response.headers["WWW-Authenticate"] = 'Bearer realm="sidecar"'
            return response
        except NotKnown as error:
            return _refusal(404, "not_found", str(error))
        except web.HTTPException as error:
            response = _refusal(error.status, *codes.get(error.status, ("bad_request", error.reason)))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return _refusal(500, "internal", "that failed; the log says why")
        finally:
            door.answered(request.protocol)

    return explain


def _is_probe(path: str) -> bool:
    """Whether that is asked for by whoever runs the workload, to see whether it is well."""
    return path in ("/ready", "/health", "/metrics") or (path.startswith("/health/") and path[8:12] != "deep")
