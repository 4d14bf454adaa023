"""Carries a plan out: another configuration for a running sidecar.

Nothing that can fail comes after the first thing that is changed, so a reload happens as a whole or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sidecar.agent import balancing, rotation
from sidecar.agent.clusters import RunningUpstream, connect_breakers
from sidecar.agent.libraries import require_libraries
from sidecar.agent.plan import Plan, Stored, plan, stranded
from sidecar.config.agent import Tracing
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.schema import Config
from sidecar.exchange.listener import Listener, ListenerError
from sidecar.http.listener import HttpListener
from sidecar.resilience.sampling import slowness
from sidecar.storage.errors import SpoolError

if TYPE_CHECKING:
    from sidecar.agent.lifecycle import Agent
    from sidecar.http_queue.queue import HttpQueue


def planned(agent: Agent, config: Config, filename: str) -> Plan:
    """The plan from what runs to ``config``. Raises :class:`ConfigError` when it cannot be carried out, instead of
    ignoring what cannot change."""
    require_libraries(config, filename)
    found = compared(agent, config)
    if found.refused:
        raise ConfigError(filename, found.refused)
    return found


def compared(agent: Agent, config: Config) -> Plan:
    """The plan, whether it can be carried out or not."""
    return plan(agent.config, config, _stored(agent))


async def carry_out(agent: Agent, todo: Plan, config: Config, filename: str) -> list[str]:
    """Bring all of the agent to ``config``; what changed, a line each. Raises :class:`ConfigError` when a new listener
    cannot be opened; all is as before then."""
    opened = await _open(agent, todo, config, filename)
    changes: list[str] = []
    for name in list(agent.upstreams):
        if name in todo.removed:
            changes.append(f"upstreams.{name}: removed")
        if name in todo.removed or name in opened:
            queue = _queue_of(agent.upstreams[name].listener)
            if queue is not None:
                queue.refuse()
            agent.retire(agent.upstreams.pop(name))
    for name, running in opened.items():
        running.follow(agent.registry)
        changes.append(f"upstreams.{name}: listening on {running.listener.address}")
    for name in todo.changed:
        _change(agent, agent.upstreams[name], config)
        changes.append(f"upstreams.{name}: changed")
    # In the order of the file, as after a start.
    agent.upstreams = {name: opened.get(name) or agent.upstreams[name] for name in config.upstreams}
    connect_breakers(agent.upstreams)
    agent.redirection.follow(agent.upstreams)
    for running in agent.upstreams.values():
        running.listeners_changed()
    if todo.inbound and agent.inbound is not None and config.inbound is not None:
        agent.inbound.assembly.apply(agent.inbound, config.inbound)
        changes.append("inbound: changed")
    agent.listening.changed(config)
    if "consul.token" in todo.settings and agent.registry is not None:
        agent.registry.use_token(config.consul.token)
    if "log.level" in todo.settings:
        agent.log.set_level(config.log.level)
    agent.ring.resize(config.why.records)
    agent.stories.use(config.why.records > 0, config.why.sample, config.tracing.slow)
    agent.context.decisions.resize(config.rehearsal.records)
    agent.context.decisions.changed()
    if "log.access" in todo.settings:
        access = config.log.access
        agent.access_log.set_mode(access.mode, access.sample, access.slow)
    if any(key.startswith("tracing.") for key in todo.settings):
        _sample(agent, config.tracing)
    agent.config = config  # from which the admin token and the time to drain are read
    agent.context.faults.reloaded()
    changes += [f"{key}: {config.log.level if key == 'log.level' else 'changed'}" for key in todo.settings]
    return changes


async def _open(agent: Agent, todo: Plan, config: Config, filename: str) -> dict[str, RunningUpstream]:
    """The upstreams that are new, listening. Raises :class:`ConfigError`, and none is then."""
    opened: dict[str, RunningUpstream] = {}
    try:
        for name in todo.opened:
            opened[name] = agent.create_upstream(name, config.upstreams[name])
            agent.early.hold(opened[name])
            try:
                await open_listener(opened[name].listener)
            except ListenerError as error:
                raise ConfigError(filename, [Problem(f"upstreams.{name}.bind", str(error))]) from error
        # Something may have been stored meanwhile.
        problems = stranded(agent.config, config, _stored(agent))
        if problems:
            raise ConfigError(filename, problems)
    except ConfigError:
        for running in opened.values():
            agent.early.release(running)
            await running.listener.stop()
        raise
    return opened


async def open_listener(listener: Listener) -> None:
    """Start to listen. Raises :class:`ListenerError`, or :class:`ConfigError` where the spool cannot be used."""
    try:
        await listener.start()
    except SpoolError as error:
        raise ConfigError("spool", [Problem("", error.text)]) from error


def _stored(agent: Agent) -> dict[str, Stored]:
    """The queues that are open, by the path of their listener's section."""
    listeners = {f"upstreams.{name}": running.listener for name, running in agent.upstreams.items()}
    if agent.inbound is not None:
        listeners["inbound"] = agent.inbound
    queues = {path: _queue_of(listener) for path, listener in listeners.items()}
    return {path: Stored(queue.path, queue.waiting) for path, queue in queues.items() if queue is not None}


def _queue_of(listener: Listener) -> HttpQueue | None:
    return listener.queue if isinstance(listener, HttpListener) else None


def _sample(agent: Agent, tracing: Tracing) -> None:
    """Record other traces from now on."""
    slow = slowness(tracing.always, tracing.slow)
    agent.context.sampling.configure(tracing.sample, "errors" in tracing.always, slow)
    for running in agent.upstreams.values():
        if running.amqp is not None:
            cast(Any, running.listener).tracing.resample(tracing.sample)


def _change(agent: Agent, running: RunningUpstream, config: Config) -> None:
    """Give a running upstream its new configuration."""
    old, new = running.config, config.upstreams[running.config.name]
    running.config = new
    running.listener.assembly.apply(running.listener, new)
    if balancing.differs(old, new):
        balancing.change(running.listener.cluster, new, agent.context.rng, agent.context.clock)
        running.ask_models(balancing.asks_models(new))
    if (old.subsets, old.sticky) != (new.subsets, new.sticky):
        balancing.divide(running.listener.cluster, new, agent.context.rng, agent.context.clock)
    running.follow_canary()
    if old.health != new.health:
        rotation.configure(running.listener.cluster, new)
        running.ask_endpoints(rotation.checks(new))
    if (old.discover, old.endpoints, balancing.others(old)) != (new.discover, new.endpoints, balancing.others(new)):
        running.follow(agent.registry)
