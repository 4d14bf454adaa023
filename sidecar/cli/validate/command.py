"""``sidecar validate``: runs the sections in their order, prints, reports, and cleans up in every case."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp

from sidecar.agent.settings import of_registry
from sidecar.cli.admin_client import CommandError, token
from sidecar.cli.validate import balancing, breakers, dashboard, discovery, infrastructure, performance
from sidecar.cli.validate.findings import CODES, OTHER, Section, exit_code, report
from sidecar.cli.validate.peers import Peer, PeerError
from sidecar.cli.validate.run import Run
from sidecar.cli.validate.view import View
from sidecar.config.errors import ConfigError
from sidecar.config.load import load_text
from sidecar.registry import Settings

INTERRUPTED: Final = 130
T = TypeVar("T")

_CHECKS: Final[Mapping[str, Callable[[Run, Section], Awaitable[None]]]] = {
    "infrastructure": infrastructure.check,
    "service_discovery": discovery.check,
    "load_balancing": balancing.check,
    "circuit_breakers": breakers.check,
    "performance": performance.check,
    "dashboard": dashboard.check,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for. ``component`` empty: all; ``json`` empty: no report, ``-``: on standard output."""

    admin: list[str]
    registry: str = ""
    token_file: str = ""
    component: str = ""
    detailed: bool = False
    json: str = ""
    degraded_ok: bool = False


class _Misused(Exception):
    """The arguments cannot be used; the text says why."""


def validate(options: Options) -> int:
    """Validate, and return the exit code."""
    logging.getLogger("sidecar").setLevel(logging.CRITICAL)  # findings say it
    try:
        secret = token(options.token_file)
        for url in options.admin:
            if not url.startswith(("http://", "https://")):
                raise _Misused(f"{url!r} is not the URL of an admin API; one looks like http://127.0.0.1:15000")
        now = datetime.now(UTC)
        target = _target(options.json, now)
        if options.registry:
            _settings(options.registry, "")
        return asyncio.run(_until_signalled(options, secret, now, target))
    except (_Misused, CommandError) as error:
        print(f"sidecar validate: {error}", file=sys.stderr)
        return OTHER


def _target(wanted: str, now: datetime) -> Path | None:
    """Where the report goes; None: nowhere, or to standard output."""
    if not wanted or wanted == "-":
        return None
    path = Path(wanted)
    if path.is_dir():
        path /= f"mesh_validation_report_{now:%Y%m%d_%H%M%S}.json"
    if not os.access(path.parent, os.W_OK):
        raise _Misused(f"--json {wanted}: {path.parent} is not a folder that can be written to")
    return path


def _settings(url: str, datacenter: str) -> Settings:
    """The registry at that URL, with the token of the environment. Raises :class:`_Misused`."""
    if "$" in url:
        raise _Misused(f"registry: {url!r}: a variable has no meaning here")
    consul = {"token": "${CONSUL_HTTP_TOKEN:-}"} | ({"datacenter": datacenter} if datacenter else {})
    text: dict[str, Any] = {"service": {"name": "sidecar-validate"}, "registry": url}
    if url.startswith("consul"):
        text["consul"] = consul
    try:
        return of_registry(load_text(json.dumps(text), "--registry"), 0)
    except ConfigError as error:
        raise _Misused(str(error)) from error


async def _until_signalled(options: Options, secret: str, now: datetime, target: Path | None) -> int:
    """Run as a task, which the first signal cancels: cleaning up goes on, and further signals change nothing."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(_run(options, secret, now, target))
    signalled = False

    def stop() -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            print("\nsidecar validate: stopped; taking everything out again", file=sys.stderr)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return INTERRUPTED


async def _run(options: Options, secret: str, now: datetime, target: Path | None) -> int:
    out = sys.stderr if options.json == "-" else sys.stdout
    terminal = out.isatty()
    colour = terminal and not os.environ.get("NO_COLOR")
    view = View(out, terminal=terminal, colour=colour, detailed=options.detailed)
    began = time.monotonic()
    sections: dict[str, Section] = {}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
        run = Run(
            [Peer(url, secret, http) for url in options.admin], http, None, options.registry, view.doing,
            lenient=options.degraded_ok,
        )  # fmt: skip
        await _find_registry(run)
        run.open_registry()
        last = None
        try:
            for name in CODES:
                if options.component in ("", name):
                    last = sections[name] = Section(name, view.finding, options.degraded_ok)
                    view.section(name)
                    await _section(run, last)
                    view.say("")
        finally:
            view.doing("taking everything out again")
            left = await _whole(_take_out(run, view))
        if left and last is not None:
            last.bad("left behind", "; ".join(left), "take that out by hand")
    code = exit_code(sections)
    view.done(sections, code, time.monotonic() - began)
    if options.json:
        _write(report(sections, now.isoformat(), [peer.url for peer in run.peers], run.registry_url), target, view)
    return code


async def _take_out(run: Run, view: View) -> list[str]:
    left = await run.close()
    for what in left:
        view.say(f"left behind: {what}")
    return left


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Do it to its end, though this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _section(run: Run, section: Section) -> None:
    try:
        await _CHECKS[section.name](run, section)
    except Exception as error:  # a fault of a check must not hide what others find
        section.bad("check", f"{type(error).__name__}: {error}", "a fault of sidecar validate: please report it")


async def _find_registry(run: Run) -> None:
    """The registry that is asked for, or else the first sidecar's."""
    url, datacenter = run.registry_url, ""
    for peer in run.peers:
        if url:
            break
        try:
            config = await peer.ask("/config")
        except PeerError as error:
            run.problem = run.problem or f"which one it is is not known: {peer.name}: {error}"
            continue
        consul = config.get("consul")
        url = str(config.get("registry", "none"))
        datacenter = str(consul.get("datacenter") or "") if isinstance(consul, dict) else ""
    if url:
        try:
            run.settings, run.registry_url, run.problem = _settings(url, datacenter), url, ""
        except _Misused as error:
            run.problem = f"the sidecar's {url!r} is not understood: {error}"


def _write(found: Mapping[str, Any], target: Path | None, view: View) -> None:
    text = json.dumps(found, indent=2, ensure_ascii=False)
    if target is None:
        print(text)
        return
    try:
        target.write_text(text + "\n")
    except OSError as error:
        raise _Misused(f"the report cannot be written: {error}") from error
    view.say(f"report: {target}")
