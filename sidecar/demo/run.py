"""Puts the demo together, and takes it apart again whatever happens."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from sidecar.demo.mesh import Mesh, MeshError
from sidecar.demo.observe import Observer
from sidecar.demo.picture import take
from sidecar.demo.story import Story
from sidecar.demo.summary import command, summary
from sidecar.demo.traffic import Traffic
from sidecar.demo.view import View, choose

#: Requests per second of the two kinds of clients.
TASKS_RATE = 120.0
MODEL_RATE = 6.0
#: Seconds after which the story is given up; with start and stop that stays below a minute.
LONGEST = 45.0
#: Seconds after which ``--serve`` restarts a killed process.
REVIVE = 5.0


def run(serve: bool) -> int:
    """See :func:`sidecar.demo.run_demo`."""
    return asyncio.run(_run(serve))


async def _run(serve: bool) -> int:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(_serve() if serve else _demo())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if serve:
            return 0
        print("Interrupted; every process of the demo has been ended.", file=sys.stderr)
        return 130
    except (MeshError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except TimeoutError:
        print("demo: the mesh was not ready in time; is this machine very busy?", file=sys.stderr)
        return 1


@asynccontextmanager
async def _mesh() -> AsyncIterator[tuple[Mesh, Observer, aiohttp.ClientSession]]:
    """Start a mesh and give it once it is ready; end its processes and remove its files after the block."""
    with tempfile.TemporaryDirectory(prefix="sidecar-demo-") as folder:
        mesh = Mesh(Path(folder))
        timeout = aiohttp.ClientTimeout(total=10)
        try:
            mesh.start()
            async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
                observer = Observer(session, mesh)
                began = time.monotonic()
                waiting = asyncio.ensure_future(_say_that_it_goes_on(observer))
                try:
                    await observer.wait_ready()
                finally:
                    waiting.cancel()
                print(f"Ready after {time.monotonic() - began:.1f} s.", flush=True)
                yield mesh, observer, session
        finally:
            await mesh.stop()


async def _say_that_it_goes_on(observer: Observer) -> None:
    while True:
        await asyncio.sleep(2)
        print(f"  {observer.ready} of {observer.all} are ready ...", flush=True)


async def _demo() -> int:
    print("Starting five services and a sidecar for each ...", flush=True)
    view = choose()
    async with _mesh() as (mesh, observer, session):
        tasks = Traffic(session, "GET", f"{mesh.web.url}/tasks", TASKS_RATE)
        model = Traffic(session, "POST", f"{mesh.web.url}/ask", MODEL_RATE)
        story = Story(mesh, observer, tasks, model, view.event)
        view.open()
        try:
            finished = await _tell(story, view, tasks.run(), model.run(), observer.run())
        finally:
            view.close()
        await observer.look()
        memory = await observer.memory()
    if not view.lasting:
        print("What happened\n")
        for at, text in story.events:
            print(f"  {at:5.1f} s  {text}")
    print(f"\n{summary(story, memory)}\n")
    if not finished:
        print(f"The story was not over after {LONGEST:g} s. Is this machine very busy?", file=sys.stderr)
    wrong = [check for check in story.checks if not check.good]
    for check in wrong:
        print(f"Not as told: {check.text}", file=sys.stderr)
    return 1 if wrong or not finished else 0


async def _tell(story: Story, view: View, *background: Coroutine[Any, Any, None]) -> bool:
    """Tell the story while the traffic runs. Return whether it came to its end."""
    tasks = [asyncio.ensure_future(work) for work in (*background, _show(story, view))]
    try:
        async with asyncio.timeout(LONGEST):
            await story.tell()
    except TimeoutError:
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return True


async def _show(story: Story, view: View) -> None:
    while True:
        await asyncio.sleep(view.interval)
        view.show(take(story))


async def _serve() -> int:
    print("Starting five services and a sidecar for each ...", flush=True)
    async with _mesh() as (mesh, _, _):
        print(_addresses(mesh), flush=True)
        while True:
            for process in mesh.ended():
                print(f"{process.name} has ended; starting it again in {REVIVE:g} s", flush=True)
                await asyncio.sleep(REVIVE)
                process.start()
                print(f"{process.name} is process {process.pid} now", flush=True)
            await asyncio.sleep(0.2)


def _addresses(mesh: Mesh) -> str:
    lines = [
        "",
        f"  {'':<9}{'requests to':<24}{'admin API':<24}{'process':>8}{'sidecar':>9}",
        *(f"  {w.name:<9}{w.url:<24}{w.admin:<24}{w.app.pid:>8}{w.sidecar.pid:>9}" for w in reversed(mesh.workloads)),
        "",
        f"  configuration and logs: {mesh.folder}",
        "",
        "Try",
        f"  curl -i {mesh.web.url}/tasks",
        "      through two sidecars to one of three instances",
        f"  curl -i -X POST {mesh.web.url}/ask",
        "      a streamed answer",
        f"  {command()} status --admin {mesh.web.admin}",
        "      what web's sidecar sees",
        f"  kill -9 {mesh.model.app.pid}",
        f"      then ask again; what you kill is started again after {REVIVE:g} s",
        "",
        "Ctrl-C ends everything.",
    ]
    return "\n".join(lines)
