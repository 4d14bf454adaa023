"""``python -m examples.ollama_stand_in``: what of Ollama a caller notices, without a model.

It streams an answer token by token, has so many slots, lets others wait, refuses who comes when too many wait (503),
loads a model first when it has not been used for a while, and works for no client that has left. What it answers is
made of the prompt's last line: its clauses, one on a line, each behind the one before. Options are those of Ollama's
environment: ``--slots`` is OLLAMA_NUM_PARALLEL, ``--queue`` OLLAMA_MAX_QUEUE, ``--keep-alive`` OLLAMA_KEEP_ALIVE.
It takes the extra ``examples`` (``make install EXTRAS=examples``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from datetime import UTC, datetime

from aiohttp import web

from examples.common.serving import document_of, refusing, serve


class Ollama:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._slots = asyncio.Semaphore(options.slots)
        #: How many wait for a slot, and how many slots are free.
        self.waiting = 0
        self.free = options.slots
        self._loading = asyncio.Lock()
        #: Models that are loaded, and until when they stay.
        self._loaded: dict[str, float] = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[refusing])
        app.router.add_get("/", self._root)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_post("/api/generate", self._generate)
        return app

    async def _root(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _tags(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [{"name": it, "model": it} for it in self._options.models]})

    async def _ps(self, _: web.Request) -> web.Response:
        now = time.monotonic()
        loaded = [it for it, until in self._loaded.items() if until > now]
        return web.json_response({"models": [{"name": it, "model": it} for it in loaded]})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        given = await document_of(request)
        model = str(given.get("model"))
        if model not in self._options.models:
            return web.json_response({"error": f"model '{model}' not found"}, status=404)
        if self.waiting >= self._options.queue:
            text = "server busy, please try again.  maximum pending requests exceeded"
            return web.json_response({"error": text}, status=503)
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.free -= 1
        try:
            return await self._answer(request, model, str(given.get("prompt", "")), given.get("stream") is not False)
        except ConnectionResetError:  # the client has left: its slot is free
            return web.Response()
        finally:
            self.free += 1
            self._slots.release()

    async def _answer(self, request: web.Request, model: str, prompt: str, stream: bool) -> web.StreamResponse:
        began = time.monotonic()
        await self._load(model)
        loaded = time.monotonic()
        tokens = re.findall(r"\S+\s*|\s+", steps(prompt))
        end = {
            "done": True,
            "done_reason": "stop",
            "load_duration": int((loaded - began) * 1e9),
            "eval_count": len(tokens),
        }
        if not stream:
            await asyncio.sleep(len(tokens) / self._options.rate)
            return web.json_response(_part(model, "".join(tokens), **end))
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        for token in tokens:
            await asyncio.sleep(1 / self._options.rate)
            if not response.prepared:  # the head goes with the first token, as with Ollama
                await response.prepare(request)
            await response.write(json.dumps(_part(model, token, done=False)).encode() + b"\n")
        if not response.prepared:
            await response.prepare(request)
        end["total_duration"] = int((time.monotonic() - began) * 1e9)
        await response.write(json.dumps(_part(model, "", **end)).encode() + b"\n")
        await response.write_eof()
        return response

    async def _load(self, model: str) -> None:
        """Wait until the model is there: once for all who want it."""
        async with self._loading:
            if self._loaded.get(model, 0.0) <= time.monotonic():
                await asyncio.sleep(self._options.load)
            self._loaded[model] = time.monotonic() + self._options.keep_alive


def steps(prompt: str) -> str:
    """The clauses of the last line, each behind the one before."""
    task = prompt.strip().rpartition("\n")[2].removeprefix("Task: ")
    parts = [it.strip(" .") for it in re.split(r"[,;]|\.\s|\band\b|\bthen\b", task)]
    lines = [it for it in parts if it] or ["Think about it"]
    return "\n".join(f"{i}. {it} (needs {i - 1 or 'nothing'})" for i, it in enumerate(lines, 1))


def _part(model: str, text: str, **more: object) -> dict[str, object]:
    return {"model": model, "created_at": datetime.now(UTC).isoformat(), "response": text, **more}


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.ollama_stand_in", description=__doc__)
    parser.add_argument("--port", type=int, default=11434)
    parser.add_argument("--models", nargs="+", default=["llama3.2"])
    parser.add_argument("--slots", type=int, default=4, help="answers at once")
    parser.add_argument("--queue", type=int, default=512, help="who may wait for a slot")
    parser.add_argument("--load", type=float, default=3.0, metavar="SECONDS", help="that a cold model takes")
    parser.add_argument("--keep-alive", type=float, default=300.0, metavar="SECONDS", help="that a model stays loaded")
    parser.add_argument("--rate", type=float, default=40.0, metavar="TOKENS", help="a second, of each answer")
    return parser.parse_args(arguments)


async def main() -> None:
    options = options_of()
    await serve(Ollama(options).app(), options.port, cancelling=True)  # as Ollama does


if __name__ == "__main__":
    asyncio.run(main())
