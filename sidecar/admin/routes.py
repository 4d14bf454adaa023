"""The admin API's routes in one table: what each does, and how it is documented.

``/openapi.json`` and the index page are made from it, so neither can forget one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from sidecar.admin import report
from sidecar.amqp.views import port as amqp
from sidecar.config.errors import ConfigError
from sidecar.config.show import effective

if TYPE_CHECKING:
    from sidecar.admin.view import Running, UpstreamView
    from sidecar.core.health import Health
    from sidecar.telemetry.logs import LogWriter
    from sidecar.telemetry.metrics import Metrics

logger = logging.getLogger("sidecar.admin")

#: How long a deep check may take, and a small body to come in, seconds.
DEEP_SECONDS: Final = 10.0
BODY_SECONDS: Final = 5.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Query:
    """What may stand behind a path's question mark; ``kind`` is its type in JSON Schema."""

    name: str
    summary: str
    kind: str = "string"


@dataclass(frozen=True, slots=True)
class Route:
    """``path`` in OpenAPI's form; ``answers`` maps statuses to what they mean. ``schema`` names the shape of a good
    answer's JSON, ``body`` that of what to send (see :mod:`sidecar.admin.schemas`; empty: none); ``pages`` are other
    media types that it can answer in. ``private``: reading it needs the token, too."""

    method: str
    path: str
    summary: str
    handler: Handler
    answers: dict[int, str]
    schema: str
    body: str = ""
    pages: tuple[str, ...] = ()
    query: tuple[Query, ...] = ()
    private: bool = False


class NotKnown(Exception):
    """There is nothing of that name; the text says what there is."""


def answer(data: Any, status: int = 200) -> web.Response:
    """JSON, readable for people too."""
    body = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)
    return web.Response(body=body, status=status, content_type="application/json")


