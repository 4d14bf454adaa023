"""A whole sidecar in this process, on a configuration file that the test can rewrite."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Self

import yaml

from sidecar.agent import lifecycle
from sidecar.agent.lifecycle import Agent
from sidecar.config.load import load
from sidecar.telemetry.logs import LogWriter
from support.patience import PATIENCE

#: A port that nothing listens on: the discard service.
NOBODY = "127.0.0.1:9"


def upstream(*endpoints: str, **more: Any) -> dict[str, Any]:
    """An upstream's section with a port that the system chooses."""
    return {"bind": "127.0.0.1:0", "endpoints": list(endpoints) or [NOBODY], **more}


# To do so in a process of tests would have it look through all of them each time: see support.harness.garbage.
vars(lifecycle)["settle"] = lambda: None


class RunningAgent:
    """Use it with ``async with``; the service is called ``web`` unless the configuration says otherwise."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.file = folder / "sidecar.yaml"
        self.config = {"service": {"name": "web"}, "admin": {"bind": "127.0.0.1:0"}, **config}
        self.agent: Agent

    def write(self, **changes: Any) -> None:
        """Write the file, with these sections replaced (None: left out)."""
        self.config = {key: value for key, value in {**self.config, **changes}.items() if value is not None}
        self.file.write_text(yaml.safe_dump(self.config))

    async def __aenter__(self) -> Self:
        self.write()
        config = load(self.file)
        self._null = os.open(os.devnull, os.O_WRONLY)
        self._log = LogWriter(config.log.format, config.service.name, self._null)
        self.agent = Agent(config, self.file, self._log)
        try:
            await self.agent.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.agent.stop()
        finally:
            self._log.close()
            os.close(self._null)

    def port(self, name: str) -> int:
        return self.agent.upstreams[name].listener.address.port

    async def ask(
        self, method: str, path: str, body: bytes = b"", host: str = "localhost", **fields: str
    ) -> tuple[int, dict[str, str], bytes]:
        """A request to the admin API: status, fields, body. ``X_y=`` is the field ``X-y``."""
        assert self.agent.admin_address is not None
        return await ask(self.agent.admin_address.port, method, path, body, host, **fields)


async def ask(
    port: int, method: str = "GET", path: str = "/", body: bytes = b"", host: str = "localhost", **fields: str
) -> tuple[int, dict[str, str], bytes]:
    """A request on a connection of its own."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        data = await reader.read()
        writer.close()
    head, _, rest = data.partition(b"\r\n\r\n")
    status, *given = head.decode("latin-1").split("\r\n")
    return int(status.split()[1]), {k.lower(): v.strip() for k, _, v in (f.partition(":") for f in given)}, rest
