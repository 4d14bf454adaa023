"""Task decomposition: over HTTP for who waits for the answer, over messages for who does not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from time import perf_counter

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from examples.common.context import context_of, log
from examples.common.messages import Messages, NotPublished
from examples.common.serving import Refused, document_of, metrics_at, object_of, refusing
from examples.task_decomposition.graph import Unreadable, decompose
from examples.task_decomposition.model import Model, NoModel

REQUEST, RESULT, ERROR = (f"task.decomposition.{it}" for it in ("request", "result", "error"))


class TaskDecomposition:
    def __init__(self, environment: Mapping[str, str], amqp_url: str) -> None:
        self._ollama = environment.get("OLLAMA_URL", "http://127.0.0.1:11434")
        self._model_name = environment.get("OLLAMA_MODEL", "llama3.2")
        self.messages = Messages(amqp_url, prefetch=20, handlers={REQUEST: self._of_message})
        self._model: Model | None = None
        self.registry = CollectorRegistry()
        self._duration = Histogram(
            "task_decomposition_duration", "Seconds that a decomposition took.", ["mode"], registry=self.registry,
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
        )  # fmt: skip
        self._done = Counter("tasks_decomposed", "Tasks, by how they came and how they ended.", ["by", "outcome"],
                             registry=self.registry)  # fmt: skip

    def app(self) -> web.Application:
        app = web.Application(middlewares=[refusing], client_max_size=64 * 1024)
        app.router.add_post("/api/v1/tasks", self._post)
        app.router.add_get("/health", self._health)
        metrics_at(app, self.registry)
        app.cleanup_ctx.append(self._running)
        app.on_shutdown.append(self._stop_consuming)
        return app

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        # How long an answer may take, and how many are asked for at once, is the sidecar's to say.
        limits = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as session:
            self._model = Model(session, self._ollama, self._model_name)
            self.messages.start()
            yield
            await self.messages.close()

    async def _stop_consuming(self, _: web.Application) -> None:
        await self.messages.stop_consuming()

    # -- the two ways in

    async def _post(self, request: web.Request) -> web.Response:
        """The graph; with ``?wait=no`` 202 as soon as the task is in its queue, and the graph among the results."""
        given, context = await document_of(request), context_of(request.headers)
        name = str(given.get("id") or request.headers.get("x-request-id") or os.urandom(8).hex())
        if request.query.get("wait") == "no":
            _text_of(given)
            try:
                await self.messages.publish(REQUEST, {**given, "id": name}, name, context)
            except NotPublished as error:
                raise Refused(503, "not_queued", str(error)) from error
            return web.json_response({"id": name, "status": "queued", "result": RESULT}, status=202)
        try:
            found = await self._decompose(name, _text_of(given), "now", context)
        except Refused:
            self._done.labels("http", "refused").inc()
            raise
        self._done.labels("http", "done").inc()
        return web.json_response(found)

    async def _of_message(self, body: bytes, name: str, context: dict[str, str]) -> None:
        try:
            given = object_of(body)
            name = str(given.get("id") or name)
            found = await self._decompose(name, _text_of(given), "queued", context)
        except Refused as refusal:
            await self.messages.publish(ERROR, {"id": name, **refusal.document}, f"{name}.error", context, about=name)
            self._done.labels("message", "refused").inc()
            return
        await self.messages.publish(RESULT, found, f"{name}.result", context, about=name)
        self._done.labels("message", "done").inc()

    # -- the work

    async def _decompose(self, name: str, text: str, patience: str, context: Mapping[str, str]) -> dict[str, object]:
        """By the model's steps where there are any, else by the text's own: ``mode`` says which."""
        began = perf_counter()
        assert self._model is not None
        mode, why = "model", ""
        try:
            graph = decompose(await self._model.steps(text, patience, context), by_line=True)
        except (NoModel, Unreadable) as error:
            mode, why = "simple", str(error)
            try:
                graph = decompose(text)
            except Unreadable as fault:
                raise Refused(422, "unreadable", str(fault)) from fault
        took = perf_counter() - began
        self._duration.labels(mode).observe(took)
        log("decomposed", context, id=name, mode=mode, why=why, steps=len(graph.steps), ms=round(took * 1000, 1))
        return {"id": name, "mode": mode, **({"why": why} if why else {}), **graph.document()}

    async def _health(self, _: web.Request) -> web.Response:
        """It works without a model, and, as long as its sidecar spools, without a broker."""
        return web.json_response({"status": "healthy", "messages": "open" if self.messages.open else "away"})


def _text_of(given: Mapping[str, object]) -> str:
    text = given.get("task")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, "bad_request", '"task" is missing: the text that is to be split into steps')
    return text
