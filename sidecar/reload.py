"""Another configuration for a running sidecar: first what cannot change is refused, then the rest is applied.

Nothing that can fail comes after the first thing that is changed, so a reload happens as a whole or not at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.config.differences import differences
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.host import default_id
from sidecar.config.model import Config, Inbound, Queue, Service, Upstream
from sidecar.disk.errors import SpoolError
from sidecar.proxy.http1.listener import HttpListener
from sidecar.proxy.listener import Listener, ListenerError
from sidecar.upstreams.running import RunningUpstream

if TYPE_CHECKING:
    from sidecar.agent import Agent
    from sidecar.queue.queue import HttpQueue

_RESTART = "a change of this takes a restart"
#: What is read once, at the start: keys, with all that is under those that end with a dot…
_FIXED = ("service.", "registry", "consul.", "admin.", "tracing.", "log.", "dns.", "inbound.bind", "inbound.protocol")
#: … except for these.
_FREE = ("consul.token", "admin.token", "log.level")


def check_fixed(agent: Agent, config: Config, filename: str) -> None:
    """Some keys are read once, at the start. Raises :class:`ConfigError` when one of them has changed, instead of
    ignoring that."""
    old = agent.config
    changed = differences(replace(old, service=_service(old)), replace(config, service=_service(config)))
    problems = [
        Problem(it.path, f"{_RESTART}: {it}") for it in changed if it.path.startswith(_FIXED) and it.path not in _FREE
    ]
    if (old.inbound is None) != (config.inbound is None):
        problems.append(Problem("inbound", "adding or removing this takes a restart"))
    if old.inbound is not None and config.inbound is not None:
        problems += _queue("inbound", agent.inbound, config.inbound)
    for upstream in config.upstreams.values():
        if upstream.amqp is not None and upstream.amqp.credentials is not None:
            from sidecar.amqp.link import require_aio_pika

            require_aio_pika(upstream.name)
    held = {upstream.config.bind: name for name, upstream in agent.upstreams.items() if upstream.config.bind.port}
    for name, upstream in config.upstreams.items():
        running = agent.upstreams.get(name)
        if running is not None and running.config.bind == upstream.bind:
            problems.extend(
                Problem(
                    f"upstreams.{name}.{key}",
                    f"{_RESTART}, or another bind: {getattr(running.config, key)} → {getattr(upstream, key)}",
                )
                for key in ("protocol", "balancer")
                if getattr(running.config, key) != getattr(upstream, key)
            )
            before, after = _spool_path(running.config), _spool_path(upstream)
            if before != after:
                problems.append(
                    Problem(
                        f"upstreams.{name}.amqp.spool",
                        f"{_RESTART}, or another bind: {_told(before)} → {_told(after)}",
                    )
                )
            problems += _queue(f"upstreams.{name}", running.listener, upstream)
        elif running is not None and _open_queue(running.listener) & _queue_paths(upstream):
            problems.append(Problem(f"upstreams.{name}.bind", f"requests are queued there: {_RESTART}"))
        elif running is not None and _spool_path(upstream) and _spool_path(running.config) == _spool_path(upstream):
            problems.append(Problem(f"upstreams.{name}.bind", f"its spool is in use: {_RESTART}"))
        elif upstream.bind in held:
            holder = held[upstream.bind]
            problems.append(
                Problem(
                    f"upstreams.{name}.bind",
                    f"{upstream.bind} is still held by the upstream {holder!r}; to hand it over, take {holder!r} out "
                    "and reload, then add this one and reload again; or restart",
                )
            )
    problems += _stranded(agent, config)
    if problems:
        raise ConfigError(filename, problems)


async def apply(agent: Agent, config: Config, filename: str) -> list[str]:
    """Bring listeners and their policies to ``config``; what changed, a line each. Raises :class:`ConfigError` when a
    new listener cannot be opened; all is as before then."""
    added: dict[str, RunningUpstream] = {}

    async def give_up() -> None:
        for opened in added.values():
            await opened.listener.stop()

    for name, upstream in config.upstreams.items():
        running = agent.upstreams.get(name)
        if running is not None and running.config.bind == upstream.bind:
            continue
        added[name] = agent.create_upstream(name, upstream)
        try:
            await open_listener(added[name].listener)
        except (ListenerError, ConfigError) as error:
            await give_up()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(filename, [Problem(f"upstreams.{name}.bind", str(error))]) from error
    problems = _stranded(agent, config)  # something may have been stored meanwhile
    if problems:
        await give_up()
        raise ConfigError(filename, problems)
    changes: list[str] = []
    for name in list(agent.upstreams):
        if name not in config.upstreams:
            changes.append(f"upstreams.{name}: removed")
        if name not in config.upstreams or name in added:
            queue = _queue_of(agent.upstreams[name].listener)
            if queue is not None:
                queue.refuse()
            agent.retire(agent.upstreams.pop(name))
    for name, running in added.items():
        running.follow(agent.registry)
        changes.append(f"upstreams.{name}: listening on {running.listener.address}")
    kept = [name for name in config.upstreams if name not in added]
    changes += [f"upstreams.{name}: changed" for name in kept if _change(agent, agent.upstreams[name], config)]
    # In the order of the file, as after a start.
    agent.upstreams = {name: added.get(name) or agent.upstreams[name] for name in config.upstreams}
    agent.connect_breakers()
    for running in agent.upstreams.values():
        running.listeners_changed()
    if agent.inbound is not None and config.inbound is not None and config.inbound != agent.config.inbound:
        agent.inbound.assembly.apply(agent.inbound, config.inbound)
        changes.append("inbound: changed")
    if config.consul.token != agent.config.consul.token:
        if agent.registry is not None:
            agent.registry.use_token(config.consul.token)
        changes.append("consul.token: changed")
    if config.admin.token != agent.config.admin.token:  # whoever asks is compared with the configuration's
        changes.append("admin.token: changed")
    return changes


async def open_listener(listener: Listener) -> None:
    """Start to listen. Raises :class:`ListenerError`, or :class:`ConfigError` where the spool cannot be used."""
    try:
        await listener.start()
    except SpoolError as error:
        raise ConfigError("spool", [Problem("", error.text)]) from error


def _queue(name: str, running: Listener | None, new: Inbound | Upstream) -> list[Problem]:
    """Where requests are stored is opened at the start. That no more are stored is fine: those that are get
    delivered."""
    paths = _queue_paths(new)
    if not paths or running is None or paths == _open_queue(running):
        return []
    queue = _queue_of(running)
    waiting = f"; {queue.waiting} wait in {queue.path}, and are delivered from there only" if queue else ""
    change = f"{_told(', '.join(_open_queue(running)))} → {', '.join(sorted(paths))}"
    return [Problem(name, f"where it queues requests: {_RESTART}: {change}{waiting}")]


def _stranded(agent: Agent, config: Config) -> list[Problem]:
    """Upstreams that would go while requests are stored for them, which nobody would deliver then."""
    problems = []
    for name, running in agent.upstreams.items():
        new = config.upstreams.get(name)
        queue = _queue_of(running.listener)
        if queue is not None and queue.waiting and (new is None or new.bind != running.config.bind):
            problems.append(
                Problem(
                    f"upstreams.{name}",
                    f"{queue.waiting} requests are stored for it, which nobody would deliver; they were answered 202: "
                    "take only its queue out, reload, and take the rest out once sidecar_queued_requests is 0",
                )
            )
    return problems


def _queue_of(listener: Listener) -> HttpQueue | None:
    return listener.queue if isinstance(listener, HttpListener) else None


def _open_queue(listener: Listener) -> set[str]:
    queue = _queue_of(listener)
    return set() if queue is None else {queue.path}


def _queue_paths(listener: Inbound | Upstream) -> set[str]:
    return {it.queue.path for it in (listener, *listener.routes) if isinstance(it.queue, Queue)}


def _spool_path(upstream: Upstream) -> str:
    return upstream.amqp.spool.path if upstream.amqp is not None and upstream.amqp.spool is not None else ""


def _told(path: str) -> str:
    return path or "(nowhere)"


def _service(config: Config) -> Service:
    """Without a default id: the inbound port is in it, and a change of that is told by itself."""
    port = config.inbound.bind.port if config.inbound else None
    service = config.service
    return replace(service, id="") if service.id == default_id(service.name, port) else service


def _change(agent: Agent, running: RunningUpstream, config: Config) -> bool:
    """Give a running upstream its new configuration; whether it is a different one."""
    old, new = running.config, config.upstreams[running.config.name]
    if old == new:
        return False
    running.config = new
    running.listener.assembly.apply(running.listener, new)
    if (old.discover, old.endpoints) != (new.discover, new.endpoints):
        running.follow(agent.registry)
    return True
