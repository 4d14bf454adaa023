"""The admin HTTP API: the server around all operations. Bounded, and never in the way of traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson

from sidecar import __version__
from sidecar.admin import auth, openapi
from sidecar.admin.commands import Commands
from sidecar.admin.connection import Connection, Response, Server
from sidecar.admin.connection_limit import Door
from sidecar.admin.dashboard.files import Files
from sidecar.admin.feed import Feed
from sidecar.admin.history import History
from sidecar.admin.mesh.operations import Api as MeshApi
from sidecar.admin.operations import Api
from sidecar.admin.request import Request, TooLarge
from sidecar.admin.routes import Routes
from sidecar.admin.schemas import SCHEMAS
from sidecar.admin.streams import Streams
from sidecar.core.address import Address
from sidecar.core.build import facts
from sidecar.core.operations import Answer, Call, Contribution, NotKnown, Operation, Page
from sidecar.core.replies import ProtocolError
from sidecar.net.listen import Acceptor
from sidecar.resilience.token_bucket import TokenBucket

logger = logging.getLogger("sidecar.admin")
#: The largest body that anybody needs to send, bytes; and how long it may take to come in, seconds.
MAX_BODY: Final = 4096
BODY_SECONDS: Final = 5.0
#: How long running requests may take when it ends.
SHUTDOWN_SECONDS: Final = 1.0

_NOWHERE: Final = "there is no such path; GET / lists what there is"
_OTHER_METHODS: Final = "this path has other methods; see the Allow header"
_TOO_LARGE: Final = f"a body may have {MAX_BODY} bytes at most (of POST /rehearse: 1 MiB)"
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="sidecar"'}
_NONE: Final[Mapping[str, str]] = {}


class _Late(Exception):
    """The body did not come in time."""


def _nothing() -> None:
    pass


class AdminServer:
    """The running server. ``address`` is where it really listens."""

    def __init__(self, application: Application, acceptor: Acceptor, door: Door, bind: Address) -> None:
        self._application = application
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
        self._application.streams.end()
        await self._application.server.close(SHUTDOWN_SECONDS)
        self._application.stop()


async def start_admin(
    commands: Commands, contributed: Sequence[Contribution], bind: Address, door: Door | None = None
) -> AdminServer:
    """Serve at ``bind``. Raises :class:`OSError` when that cannot be bound."""
    door = door or Door()
    return await serve(application(commands, contributed, door), bind, door)


async def serve(app: Application, bind: Address, door: Door) -> AdminServer:
    """Serve what ``app`` answers, to those whom the door lets in. Raises :class:`OSError`."""
    door.server = app.server
    acceptor = Acceptor(asyncio.get_running_loop(), door)
    await acceptor.start(bind.host, bind.port)
    app.start()
    return AdminServer(app, acceptor, door, bind)


def application(commands: Commands, contributed: Sequence[Contribution], door: Door) -> Application:
    """Return what answers requests: the API's own operations, and those of other rooms. The door counts them."""

    async def document(call: Call) -> Answer:
        return Answer(openapi.document(operations, schemas))

    async def index(call: Call) -> Answer | Page:
        if "text/html" in call.accept:
            from sidecar.admin.dashboard import start_page  # browsers are rare

            return start_page.page(commands, operations, __version__, await files.head())
        now = commands.snapshot()
        return Answer(
            {
                "service": now.service,
                "phase": now.phase,
                "version": __version__,
                **facts(),
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
    return Application(operations, commands.access, door, start=history.start, stop=history.stop)


class Application:
    """Answers these operations, and with ``nowhere`` for every other path. The door counts requests; ``start`` and
    ``stop`` are called when it begins to serve and when it has ended."""

    def __init__(
        self,
        operations: Sequence[Operation],
        access: Callable[[], auth.Access],
        door: Door,
        nowhere: str = _NOWHERE,
        start: Callable[[], None] = _nothing,
        stop: Callable[[], None] = _nothing,
    ) -> None:
        self.streams = Streams()
        self.server = Server(self._answer, _malformed, self._largest)
        self.start = start
        self.stop = stop
        self.routes = Routes(operations)
        self._large = {(it.method, it.path): it.largest for it in operations if it.largest}
        self._access = access
        self._door = door
        self._nowhere = nowhere
        self._lines = TokenBucket(0.1, 10, time.monotonic())

    def _largest(self, method: str, path: str) -> int:
        return self._large.get((method, path), MAX_BODY)

    async def _answer(self, connection: Connection, request: Request) -> None:
        """Refuse what may not be, and give every error the same shape."""
        self._door.spoke(connection)
        try:
            response = await self._response(connection, request)
            if response is not None and connection.begun:
                connection.abort()  # a stream has failed; it is not over, and another head would pass for a piece of it
            elif response is not None:
                connection.send(request, response)
        except ConnectionError:
            pass  # whoever asked has left
        finally:
            self._door.answered(connection)

    async def _response(self, connection: Connection, request: Request) -> Response | None:
        """None: it was a stream, and has been sent."""
        if not self._door.admits(connection, _is_probe(request.path)):
            return _refusal(503, "overloaded", "too many requests at once", last=True)
        try:
            auth.check(self._access(), request.method, request.path, request.headers)
            return await self._handled(connection, request)
        except auth.Refused as refused:
            level = logging.DEBUG if self._lines.take(time.monotonic()) else logging.WARNING
            logger.log(level, "refused: %s", refused.code, extra=_asked(request))
            return _refusal(refused.status, refused.code, str(refused), _CHALLENGE if refused.status == 401 else {})
        except NotKnown as error:
            return _refusal(404, "not_found", str(error))
        except TooLarge:
            return _refusal(413, "too_large", _TOO_LARGE)
        except _Late:
            return _refusal(408, "bad_request", "the body did not come in time")
        except ProtocolError as error:
            return _refusal(400, "bad_request", str(error))
        except Exception as error:
            if connection.gone and isinstance(error, ConnectionError):
                raise  # any other is of somebody whom the handler has asked
            logger.exception("%s %s failed", request.method, request.path)
            return _refusal(500, "internal", "that failed; the log says why")

    async def _handled(self, connection: Connection, request: Request) -> Response | None:
        if request.length > request.most:
            raise TooLarge
        operation, parts, allowed = self.routes.find(request.method, request.parts)
        if operation is None:
            if allowed:
                return _refusal(405, "method_not_allowed", _OTHER_METHODS, {"Allow": ",".join(allowed)})
            return _refusal(404, "not_found", self._nowhere)
        found = await operation.handler(
            Call(
                parts=parts,
                query=tuple(request.query),
                client=request.client,
                accept=request.headers.get("Accept", ""),
                accept_encoding=request.headers.get("Accept-Encoding", ""),
                last_event_id=request.headers.get("Last-Event-ID", ""),
                read=partial(_body, connection, request),
            )
        )
        if isinstance(found, Answer):
            return _json(found.data, found.status)
        if isinstance(found, Page):
            return Response(200, found.body, {"Content-Type": found.media, **found.headers})
        await self.streams.send(connection, request, found)
        return None


async def _body(connection: Connection, request: Request) -> bytes:
    connection.go_on(request)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise _Late from None


def _malformed(error: ProtocolError) -> Response:
    # No line of the log: whoever can connect could fill it.
    return _refusal(431 if error.code == "headers_too_large" else 400, "bad_request", str(error))


def _json(data: Any, status: int = 200, headers: Mapping[str, str] = _NONE, last: bool = False) -> Response:
    """JSON, readable for people too."""
    body = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)
    return Response(status, body, {"Content-Type": "application/json", **headers}, last)


def _refusal(status: int, code: str, message: str, headers: Mapping[str, str] = _NONE, last: bool = False) -> Response:
    return _json({"error": code, "message": message}, status, headers, last)


def _asked(request: Request) -> dict[str, str | None]:
    """Who asked for what, for the log: somebody may be trying tokens, or a page may be trying its luck."""
    return {"client": request.client, "method": request.method, "path": request.path[:80]}


def _is_probe(path: str) -> bool:
    """Whether that is asked for by whoever runs the workload, to see whether it is well."""
    return path in ("/ready", "/health", "/metrics") or (path.startswith("/health/") and path[8:12] != "deep")
