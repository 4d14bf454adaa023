from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar.agent.libraries import require_libraries
from sidecar.agent.reload import open_listener
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.store_and_forward import StoreAndForward
from sidecar.config.errors import ConfigError
from sidecar.config.schema import Config
from sidecar.config.service import Service
from sidecar.config.traffic import Upstream
from sidecar.core.address import Address
from sidecar.core.amqp_settings import Amqp, AmqpCredentials
from sidecar.core.events import EVENTS
from sidecar.exchange.listener import Listener
from sidecar.storage.errors import SpoolError
from support.agents import NOBODY, RunningAgent, ask, upstream
from support.live import Origin, ok, run
from support.patience import until
from support.processes import free_port


async def answered(body: bytes) -> Any:
    """An origin that answers with its name."""
    return ok(body)


def origin(name: bytes) -> Origin:
    return Origin(lambda request: answered(name))


async def problems(running: RunningAgent) -> list[str]:
    """What a reload is refused for."""
    with pytest.raises(ConfigError) as refused:
        await running.agent.reload()
    return [problem.path for problem in refused.value.problems]


def test_a_changed_policy_counts_for_traffic_on_the_same_port(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            origin(b"a") as app,
            RunningAgent(tmp_path, upstreams={"a": upstream(f"127.0.0.1:{app.port}")}) as it,
        ):
            port = it.port("a")
            assert (await ask(port))[0] == 200
            it.write(upstreams={"a": upstream(f"127.0.0.1:{app.port}", rate_limit={"rate": "1/m", "burst": 1})})
            assert await it.agent.reload() == ["upstreams.a: changed"]
            assert it.port("a") == port
            assert [(await ask(port))[0] for _ in range(2)] == [200, 429]
            assert await it.agent.reload() == []

    run(main)


def test_upstreams_come_go_and_move(tmp_path: Path) -> None:
    async def main() -> None:
        async with origin(b"a") as app:
            to = f"127.0.0.1:{app.port}"
            async with RunningAgent(tmp_path, upstreams={"gone": upstream(to), "moved": upstream(to)}) as it:
                before = it.port("gone"), it.port("moved")
                there = free_port()
                it.write(upstreams={"new": upstream(to), "moved": {**upstream(to), "bind": f"127.0.0.1:{there}"}})
                changes = await it.agent.reload()
                assert "upstreams.gone: removed" in changes
                assert f"upstreams.moved: listening on 127.0.0.1:{there}" in changes
                assert list(it.agent.upstreams) == ["moved", "new"]  # as in the file, which is sorted
                assert (await ask(there))[0] == 200
                assert (await ask(it.port("new")))[0] == 200
                for port in before:
                    with pytest.raises(ConnectionRefusedError):
                        await ask(port)

    run(main)


