"""Commands in containers, for workspaces that ask for it: Docker's API at a port of 127.0.0.1.

The workspace's folder is the container's ``/workspace``, so engine and service must have it under the same path. There
is a container for each command, and it is taken away when that is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from examples.common.serving import Refused
from examples.workspace_isolation.limits import Limits
from examples.workspace_isolation.process import MAX_OUTPUT

VERSION = "v1.41"


class Docker:
    def __init__(self, session: aiohttp.ClientSession, url: str, image: str) -> None:
        self._session = session
        self._url = f"{url}/{VERSION}"
        self._image = image

    async def check(self, context: Mapping[str, str]) -> None:
        """Whether there is an engine. Raises Refused."""
        await self._ask("GET", "/_ping", context)

    async def run(
        self, folder: Path, name: str, argv: list[str], limits: Limits, context: Mapping[str, str]
    ) -> dict[str, object]:
        made = await self._ask("POST", "/containers/create", context, self._container(folder, name, argv, limits))
        container = f"/containers/{made['Id']}"
        try:
            await self._ask("POST", f"{container}/start", context)
            over = await self._ask("POST", f"{container}/wait", context)
            output = await self._logs(container, context)
        finally:
            await self._ask("DELETE", f"{container}?force=true", context)
        return {"exit": over["StatusCode"], "output": output}

    def _container(self, folder: Path, name: str, argv: list[str], limits: Limits) -> dict[str, object]:
        return {
            "Image": self._image,
            "Cmd": argv,
            "WorkingDir": "/workspace/home",
            "Env": ["HOME=/workspace/home", "TMPDIR=/workspace/tmp", f"WORKSPACE_ID={name}"],
            "Labels": {"workspace": name},
            "NetworkDisabled": True,
            "Tty": True,  # its log is then its output as it is
            "HostConfig": {
                "Binds": [f"{folder}:/workspace"],
                "Memory": limits.memory,
                "MemorySwap": limits.memory,
                "PidsLimit": limits.processes,
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "Ulimits": [
                    {"Name": "cpu", "Soft": limits.cpu_seconds, "Hard": limits.cpu_seconds + 1},
                    {"Name": "fsize", "Soft": limits.disk, "Hard": limits.disk},
                    {"Name": "nofile", "Soft": limits.files, "Hard": limits.files},
                ],
            },
        }

    async def _logs(self, container: str, context: Mapping[str, str]) -> str:
        url = f"{self._url}{container}/logs?stdout=true&stderr=true"
        async with self._session.get(url, headers=context) as answer:
            return (await answer.content.read(MAX_OUTPUT)).decode(errors="replace")

    async def _ask(self, method: str, path: str, context: Mapping[str, str], document: object = None) -> Any:
        try:
            async with self._session.request(method, self._url + path, json=document, headers=context) as answer:
                if answer.status < 300:
                    return await answer.json() if answer.content_type == "application/json" else None
                why = answer.headers.get("x-sidecar-error") or (await answer.text())[:300]
        except (aiohttp.ClientError, OSError) as error:
            why = str(error) or type(error).__name__
        raise Refused(503, "docker_unavailable", f"the Docker engine does not do it: {why}")
