"""Three Consul servers whose leader is killed while services call each other: discovery and registration go on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from support.consul_servers import ConsulServer, ConsulServers
from support.load import Load
from support.patience import until
from support.processes import App, Sidecar, ending, get, wait_for

RATE = 100.0


def _service(consul: ConsulServer, app: App) -> dict[str, Any]:
    return {
        "service": {
            "name": "tasks", "id": app.name, "address": "127.0.0.1", "app": f"127.0.0.1:{app.port}",
            "check": {"http": "/health", "interval": "1s"},
        },
        "registry": f"consul://127.0.0.1:{consul.http_port}",
        "inbound": {"bind": "127.0.0.1:0"},
    }  # fmt: skip


def _caller(consul: ConsulServer) -> dict[str, Any]:
    tasks = {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}}
    registry = f"consul://127.0.0.1:{consul.http_port}"
    return {"service": {"name": "web"}, "registry": registry, "upstreams": {"tasks": tasks}}


def test_the_leader_is_lost_and_nobody_notices(tmp_path: Path) -> None:
    with ConsulServers() as servers, ending() as processes:
        leader = wait_for(servers.leader, "a leader")
        near, other = (it for it in servers.all if it is not leader)
        first, second = App(tmp_path, "first"), App(tmp_path, "second")
        caller = Sidecar(tmp_path, _caller(near), "caller")
        processes += [first, second, Sidecar(tmp_path, _service(other, first), "sidecar-first"), caller]
        for process in processes:
            process.ready()

        def known() -> set[str]:
            return {it["id"] for it in get(f"{caller.admin}/upstreams/tasks")[1]["endpoints"]}

        wait_for(lambda: known() == {"first"}, caller.output)

        async def scenario() -> tuple[Load, float]:
            load = Load(caller.port("tasks"), RATE)
            load.start()
            await load.more(50)
            killed = time.monotonic()
            leader.kill()
            processes.append(Sidecar(tmp_path, _service(near, second), "sidecar-second"))
            await asyncio.to_thread(
                wait_for, lambda: servers.leader(asked=near) not in (None, leader), "another one leads"
            )
            elected = time.monotonic() - killed
            await asyncio.to_thread(wait_for, lambda: known() == {"first", "second"}, caller.output)
            print(f"another leader after {elected:.2f} s; a new instance found after {time.monotonic() - killed:.2f} s")
            await until(lambda: "second" in load.names(), "it is called")
            await load.stop()
            return load, elected

        load, _ = asyncio.run(scenario())
        print(f"{len(load.answers)} requests, {len(load.errors())} errors")
        assert load.errors() == []
        assert load.names() == {"first", "second"}, "what was registered without the old leader is used"
        leader.start()  # it comes back as a follower
        wait_for(leader.ready, leader.output)
        assert processes[-1].terminate() == 0
        wait_for(lambda: known() == {"first"}, "who leaves is gone")
