"""Workspace isolation: over HTTP and over messages."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from time import perf_counter

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from examples.common.context import context_of, log
from examples.common.messages import Messages, NotPublished
from examples.common.redis import Redis, RedisError
from examples.common.serving import Refused, document_of, metrics_at, object_of, refusing
from examples.workspace_isolation import process
from examples.workspace_isolation.docker import Docker
from examples.workspace_isolation.limits import limits_of
from examples.workspace_isolation.workspaces import LIMIT, SHARED, Full, Workspace, Workspaces

CREATE, DESTROY, STATUS = (f"workspace.{it}" for it in ("create", "destroy", "status"))
WHERE = "/api/v1/workspaces"


class WorkspaceIsolation:
    def __init__(self, environment: Mapping[str, str], amqp_url: str) -> None:
        password = environment.get("REDIS_PASSWORD_FILE")
        redis = Redis(int(environment.get("REDIS_PORT", "6379")), Path(password) if password else None)
        self.workspaces = Workspaces(Path(environment.get("WORKSPACES", "workspaces")), redis)
        self.messages = Messages(
            amqp_url, prefetch=LIMIT, handlers={CREATE: self._to_create, DESTROY: self._to_destroy}
        )
        self._docker_url = environment.get("DOCKER_URL", "http://127.0.0.1:2375")
        self._image = environment.get("WORKSPACE_IMAGE", "python:3.11-slim")
        self._docker: Docker | None = None
        self.registry = CollectorRegistry()
        self._creation = Histogram(
            "workspace_creation_time", "Seconds until a workspace was there.", ["kind"], registry=self.registry,
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self._asked = Counter("workspaces_asked_for", "By how that ended.", ["outcome"], registry=self.registry)
        Gauge("workspaces", "Workspaces now.", registry=self.registry).set_function(lambda: len(self.workspaces.all))

    def app(self) -> web.Application:
        app = web.Application(middlewares=[refusing], client_max_size=64 * 1024)
        app.router.add_post(WHERE, self._post)
        app.router.add_get(WHERE, self._list)
        app.router.add_get(WHERE + "/{id}", self._get)
        app.router.add_delete(WHERE + "/{id}", self._delete)
        app.router.add_post(WHERE + "/{id}/run", self._run)
        app.router.add_get("/health", self._health)
        metrics_at(app, self.registry)
        app.cleanup_ctx.append(self._running)
        app.on_shutdown.append(self._stop)
        return app

    async def _running(self, _: web.Application) -> AsyncIterator[None]:
        # Before anything is served. When Redis cannot be asked even so, this ends, and the platform starts it again.
        log("recovered", {}, **await self.workspaces.recover())
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            self._docker = Docker(session, self._docker_url, self._image)
            self.messages.start()
            yield
            await self.messages.close()

    async def _stop(self, _: web.Application) -> None:
        await self.messages.stop_consuming()
        self.workspaces.end_processes()

    # -- over HTTP

    async def _post(self, request: web.Request) -> web.Response:
        given, context = await document_of(request), context_of(request.headers)
        # The same key is the same workspace: who was not answered can ask again.
        key = request.headers.get("idempotency-key")
        name = _name_of(key) if key else os.urandom(8).hex()
        try:
            it, new = await self._create(name, given, context)
        except Refused as refusal:
            if refusal.status == 429 and given.get("shared") is True:
                return web.json_response(self.workspaces.shared().document(), status=200)
            raise
        if new:
            await self._tell(it.id, "created", context, workspace=it.document())
        return web.json_response(it.document(), status=201 if new else 200)

    async def _list(self, _: web.Request) -> web.Response:
        every = [it.document() for it in self.workspaces.all.values()]
        return web.json_response({"workspaces": every, "limit": LIMIT})

    async def _get(self, request: web.Request) -> web.Response:
        it = self._found(request)
        return web.json_response({**it.document(), "disk_used": process.disk_use(it.folder)})

    async def _delete(self, request: web.Request) -> web.Response:
        it, context = self._found(request), context_of(request.headers)
        if it.id == SHARED:
            raise Refused(409, "shared", "the shared workspace stays")
        await self._destroy(it.id)
        await self._tell(it.id, "destroyed", context)
        return web.Response(status=204)

    async def _run(self, request: web.Request) -> web.Response:
        it, given, context = self._found(request), await document_of(request), context_of(request.headers)
        argv = given.get("argv")
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise Refused(400, "bad_request", '"argv" is missing: the command and its arguments, a list of texts')
        if process.disk_use(it.folder) > it.limits.disk:
            raise Refused(507, "disk_full", "the workspace has more on its disk than it may", limit=it.limits.disk)
        if it.kind == "docker":
            assert self._docker is not None
            return web.json_response(await self._docker.run(it.folder, it.id, argv, it.limits, context))
        return web.json_response(await process.run(it.folder, it.id, argv, it.limits))

    def _found(self, request: web.Request) -> Workspace:
        name = request.match_info["id"]
        it = self.workspaces.shared() if name == SHARED else self.workspaces.all.get(name)
        if it is None:
            raise Refused(404, "not_found", f"there is no workspace {name}")
        return it

    async def _health(self, _: web.Request) -> web.Response:
        free = shutil.disk_usage(self.workspaces.root).free
        state = {"workspaces": len(self.workspaces.all), "limit": LIMIT, "disk_free": free}
        return web.json_response({"status": "healthy", "messages": "open" if self.messages.open else "away", **state})

    # -- over messages

    async def _to_create(self, body: bytes, name: str, context: dict[str, str]) -> None:
        try:
            it, _ = await self._create(_name_of(name), object_of(body), context)
        except Refused as refusal:
            if refusal.status == 503:  # not now; the message comes again
                raise NotPublished(str(refusal)) from refusal
            await self.messages.publish(
                STATUS, {"status": "refused", **refusal.document}, f"{name}.refused", context, about=name
            )
            return
        await self.messages.publish(
            STATUS,
            {"id": it.id, "status": "created", "workspace": it.document()},
            f"{it.id}.created",
            context,
            about=name,
        )

    async def _to_destroy(self, body: bytes, name: str, context: dict[str, str]) -> None:
        try:
            wanted = object_of(body).get("id")
            status = "destroyed" if await self._destroy(str(wanted)) else "unknown"
        except Refused as refusal:
            if refusal.status == 503:
                raise NotPublished(str(refusal)) from refusal
            await self.messages.publish(
                STATUS, {"status": "refused", **refusal.document}, f"{name}.refused", context, about=name
            )
            return
        await self.messages.publish(STATUS, {"id": wanted, "status": status}, f"{wanted}.{status}", context, about=name)

    async def _tell(self, name: str, status: str, context: Mapping[str, str], **more: object) -> None:
        """Those who listen for it. What was asked for over HTTP is done, heard of or not."""
        try:
            await self.messages.publish(STATUS, {"id": name, "status": status, **more}, f"{name}.{status}", context)
        except NotPublished as error:
            log("not told", context, id=name, status=status, why=str(error))

    # -- the work

    async def _create(
        self, name: str, given: Mapping[str, object], context: Mapping[str, str]
    ) -> tuple[Workspace, bool]:
        began = perf_counter()
        kind, limits = given.get("kind", "process"), limits_of(given.get("limits"))
        if kind not in ("process", "docker"):
            raise Refused(400, "bad_request", '"kind" is "process" or "docker"')
        try:
            if kind == "docker":
                assert self._docker is not None
                await self._docker.check(context)
            it, new = await self.workspaces.create(name, str(given.get("owner", "")), str(kind), limits)
        except Full:
            self._asked.labels("refused").inc()
            log("refused", context, id=name, limit=LIMIT)
            text = f'there are {LIMIT} workspaces, which is the limit; destroy one, or ask with "shared": true'
            raise Refused(429, "workspace_limit", text, limit=LIMIT) from None
        except (OSError, RedisError) as error:
            self._asked.labels("failed").inc()
            raise Refused(
                503, "no_state", f"Redis does not take its record: {error or 'it does not answer'}"
            ) from error
        took = perf_counter() - began
        if new:
            self._asked.labels("created").inc()
            self._creation.labels(it.kind).observe(took)
            log("created", context, id=it.id, kind=it.kind, ms=round(took * 1000, 1))
        return it, new

    async def _destroy(self, name: str) -> bool:
        try:
            return await self.workspaces.destroy(name)
        except (OSError, RedisError) as error:
            raise Refused(503, "no_state", f"Redis does not take it: {error or 'it does not answer'}") from error


def _name_of(key: str) -> str:
    """A workspace's id: it is a folder's name, so it is the key itself only where that can be one."""
    if re.fullmatch(r"(?!pool-|shared$)[a-z0-9][a-z0-9-]{0,39}", key):
        return key
    return hashlib.sha256(key.encode()).hexdigest()[:16]
