from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sidecar import __version__
from sidecar.agent.lifecycle import StartError
from sidecar.agent.settings import MAX_META_VALUE, of_probes
from sidecar.config.errors import ConfigError
from sidecar.config.host import hostname
from sidecar.config.schema import Config
from sidecar.config.service import Service
from sidecar.core.address import Address
from sidecar.registry import Workload
from sidecar.registry.directory_folder import Folder
from sidecar.registry.directory_record import encode
from sidecar.storage.files import Files
from support.agents import NOBODY, RunningAgent, ask, upstream
from support.live import Origin, ok, run
from support.patience import until
from support.ports import upstream_of
from support.processes import free_port


async def fine(request: object) -> bytes:
    return ok()


def test_a_start_that_fails_can_be_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            free = free_port()
            binds = {
                "a": {**upstream(), "bind": f"127.0.0.1:{free}"},
                "b": {**upstream(), "bind": f"127.0.0.1:{taken.getsockname()[1]}"},
            }
            with pytest.raises(StartError, match="b: cannot listen on"):
                async with RunningAgent(tmp_path, upstreams=binds):
                    pass
            with pytest.raises(ConnectionRefusedError):
                await ask(free)

    run(main)


def test_a_registry_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")

    async def main() -> None:
        with pytest.raises(StartError, match="file"):
            async with RunningAgent(tmp_path, registry=f"directory://{file}/mesh"):
                pass

    run(main)


def test_stopping_twice_is_the_same_as_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(
            tmp_path, registry=f"directory://{tmp_path / 'mesh'}", upstreams={"a": upstream()}
        ) as it:
            await it.agent.stop()
            assert it.agent.phase == "stopped"

    run(main)


def test_machines_have_a_listener_of_their_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, probes={"bind": "127.0.0.1:0"}, upstreams={"a": upstream()}) as it:
            probes = it.agent.listening.addresses["probes"]
            assert (await ask(probes.port, path="/ready"))[0] == 200
            assert (await ask(probes.port, path="/config"))[0] == 404
            it.write(probes={"bind": "127.0.0.1:1"})
            with pytest.raises(ConfigError, match=r"probes\.bind"):
                await it.agent.reload()
            it.write(probes=None)
            with pytest.raises(ConfigError, match="probes"):
                await it.agent.reload()
            await it.agent.stop()
            with pytest.raises(ConnectionRefusedError):
                await ask(probes.port)

    run(main)


