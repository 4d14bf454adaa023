"""Checks of ``sidecar diagnose`` that are about the sidecar itself and its host."""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sidecar.agent.findings import Finding, bad, good, none, some
from sidecar.config.errors import ConfigError
from sidecar.core.events import EVENTS
from sidecar.core.text import counted
from sidecar.endpoints.ping import NoAnswer, ping
from sidecar.filters.faults import told
from sidecar.net.shortage import SHORTAGE

if TYPE_CHECKING:
    from sidecar.agent.lifecycle import Agent

#: Seconds that two clocks may differ, and for which a shortage is still of interest.
CLOCK: Final = 5.0
LATELY: Final = 60.0
#: Connections that there have to be descriptors for: two each.
PAIRS: Final = 8
#: Bytes that a disk has to have left.
ROOM: Final = 64 << 20


async def file(agent: Agent) -> Finding:
    """Whether the file is what runs."""
    try:
        found = await agent.rehearse()
    except ConfigError as error:
        problem = error.problems[0]
        text = f"{problem.path}: {problem.message}" if problem.path else problem.message
        return bad("file", f"{agent.path} cannot be used: {text}", f"sidecar check {agent.path} shows every mistake")
    if not found.differences and not found.refused:
        return good("file", f"{agent.path} is what runs")
    differ = [f"{it.path}: {it}" for it in found.differences] or [it.path for it in found.refused]
    step = "POST /reload, or SIGHUP, applies it; sidecar diff shows it whole"
    if found.refused:
        step = f"a reload would be refused ({found.refused[0].path}): restart, or take that back"
    evidence = f"{agent.path} differs from what runs in {counted(len(differ), 'key')}: {some(differ)}"
    return bad("file", evidence, step)


async def registry(agent: Agent) -> Finding:
    """Whether the registry answers, and how old its data is."""
    it, url = agent.registry, str(agent.config.registry)
    if it is None:
        return none("registry", "there is none" if url == "none" else f"{url} has not been asked yet")
    if it.up:
        return good("registry", f"{url} answers; what is known of it is up to date")
    texts = [event.text for event in EVENTS.since() if event.kind == "registry"]
    why = f": {texts[-1]}" if texts else ""
    step = (
        "is it running, and can this host reach it? registry in the file says where; what was last known stays in use"
    )
    return bad("registry", f"{url} has not answered for {it.age:.0f} s{why}", step)


async def app(agent: Agent) -> Finding:
    """Whether the workload's own app is well."""
    if agent.config.service.app is None:
        return none("app", "there is no app")
    health = await agent.check_app()
    if health.status == "healthy":
        return good("app", health.output)
    return bad(
        "app", health.output, f"is the app running, and does it listen on {agent.config.service.app}? see its log"
    )


async def disk(agent: Agent, upstream: str) -> Finding:
    """Whether what is stored can be written, and has room to grow. ``upstream``: of that one alone, if it is given;
    the disk is the sidecar's all the same."""
    listeners = [agent.upstreams[upstream].listener] if upstream else agent.listeners()
    files = [it for listener in listeners for it in listener.files]
    if not files:
        return none("disk", "nothing is stored")
    problems = [text for listener in listeners if (text := _trouble(listener))]
    folders = sorted({str(it.folder) for it in files})
    looked = await asyncio.gather(*(asyncio.to_thread(_folder, Path(folder)) for folder in folders))
    problems += [text for text, _ in looked if text]
    if problems:
        step = "free room there, or give the folder to the user that the sidecar runs as; it goes on by itself then"
        return bad("disk", some(problems), step)
    free = min(room for _, room in looked)
    return good("disk", f"{', '.join(folders)}: can be written, {free >> 20} MiB are free")


def _trouble(listener: Any) -> str:
    """Why what stores a listener's messages or requests does not work, as it says itself."""
    view = getattr(listener, "amqp_view", None)
    if view is not None and view.spool is not None and view.spool.problem:
        return f"the spool of {listener.name} does not work: {view.spool.problem}"
    queue = getattr(listener, "queue", None)
    if queue is not None and queue.store.problem:
        return f"the queue of {listener.name} does not work: {queue.store.problem}"
    return ""


def _folder(folder: Path) -> tuple[str, int]:
    """What is wrong with a folder, and the bytes that are free there."""
    try:
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}", 0
    return (f"{folder} has {free >> 20} MiB free" if free < ROOM else ""), free


async def descriptors(agent: Agent) -> Finding:
    """Whether there are descriptors for more connections."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = await asyncio.to_thread(_open_descriptors)
    free_pairs = SHORTAGE.pairs - used // 2
    short = [it for it in EVENTS.since() if it.kind == "shortage" and time.time() - it.at < LATELY]
    evidence = f"{used} of {limit} are in use"
    if short or free_pairs < PAIRS:
        lately = f"; {short[-1].text}" if short else ""
        return bad(
            "descriptors", evidence + lately, "raise the limit: ulimit -n, or LimitNOFILE= of systemd; or who leaks?"
        )
    return good("descriptors", evidence)


async def faults(agent: Agent) -> Finding:
    """Whether something goes wrong on purpose."""
    on = [f"{it.where}: {told(it.fault)}" for it in agent.context.faults.active()]
    if on:
        step = "DELETE /faults ends all of them; those of the file stay out when they are taken out of it"
        return bad("faults", some(on), step)
    return good("faults", "none are injected")


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


async def clock(agent: Agent, dates: Sequence[tuple[str, str]]) -> Finding:
    """Whether this host's clock is right. ``dates``: who said what it is there, as HTTP's field of that name."""
    from email.utils import parsedate_to_datetime  # a package of 1 MiB, which nothing else needs

    heard = [*dates, *await _consul_date(agent)]
    apart: list[tuple[float, str]] = []
    for who, said in heard:
        try:
            seconds = time.time() - parsedate_to_datetime(said).timestamp()
        except (ValueError, TypeError, OverflowError):
            continue
        apart.append((seconds, who))
    if not apart:
        return none("clock", "nobody has told the time")
    seconds, who = min(apart, key=lambda it: abs(it[0]))  # most likely one of the others is wrong, not all
    if abs(seconds) <= CLOCK:
        return good("clock", f"as that of {who}, to the second or so")
    ahead = "ahead of" if seconds > 0 else "behind"
    return bad(
        "clock", f"{abs(seconds):.0f} s {ahead} that of {who}", "is NTP (chrony, systemd-timesyncd) running here?"
    )


async def _consul_date(agent: Agent) -> list[tuple[str, str]]:
    it = agent.config.registry
    if it.kind != "consul" or it.address is None or it.tls:
        return []
    try:
        pong = await ping(it.address.host, it.address.port, it.address.host, "GET /v1/status/leader")
    except (OSError, NoAnswer):
        return []
    return [("Consul", pong.fields["date"])] if "date" in pong.fields else []
