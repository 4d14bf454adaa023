"""Services that find each other in a real Consul, while parts of it die."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.consul import ConsulAgent
from support.load import Load
from support.patience import PATIENCE
from support.processes import App, Process, Sidecar, ending, get, wait_for

RATE = 500.0
#: How long a connection to an instance may take, and all of a request: as long as the load waits for an answer.
SECONDS = f"{PATIENCE:g}s"


def _service(consul: ConsulAgent, app: App) -> dict[str, Any]:
    return {
        "service": {
            "name": "tasks",
            "id": app.name,
            "address": "127.0.0.1",
            "app": f"127.0.0.1:{app.port}",
            "check": {"http": "/health", "interval": "1s"},
        },
        "registry": f"consul://127.0.0.1:{consul.http_port}",
        "inbound": {"bind": "127.0.0.1:0"},
    }


def _caller(consul: ConsulAgent) -> dict[str, Any]:
    timeout = {"connect": SECONDS, "request": SECONDS}
    tasks = {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}, "timeout": timeout}
    return {
        "service": {"name": "web"},
        "registry": f"consul://127.0.0.1:{consul.http_port}",
        "upstreams": {"tasks": tasks},
    }


def _endpoints(caller: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(f"{caller.admin}/upstreams/tasks")[1]["endpoints"]
    return found


@dataclass
class Mesh:
    """Instances of ``tasks``, each an app with its sidecar, and a sidecar that calls them; all in ``processes``."""

    consul: ConsulAgent
    apps: list[App]
    sidecars: list[Sidecar]
    caller: Sidecar
    processes: list[Process]

    def discovered(self, instances: int) -> None:
        """Wait until the caller knows so many."""
        wait_for(lambda: len(_endpoints(self.caller)) == instances, f"{instances} instances discovered")


@contextmanager
def mesh(folder: Path, instances: int) -> Iterator[Mesh]:
    """A mesh on a real Consul, up and discovered."""
    with ConsulAgent() as consul, ending() as processes:
        apps = [App(folder, f"tasks-{n}") for n in range(instances)]
        sidecars = [Sidecar(folder, _service(consul, app), f"sidecar-{app.name}") for app in apps]
        caller = Sidecar(folder, _caller(consul), "caller")
        processes += [*apps, *sidecars, caller]
        for process in (*apps, *sidecars, caller):
            process.ready()
        whole = Mesh(consul, apps, sidecars, caller, processes)
        whole.discovered(instances)
        yield whole


def test_one_of_three_instances_dies_under_load_and_nobody_notices(tmp_path: Path) -> None:
    async def scenario(it: Mesh) -> tuple[Load, float]:
        load = Load(it.caller.port("tasks"), RATE)
        load.start()
        await load.more(300)
        it.apps[0].kill()
        it.sidecars[0].kill()
        killed = await load.more(600)
        await load.stop()
        return load, killed

    with mesh(tmp_path, 3) as it:
        load, killed = asyncio.run(scenario(it))
        assert load.errors() == []  # a client that waits for a timeout has one
        assert load.names() == {"tasks-0", "tasks-1", "tasks-2"}
        assert load.names(since=killed) == {"tasks-1", "tasks-2"}


def test_an_app_dies_behind_its_living_sidecar(tmp_path: Path) -> None:
    async def scenario(it: Mesh) -> tuple[Load, float]:
        load = Load(it.caller.port("tasks"), 200.0)
        load.start()
        await load.more(100)
        it.apps[0].kill()
        killed = await load.more(200)
        await load.stop()
        return load, killed

    with mesh(tmp_path, 2) as it:
        load, killed = asyncio.run(scenario(it))
        assert load.errors() == []
        assert load.names(since=killed) == {"tasks-1"}
        it.discovered(1)  # Consul knows that the app is not well
        it.processes.append(App(tmp_path, it.apps[0].name, it.apps[0].port).ready())
        it.discovered(2)


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    async def scenario(it: Mesh) -> Load:
        load = Load(it.caller.port("tasks"), 200.0, path="/slow/20")
        load.start()
        for n in range(2):
            await load.more(100)
            assert await asyncio.to_thread(it.sidecars[n].terminate) == 0
            again = Sidecar(tmp_path, _service(it.consul, it.apps[n]), f"again-{n}")
            it.processes.append(again)
            await asyncio.to_thread(again.ready)
            await asyncio.to_thread(it.discovered, 2)
        await load.more(100)
        await load.stop()
        return load

    with mesh(tmp_path, 2) as it:
        load = asyncio.run(scenario(it))
        assert load.errors() == []


def test_consul_dies_and_returns_while_traffic_goes_on(tmp_path: Path) -> None:
    async def scenario(it: Mesh) -> Load:
        load = Load(it.caller.port("tasks"), 200.0)
        load.start()
        await asyncio.to_thread(it.consul.kill)
        await load.more(300)
        assert len(await asyncio.to_thread(_endpoints, it.caller)) == 2
        await asyncio.to_thread(it.consul.start)  # a -dev agent: its catalogue is empty now
        await asyncio.to_thread(
            wait_for, lambda: it.consul.instances("tasks") == {"tasks-0", "tasks-1"}, "registered again"
        )
        await load.more(200)
        assert len(await asyncio.to_thread(_endpoints, it.caller)) == 2
        await load.stop()
        return load

    with mesh(tmp_path, 2) as it:
        load = asyncio.run(scenario(it))
        assert load.errors() == []