class Api:
    """The handlers."""

    def __init__(self, running: Running, log: LogWriter, metrics: Metrics) -> None:
        self._running = running
        self._log = log
        self._metrics = metrics
        #: Deep checks under way, by service.
        self._checks: dict[str, asyncio.Task[dict[str, Any]]] = {}

    def routes(self) -> Sequence[Route]:
        """All but ``/`` and ``/openapi.json``, which are made from this list."""
        healthy = {200: "healthy, or with a warning", 503: "unhealthy"}
        unknown = {404: "no such service or upstream"}
        token = {401: "the admin token is missing or wrong", 403: "asked by a page of another site"}
        return (
            Route("GET", "/ready", "Is it ready for traffic?", self.ready,
                  {200: "ready", 503: "starting or draining"}, "Ready"),
            Route("GET", "/health", "Health of this workload and what is known of its upstreams", self.health,
                  healthy, "Health"),
            Route("GET", "/health/{service}", "Health of this service's app or of an upstream, as traffic has shown it",
                  self.health_of, healthy | unknown, "ServiceHealth"),
            Route("GET", "/health/deep/{service}", "The same, asked now: checks the app, connects to endpoints",
                  self.health_deep, healthy | unknown, "DeepHealth"),
            Route("GET", "/metrics", "Prometheus metrics", self.metrics, {200: "the page"}, "",
                  pages=("text/plain", "application/openmetrics-text")),
            Route("GET", "/config", "The effective configuration without secrets", self.config,
                  {200: "as in a file"} | token, "Config"),
            Route("GET", "/upstreams", "All upstreams", self.upstreams, {200: "a list"}, "Upstreams"),
            Route("GET", "/upstreams/{name}", "Endpoints, weights, health, breaker and counters of one upstream",
                  self.upstream, {200: "the upstream"} | unknown, "Upstream"),
            Route("POST", "/upstreams/{name}/breaker/{mode}",
                  "Hold an upstream's breakers, its routes' too, open or closed, or leave them to themselves (auto)",
                  self.breaker, {200: "the upstream", 409: "it has no breaker"} | unknown | token, "Upstream"),
            Route("GET", "/amqp", "The AMQP upstreams: connections, what is held and why, exchanges, queues", self.amqp,
                  {200: "a list"}, "AmqpPorts"),
            Route("POST", "/reload", "Read the configuration file again", self.reload,
                  {200: "what changed", 422: "the file cannot be used; nothing has changed"} | token, "Changes"),
            Route("POST", "/drain", "Drain and exit, as SIGTERM does", self.drain, {202: "draining"} | token, "Phase"),
            Route("PUT", "/log-level", "Set the log level, until the next start or change of the file", self.log_level,
                  {200: "set", 400: "no such level", 413: "not a level"} | token, "Level", body="Level"),
        )  # fmt: skip

    async def ready(self, request: web.Request) -> web.Response:
        phase = self._running.phase
        waiting = self._running.waiting_for
        found = {"ready": phase == "ready", "phase": phase} | ({"waiting_for": waiting} if waiting else {})
        return answer(found, 200 if phase == "ready" else 503)

    async def health(self, request: web.Request) -> web.Response:
        return _health(report.health(self._running))

    async def health_of(self, request: web.Request) -> web.Response:
        name = request.match_info["service"]
        running = self._running
        if name == running.config.service.name:
            app = running.app_health()
            return _health({"status": app.status, "service": name, "output": app.output})
        return _health({**report.upstream_health(self._upstream(name)), "service": name})

    async def health_deep(self, request: web.Request) -> web.Response:
        name = request.match_info["service"]
        if name != self._running.config.service.name:
            self._upstream(name)
        # Reading is open to everybody, so everybody who asks at the same time shares one check.
        task = self._checks.get(name)
        if task is None:
            task = self._checks[name] = asyncio.ensure_future(self._check(name))
            task.add_done_callback(lambda _: self._checks.pop(name))
        return _health(await asyncio.shield(task))

    async def _check(self, name: str) -> dict[str, Any]:
        running = self._running
        if name != running.config.service.name:
            return {"service": name, **await _bounded(running.probe(name))}
        names = list(running.upstreams)
        app, *probes = await asyncio.gather(
            _bounded(running.check_app()), *(_bounded(running.probe(upstream)) for upstream in names)
        )
        status = app["status"]
        if status == "healthy" and any(found["status"] != "healthy" for found in probes):
            status = "warning"
        return {
            "status": status,
            "service": name,
            "app": app,
            "dependencies": dict(zip(names, probes, strict=True)),
        }

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def config(self, request: web.Request) -> web.Response:
        return answer(effective(self._running.config))

    async def upstreams(self, request: web.Request) -> web.Response:
        return answer({"upstreams": [report.upstream(view) for view in self._running.upstreams.values()]})

    async def upstream(self, request: web.Request) -> web.Response:
        return answer(report.upstream(self._upstream(request.match_info["name"])))

    async def breaker(self, request: web.Request) -> web.Response:
        view = self._upstream(request.match_info["name"])
        mode = request.match_info["mode"]
        if mode not in ("open", "close", "auto"):
            raise NotKnown(f"no such mode: {mode[:40]!r}; there are open, close and auto")
        if not view.breakers:
            return answer({"error": "no_breaker", "message": "its circuit breaker is switched off"}, 409)
        for breaker in view.breakers:
            breaker.force(mode)  # type: ignore[arg-type]  # checked above
        logger.info("the breaker of %s was told: %s", view.config.name, mode, extra={"client": request.remote})
        return answer(report.upstream(view))

    async def amqp(self, request: web.Request) -> web.Response:
        return answer(
            {"upstreams": amqp.ports({name: it.amqp for name, it in self._running.upstreams.items() if it.amqp})}
        )

    async def reload(self, request: web.Request) -> web.Response:
        try:
            changes = await self._running.reload()
        except ConfigError as error:
            problems = [{"path": problem.path, "message": problem.message} for problem in error.problems]
            return answer({"error": "config", "message": str(error), "problems": problems}, 422)
        return answer({"changes": list(changes)})

    async def drain(self, request: web.Request) -> web.Response:
        logger.info("told to drain", extra={"client": request.remote})
        self._running.drain()
        return answer({"phase": self._running.phase}, 202)

    async def log_level(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        level = _level(body)
        try:
            self._log.set_level(level)
        except ValueError as error:
            return answer({"error": "bad_level", "message": str(error)}, 400)
        logger.info("the log level is %s", level, extra={"client": request.remote})
        return answer({"level": level})

    def _upstream(self, name: str) -> UpstreamView:
        found = self._running.upstreams.get(name)
        if found is None:
            known = ", ".join(self._running.upstreams) or "none"
            raise NotKnown(f"no such upstream: {name[:80]!r}; there are: {known}")
        return found


def _health(data: dict[str, Any]) -> web.Response:
    return answer(data, 503 if data["status"] == "unhealthy" else 200)


async def _bounded(check: Awaitable[Health]) -> dict[str, Any]:
    """A deep check's result, in time and whatever happens."""
    try:
        async with asyncio.timeout(DEEP_SECONDS):
            found = await check
    except TimeoutError:
        return {"status": "unhealthy", "output": f"no result within {DEEP_SECONDS:g} s"}
    except Exception as error:
        logger.exception("a deep check failed")
        return {"status": "unhealthy", "output": f"the check itself failed: {type(error).__name__}; the log says more"}
    return {"status": found.status, "output": found.output}


def _level(body: bytes) -> str:
    """What was asked for: the text itself, or a JSON string, or ``level`` of a JSON object."""
    found: Any = body.decode("utf-8", "replace")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    if isinstance(found, dict):
        found = found.get("level", "")
    return str(found).strip().lower()