def test_what_is_under_way_on_a_removed_upstream_finishes(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(request: object) -> bytes:
        await go.wait()
        return ok(b"late")

    async def main() -> None:
        async with (
            Origin(slow) as app,
            RunningAgent(tmp_path, upstreams={"a": upstream(f"127.0.0.1:{app.port}")}) as it,
        ):
            asking = asyncio.create_task(ask(it.port("a")))
            stats = it.agent.upstreams["a"].stats
            await until(lambda: stats.active == 1)
            it.write(upstreams={})
            assert await it.agent.reload() == ["upstreams.a: removed"]
            go.set()
            status, _, body = await asking
            assert (status, body) == (200, b"late")

    run(main)


def test_what_is_under_way_on_a_removed_upstream_is_cut_by_the_end(tmp_path: Path) -> None:
    async def never(request: object) -> bytes:
        await asyncio.sleep(60)
        return b""

    async def main() -> None:
        async with Origin(never) as app:
            async with RunningAgent(tmp_path, upstreams={"a": upstream(f"127.0.0.1:{app.port}")}) as it:
                asking = asyncio.create_task(ask(it.port("a")))
                stats = it.agent.upstreams["a"].stats
                await until(lambda: stats.active == 1)
                it.write(upstreams={})
                await it.agent.reload()
            with pytest.raises((IndexError, OSError)):
                await asking
            await until(lambda: stats.active == 0)

    run(main)


def test_endpoints_and_discovery_can_change(tmp_path: Path) -> None:
    mesh = f"directory://{tmp_path / 'mesh'}"

    async def main() -> None:
        async with (
            origin(b"a") as first,
            origin(b"b") as second,
            RunningAgent(tmp_path, registry=mesh, upstreams={"x": upstream(f"127.0.0.1:{first.port}")}) as it,
        ):
            other = tmp_path / "other"
            other.mkdir()
            inbound = {
                "service": {"name": "b", "address": "127.0.0.1", "app": f"127.0.0.1:{second.port}"},
                "inbound": {"bind": "127.0.0.1:0"},
            }
            async with RunningAgent(other, registry=mesh, **inbound):
                assert (await ask(it.port("x")))[2] == b"a"
                it.write(upstreams={"x": {"bind": "127.0.0.1:0", "discover": {"service": "b"}}})
                assert await it.agent.reload() == ["upstreams.x: changed"]

                endpoints = it.agent.upstreams["x"]
                await until(lambda: endpoints.endpoints and endpoints.endpoints[0].port != first.port)
                assert (await ask(it.port("x")))[2] == b"b"
            it.write(upstreams={"x": upstream(f"127.0.0.1:{first.port}")})
            await it.agent.reload()
            assert (await ask(it.port("x")))[2] == b"a"

    run(main)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"service": {"name": "other"}}, ["service.name"]),
        ({"registry": "consul://127.0.0.1:8500"}, ["registry"]),
        ({"admin": {"bind": "127.0.0.1:1"}}, ["admin.bind"]),
        ({"tracing": {"propagate": []}}, ["tracing.propagate"]),
        ({"consul": {"datacenter": "x"}}, ["consul.datacenter"]),
        ({"log": {"format": "text"}}, ["log.format"]),
        ({"upstreams": {"a": upstream(protocol="tcp")}}, ["upstreams.a.protocol"]),
    ],
)
def test_what_takes_a_restart_is_refused(tmp_path: Path, change: dict[str, Any], path: list[str]) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            before = it.agent.config
            it.write(**change)
            assert await problems(it) == path
            assert it.agent.config is before

    run(main)


def test_what_takes_a_restart_is_named_with_what_it_was_and_would_be(tmp_path: Path) -> None:
    async def main() -> None:
        secret = tmp_path / "secret"
        secret.write_text("one")
        async with RunningAgent(tmp_path, consul={"token": {"file": str(secret)}}) as it:
            secret.write_text("two")
            check = {"interval": "5s"}
            it.write(
                service={"name": "web", "tags": ["a"], "check": check}, consul={"token": "three", "datacenter": "x"}
            )
            with pytest.raises(ConfigError) as refused:
                await it.agent.reload()
            assert [(problem.path, problem.message.partition(": ")[2]) for problem in refused.value.problems] == [
                ("service.tags", '[] → ["a"]'),
                ("service.check.interval", "10 → 5"),
                ("consul.datacenter", "(empty) → x"),
            ]

    run(main)


def test_secrets_are_read_again(tmp_path: Path) -> None:
    """Also beside other changes: a file that was rotated must not keep anything from being reloaded."""

    async def main() -> None:
        secret = tmp_path / "secret"
        secret.write_text("one\n")
        admin = {"bind": "127.0.0.1:0", "token": {"file": str(secret)}}
        async with RunningAgent(tmp_path, admin=admin) as it:
            assert (await it.ask("PUT", "/log-level", b'{"level": "error"}', X_Sidecar_Token="one"))[0] == 200
            secret.write_text("two\n")
            it.write(upstreams={"a": upstream()})
            changes = await it.agent.reload()
            assert "admin.token: changed" in changes
            assert len(changes) == 2
            assert not any("one" in change or "two" in change for change in changes)
            for token, status in (("one", 401), ("two", 200)):
                level = b'{"level": "error"}'
                assert (await it.ask("PUT", "/log-level", level, X_Sidecar_Token=token))[0] == status

    run(main)


def test_an_accounts_password_is_swapped_for_all_that_log_in_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        secret = tmp_path / "secret"
        secret.write_text("one")
        amqp = {
            "spool": {"path": str(tmp_path / "spool")},
            "credentials": {"username": "it", "password": {"file": str(secret)}},
        }
        async with RunningAgent(tmp_path, upstreams={"a": upstream(protocol="amqp", amqp=amqp)}) as it:
            view = it.agent.upstreams["a"].amqp
            assert view is not None
            port = view.spool
            assert isinstance(port, StoreAndForward)
            secret.write_text("two")
            assert await it.agent.reload() == ["upstreams.a: changed"]
            login = port.login("/", "it")
            assert login is not None
            assert login.response == b"\0it\0two"
            assert port.credential_cache.credentials is not None
            assert port.credential_cache.credentials.password.reveal() == "two"

    run(main)


