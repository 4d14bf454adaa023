"""Services that find each other in a real Consul, while parts of it die."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from support.consul import ConsulAgent
from support.load import Load
from support.processes import App, Sidecar, ending, get, wait_for

RATE = 500.0


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
    return {
        "service": {"name": "web"},
        "registry": f"consul://127.0.0.1:{consul.http_port}",
        "upstreams": {"tasks": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}}},
    }


def _endpoints(caller: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(f"{caller.admin}/upstreams/tasks")[1]["endpoints"]
    return found


def test_one_of_three_instances_dies_under_load_and_nobody_notices(tmp_path: Path) -> None:
    with ConsulAgent() as consul, ending() as processes:
        apps = [App(tmp_path, f"tasks-{n}").ready() for n in range(3)]
        processes += apps
        sidecars = [Sidecar(tmp_path, _service(consul, app), f"sidecar-{app.name}") for app in apps]
        processes += sidecars
        caller = Sidecar(tmp_path, _caller(consul), "caller")
        processes.append(caller)
        for sidecar in (*sidecars, caller):
            sidecar.ready()
        wait_for(lambda: len(_endpoints(caller)) == 3, "three instances discovered")

        async def scenario() -> tuple[Load, float]:
            load = Load(caller.port("tasks"), RATE)
            load.start()
            await asyncio.sleep(2)
            killed = time.monotonic()
            apps[0].kill()
            sidecars[0].kill()
            await asyncio.sleep(4)
            await load.stop()
            return load, killed

        load, killed = asyncio.run(scenario())
        assert load.errors() == []
        assert len(load.answers) > RATE * 6 * 0.9
        assert load.names() == {"tasks-0", "tasks-1", "tasks-2"}
        assert load.names(since=killed + 1.0) == {"tasks-1", "tasks-2"}
        # What a client waits for is one failed connect, never a backoff.
        assert max(a.seconds for a in load.answers) < 1.0


def test_an_app_dies_behind_its_living_sidecar(tmp_path: Path) -> None:
    with ConsulAgent() as consul, ending() as processes:
        apps = [App(tmp_path, f"tasks-{n}").ready() for n in range(2)]
        processes += apps
        sidecars = [Sidecar(tmp_path, _service(consul, app), f"sidecar-{app.name}") for app in apps]
        processes += sidecars
        caller = Sidecar(tmp_path, _caller(consul), "caller")
        processes.append(caller)
        for sidecar in (*sidecars, caller):
            sidecar.ready()
        wait_for(lambda: len(_endpoints(caller)) == 2, "both instances discovered")

        async def scenario() -> tuple[Load, float]:
            load = Load(caller.port("tasks"), 200.0)
            load.start()
            await asyncio.sleep(1)
            killed = time.monotonic()
            apps[0].kill()
            await asyncio.sleep(3)
            await load.stop()
            return load, killed

        load, killed = asyncio.run(scenario())
        assert load.errors() == []
        assert load.names(since=killed + 1.0) == {"tasks-1"}
        wait_for(lambda: len(_endpoints(caller)) == 1, "Consul knows that the app is not well")
        processes.append(App(tmp_path, apps[0].name, apps[0].port).ready())
        wait_for(lambda: len(_endpoints(caller)) == 2, "it is back")


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    with ConsulAgent() as consul, ending() as processes:
        apps = [App(tmp_path, f"tasks-{n}").ready() for n in range(2)]
        processes += apps
        sidecars = [Sidecar(tmp_path, _service(consul, app), f"sidecar-{app.name}") for app in apps]
        processes += sidecars
        caller = Sidecar(tmp_path, _caller(consul), "caller")
        processes.append(caller)
        for sidecar in (*sidecars, caller):
            sidecar.ready()
        wait_for(lambda: len(_endpoints(caller)) == 2, "both instances discovered")

        async def scenario() -> Load:
            load = Load(caller.port("tasks"), 200.0, path="/slow/20")
            load.start()
            for n in range(2):
                await asyncio.sleep(1)
                assert await asyncio.to_thread(sidecars[n].terminate) == 0
                sidecars[n] = Sidecar(tmp_path, _service(consul, apps[n]), f"again-{n}")
                processes.append(sidecars[n])
                await asyncio.to_thread(sidecars[n].ready)
                await asyncio.to_thread(wait_for, lambda: len(_endpoints(caller)) == 2, "it is back")
            await asyncio.sleep(0.5)
            await load.stop()
            return load

        load = asyncio.run(scenario())
        assert load.errors() == []


def test_consul_dies_and_returns_while_traffic_goes_on(tmp_path: Path) -> None:
    with ConsulAgent() as consul, ending() as processes:
        apps = [App(tmp_path, f"tasks-{n}").ready() for n in range(2)]
        processes += apps
        sidecars = [Sidecar(tmp_path, _service(consul, app), f"sidecar-{app.name}") for app in apps]
        processes += sidecars
        caller = Sidecar(tmp_path, _caller(consul), "caller")
        processes.append(caller)
        for sidecar in (*sidecars, caller):
            sidecar.ready()
        wait_for(lambda: len(_endpoints(caller)) == 2, "both instances discovered")

        async def scenario() -> Load:
            load = Load(caller.port("tasks"), 200.0)
            load.start()
            await asyncio.to_thread(consul.kill)
            await asyncio.sleep(3)
            assert len(await asyncio.to_thread(_endpoints, caller)) == 2
            await asyncio.to_thread(consul.start)  # a -dev agent: its catalogue is empty now
            await asyncio.to_thread(
                wait_for, lambda: consul.instances("tasks") == {"tasks-0", "tasks-1"}, "registered again", 30.0
            )
            await asyncio.sleep(1)
            assert len(await asyncio.to_thread(_endpoints, caller)) == 2
            await load.stop()
            return load

        load = asyncio.run(scenario())
        assert load.errors() == []
        assert len(load.answers) > 200 * 4 * 0.9
