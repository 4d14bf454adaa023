"""The admin server around a fake sidecar, and aiohttp's test client for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import aiohttp
import orjson
import pytest
from aiohttp.test_utils import BaseTestServer, TestClient
from yarl import URL

from sidecar.admin.connection_limit import Door
from sidecar.admin.server import AdminServer, start_admin
from sidecar.agent import admin as handed
from sidecar.agent.lifecycle import Agent
from sidecar.telemetry.logs import LogWriter
from support.running import FakeRunning

TIMEOUT = aiohttp.ClientTimeout(total=60)


class Reply(NamedTuple):
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"].startswith("application/json"), self.headers["Content-Type"]
        return orjson.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of an error, whose shape is checked."""
        assert self.json.keys() >= {"error", "message"}
        assert self.json["message"]
        return self.status, self.json["error"]


class Levels:
    """As much of a log writer as the admin API uses."""

    def __init__(self) -> None:
        self.level = "info"

    def set_level(self, name: str) -> None:
        if name not in ("debug", "info", "warning", "error"):
            raise ValueError(f"no such level: {name[:40]!r}")
        self.level = name


class Served(BaseTestServer):
    """The admin server itself. One of aiohttp's own would have neither its limits nor its way to listen."""

    def __init__(self, of: FakeRunning, door: Door | None = None) -> None:
        super().__init__()
        self.levels = Levels()
        self._of = of
        self._door = door
        self._admin: AdminServer | None = None

    @property
    def address(self) -> tuple[str, int]:
        assert self._admin is not None
        return self._admin.address

    async def start_server(self, loop: asyncio.AbstractEventLoop | None = None, **_: Any) -> None:
        agent, log = cast(Agent, self._of), cast(LogWriter, self.levels)
        bind = self._of.config.admin.bind
        self._admin = await start_admin(handed.commands(agent, log), handed.contributed(agent), bind, self._door)
        host, port = self._admin.address
        self._root = URL.build(scheme="http", host=host, port=port)

    async def _make_runner(self, **_: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        server, self._admin = self._admin, None
        if server is not None:
            await server.close()


class Client:
    """Asks one server."""

    def __init__(self, served: Served, client: TestClient[Any, Any]) -> None:
        self.address = served.address
        self.levels = served.levels
        self._client = client

    async def ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Reply:
        """``headers`` with _ for -."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._client.request(method, path, data=data, headers=fields, allow_redirects=False) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, None, **headers)

    async def post(self, path: str, **headers: str) -> Reply:
        return await self.ask("POST", path, None, **headers)


#: Serves the admin API of a sidecar, through this door, until the test ends.
Asking = Callable[..., Awaitable[Client]]


@pytest.fixture
def admin(aiohttp_client: Callable[..., Awaitable[TestClient[Any, Any]]]) -> Asking:
    """``await admin(sidecar)`` gives a client of that sidecar's admin API."""

    async def served(of: FakeRunning, door: Door | None = None) -> Client:
        server = Served(of, door)
        return Client(server, await aiohttp_client(server, timeout=TIMEOUT))

    return served


@asynccontextmanager
async def serving(of: FakeRunning, door: Door | None = None) -> AsyncIterator[Client]:
    """The same for tests with a loop of their own, and for those of the end."""
    server = Served(of, door)
    client: TestClient[Any, Any] = TestClient(server, timeout=TIMEOUT)
    async with client:
        yield Client(server, client)