def test_a_spool_moves_with_a_restart_and_is_not_left_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broker(bind: str, folder: str) -> dict[str, Any]:
        return {
            **upstream(), "bind": bind, "protocol": "amqp",
            "amqp": {
                "spool": {"path": str(tmp_path / folder)}, "credentials": {"username": "it", "password": "secret"},
            },
        }  # fmt: skip

    async def main() -> None:
        here, there = (f"127.0.0.1:{free_port()}" for _ in range(2))
        async with RunningAgent(tmp_path, upstreams={"a": broker(here, "spool")}) as it:
            it.write(upstreams={"a": broker(here, "other")})
            assert await problems(it) == ["upstreams.a.amqp.spool"]
            it.write(upstreams={"a": broker(there, "spool")})
            assert await problems(it) == ["upstreams.a.bind"]
            view = it.agent.upstreams["a"].amqp
            assert view is not None
            port = view.spool
            assert isinstance(port, StoreAndForward)
            stored = asyncio.Event()
            message = SpooledMessage("/", "ai.tasks", "ai.tasks", "key", b"", b"work")
            assert port.spool.put([message], lambda *_: stored.set())
            await stored.wait()
            with caplog.at_level("WARNING", "sidecar.amqp.spool"):
                it.write(upstreams={})
                assert await it.agent.reload() == ["upstreams.a: removed"]
                await until(lambda: "messages stay in the spool" in caplog.text)

    run(main)


def test_inbound_takes_a_restart(tmp_path: Path) -> None:
    service = {"name": "web", "app": NOBODY}

    async def main() -> None:
        async with RunningAgent(tmp_path, service=service, inbound={"bind": "127.0.0.1:0"}) as it:
            it.write(inbound={"bind": f"127.0.0.1:{free_port()}", "protocol": "tcp"})
            assert await problems(it) == ["inbound.bind", "inbound.protocol"]
            it.write(inbound=None)
            assert "inbound" in await problems(it)
            it.write(inbound={"bind": "127.0.0.1:0", "timeout": {"request": "1s"}})
            assert await it.agent.reload() == ["inbound: changed"]

    run(main)


def test_level_and_drain_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path) as it:
            access = {"sample": "1%", "slow": "500ms"}
            it.write(log={"level": "warning", "access": access}, drain={"timeout": "1s"})
            assert await it.agent.reload() == ["log.level: warning", "log.access: changed", "drain: changed"]
            log = it.agent.access_log
            assert (log.mode, log.sample, log.slow) == ("errors", 0.01, 0.5)
            assert it.agent.config.drain.timeout == 1

    run(main)


def test_a_new_port_that_is_taken_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            busy = f"127.0.0.1:{taken.getsockname()[1]}"
            async with RunningAgent(tmp_path, upstreams={"old": upstream()}) as it:
                free = free_port()
                it.write(
                    upstreams={"a": {**upstream(), "bind": f"127.0.0.1:{free}"}, "b": {**upstream(), "bind": busy}}
                )
                assert await problems(it) == ["upstreams.b.bind"]
                assert list(it.agent.upstreams) == ["old"]
                assert (await ask(it.port("old")))[0] == 502
                with pytest.raises(ConnectionRefusedError):
                    await ask(free)

    run(main)


def test_a_spool_that_cannot_be_used_is_told_as_what_is_wrong_with_the_configuration() -> None:
    class Port:
        async def start(self) -> None:
            raise SpoolError("/s/a.db is in use by another process, 1")

    with pytest.raises(ConfigError) as refused:
        run(lambda: open_listener(cast(Listener, Port())))
    assert str(refused.value) == "spool: /s/a.db is in use by another process, 1"


def test_what_is_not_installed_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(credentials: AmqpCredentials | None) -> Config:
        bind = Address("127.0.0.1", 1)
        broker = Upstream(name="rabbitmq", bind=bind, protocol="amqp", amqp=Amqp(credentials=credentials))
        return Config(
            service=Service(name="orders", id="orders-1", address="127.0.0.1"), upstreams={"rabbitmq": broker}
        )

    monkeypatch.setitem(sys.modules, "aio_pika", None)
    require_libraries(watched(None), "a.yaml")
    with pytest.raises(ConfigError) as caught:
        require_libraries(watched(AmqpCredentials(username="sidecar")), "a.yaml")
    assert "service-sidecar[amqp]" in str(caught.value)
    assert "upstreams.rabbitmq.amqp.credentials" in str(caught.value)


