"""The admin API's own operations: how the sidecar is, and what it can be told. AMQP ports contribute theirs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any, Final

import orjson

from sidecar.admin import report
from sidecar.admin.commands import Commands, ReloadRefused
from sidecar.admin.holds import BadWish, wished
from sidecar.core.health import Health
from sidecar.core.operations import REFUSED, Answer, Call, NotKnown, Operation, Page, Query

logger = logging.getLogger("sidecar.admin")

#: How long a deep check may take, seconds.
DEEP_SECONDS: Final = 10.0
_FLAGS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Api:
    """The handlers."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        #: Deep checks under way, by service.
        self._checks: dict[str, asyncio.Task[dict[str, Any]]] = {}

    def operations(self) -> Sequence[Operation]:
        """All but ``/`` and ``/openapi.json``, which are made from this list."""
        healthy = {200: "healthy, or with a warning", 503: "unhealthy"}
        unknown = {404: "no such service or upstream"}
        return (
            Operation("GET", "/ready", "Is it ready for traffic?", self.ready,
                      {200: "ready", 503: "starting or draining"}, "Ready"),
            Operation("GET", "/health", "Health of this workload and what is known of its upstreams", self.health,
                      healthy, "Health"),
            Operation("GET", "/health/{service}",
                      "Health of this service's app or of an upstream, as traffic has shown it",
                      self.health_of, healthy | unknown, "ServiceHealth"),
            Operation("GET", "/health/deep/{service}", "The same, asked now: checks the app, connects to endpoints",
                      self.health_deep, healthy | unknown, "DeepHealth"),
            Operation("GET", "/metrics", "Prometheus metrics", self.metrics, {200: "the page"}, "",
                      pages=("text/plain", "application/openmetrics-text")),
            Operation("GET", "/config", "The effective configuration without secrets", self.config,
                      {200: "as in a file", **REFUSED}, "Config"),
            Operation("GET", "/config/set", "Which of its keys are not as by default", self.chosen,
                      {200: "their paths", **REFUSED}, "ConfigSet"),
            Operation("GET", "/upstreams", "All upstreams", self.upstreams, {200: "a list"}, "Upstreams"),
            Operation("GET", "/upstreams/{name}", "Endpoints, weights, health, breaker and counters of one upstream",
                      self.upstream, {200: "the upstream"} | unknown, "Upstream"),
            Operation("GET", "/inbound", "Counters of the inbound port, and what its filters show", self.inbound,
                      {200: "the port", 404: "there is none"}, "Inbound"),
            Operation("POST", "/upstreams/{name}/breaker/{mode}",
                      "Hold an upstream's breakers, its routes' too, open or closed, "
                      "or leave them to themselves (auto)",
                      self.breaker,
                      {200: "the upstream", 400: "not said so that it can be done", 409: "it has no breaker",
                       **unknown, **REFUSED}, "Upstream", body="Hold", bare=True,
                      query=(Query("by", "who wants it; by default the client's address"),
                             Query("reason", "why: clients are told"),
                             Query("for", "for how long, as 10m; then it is left to itself"))),
            Operation("POST", "/reload", "Read the configuration file again", self.reload,
                      {200: "what changed, or would", 400: "something else than dry_run=1 or 0",
                       422: "the file cannot be used; nothing has changed", **REFUSED}, "Changes",
                      query=(Query("dry_run", "1: only tell what would change"),)),
            Operation("POST", "/drain", "Drain and exit, as SIGTERM does", self.drain,
                      {200: "with wait=1: nothing comes in any more", 202: "draining",
                       400: "something else than wait=1 or 0", **REFUSED}, "Phase",
                      query=(Query("wait", "1: answer when nothing comes in any more, so that the app can be told to "
                                           "end; what it dials is served until it has"),)),
            Operation("PUT", "/log-level", "Set the log level, until the next start or change of the file",
                      self.log_level, {200: "set", 400: "no such level", 413: "not a level", **REFUSED}, "Level",
                      body="Level"),
            Operation("PUT", "/access-log", "Set which exchanges get a line, as log.access in the file: all, errors, "
                      "off, or a share and the slow ones; until the next start or change of the file", self.access_log,
                      {200: "set", 400: "no such mode", 413: "not a mode", **REFUSED}, "Access", body="Access"),
        )  # fmt: skip

    async def ready(self, call: Call) -> Answer:
        now = self._commands.snapshot()
        waiting = {"waiting_for": now.waiting_for} if now.waiting_for else {}
        ready = now.phase == "ready"
        return Answer({"ready": ready, "phase": now.phase} | waiting, 200 if ready else 503)

    async def health(self, call: Call) -> Answer:
        commands = self._commands
        return _health(report.health(commands.snapshot(), [commands.upstream(name) for name in commands.upstreams()]))

    async def health_of(self, call: Call) -> Answer:
        name = call.parts["service"]
        now = self._commands.snapshot()
        if name == now.service:
            return _health({"status": now.app.status, "service": name, "output": now.app.output})
        return _health({**report.upstream_health(self._commands.upstream(self._known(name))), "service": name})

    async def health_deep(self, call: Call) -> Answer:
        name = call.parts["service"]
        if name != self._commands.snapshot().service:
            self._known(name)
        # Reading is open to everybody, so everybody who asks at the same time shares one check.
        task = self._checks.get(name)
        if task is None:
            task = self._checks[name] = asyncio.ensure_future(self._check(name))
            task.add_done_callback(lambda _: self._checks.pop(name))
        return _health(await asyncio.shield(task))

    async def _check(self, name: str) -> dict[str, Any]:
        commands = self._commands
        if name != commands.snapshot().service:
            return {"service": name, **await _bounded(commands.probe(name))}
        names = commands.upstreams()
        app, *probes = await asyncio.gather(
            _bounded(commands.check_app()), *(_bounded(commands.probe(upstream)) for upstream in names)
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

    async def metrics(self, call: Call) -> Page:
        return Page(*await self._commands.metrics(call.accept))

    async def config(self, call: Call) -> Answer:
        return Answer(self._commands.config())

    async def chosen(self, call: Call) -> Answer:
        return Answer({"paths": list(self._commands.chosen())})

    async def upstreams(self, call: Call) -> Answer:
        commands = self._commands
        return Answer({"upstreams": [report.upstream(commands.upstream(name)) for name in commands.upstreams()]})

    async def inbound(self, call: Call) -> Answer:
        stats = self._commands.inbound()
        if stats is None:
            raise NotKnown("this sidecar has no inbound port")
        return Answer({"service": stats.upstream, "protocol": stats.protocol, "stats": report.listener(stats)})

    async def upstream(self, call: Call) -> Answer:
        return Answer(report.upstream(self._commands.upstream(self._known(call.parts["name"]))))

    async def breaker(self, call: Call) -> Answer:
        name = self._known(call.parts["name"])
        mode = call.parts["mode"]
        if mode not in ("open", "close", "auto"):
            raise NotKnown(f"no such mode: {mode[:40]!r}; there are open, close and auto")
        now = self._commands.upstream(name)
        if now.breaker is None and not now.route_breakers:
            return Answer({"error": "no_breaker", "message": "its circuit breaker is switched off"}, 409)
        try:
            wish = await wished(call)
        except BadWish as error:
            return Answer({"error": "bad_hold", "message": str(error)}, 400)
        self._commands.force_breakers(name, mode, wish)
        return Answer(report.upstream(self._commands.upstream(name)))

    async def reload(self, call: Call) -> Answer:
        rehearsal = _flag(call, "dry_run")
        if rehearsal is None:
            return Answer({"error": "bad_request", "message": "dry_run is 1 or 0; there is nothing else"}, 400)
        try:
            if rehearsal:
                return Answer(await self._commands.rehearse())
            changes = await self._commands.reload()
        except ReloadRefused as error:
            problems = [{"path": path, "message": message} for path, message in error.problems]
            return Answer({"error": "config", "message": str(error), "problems": problems}, 422)
        return Answer({"changes": list(changes)})

    async def drain(self, call: Call) -> Answer:
        wait = _flag(call, "wait")
        if wait is None:
            return Answer({"error": "bad_request", "message": "wait is 1 or 0; there is nothing else"}, 400)
        if wait:
            await self._commands.drain_inbound(call.client or "")
        else:
            self._commands.drain(call.client or "")
        return Answer({"phase": self._commands.snapshot().phase}, 200 if wait else 202)

    async def log_level(self, call: Call) -> Answer:
        level = _word(await call.read(), "level")
        try:
            self._commands.set_log_level(level, call.client or "")
        except ValueError as error:
            return Answer({"error": "bad_level", "message": str(error)}, 400)
        return Answer({"level": level})

    async def access_log(self, call: Call) -> Answer:
        wanted = _value(await call.read(), "access")
        if not isinstance(wanted, dict):
            wanted = str(wanted).strip().lower()
        try:
            return Answer({"access": self._commands.set_access_log(wanted, call.client or "")})
        except ValueError as error:
            return Answer({"error": "bad_mode", "message": str(error)}, 400)

    def _known(self, name: str) -> str:
        """The name of an upstream. Raises :class:`NotKnown` when there is none of that name."""
        names = self._commands.upstreams()
        if name not in names:
            raise NotKnown(f"no such upstream: {name[:80]!r}; there are: {', '.join(names) or 'none'}")
        return name


def _flag(call: Call, name: str) -> bool | None:
    """What the query says of that, by default no. ``None``: neither yes nor no, or something else is asked, too: a slip
    such as ``?dryrun=1`` must not become a reload."""
    if any(other != name for other, _ in call.query):
        return None
    return _FLAGS.get(dict(call.query).get(name, "0").lower())


def _health(data: dict[str, Any]) -> Answer:
    return Answer(data, 503 if data["status"] == "unhealthy" else 200)


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


def _word(body: bytes, key: str) -> str:
    """What was asked for, as a word."""
    return str(_value(body, key)).strip().lower()


def _value(body: bytes, key: str) -> Any:
    """What was asked for: the text itself, or a JSON value, or that key of a JSON object that has no other."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")
    return found[key] if isinstance(found, dict) and list(found) == [key] else found
