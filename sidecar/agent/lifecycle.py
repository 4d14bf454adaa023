"""A running sidecar: put together, started, reloaded, drained and stopped.

    start → its files are no other's → listeners bound → registry answered (or its grace passed) → ready
          → the app is well → registered → … → SIGTERM → deregistered → draining → stopped

Everything slow happens in here or below the control plane. The listeners only ever get finished things handed in:
chains by the assembly, endpoints by the registry's watches.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.agent import changes, settings, shared_limits
from sidecar.agent.app import App
from sidecar.agent.assembly import Context, create_listener
from sidecar.agent.clusters import RunningUpstream, connect_breakers
from sidecar.agent.draining import AppsTurn, Companion, drain
from sidecar.agent.early import Early
from sidecar.agent.libraries import require_libraries
from sidecar.agent.listening import Listening
from sidecar.agent.notify import Notifier
from sidecar.agent.plan import Plan
from sidecar.agent.process import keep_heap, raise_file_limit, settle
from sidecar.agent.redirection import Redirection
from sidecar.agent.redirection import problem as redirect_problem
from sidecar.agent.reload import carry_out, compared, open_listener, planned
from sidecar.agent.retirement import Retirement
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.load import load
from sidecar.config.schema import Config
from sidecar.config.show import effective
from sidecar.config.traffic import Upstream
from sidecar.core.address import Address
from sidecar.core.decisions import Decisions
from sidecar.core.health import Health
from sidecar.core.instance import Instance
from sidecar.core.records import AccessLog, Stories
from sidecar.core.stats import ListenerStats
from sidecar.endpoints.loops import reaches
from sidecar.endpoints.names import Names
from sidecar.endpoints.probe import probe
from sidecar.exchange.listener import Listener, ListenerError
from sidecar.http_queue.leftover import report as report_leftovers
from sidecar.net.resolver import SystemResolver
from sidecar.net.wheel import TimerWheel
from sidecar.registry import Registry, RegistryError
from sidecar.registry import create as create_registry
from sidecar.telemetry.logs import LogWriter
from sidecar.telemetry.loop_lag import LoopLag
from sidecar.why.ring import Ring

if TYPE_CHECKING:
    from sidecar.telemetry.spans import SpanExporter

logger = logging.getLogger("sidecar.agent")

#: How long a registry that does not answer holds up readiness. After that we serve what we know (static endpoints,
#: and whatever the registry says later): failing towards serving.
REGISTRY_GRACE: Final = 5.0
#: The same for the first answers about host names: a DNS server that has not answered by then is silent.
NAMES_GRACE: Final = 2.0
#: What the registry calls the states of health.
_CHECK_STATES: Final = {"healthy": "passing", "warning": "warning", "unhealthy": "critical"}


class StartError(Exception):
    """The sidecar could not start; the text is for the person who started it."""


class Agent:
    """One sidecar. Whatever becomes of :meth:`start`, :meth:`stop` it.

    Raises :class:`sidecar.config.errors.ConfigError` when something that the configuration asks for is not installed.
    """

    def __init__(self, config: Config, path: str | Path, log: LogWriter, notifier: Notifier | None = None) -> None:
        self.config = config
        self.started = time.monotonic()
        self.phase = "starting"
        #: What another process has in use, and this one needs before it can serve.
        self.waiting_for = ""
        self.upstreams: dict[str, RunningUpstream] = {}
        self.inbound: Listener | None = None
        self.registry: Registry | None = None
        self.admin_address: Address | None = None
        self.path = path
        self.log = log
        self.access_log = AccessLog(config.log.access.mode, log.put, config.log.access.sample, config.log.access.slow)
        self._loop = asyncio.get_running_loop()
        #: Sends spans to the collector, if there is one.
        self.spans: SpanExporter | None = None
        self.listening = Listening()
        self._health = (
            Health("warning", "the app has not been checked yet")
            if config.service.app
            else Health("healthy", "there is no app to check")
        )
        #: It could not start, and whoever asked for that is told why.
        self._failed = False
        self._drain_asked, self._drained_by, self.apps_turn = asyncio.Event(), "", AppsTurn()
        self.last_reload = changes.LastReload(lambda: effective(self.config))
        self._reloading = asyncio.Lock()
        self._retirement = Retirement()
        self.early = Early(self._loop)
        self.notifier = notifier or Notifier({})
        dns = config.dns
        self.names = Names(
            SystemResolver([str(it) for it in dns.servers], dns.timeout, dns.max_ttl), dns.min_ttl, dns.max_ttl
        )
        self._app: App | None = None
        #: What is remembered of requests.
        self.ring = Ring(config.why.records)
        self.stories = Stories(self.ring.put, config.why.records > 0, config.why.sample, config.tracing.slow)
        self._wheel = TimerWheel(self._loop.call_at, time.monotonic)
        self.lag = LoopLag(self._loop.call_at, time.monotonic)
        if config.tracing.otlp:
            from sidecar.telemetry.spans import SpanExporter  # with an HTTP client

            self.spans = SpanExporter(config.tracing.otlp, config.service.name, config.service.id)
        self.shared = shared_limits.create(config, self.names.resolver, random.Random(), self.listeners)
        self.context = Context(
            loop=self._loop,
            wheel=self._wheel,
            clock=time.monotonic,
            rng=random.Random(),
            access_log=self.access_log,
            record_span=self.spans.record if self.spans else None,
            tracing=config.tracing,
            breaker_changed=changes.breaker,
            shared=self.shared.limit if self.shared is not None else None,
            stories=self.stories,
            decisions=Decisions(config.rehearsal.records),
            listener_of=lambda name: self.upstreams[name].listener if name in self.upstreams else None,
        )
        self.redirection = Redirection(config, self.context, self.names, lambda: self.inbound)

    # -- what the admin API sees ---------------------------------------------------------------------------------------

    @property
    def stats(self) -> Sequence[ListenerStats]:
        own = [self.inbound.stats] if self.inbound else []
        return [*own, *(upstream.stats for upstream in self.upstreams.values()), *self.redirection.stats]

    @property
    def log_lines_dropped(self) -> int:
        return self.log.dropped

    @property
    def spans_withheld(self) -> int:
        return self.context.sampling.withheld

    @property
    def lookups(self) -> Mapping[str, int]:
        return self.names.lookups

    def app_health(self) -> Health:
        return self._health

    async def check_app(self) -> Health:
        return await self._app.check_now() if self._app else self._health

    async def probe(self, upstream: str) -> Health:
        """See :func:`sidecar.endpoints.probe.probe`."""
        running = self.upstreams[upstream]
        return await probe(running.endpoints, running.listener.chain.timeout.connect)

    def drain(self, by: str = "") -> None:
        """Begin to drain; while it still starts, that is what it does next. ``by``: who wants it, for the log."""
        if self.phase in ("starting", "ready"):
            self._drained_by = by
            self.phase = "draining"
            self.notifier.stopping("draining")
            self._drain_asked.set()

    # -- start ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind, discover, become ready. Raises :class:`StartError`, or :class:`~sidecar.config.errors.ConfigError`."""
        raise_file_limit()
        keep_heap()
        if wrong := redirect_problem(self.config):
            self._failed = True
            raise StartError(wrong)
        try:
            require_libraries(self.config, str(self.path))
            if self.config.inbound is not None:
                self._create_inbound()
            app = self.config.service.app
            if app is not None:
                check = settings.of_app_check(self.config)
                self._app = App(app, check, self.names, self._on_app_addresses, self._on_health)
            for name, config in self.config.upstreams.items():
                self.upstreams[name] = self.create_upstream(name, config)
            connect_breakers(self.upstreams)
            if not await self._open():
                return
            report_leftovers(self.config)
            if app is not None and reaches(app, [listener.address for listener in self.listeners()]):
                raise StartError(f"service.app: {app} is where the sidecar itself listens, not the app")
            inbound = self.inbound.address.port if self.inbound else 0
            self.registry = create_registry(settings.of_registry(self.config, inbound, self.admin_address))
        except (ListenerError, RegistryError) as error:
            self._failed = True
            raise StartError(str(error)) from error
        except ConfigError:
            self._failed = True
            raise
        self.listening.enroll(self.registry, self.config)
        for upstream in self.upstreams.values():
            upstream.follow(self.registry)
        self.redirection.follow(self.upstreams)
        if self.registry is not None:
            await self._await_registry()
        if self._app is not None:
            self._app.start()
        await self._await_names()
        self.redirection.release()
        settle()
        self.lag.start()
        if self._drain_asked.is_set():  # meanwhile
            return
        self.phase = "ready"
        changes.ready(
            service=self.config.service.name,
            seconds=round(time.monotonic() - self.started, 3),
            **{name: str(address) for name, address in self.listening.addresses.items()},
            listeners={listener.name: str(listener.address) for listener in self.listeners()},
        )

    def _create_inbound(self) -> None:
        config = self.config
        assert config.inbound is not None
        assert config.service.app is not None, "the configuration makes sure that inbound has an app"
        self.inbound = create_listener(self.context, config.service.name, config.inbound)
        self.inbound.cluster.source = lambda: {"from": "service.app"}

    def _on_app_addresses(self, instances: tuple[Instance, ...], problem: str, cause: str) -> None:
        if self.inbound is not None:
            self.inbound.cluster.problem, self.inbound.cluster.cause = problem, cause
            self.inbound.cluster.update(instances)

    async def _start_admin(self) -> None:
        from sidecar.agent import admin

        await admin.start(self, self.log, self.listening)
        self.admin_address = self.listening.addresses["admin"]

    async def _open(self) -> bool:
        """Listen, first of all where the app dials: see :mod:`sidecar.agent.early`. ``False``: a drain was asked for
        before that."""
        files = [it for listener in self.listeners() for it in listener.files]
        if files:
            await self._start_admin()  # which says what is waited for
            if not await self._claim(files):
                return False
        for upstream in self.upstreams.values():
            self.early.hold(upstream)
        self.redirection.hold()
        for listener in self.listeners():
            await open_listener(listener)
        if not files:
            await self._start_admin()
        return True

    async def _claim(self, files: Sequence[Any]) -> bool:
        """Wait until no other process has the files of spools and queues, before anything listens: clients are refused
        as by a sidecar that is not there yet, and try again. ``False``: a drain was asked for before that."""
        from sidecar.storage.claim import claim

        since = time.monotonic()

        def told(waiting: str) -> None:
            self.waiting_for = waiting
            self.notifier.status(f"starting: {waiting or 'its files are free'}")
            if waiting:
                logger.warning("not listening yet: %s; waiting until that ends", waiting)
            else:
                logger.info("what was waited for is free", extra={"seconds": round(time.monotonic() - since, 3)})

        return await self._answered(claim(files, told), None) and not self._drain_asked.is_set()

    async def _await_registry(self) -> None:
        assert self.registry is not None
        if not await self._answered(self.registry.answered(), REGISTRY_GRACE):
            logger.warning("the registry has not answered; serving what is known")

    async def _await_names(self) -> None:
        if not await self._answered(self.names.answered(), NAMES_GRACE):
            silent = [name.name for name in self.names.known if not name.answered.is_set()]
            logger.warning("some names do not resolve yet; serving what is known", extra={"names": silent[:20]})

    async def _answered(self, first: Coroutine[Any, Any, None], seconds: float | None) -> bool:
        """Wait so long (None: without end) for ``first``; whether it came, or a drain was asked for."""
        answered = self._loop.create_task(first)
        drain = self._loop.create_task(self._drain_asked.wait())
        try:
            done, _ = await asyncio.wait({answered, drain}, timeout=seconds, return_when="FIRST_COMPLETED")
        finally:
            answered.cancel()
            drain.cancel()
        return bool(done)

    def listeners(self) -> list[Listener]:
        own = [self.inbound] if self.inbound else []
        return [*own, *(upstream.listener for upstream in self.upstreams.values()), *self.redirection.listeners]

    def _outbound(self) -> list[Address]:
        return [upstream.listener.address for upstream in self.upstreams.values()]

    def _on_health(self, health: Health) -> None:
        """A check of the app has a result. Registration begins with the first, so that nobody is sent here before."""
        changed = health.status != self._health.status
        self._health = health
        if changed:
            changes.app(health)
            for upstream in self.upstreams.values():
                upstream.listener.app_health(health.status != "unhealthy")
        registry = self.registry
        if registry is not None and self.phase in ("starting", "ready"):
            registry.set_health(_CHECK_STATES[health.status], health.output)
            registry.register()

    # -- reload --------------------------------------------------------------------------------------------------------

    async def reload(self) -> Sequence[str]:
        """Read the file again and apply it; what changed, a line each. Raises :class:`ConfigError`, and has changed
        nothing then."""
        async with self._reloading:
            try:
                config = await asyncio.to_thread(load, self.path)  # a large file must not hold up traffic
                if self.phase != "ready":
                    raise ConfigError(str(self.path), [Problem("", f"cannot be applied: the sidecar is {self.phase}")])
                todo = planned(self, config, str(self.path))
                changed = await carry_out(self, todo, config, str(self.path))
            except ConfigError as error:
                self.last_reload.refused(error)
                raise
            self.last_reload.done(changed)
            return changed

    async def rehearse(self) -> Plan:
        """Read the file again and change nothing; what a reload would. Raises :class:`ConfigError` when the file is
        wrong."""
        config = await asyncio.to_thread(load, self.path)
        require_libraries(config, str(self.path))
        return compared(self, config)

    def create_upstream(self, name: str, config: Upstream) -> RunningUpstream:
        """An upstream that neither listens nor follows the registry yet."""
        listener = create_listener(self.context, name, config)
        listener.app_health(self._health.status != "unhealthy")
        registry, by = str(self.config.registry), self.config.service.id
        return RunningUpstream(config, listener, self.names, self._outbound, registry, by)

    def retire(self, upstream: RunningUpstream) -> None:
        """Take an upstream out of service; what is under way on it is given ``drain.timeout`` in the background."""
        self._retirement.add(upstream, self.config.drain.timeout)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def run_until_drained(self, companion: Companion | None = None) -> None:
        """Serve until somebody asks to drain, then drain; see :func:`sidecar.agent.draining.drain`."""
        await self._drain_asked.wait()
        self.early.end()
        await drain(self, companion, self._drained_by)

    async def stop(self) -> None:
        """Close everything, whatever state it is in; takes a few seconds at most. One that cannot be closed does not
        keep the others open."""
        self.phase = "stopped"
        self.lag.stop()
        self.early.end()
        self.context.faults.close()
        for upstream in self.upstreams.values():
            upstream.leave()
        self.redirection.leave()
        if self._app is not None:
            self._app.leave()
        closing = [listener.stop for listener in (*self.listeners(), *self._retirement.end())]
        closing += [it.close for it in (self._app, self.shared, self.names) if it is not None]
        if self.registry is not None:
            closing += [functools.partial(self.listening.leave, self.registry), self.registry.close]
        closing.append(self.listening.close)
        if self.spans is not None:
            closing.append(functools.partial(asyncio.to_thread, self.spans.close))
        for close in closing:
            try:
                await close()
            except Exception:
                logger.exception("something could not be closed")
        if not self._failed:
            logger.info("stopped", extra={"service": self.config.service.name})
