"""An upstream of a running sidecar, and what its registry says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random
from typing import cast

from sidecar.agent import balancing
from sidecar.agent.clusters import RunningUpstream
from sidecar.config.subsets import Select
from sidecar.config.traffic import Discover, StaticEndpoint, Upstream
from sidecar.core.address import Address
from sidecar.core.instance import Instance, OnChange
from sidecar.endpoints.names import Names
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.resilience.breaker import HALF_OPEN, OPEN
from sidecar.tcp.relay import TcpListener
from support.http import Stage
from support.live import ANY_PORT, Live, run
from support.names import FakeResolver
from support.ports import upstream_of
from support.processes import free_port
from support.running import FakeRegistry


def test_an_open_breaker_is_asked_when_an_instance_comes() -> None:
    it = Stage(retry=None, circuit_breaker=CircuitBreakerSettings(failure_threshold=1))
    running = RunningUpstream(cast(Upstream, it.config), it.listener, Names(FakeResolver(), 1.0, 60.0))
    it.loop.dialled = lambda host, port: "refuse"
    first = Instance(host="10.0.0.1", port=1)
    running._found((first,))
    it.asks().gets()
    (breaker,) = it.listener.breakers
    assert breaker.state == OPEN
    running._found((first,))
    assert breaker.state == OPEN, "nothing has come"
    running._found(())
    running._found((first,))
    assert breaker.state == HALF_OPEN
    it.loop.dialled = lambda host, port: "accept"
    client = it.asks()
    it.upstream().answers(200)
    assert client.gets().status == 200
    assert breaker.cause.startswith("an instance has come")
    it.over()


def test_only_who_follows_a_master_resets_connections_to_others() -> None:
    async def main() -> None:
        master = Discover(service="redis", sentinel="mymaster", at=(Address("127.0.0.1", free_port()),))
        config = upstream_of(name="redis", bind=ANY_PORT, protocol="tcp", discover=master)
        async with Live(config) as live:
            listener = cast(TcpListener, live.listener)
            running = RunningUpstream(config, listener, Names(FakeResolver(), 1.0, 60.0))
            exclusive = [listener.exclusive]
            running.follow(None)
            exclusive.append(listener.exclusive)
            assert listener.cluster.source()["from"] == "sentinel"
            fixed = (StaticEndpoint(address=Address("127.0.0.1", 1)),)
            running.config = dataclasses.replace(config, discover=None, endpoints=fixed)
            running.follow(None)
            assert exclusive == [False, True]
            assert not listener.exclusive
            assert (running.master_problem, listener.cluster.source()["from"]) == ("", "endpoints")
            running.leave()

    run(main)


def test_the_instances_of_other_services_are_in_subsets() -> None:
    watches: dict[tuple[str, str], Callable[[tuple[Instance, ...]], None]] = {}
    left: list[str] = []

    class Watching(FakeRegistry):
        def watch(self, service: str, tag: str, on_change: OnChange) -> Callable[[], None]:  # type: ignore[override]
            watches[service, tag] = on_change
            return lambda: left.append(service)

    it = Stage(subsets={"next": Select(service="tasks-next", tag="v2"), "stable": Select(service="up")})
    config = dataclasses.replace(cast(Upstream, it.config), discover=Discover(service="up", tag="gpu"))
    balancing.divide(it.listener.cluster, config, Random(1), it.loop)
    running = RunningUpstream(config, it.listener, Names(FakeResolver(), 1.0, 60.0))
    registry = Watching()
    running.follow(registry)
    assert list(watches) == [("up", "gpu"), ("tasks-next", "")]
    watches["tasks-next", ""]((
        Instance(host="10.0.0.2", port=1, tags=("v2",)), Instance(host="10.0.0.2", port=2, tags=("v3",))
    ))  # fmt: skip
    assert [(e.host, e.port, e.subset) for e in running.endpoints] == [("10.0.0.2", 1, "next"), ("10.0.0.2", 2, "")]
    watches["up", "gpu"]((Instance(host="10.0.0.1", port=1),))
    assert [e.subset for e in running.endpoints] == ["stable", "next", ""]
    assert [(subset.label, weight, share) for subset, weight, share in running.subsets] == [
        ("next", 0, 0.0), ("stable", 0, 0.0)
    ]  # fmt: skip
    assert running.balancer_of(running.endpoints[1]) is running.subsets[0][0].balancer
    assert running.balancer_of(running.endpoints[2]) is running.balancer
    running.config = dataclasses.replace(config, subsets={"stable": Select(service="up")})
    running.follow(registry)
    assert left == ["up", "tasks-next"]
    assert [(e.host, e.port) for e in running.endpoints] == [("10.0.0.1", 1)]
    running.leave()
    it.over()
