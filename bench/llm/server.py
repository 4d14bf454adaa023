"""``python -m bench.llm.server``: the stand-in for Ollama, which also says what it has done (``GET /bench``).

Like Ollama, it ends the work for a client that has left as soon as the connection is closed, in every stage.
"""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections import Counter

from aiohttp import web

from examples.common.serving import document_of, serve
from examples.ollama_stand_in import Ollama, options_of


class Telling(Ollama):
    """Times are of the machine's monotonic clock, which all processes share."""

    def __init__(self, options: Namespace) -> None:
        super().__init__(options)
        self.taken = 0
        self.freed: list[float] = []
        self.asked: Counter[str] = Counter()

    def app(self) -> web.Application:
        app = super().app()
        app.router.add_get("/bench", self._bench)
        return app

    async def _bench(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"taken": self.taken, "free": self.free, "freed": self.freed[-8:], "asked": dict(self.asked)}
        )

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        self.asked[str((await document_of(request)).get("model"))] += 1
        self.taken += 1
        try:
            return await super()._generate(request)
        finally:
            self.taken -= 1
            self.freed.append(time.monotonic())


async def main() -> None:
    options = options_of()
    await serve(Telling(options).app(), options.port, cancelling=True)


if __name__ == "__main__":
    asyncio.run(main())
