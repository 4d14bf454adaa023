"""``python -m examples.workspace_isolation``: at ``PORT`` (default 8080) of 127.0.0.1. The README beside it has the
environment."""

from __future__ import annotations

import asyncio
import os

from examples.common.messages import url_of
from examples.common.serving import serve
from examples.workspace_isolation.service import WorkspaceIsolation


async def main() -> None:
    service = WorkspaceIsolation(os.environ, url_of(os.environ))
    await serve(service.app(), int(os.environ.get("PORT", "8080")))


asyncio.run(main())
