"""``sidecar run``: a sidecar in the foreground, from reading its file to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

import sidecar.filters.order  # noqa: F401 - filters declare their keys
from sidecar.agent import signals
from sidecar.agent.companion import AppProcess
from sidecar.agent.notify import Notifier
from sidecar.agent.orphan import Orphaned, watch
from sidecar.config.errors import ConfigError, Problem
from sidecar.config.load import load
from sidecar.core.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.agent.lifecycle import Agent
    from sidecar.config.schema import Config

#: Exit codes: could not start, or lost what it needs; wrong usage or configuration.
FAILED: Final = 1
MISUSED: Final = 2

#: Why sidecar exec cannot serve what is redirected.
_ONE_USER: Final = Problem(
    "redirect.outbound",
    "is not for sidecar exec: its app runs as the sidecar's own user, whose connections are not redirected",
    allowed="sidecar run in a container or a process of another user; or no outbound",
)

logger = logging.getLogger("sidecar.agent")


def run(path: str, pipes: tuple[int, int] | None = None) -> int:
    """Serve until SIGTERM, drain, stop. Signals are expected to be held back (:mod:`sidecar.agent.signals`), and
    are let in as soon as there are handlers. ``pipes``: those of :class:`~sidecar.agent.companion.AppProcess`."""
    try:
        config = load(path)  # before anything heavy is imported: a wrong file is told at once
        if pipes is not None and config.redirect is not None and config.redirect.outbound is not None:
            raise ConfigError(path, [_ONE_USER])
    except ConfigError as error:
        return _refuse(error)
    if signals.asked_to_end():
        return 0
    import uvloop

    if _asks_others(config):
        _import_aiohttp()
    if signals.asked_to_end():
        return 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, path, pipes))


def _refuse(error: ConfigError) -> int:
    """Tell what is wrong with the file: people as text, and whoever reads a log as one line of it."""
    if sys.stderr.isatty() or error.log_format == "text":
        print(error, file=sys.stderr)
    else:
        from sidecar.telemetry.logs import setup

        log = setup("info", "json", "")
        logger.error("not started: the configuration cannot be used", extra=error.as_dict())
        log.close()
    return MISUSED


def _asks_others(config: Config) -> bool:
    """Whether aiohttp's client asks something: Consul, or a broker's management API."""
    brokers = [upstream.amqp for upstream in config.upstreams.values() if upstream.amqp is not None]
    return config.registry.kind == "consul" or any(broker.management for broker in brokers)


def _import_aiohttp() -> None:
    """aiohttp reads the certificate authorities while it is imported, for a default that nothing in here uses (TLS to
    Consul has a context of its own): 2 MB of memory and a third of the time to start, unless it finds none."""
    before = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ.update(dict.fromkeys(before, os.devnull))
    try:
        import aiohttp  # noqa: F401
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def _serve(config: Config, path: str, pipes: tuple[int, int] | None) -> int:
    from sidecar.agent.lifecycle import Agent, StartError
    from sidecar.telemetry.logs import setup

    log = setup(config.log.level, config.log.format, config.service.name)
    try:
        notifier = Notifier({} if pipes is not None else os.environ)  # with an app, that is the app's to talk to
        agent = Agent(config, path, log, notifier)
        started = asyncio.Event()
        companion = AppProcess(*pipes, lambda: agent.config.drain) if pipes is not None else None
        life = asyncio.ensure_future(_live(agent, started, companion))
        with _handled_signals(agent, life, started):
            await life
    except asyncio.CancelledError:
        return 0  # the second signal
    except Orphaned as error:
        logger.error("ended: %s", error)
        return FAILED
    except StartError as error:
        logger.error("not started: %s", error)
        return FAILED
    except ConfigError as error:
        logger.error("not started: %s", error, extra=error.as_dict())
        return MISUSED
    except Exception:
        logger.exception("ended by a fault of the sidecar's own")
        return FAILED
    finally:
        log.close()
    return 0


async def _live(agent: Agent, started: asyncio.Event, companion: AppProcess | None) -> None:
    agent.notifier.watch(asyncio.get_running_loop())
    agent.notifier.status("starting")
    orphaned = asyncio.ensure_future(watch())
    serving = asyncio.ensure_future(_start_and_serve(agent, started, companion))
    try:
        await asyncio.wait({orphaned, serving}, return_when="FIRST_COMPLETED")
        if not serving.done():
            orphaned.result()
        await serving
    finally:
        for task in (orphaned, serving):
            task.cancel()
        await asyncio.gather(orphaned, serving, return_exceptions=True)
        agent.notifier.stopping("stopping")
        await agent.stop()
        agent.notifier.close()


async def _start_and_serve(agent: Agent, started: asyncio.Event, companion: AppProcess | None) -> None:
    if companion is not None:
        companion.follow(lambda: agent.drain("its app, which has ended"))
    await agent.start()
    if agent.phase == "ready":
        agent.notifier.ready(_serves(agent))
    started.set()
    if companion is not None and agent.phase == "ready":
        companion.ready()
    await agent.run_until_drained(companion)


@contextlib.contextmanager
def _handled_signals(agent: Agent, life: asyncio.Future[None], started: asyncio.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C drain; the second one, or one before there is anything to drain, stops at once. The first one
    after a drain that was asked for otherwise lets that go on: the app has gone, and its sidecar follows. SIGHUP
    reloads, as soon as there is something to reload. SIGUSR1 and SIGUSR2, which others rotate logs with, do nothing."""
    loop = asyncio.get_running_loop()
    reloading: set[asyncio.Task[None]] = set()

    told = False

    def terminate() -> None:
        nonlocal told
        first, told = not told, True
        if agent.phase == "ready":
            agent.drain()
        elif first and agent.apps_turn.awaited:
            logger.info("told to end; the drain that was asked for goes on")
        elif agent.phase != "stopped":  # that is bounded, and is not to be left half done
            life.cancel()

    def reload() -> None:
        if reloading and not started.is_set():
            return  # the one that waits for the start reads the file as it is then
        task = loop.create_task(_reload(agent, started))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    def nothing(name: str) -> None:
        logger.warning("%s does nothing: the log goes to standard error, and no file is reopened", name)

    loop.add_signal_handler(signal.SIGTERM, terminate)
    loop.add_signal_handler(signal.SIGINT, terminate)
    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, nothing, number.name)
    signals.release()
    try:
        yield
    finally:
        signals.hold()  # or one that comes between the two would find the default, which is death
        for number in signals.HANDLED:
            loop.remove_signal_handler(number)  # which leaves the default, for a moment
            signals.ignore(number)


async def _reload(agent: Agent, started: asyncio.Event) -> None:
    await started.wait()
    if agent.phase == "ready":
        agent.notifier.reloading()
    problem = ""
    try:
        await agent.reload()
    except ConfigError as error:  # which has been logged
        problem = f"; not reloaded: {str(error).partition(chr(10))[0]}"
    finally:
        if agent.phase == "ready":
            agent.notifier.ready(_serves(agent) + problem)


def _serves(agent: Agent) -> str:
    """How it is, in one line for people."""
    return f"{agent.config.service.name}: {counted(len(agent.listeners()), 'listener')}"
