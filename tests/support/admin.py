"""A real admin server around a fake sidecar, and a client for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import aiohttp
import orjson

from sidecar.admin.connection_limit import Door
from sidecar.admin.server import start_admin
from sidecar.agent import admin
from sidecar.agent.lifecycle import Agent
from sidecar.telemetry.logs import LogWriter
from support.running import FakeRunning


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


class Client:
    """Asks one server."""

    def __init__(self, address: tuple[str, int], session: aiohttp.ClientSession) -> None:
        self.address = address
        self.levels = Levels()
        self._session = session

    async def ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Reply:
        """``headers`` with _ for -."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        host, port = self.address
        url = f"http://{host}:{port}{path}"
        async with self._session.request(method, url, data=data, headers=fields, allow_redirects=False) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.ask("GET", path, None, **headers)

    async def post(self, path: str, **headers: str) -> Reply:
        return await self.ask("POST", path, None, **headers)


@asynccontextmanager
async def serving(of: FakeRunning, door: Door | None = None) -> AsyncIterator[Client]:
    """The admin API of a sidecar."""
    levels = Levels()
    agent, log = cast(Agent, of), cast(LogWriter, levels)
    commands, contributed = admin.commands(agent, log), admin.contributed(agent)
    server = await start_admin(commands, contributed, of.config.admin.bind, door)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            client = Client(server.address, session)
            client.levels = levels
            yield client
    finally:
        await server.close()


def with_admin(of: FakeRunning, test: Callable[[Client], Awaitable[None]]) -> None:
    """Run a test against the admin API of a sidecar."""

    async def main() -> None:
        async with asyncio.timeout(180), serving(of) as client:
            await test(client)

    asyncio.run(main())