def test_a_sidecar_whose_app_never_is_well_is_found_by_machines(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh"

    def record() -> dict[str, Any]:
        (file,) = (mesh / "web-sidecar").glob("*.json")
        found: dict[str, Any] = json.loads(file.read_bytes())
        return found

    async def main() -> None:
        async with RunningAgent(
            tmp_path,
            registry=f"directory://{mesh}",
            service={"name": "web", "address": "10.0.0.5", "app": NOBODY},
            inbound={"bind": "127.0.0.1:0"},
            probes={"bind": "127.0.0.1:0"},
            upstreams={"a": upstream(), "b": upstream()},
        ) as it:
            port = it.agent.listening.addresses["probes"].port
            await until(lambda: list(mesh.glob("web-sidecar/*.json")))
            found = record()
            assert (found["service"], found["host"], found["port"]) == ("web-sidecar", "10.0.0.5", port)
            assert (found["status"], found["sidecar"], found["tags"]) == ("passing", False, ["sidecar"])
            assert found["id"] == f"web-sidecar-{hostname()}-{port}"
            meta = {
                "metrics_port": str(port),
                "service": "web",
                "upstreams": "a,b",
                "version": __version__,
                "calls": "a,b",
            }
            assert found["meta"] == meta
            it.write(upstreams={"a": upstream()})
            await it.agent.reload()
            await until(lambda: record()["meta"]["upstreams"] == "a")
            it.agent.drain()
            await it.agent.run_until_drained()
            assert record()["status"] == "passing"  # it is still to be seen how the drain goes
            await it.agent.stop()
            assert not (mesh / "web-sidecar").exists()

    run(main)


def test_an_id_that_was_given_is_part_of_that_of_the_listener_for_machines() -> None:
    service = Service(name="web", id="web-7", address="10.0.0.5")
    assert of_probes(Config(service=service), 15020).id == "web-7-sidecar"


@pytest.mark.parametrize("count", [0, 1, 40, 1000])
def test_the_names_of_upstreams_fit_what_consul_takes(count: int) -> None:
    names = [f"upstream-{n}" for n in range(count)]
    upstreams = {name: upstream_of(name=name, bind=Address("127.0.0.1", 0)) for name in names}
    config = Config(service=Service(name="web", id="w", address="10.0.0.5"), upstreams=upstreams)
    meta = of_probes(config, 15020).meta
    found = meta["upstreams"]
    assert meta["calls"] == found, "each leads to the service of its name"
    shown, _, more = found.partition(",+")
    assert len(found) <= MAX_META_VALUE
    kept = shown.split(",") if shown else []
    assert kept == names[: len(kept)]
    assert len(kept) + int(more or 0) == count


def test_a_port_for_machines_that_is_taken_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(StartError, match=r"probes: cannot listen on 127\.0\.0\.1"):
                async with RunningAgent(tmp_path, probes={"bind": f"127.0.0.1:{taken.getsockname()[1]}"}):
                    pass

    run(main)


class Unstoppable:
    """A queue with which a listener cannot be stopped."""

    files = None

    def pause(self) -> None: ...

    def stop(self) -> None:
        raise RuntimeError("cannot be closed")


def test_one_that_cannot_be_closed_does_not_keep_the_others_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            listener: Any = it.agent.upstreams["a"].listener
            listener.queue = Unstoppable()
            admin = it.agent.admin_address
            assert admin is not None
            await it.agent.stop()
            with pytest.raises(ConnectionRefusedError):
                await ask(admin.port)
            listener.queue = None

    run(main)


def test_draining_when_there_is_nothing_to_wait_for_is_quick(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            it.agent.drain()
            it.agent.drain()
            assert it.agent.phase == "draining"
            began = time.monotonic()
            await it.agent.run_until_drained()
            assert time.monotonic() - began < 20  # of the thirty that it may take
            await it.agent.stop()
            it.agent.drain()
            assert it.agent.phase == "stopped"

    run(main)


def test_without_an_app_it_is_healthy(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path) as it:
            status, _, body = await it.ask("GET", "/health")
            assert status == 200
            assert json.loads(body)["status"] == "healthy"
            assert (await it.ask("GET", "/health/deep/web"))[0] == 200

    run(main)


def test_an_app_without_inbound_is_checked_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Origin(fine) as app,
            RunningAgent(tmp_path, service={"name": "web", "app": f"127.0.0.1:{app.port}"}) as it,
        ):
            await until(lambda: it.agent.app_health().status == "healthy")

    run(main)


def test_an_app_that_is_down_makes_it_unhealthy(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(
            tmp_path, service={"name": "web", "app": NOBODY}, inbound={"bind": "127.0.0.1:0"}
        ) as it:
            await until(lambda: it.agent.app_health().status == "unhealthy")
            assert (await it.ask("GET", "/health"))[0] == 503
            assert (await it.ask("GET", "/health/web"))[0] == 503

    run(main)


def test_the_id_that_is_registered_has_the_port_that_was_bound(tmp_path: Path) -> None:
    mesh = tmp_path / "mesh"

    async def main() -> None:
        async with (
            Origin(fine) as app,
            RunningAgent(
                tmp_path,
                service={"name": "web", "address": "127.0.0.1", "app": f"127.0.0.1:{app.port}"},
                registry=f"directory://{mesh}",
                inbound={"bind": "127.0.0.1:0"},
            ) as it,
        ):
            assert it.agent.inbound is not None
            port = it.agent.inbound.address.port
            await until(lambda: list(mesh.rglob(f"web-*-{port}.json")))
            await it.agent.stop()
            assert not list(mesh.rglob("*.json"))

    run(main)


def test_an_instance_that_is_its_own_listener_is_refused_and_one_that_is_its_inbound_is_not(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "mesh")
    folder.prepare()

    def say(service: str, port: int) -> None:
        it = Workload(name=service, id=f"{service}-{port}", address="127.0.0.1", port=port)
        folder.write(service, it.id, encode(it, "passing", ""))

    async def main() -> None:
        async with (
            Origin(fine) as app,
            RunningAgent(
                tmp_path,
                service={"name": "web", "app": f"127.0.0.1:{app.port}"},
                registry=f"directory://{tmp_path / 'mesh'}",
                inbound={"bind": "127.0.0.1:0"},
                upstreams={
                    "itself": {"bind": "127.0.0.1:0", "discover": {"service": "itself"}},
                    "loop": {"bind": "127.0.0.1:0", "discover": {"service": "loop"}},
                },
            ) as it,
        ):
            assert it.agent.inbound is not None
            say("itself", it.agent.inbound.address.port)
            say("loop", it.port("loop"))
            say("loop", it.port("itself"))
            say("loop", app.port)
            await until(lambda: it.agent.upstreams["itself"].endpoints and it.agent.upstreams["loop"].endpoints)
            assert (await ask(it.port("itself")))[0] == 200
            assert [endpoint.port for endpoint in it.agent.upstreams["loop"].endpoints] == [app.port]
            assert (await ask(it.port("loop")))[0] == 200

    run(main)


def test_a_reload_that_listens_at_an_endpoint_takes_that_one_out(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        folder = Folder(tmp_path / "mesh")
        folder.prepare()
        for n in (port, 9):
            there = Workload(name="a", id=f"a-{n}", address="127.0.0.1", port=n)
            folder.write("a", there.id, encode(there, "passing", ""))
        ups = {"a": {"bind": "127.0.0.1:0", "discover": {"service": "a"}}}
        async with RunningAgent(tmp_path, registry=f"directory://{tmp_path / 'mesh'}", upstreams=ups) as it:
            await until(lambda: len(it.agent.upstreams["a"].endpoints) == 2)
            it.write(upstreams=ups | {"b": {**upstream(), "bind": f"127.0.0.1:{port}"}})
            await it.agent.reload()
            assert [endpoint.port for endpoint in it.agent.upstreams["a"].endpoints] == [9]

    run(main)


def test_an_app_that_is_its_own_listener_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An address of this machine that the configuration alone cannot know to be one.
    monkeypatch.setattr("sidecar.endpoints.loops.is_local", lambda ip: str(ip) == "192.0.2.1" or ip.is_unspecified)

    async def main() -> None:
        port = free_port()
        with pytest.raises(StartError, match=f"service.app: 192.0.2.1:{port} is where the sidecar itself listens"):
            async with RunningAgent(
                tmp_path,
                service={"name": "web", "app": f"192.0.2.1:{port}"},
                inbound={"bind": f"0.0.0.0:{port}"},
            ):
                pass

    run(main)


def test_a_deep_check_connects(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Origin(fine) as app,
            RunningAgent(
                tmp_path,
                upstreams={
                    "good": upstream(f"127.0.0.1:{app.port}"),
                    "half": upstream(f"127.0.0.1:{app.port}", NOBODY),
                    "bad": upstream(NOBODY),
                },
            ) as it,
        ):
            found = {name: (await it.agent.probe(name)).status for name in ("good", "half", "bad")}
            assert found == {"good": "healthy", "half": "warning", "bad": "unhealthy"}

    run(main)


def test_a_cancelled_start_can_be_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        it = RunningAgent(
            tmp_path,
            registry=f"consul://127.0.0.1:{free_port()}",
            upstreams={"a": {"bind": "127.0.0.1:0", "discover": {"service": "a"}}},
        )
        starting = asyncio.create_task(it.__aenter__())
        await until(lambda: hasattr(it, "agent") and it.agent.registry is not None)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert it.agent.phase == "stopped"

    run(main)


def test_a_breaker_held_open_refuses_and_let_go_serves_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            Origin(fine) as app,
            RunningAgent(tmp_path, upstreams={"a": upstream(f"127.0.0.1:{app.port}")}) as it,
        ):
            assert (await ask(it.port("a")))[0] == 200
            status, _, body = await it.ask("POST", "/upstreams/a/breaker/open")
            assert (status, json.loads(body)["breaker"]["forced"]) == (200, "open")
            status, fields, _ = await ask(it.port("a"))
            assert (status, fields["x-sidecar-error"]) == (503, "circuit_open")
            assert (await it.ask("GET", "/health/a"))[0] == 503
            await it.ask("POST", "/upstreams/a/breaker/auto")
            assert (await ask(it.port("a")))[0] == 200

    run(main)


def test_secrets_stay_secret(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(
            tmp_path, admin={"bind": "127.0.0.1:0", "token": "s3cret-token"}, consul={"token": "s3cret-acl"}
        ) as it:
            for path in ("/", "/config", "/health", "/metrics", "/openapi.json"):
                assert b"s3cret" not in (await it.ask("GET", path))[2]
            assert (await it.ask("POST", "/reload"))[0] == 401
            assert (await it.ask("POST", "/reload", X_Sidecar_Token="s3cret-token"))[0] == 200
            it.write(consul={"token": "s3cret-other"})
            status, _, body = await it.ask("POST", "/reload", Authorization="Bearer s3cret-token")
            assert status == 200  # what is rotated is taken over
            assert b"s3cret" not in body

    run(main)


def test_a_reload_over_http_says_what_changed_or_what_is_wrong(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path) as it:
            it.write(upstreams={"a": upstream()})
            status, _, body = await it.ask("POST", "/reload")
            assert status == 200
            assert json.loads(body)["changes"][0].startswith("upstreams.a: listening on 127.0.0.1:")
            it.write(upstreams={"a": upstream(balancer="roundrobin")})
            status, _, body = await it.ask("POST", "/reload")
            assert status == 422
            assert json.loads(body)["problems"][0]["path"] == "upstreams.a.balancer"
            assert (await it.ask("GET", "/upstreams/a"))[0] == 200

    run(main)


class Waiting:
    """A sidecar whose queue of requests another process has; use it with ``async with``, once it waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "queue"
        self.other = Files(self.folder, "tasks~queue")
        self.port = free_port()
        queue = {"spool": True, "path": str(self.folder)}
        tasks = {**upstream(queue=queue), "bind": f"127.0.0.1:{self.port}"}
        self.running = RunningAgent(folder, upstreams={"a": upstream(), "tasks": tasks})
        self.start: asyncio.Task[RunningAgent]

    async def __aenter__(self) -> Waiting:
        self.other.prepare()
        self.start = asyncio.ensure_future(self.running.__aenter__())
        await until(lambda: hasattr(self.running, "agent") and self.running.agent.waiting_for)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.other.release()
        if not self.start.done():
            self.start.cancel()
            await asyncio.wait([self.start])
        elif not self.start.cancelled():
            await self.running.__aexit__()

    async def listens(self) -> bool:
        try:
            await ask(self.port)
        except ConnectionRefusedError:
            return False
        return True


def test_one_whose_files_another_process_has_waits_says_so_and_takes_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sidecar")

    async def main() -> None:
        async with Waiting(tmp_path) as it:
            said = f"{it.folder / 'tasks~queue.db'} is in use by another process, {os.getpid()}"
            status, _, body = await it.running.ask("GET", "/ready")
            assert (status, json.loads(body)) == (503, {"ready": False, "phase": "starting", "waiting_for": said})
            status, _, body = await it.running.ask("GET", "/health")
            health = json.loads(body)
            assert (status, health["status"], health["waiting_for"]) == (200, "warning", said)
            assert f"not listening yet: {said}; waiting until that ends" in caplog.text
            assert not await it.listens()
            it.other.release()
            await it.start
            assert await it.listens()
            status, _, body = await it.running.ask("GET", "/ready")
            assert (status, json.loads(body)) == (200, {"ready": True, "phase": "ready"})
            assert json.loads((await it.running.ask("GET", "/health"))[2])["waiting_for"] is None
            assert "what was waited for is free" in caplog.text

    run(main)


def test_one_that_waits_can_be_drained_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Waiting(tmp_path) as it:
            assert (await it.running.ask("POST", "/drain"))[0] == 202
            await it.start
            assert not await it.listens()
            await it.running.agent.run_until_drained()
            await it.running.agent.stop()
            assert [file.name for file in it.folder.iterdir()] == ["tasks~queue.db.lock"]
            it.other.prepare()  # it is still the other's

    run(main)


def test_one_that_waits_can_be_stopped_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Waiting(tmp_path) as it:
            it.start.cancel()
            await asyncio.wait([it.start])
            assert it.running.agent.phase == "stopped"
            assert [file.name for file in it.folder.iterdir()] == ["tasks~queue.db.lock"]

    run(main)


def test_a_first_start_with_a_queue_tells_of_no_loss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = {"spool": True, "path": str(tmp_path / "queue")}

    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"tasks": upstream(queue=queue)}):
            pass
        (tmp_path / "queue" / "tasks~queue.db").unlink()
        assert "lost" not in caplog.text
        async with RunningAgent(tmp_path, upstreams={"tasks": upstream(queue=queue)}):
            pass
        assert "is gone: if anything was stored in it, that is lost" in caplog.text

    run(main)
