"""The admin HTTP API: the server around all operations. Bounded, and never in the way of traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from sidecar import __version__
from sidecar.admin import auth, openapi, start_page
from sidecar.admin.commands import Commands
from sidecar.admin.connection import MAX_BODY
from sidecar.admin.connection_limit import Door
from sidecar.admin.feed import Feed
from sidecar.admin.message import Gone, Reply, Request, Unreadable
from sidecar.admin.operations import Api
from sidecar.admin.routing import NoMethod, NoPath, Routing
from sidecar.admin.schemas import SCHEMAS
from sidecar.core.address import Address
from sidecar.core.operations import Answer, Call, Contribution, NotKnown, Operation, Page
from sidecar.net.listen import Acceptor
from sidecar.resilience.token_bucket import TokenBucket

logger = logging.getLogger("sidecar.admin")

#: How long a body may take to come in, seconds.
BODY_SECONDS: Final = 5.0
#: Fields behind a path's question mark, at most.
MAX_QUERY: Final = 100

_NOWHERE: Final = "there is no such path; GET / lists what there is"


class AdminServer:
    """The running server. ``address`` is where it really listens."""

    def __init__(self, acceptor: Acceptor, door: Door, bind: Address) -> None:
        self._acceptor = acceptor
        self._door = door
        host, port = acceptor.sockets[0].getsockname()[:2]
        if bind.host == "::":
            host = bind.host  # it has sockets of both families
        self.address: tuple[str, int] = (host, port)

    async def close(self) -> None:
        """Stop, giving running requests a moment."""
        self._acceptor.close()
        await self._door.close()


async def start_admin(
    commands: Commands, contributed: Sequence[Contribution], bind: Address, door: Door | None = None
) -> AdminServer:
    """Serve at ``bind``. Raises :class:`OSError` when that cannot be bound."""
    door = door or Door()
    return await serve(application(commands, contributed, door), bind, door)


async def serve(site: Site, bind: Address, door: Door) -> AdminServer:
    """Serve what ``site`` answers, to those whom the door lets in. Raises :class:`OSError`."""
    door.serve = site
    acceptor = Acceptor(asyncio.get_running_loop(), door)
    await acceptor.start(bind.host, bind.port)
    return AdminServer(acceptor, door, bind)


def application(commands: Commands, contributed: Sequence[Contribution], door: Door) -> Site:
    """Return what answers requests: the API's own operations, and those of other rooms. The door counts them."""

    async def document(call: Call) -> Answer:
        return Answer(openapi.document(operations, schemas))

    async def index(call: Call) -> Answer | Page:
        if "text/html" in call.accept:
            return start_page.page(commands, operations, __version__)
        now = commands.snapshot()
        return Answer(
            {
                "service": now.service,
                "phase": now.phase,
                "version": __version__,
                "endpoints": [f"{operation.method} {operation.path}" for operation in operations],
            }
        )

    contributed = (Feed(commands).contribution(), *contributed)
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
    return routed(operations, commands.access, door)


def routed(
    operations: Sequence[Operation], access: Callable[[], auth.Access], door: Door, nowhere: str = _NOWHERE
) -> Site:
    """Return what answers these operations, and with ``nowhere`` for every other path. The door counts requests."""
    return Site(operations, access, door, nowhere)


class Site:
    """Answers requests: refuses what may not be, and gives every error the same shape."""

    def __init__(
        self, operations: Sequence[Operation], access: Callable[[], auth.Access], door: Door, nowhere: str
    ) -> None:
        self.operations = operations
        self._routing = Routing(operations)
        self._access = access
        self._door = door
        self._nowhere = nowhere
        self._lines = TokenBucket(0.1, 10, time.monotonic())

    async def __call__(self, request: Request) -> Reply:
        door = self._door
        door.spoke(request.connection)
        if not door.admits(request.connection, _is_probe(request.path)):
            return _refusal(503, "overloaded", "too many requests at once", close=True)
        try:
            return await self._answer(request)
        except auth.Refused as refused:
            level = logging.DEBUG if self._lines.take(time.monotonic()) else logging.WARNING
            logger.log(level, "refused: %s", refused.code, extra=_asked(request))
            more = {"WWW-Authenticate": 'Bearer realm="sidecar"'} if refused.status == 401 else {}
            return _refusal(refused.status, refused.code, str(refused), more)
        except NotKnown as error:
            return _refusal(404, "not_found", str(error))
        except NoPath:
            return _refusal(404, "not_found", self._nowhere)
        except NoMethod as error:
            text = "this path has other methods; see the Allow header"
            return _refusal(405, "method_not_allowed", text, {"Allow": ",".join(error.allowed)})
        except Unreadable as error:
            return _refusal(error.status, error.code, str(error))
        except Gone:
            return _refusal(400, "bad_request", "the body has not come")  # to nobody
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return _refusal(500, "internal", "that failed; the log says why")

    async def _answer(self, request: Request) -> Reply:
        auth.check(self._access(), request.method, request.path, request.field)
        if request.length > MAX_BODY:
            raise Unreadable(413, "too_large", f"a body may have {MAX_BODY} bytes at most")
        operation, parts = self._routing.find(request.method, request.parts)
        found = await operation.handler(
            Call(
                parts=parts,
                query=_query(request.query),
                client=request.connection.client,
                accept=request.field("accept") or "",
                last_event_id=request.field("last-event-id") or "",
                read=lambda: _body(request),
            )
        )
        if isinstance(found, Answer):
            return _json(found.data, found.status)
        if isinstance(found, Page):
            return Reply(200, found.media, found.body, found.headers)
        return Reply(200, found.media, stream=found)


def _query(text: str) -> Sequence[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY)
    except ValueError:
        raise Unreadable(400, "bad_request", f"there are more than {MAX_QUERY} fields behind the path") from None


async def _body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.connection.body()
    except TimeoutError:
        raise Unreadable(408, "bad_request", "the body has not come in time") from None


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None, *, close: bool = False) -> Reply:
    """JSON, readable for people too."""
    body = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)
    return Reply(status, "application/json", body, headers or {}, close=close)


def _refusal(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, *, close: bool = False
) -> Reply:
    return _json({"error": code, "message": message}, status, headers, close=close)


def _asked(request: Request) -> dict[str, str | None]:
    """Who asked for what, for the log: somebody may be trying tokens, or a page may be trying its luck."""
    return {"client": request.connection.client, "method": request.method, "path": request.path[:80]}


def _is_probe(path: str) -> bool:
    """Whether that is asked for by whoever runs the workload, to see whether it is well."""
    return path in ("/ready", "/health", "/metrics") or (path.startswith("/health/") and path[8:12] != "deep")