def test_a_port_cannot_go_over_to_another_upstream_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        section = {**upstream(), "bind": f"127.0.0.1:{free_port()}"}
        async with RunningAgent(tmp_path, upstreams={"old": section}) as it:
            it.write(upstreams={"new": section})
            assert await problems(it) == ["upstreams.new.bind"]
            it.write(upstreams={})
            await it.agent.reload()
            it.write(upstreams={"new": section})
            assert len(await it.agent.reload()) == 1

    run(main)


def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            it.file.write_text("upstreams: [")
            await problems(it)
            it.file.unlink()
            await problems(it)
            assert (await ask(it.port("a")))[0] == 502

    run(main)


def test_only_a_ready_sidecar_reloads(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            it.write(upstreams={})
            it.agent.drain()
            with pytest.raises(ConfigError, match="draining"):
                await it.agent.reload()
            assert list(it.agent.upstreams) == ["a"]

    run(main)


def test_reloads_at_the_same_time_come_one_after_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path) as it:
            it.write(upstreams={"a": upstream()})
            first, second = await asyncio.gather(it.agent.reload(), it.agent.reload())
            assert len(first) == 1
            assert second == []

    run(main)


def test_a_balancer_changes_under_a_connection_that_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with origin(b"a") as app, origin(b"b") as other:
            to = (f"127.0.0.1:{app.port}", f"127.0.0.1:{other.port}")
            async with RunningAgent(tmp_path, upstreams={"a": upstream(*to)}) as it:
                reader, writer = await asyncio.open_connection("127.0.0.1", it.port("a"))

                async def again() -> bytes:
                    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200")
                    return await reader.readexactly(1)

                assert {await again() for _ in range(2)} == {b"a", b"b"}
                endpoints = it.agent.upstreams["a"].endpoints
                it.write(upstreams={"a": upstream(*to, balancer="ip_hash")})
                assert await it.agent.reload() == ["upstreams.a: changed"]
                assert len({await again() for _ in range(4)}) == 1  # one client, one endpoint
                assert it.agent.upstreams["a"].endpoints == endpoints
                assert sum(endpoint.tries for endpoint in endpoints) == 6
                writer.close()

    run(main)


def test_a_dry_run_tells_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            before = it.agent.config
            same = json.loads((await it.ask("POST", "/reload?dry_run=1"))[2])
            assert same["text"] == ["a reload would change nothing"]
            assert same["differences"] == []
            it.write(upstreams={"a": upstream(timeout={"request": "3s"}), "b": upstream()})
            told = json.loads((await it.ask("POST", "/reload?dry_run=true"))[2])
            assert told["text"] == [
                "a reload would change:", "  upstreams.b: opened", "  upstreams.a.timeout.request: 30 → 3"
            ]  # fmt: skip
            assert (told["opened"], told["changed"], told["refused"]) == (["b"], ["a"], [])
            it.write(service={"name": "other"})
            told = json.loads((await it.ask("POST", "/reload?dry_run=1"))[2])
            assert [problem["path"] for problem in told["refused"]] == ["service.name"]
            it.file.write_text("service: {nam: web}")
            status, _, body = await it.ask("POST", "/reload?dry_run=1")
            assert (status, json.loads(body)["error"]) == (422, "config")
            for slip in ("dry_run=maybe", "dry_run=", "dry-run=1", "dry_run=1&force=1"):
                assert (await it.ask("POST", f"/reload?{slip}"))[0] == 400, slip
            assert it.agent.config is before
            assert it.agent.last_reload.good

    run(main)


