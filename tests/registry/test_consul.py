"""The Consul registry against a real agent."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar import registry as registries
from sidecar.core.secret import Secret
from sidecar.registry import Settings, Workload
from sidecar.registry.consul import ConsulRegistry
from support.clock import Clock
from support.consul import ConsulAgent
from support.registries import Seen, consul_settings, until


@pytest.fixture(scope="module")
def shared() -> Iterator[ConsulAgent]:
    with ConsulAgent() as agent:
        yield agent


@pytest.fixture
def agent(shared: ConsulAgent) -> Iterator[ConsulAgent]:
    """One that is empty before each test."""
    yield shared
    for id in shared.services():
        shared.deregister(id)


@asynccontextmanager
async def opened(settings: Settings, **more: Any) -> Any:
    registry = registries.create(settings, **more)
    assert isinstance(registry, ConsulRegistry)
    try:
        yield registry
    finally:
        await registry.deregister()
        await registry.close()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(100):
            await main()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"still running: {others}"

    asyncio.run(limited())


def status(agent: ConsulAgent, id: str = "tasks-1") -> str | None:
    check = agent.check(id)
    return None if check is None else check["Status"]


def test_a_workload_is_registered_once_it_is_well_and_taken_out_on_deregister(agent: ConsulAgent) -> None:
    settings = consul_settings(
        agent.http_port,
        tags=("ai", "v1"),
        meta={"version": "1.0"},
        passing_weight=7,
        warning_weight=2,
        address="10.0.0.5",
    )

    async def main() -> None:
        async with opened(settings) as registry:
            registry.register()
            registry.register()
            registry.set_health("critical", "no answer")
            assert "tasks-1" not in await asyncio.to_thread(agent.services)
            registry.set_health("passing", "GET /health: 200")
            await until(
                lambda: (agent.check("tasks-1") or {}).get("Output") == "GET /health: 200", "registered, passing"
            )
            assert status(agent) == "passing"
            service = (await asyncio.to_thread(agent.services))["tasks-1"]
            assert service["Service"] == "tasks"
            assert (service["Address"], service["Port"]) == ("10.0.0.5", 10030)
            assert service["Tags"] == ["ai", "v1"]
            assert service["Meta"] == {"version": "1.0", "sidecar": "1"}
            assert service["Weights"] == {"Passing": 7, "Warning": 2}
            assert registry.up
            assert registry.age == 0.0
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await registry.deregister()
            assert loop.time() - begun < 30
            assert await asyncio.to_thread(agent.services) == {}

    run(main)


def beside(**more: Any) -> Workload:
    """What is registered beside the workload."""
    return Workload(
        **{
            "name": "tasks-sidecar", "id": "tasks-1-sidecar", "address": "127.0.0.1", "port": 15020,
            "tags": ("sidecar",), "meta": {"metrics_port": "15020"}, "fronted": False, **more,
        }
    )  # fmt: skip


def test_another_workload_is_registered_beside_one_that_never_is_well(agent: ConsulAgent) -> None:
    async def main() -> None:
        async with opened(consul_settings(agent.http_port)) as registry:
            registry.register()
            registry.set_health("critical", "no answer")
            other = registry.enroll(beside())
            other.set_health("passing", "this sidecar runs")
            await until(lambda: status(agent, "tasks-1-sidecar") == "passing", "registered")
            found = await asyncio.to_thread(agent.services)
            assert found.keys() == {"tasks-1-sidecar"}
            assert found["tasks-1-sidecar"]["Service"] == "tasks-sidecar"
            assert found["tasks-1-sidecar"]["Meta"] == {"metrics_port": "15020"}
            assert agent.instances("tasks") == set()
            other.change(beside(meta={"metrics_port": "15020", "upstreams": "ollama"}))
            await until(lambda: "upstreams" in agent.services()["tasks-1-sidecar"]["Meta"], "changed")
            await asyncio.to_thread(agent.deregister, "tasks-1-sidecar")  # it gets lost
            registry.set_health("passing", "fine")
            await until(lambda: agent.services().keys() == {"tasks-1", "tasks-1-sidecar"}, "both, the lost one again")
            await registry.deregister()
            await until(lambda: agent.services().keys() == {"tasks-1-sidecar"}, "only the workload is taken out")
            await other.leave()
            assert await asyncio.to_thread(agent.services) == {}

    run(main)


def test_changes_of_health_are_reported_at_once_and_the_check_is_renewed(agent: ConsulAgent) -> None:
    settings = consul_settings(agent.http_port, check_interval=1.0)  # the TTL is 3 s

    async def main() -> None:
        async with opened(settings) as registry:
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: status(agent) == "passing", "passing")
            registry.set_health("warning", "slow")
            assert await until(lambda: status(agent) == "warning", "warning") < 1.0
            registry.set_health("critical", "gone")
            assert await until(lambda: status(agent) == "critical", "critical") < 1.0
            registry.set_health("passing", "fine")
            await until(lambda: status(agent) == "passing", "passing again")
            for _ in range(34):  # longer than the TTL, without any call
                await asyncio.sleep(0.1)
                assert await asyncio.to_thread(status, agent) == "passing"

    run(main)


def test_a_flapping_app_does_not_storm_consul(agent: ConsulAgent) -> None:
    async def main() -> None:
        async with opened(consul_settings(agent.http_port, check_interval=60)) as registry:
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: status(agent) == "passing", "passing")
            calls = 0
            renew = registry._connect().agent.check.ttl_pass

            def counted(*args: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                return renew(*args, **more)

            check = registry._connect().agent.check
            check.ttl_pass = check.ttl_warn = check.ttl_fail = counted
            began = time.monotonic()
            for n in range(200):
                registry.set_health("warning" if n % 2 else "passing", "flapping")
                await asyncio.sleep(0.005)
            assert calls <= 4 + (time.monotonic() - began) + 1  # four at once, then one in a second

    run(main)


def test_a_critical_workload_is_shown_after_a_grace(agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.registry.consul_registration.GRACE", 0.3)

    async def main() -> None:
        async with opened(consul_settings(agent.http_port)) as registry:
            registry.set_health("critical", "connection refused")
            registry.register()
            await until(lambda: status(agent) == "critical", "registered as critical")
            assert await asyncio.to_thread(agent.instances, "tasks") == set()
            # Consul takes it out when that lasts: it does not come back before it is well.
            await asyncio.to_thread(agent.deregister, "tasks-1")
            await asyncio.sleep(1.5)
            assert await asyncio.to_thread(agent.services) == {}
            registry.set_health("passing", "fine")
            await until(lambda: status(agent) == "passing", "registered again")

    run(main)


def test_a_lost_or_overwritten_registration_is_put_right(agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.registry.consul_registration.RECONCILE", 0.3)

    async def main() -> None:
        async with opened(consul_settings(agent.http_port, tags=("a",))) as registry:
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: status(agent) == "passing", "registered")
            await asyncio.to_thread(agent.deregister, "tasks-1")
            await until(lambda: status(agent) == "passing", "registered again")
            await asyncio.to_thread(agent.register, "tasks", "tasks-1", 1)
            await until(lambda: agent.services()["tasks-1"]["Port"] == 10030, "put right")
            assert (await asyncio.to_thread(agent.services))["tasks-1"]["Tags"] == ["a"]

    run(main)


def test_discovery_follows_within_a_second(agent: ConsulAgent) -> None:
    async def main() -> None:
        async with opened(consul_settings(agent.http_port)) as registry:
            seen, tagged = Seen(), Seen()
            registry.watch("ollama", "", seen)
            registry.watch("ollama", "gpu", tagged)
            await registry.answered()
            assert (seen.ids, tagged.ids) == ([], [])
            assert registry.up

            register = asyncio.to_thread(
                agent.register,
                "ollama",
                "o1",
                11434,
                Tags=["gpu"],
                Weights={"Passing": 5, "Warning": 2},
                Meta={"m": "1"},
            )
            await register
            assert await until(lambda: seen.ids == tagged.ids == ["o1"], "found") < 1.0
            (one,) = seen.sets[-1]
            assert (one.host, one.port, one.weight, one.state) == ("127.0.0.1", 11434, 5, "healthy")
            assert (one.tags, one.meta) == (("gpu",), {"m": "1"})

            check = {"Name": "c", "ID": "c", "ServiceID": "o1", "TTL": "60s", "Status": "warning"}
            await asyncio.to_thread(agent.request, "PUT", "/v1/agent/check/register", check)
            assert await until(lambda: [(i.state, i.weight) for i in seen.sets[-1]] == [("warning", 2)], "warned") < 1.0

            # No address of its own: it is where its node is.
            await asyncio.to_thread(agent.register, "ollama", "o2", 11435, Address="")
            assert await until(lambda: seen.ids == ["o1", "o2"], "found") < 1.0
            assert seen.sets[-1][1].host == "127.0.0.1"
            assert tagged.ids == ["o1"]

            await asyncio.to_thread(agent.request, "PUT", "/v1/agent/check/fail/c")
            assert await until(lambda: seen.ids == ["o2"], "the critical one is dropped") < 1.0
            await asyncio.to_thread(agent.deregister, "o2")
            assert await until(lambda: seen.ids == [], "an empty answer without an outage counts at once") < 1.0
            assert all(a != b for a, b in zip(seen.sets, seen.sets[1:], strict=False))

    run(main)


def test_watches_of_one_service_share_a_query(agent: ConsulAgent) -> None:
    async def main() -> None:
        await asyncio.to_thread(agent.register, "redis", "r1", 6379)
        async with opened(consul_settings(agent.http_port)) as registry:
            first, second, late = Seen(), Seen(), Seen()
            cancel_first = registry.watch("redis", "", first)
            cancel_second = registry.watch("redis", "", second)
            assert len(asyncio.all_tasks()) == 2  # this one and the query's
            await registry.answered()
            cancel_late = registry.watch("redis", "", late)
            await asyncio.sleep(0)
            assert first.sets == second.sets == late.sets
            cancel_first()
            cancel_first()
            await asyncio.to_thread(agent.register, "redis", "r2", 6380)
            await until(lambda: second.ids == ["r1", "r2"], "the others still hear")
            assert first.ids == ["r1"]
            cancel_second()
            cancel_late()
            while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - it ends, or the test's time does
                await asyncio.sleep(0.001)
            # and one can begin anew
            again = Seen()
            registry.watch("redis", "", again)
            await until(lambda: again.ids == ["r1", "r2"], "followed again")

    run(main)


def test_a_listener_that_raises_harms_nobody(agent: ConsulAgent, caplog: pytest.LogCaptureFixture) -> None:
    def broken(instances: object) -> None:
        raise RuntimeError("broken listener")

    async def main() -> None:
        async with opened(consul_settings(agent.http_port)) as registry:
            seen = Seen()
            registry.watch("redis", "", broken)
            registry.watch("redis", "", seen)
            await until(lambda: seen.ids == [], "the other one is told")
            await asyncio.to_thread(agent.register, "redis", "r1", 6379)
            await until(lambda: seen.ids == ["r1"], "again")

    run(main)
    assert "broken listener" in caplog.text


def test_an_agent_that_returns_without_its_data_does_not_take_the_endpoints_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sidecar.registry")

    async def main(agent: ConsulAgent) -> None:
        async with opened(consul_settings(agent.http_port, check_interval=10)) as registry:
            own, other = Seen(), Seen()
            registry.watch("tasks", "", own)
            registry.watch("redis", "", other)
            await asyncio.to_thread(agent.register, "redis", "r1", 6379)
            await asyncio.to_thread(agent.register, "redis", "r2", 6380)
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: own.ids == ["tasks-1"] and other.ids == ["r1", "r2"], "all known")
            calls = len(own.sets), len(other.sets)

            await asyncio.to_thread(agent.kill)
            await until(lambda: not registry.up, "the outage is noticed")
            await until(lambda: registry.age > 0.2, "age grows")
            assert (own.ids, other.ids) == (["tasks-1"], ["r1", "r2"])

            await asyncio.to_thread(agent.start)
            # The registration is renewed because the watch sees the agent return, not at the next interval.
            assert await until(lambda: status(agent) == "passing", "registered again", 12) < 11
            await until(lambda: registry.up, "up")
            assert registry.age == 0.0
            assert (len(own.sets), len(other.sets)) == calls

            # One of the two is back, the other one is held still; what the agent says of the first counts at once.
            await asyncio.to_thread(agent.register, "redis", "r1", 6999)
            await until(lambda: other.sets[-1][0].port == 6999, "the new one")
            assert "r2" in (other.ids or [])

    with ConsulAgent() as agent:
        run(lambda: main(agent))
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) <= 4, [record.getMessage() for record in warnings]
    assert "answers again" in caplog.text


def test_a_frozen_agent_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.registry.consul_registration.CALL", 0.5)

    async def main(agent: ConsulAgent) -> None:
        async with opened(consul_settings(agent.http_port)) as registry:
            seen = Seen()
            registry.watch("tasks", "", seen)
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: seen.ids == ["tasks-1"], "known")
            agent.freeze()
            await until(lambda: not registry.up, "noticed")
            assert seen.ids == ["tasks-1"]
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await registry.deregister()
            assert loop.time() - begun < 30
            begun = loop.time()
            await registry.close()
            assert loop.time() - begun < 30
            agent.thaw()

    with ConsulAgent() as agent:
        run(lambda: main(agent))


def test_acl(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG)

    async def main(agent: ConsulAgent) -> None:
        token = await asyncio.to_thread(
            agent.token, 'service "tasks" { policy = "write" } service_prefix "" { policy = "read" } '
            'node_prefix "" { policy = "read" }'
        )  # fmt: skip
        # The configuration decides, not what the environment happens to hold.
        monkeypatch.setitem(os.environ, "CONSUL_HTTP_TOKEN", "00000000-0000-4000-8000-00000000dead")
        async with opened(consul_settings(agent.http_port, token=token)) as registry:
            seen = Seen()
            registry.watch("tasks", "", seen)
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: seen.ids == ["tasks-1"], "registered and found")
            # A token for the workload alone: what is refused beside it is told, and takes nothing else along.
            other = registry.enroll(beside())
            other.set_health("passing", "this sidecar runs")
            await until(lambda: "registration of tasks-1-sidecar failed" in caplog.text, "the refusal is logged")
            assert not registry.up
            assert seen.ids == ["tasks-1"]
            await other.leave()
            await until(lambda: registry.up, "nothing fails any more")
            caplog.clear()
            await registry.deregister()
            await until(lambda: seen.ids == [], "taken out")
        monkeypatch.delitem(os.environ, "CONSUL_HTTP_TOKEN")
        wrong = "5ec2e75e-c2e7-4000-8000-0123456789ab"
        async with opened(consul_settings(agent.http_port, token=wrong)) as registry:
            registry.watch("tasks", "", seen)
            registry.register()
            registry.set_health("passing", "fine")
            await until(lambda: "403" in caplog.text or "ACL" in caplog.text, "the refusal is logged")
            assert not registry.up
            registry.use_token(Secret(token))
            await until(lambda: seen.ids == ["tasks-1"], "another token, and it is registered and found at once")
            await until(lambda: registry.up, "nothing fails any more")
        assert token not in caplog.text
        assert wrong not in caplog.text

    with ConsulAgent(acl=True) as agent:
        run(lambda: main(agent))


def test_the_datacenter_is_asked_for(agent: ConsulAgent) -> None:
    async def main() -> None:
        async with opened(consul_settings(agent.http_port, datacenter="dc1")) as registry:
            registry.watch("tasks", "", Seen())
            await registry.answered()
        async with opened(consul_settings(agent.http_port, datacenter="elsewhere")) as registry:
            registry.watch("tasks", "", Seen())
            await until(lambda: registry._link._failing, "there is no such datacenter")

    run(main)


def test_nothing_is_up_before_it_was_asked_and_none_gives_none(agent: ConsulAgent) -> None:
    async def main() -> None:
        clock = Clock()
        async with opened(consul_settings(agent.http_port), clock=clock) as registry:
            await registry.answered()  # nothing is watched
            assert not registry.up
            clock.now += 5
            assert registry.age == 5

    run(main)
    assert registries.create(Settings(workload=consul_settings(1).workload)) is None
