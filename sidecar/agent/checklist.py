"""The checklist of ``sidecar diagnose``: every check, at once, each for a few seconds. Loaded when somebody asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final

from sidecar.agent import host_checks, shared_limits, upstream_checks
from sidecar.agent.findings import Finding, bad, none

if TYPE_CHECKING:
    from sidecar.agent.clusters import RunningUpstream
    from sidecar.agent.lifecycle import Agent

logger = logging.getLogger("sidecar.admin")

#: How long a check may take; one that asks endpoints takes two answers' time, and some.
SECONDS: Final = 3.0
ASKING: Final = 2 * upstream_checks.ANSWER + 1.0


async def examine(agent: Agent, name: str = "") -> Sequence[Finding]:
    """Return what is found, about the upstream of that name (empty: about each), in the order of the checklist."""
    chosen = [it for key, it in agent.upstreams.items() if name in ("", key)]
    dates: list[tuple[str, str]] = []
    own = [
        _bounded("file", host_checks.file(agent)),
        _bounded("registry", host_checks.registry(agent)),
        _bounded("redis", shared_limits.check(agent.shared)),
        _bounded("app", host_checks.app(agent)),
        _bounded("disk", host_checks.disk(agent, name)),
        _bounded("descriptors", host_checks.descriptors(agent)),
        _bounded("faults", host_checks.faults(agent)),
    ]
    found, *rest = await asyncio.gather(asyncio.gather(*own), *(_upstream(it, dates) for it in chosen))
    at = next(n for n, it in enumerate(found) if it.check == "disk")
    told = await _bounded("clock", host_checks.clock(agent, dates))
    return [*found[:at], told, *found[at:], *(finding for findings in rest for finding in findings)]


async def _upstream(running: RunningUpstream, dates: list[tuple[str, str]]) -> Sequence[Finding]:
    name = running.config.name
    amqp = running.config.amqp is not None
    broker = asyncio.ensure_future(_bounded("broker", upstream_checks.broker(running), name)) if amqp else None
    asking = asyncio.ensure_future(upstream_checks.ask(running))
    findings = [upstream_checks.endpoints(running)]
    try:
        async with asyncio.timeout(ASKING):
            asked = await asking
    except TimeoutError:
        findings.append(none("connect", f"not found out within {ASKING:g} s", name))
    else:
        findings += [check(running, asked) for check in upstream_checks.OF_ANSWERS]
        dates += [(it.endpoint.where, it.pong.fields["date"]) for it in asked if it.pong and "date" in it.pong.fields]
    findings += [upstream_checks.breaker(running), upstream_checks.ejected(running)]
    if broker is not None:
        findings.append(await broker)
    return findings


async def _bounded(check: str, finding: Awaitable[Finding], upstream: str = "") -> Finding:
    """A check's result, in time and whatever happens."""
    try:
        async with asyncio.timeout(SECONDS):
            return await finding
    except TimeoutError:
        return bad(check, f"no result within {SECONDS:g} s", "ask again; if it stays so, the sidecar's log", upstream)
    except Exception as error:
        logger.exception("a check of diagnose failed")
        return bad(check, f"the check itself failed: {type(error).__name__}", "the sidecar's log says more", upstream)