def test_how_the_last_reload_went_is_an_event_a_line_and_a_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path) as it:

            async def metrics() -> dict[str, float]:
                lines = (await it.ask("GET", "/metrics"))[2].decode().splitlines()
                return {k: float(v) for k, _, v in (x.rpartition(" ") for x in lines if x.startswith("sidecar_config"))}

            started = await metrics()
            assert started["sidecar_config_last_reload_successful"] == 1
            it.file.write_text("service: {nam: web}")
            before = EVENTS.newest
            with caplog.at_level(logging.INFO, "sidecar"):
                assert (await it.ask("POST", "/reload"))[0] == 422
            assert [event.kind for event in EVENTS.since(before)] == ["reload_refused"]
            assert len([it for it in caplog.records if "not reloaded" in it.getMessage()]) == 1
            bad = await metrics()
            assert bad == {**started, "sidecar_config_last_reload_successful": 0}
            it.write(drain={"timeout": "3s"})
            with caplog.at_level(logging.INFO, "sidecar"):
                assert (await it.ask("POST", "/reload"))[0] == 200
            assert EVENTS.since(before)[-1].kind == "reload"
            assert [it.getMessage() for it in caplog.records].count("reloaded") == 1
            good = await metrics()
            assert good["sidecar_config_last_reload_successful"] == 1
            assert (
                good["sidecar_config_last_reload_timestamp_seconds"]
                >= started["sidecar_config_last_reload_timestamp_seconds"]
            )
            assert [it for it in good if "hash" in it] != [it for it in started if "hash" in it]

    run(main)


def test_what_is_traced_and_logged_changes_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            origin(b"a") as app,
            RunningAgent(tmp_path, upstreams={"a": upstream(f"127.0.0.1:{app.port}")}, tracing={"sample": 0}) as it,
        ):
            sampling = it.agent.context.sampling
            assert not sampling.sampled("f" * 32)
            it.write(tracing={"sample": 1, "always": [], "slow": "9s"}, log={"access": "all", "level": "debug"})
            assert sorted(await it.agent.reload()) == [
                "log.access: changed", "log.level: debug", "tracing.always: changed", "tracing.sample: changed",
                "tracing.slow: changed",
            ]  # fmt: skip
            assert sampling.sampled("0" * 32)
            assert not sampling.errors
            assert it.agent.stories.slow == 9.0  # what is remembered goes by the same
            assert it.agent.access_log.mode == "all"
            status, _, body = await it.ask("PUT", "/access-log", b"off")
            assert (status, json.loads(body)) == (200, {"access": "off"})
            assert it.agent.access_log.mode == "off"
            assert [event.kind for event in EVENTS.since(EVENTS.newest - 1)] == ["setting"]
            log = it.agent.access_log
            for given, shown in (
                (b'{"sample": "25%", "slow": "500ms"}', {"sample": 0.25, "slow": 0.5}),
                (b'{"access": {"sample": 0.5}}', {"sample": 0.5, "slow": 0.0}),
                (b'{"access": "errors"}', "errors"),
                (b'"ALL"', "all"),
            ):
                status, _, body = await it.ask("PUT", "/access-log", given)
                assert (status, json.loads(body)) == (200, {"access": shown})
                expected = shown if isinstance(shown, dict) else {"sample": 0.0, "slow": 0.0}
                assert {"sample": log.sample, "slow": log.slow} == expected
                assert log.mode == (shown if isinstance(shown, str) else "errors")
            for bad, why in (
                (b"some", "all, errors or off"),
                (b'{"sample": "200%"}', "access.sample"),
                (b'{"slow": "${HOME}"}', "access.slow"),
                (b'{"fast": "1s"}', "access.fast"),
                (b'{"access": "all", "slow": "1s"}', "access.access"),
                (b"[1]", "all, errors"),
                (b"", "all, errors"),
                (b"null", "all, errors"),
            ):
                status, _, body = await it.ask("PUT", "/access-log", bad)
                assert (status, json.loads(body)["error"]) == (400, "bad_mode"), bad
                assert why in json.loads(body)["message"]
                assert os.environ["HOME"] not in json.loads(body)["message"]
            assert log.mode == "all"  # what is refused changes nothing

    run(main)


def test_a_breaker_that_is_held_by_hand_stays_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            await it.ask("POST", "/upstreams/a/breaker/open?by=ops")
            it.write(upstreams={"a": upstream(circuit_breaker={"failure_threshold": 1})})
            assert await it.agent.reload() == ["upstreams.a: changed"]
            (breaker,) = it.agent.upstreams["a"].breakers
            assert breaker.held is not None
            assert (breaker.forced, breaker.held.by, (await ask(it.port("a")))[0]) == ("open", "ops", 503)
            await it.ask("POST", "/upstreams/a/breaker/auto")
            await ask(it.port("a"))
            assert breaker.cause == "1 failure in a row"  # by the new threshold

    run(main)
