"""Those who watch a cluster's tries are told of each, as soon as it is known what came of it."""

from __future__ import annotations

from typing import Any

from sidecar.endpoints.endpoint import Endpoint
from support.http import Stage


def watched(**more: Any) -> tuple[Stage, list[tuple[str, float, int, str]]]:
    it = Stage(**{"retry": None, "circuit_breaker": None, **more})
    told: list[tuple[str, float, int, str]] = []

    def watch(endpoint: Endpoint, took: float, status: int, failure: str) -> None:
        told.append((endpoint.address, round(took, 3), status, failure))

    it.listener.cluster.watchers = (watch,)
    return it, told


def test_an_answer() -> None:
    it, told = watched()
    client = it.asks()
    it.loop.run_until(it.loop.now + 0.25)
    upstream = it.upstream()
    upstream.hears()
    upstream.answers(503)
    assert client.gets().status == 503
    assert told == [(it.listener.cluster.endpoints[0].address, 0.25, 503, "")]
    it.over()


def test_no_connection() -> None:
    it, told = watched()
    it.loop.dialled = lambda host, port: "refuse"
    assert it.asks().gets().error == "connect_failed"
    assert told == [(it.listener.cluster.endpoints[0].address, 0.0, 0, "connect")]
    it.over()


def test_a_client_that_does_not_wait() -> None:
    it = Stage(balancer="peak_ewma")
    client = it.asks()
    it.upstream().hears()
    it.advance(2.5)
    client.breaks()
    it.loop.settle()
    assert it.listener.cluster.balancer.known(it.listener.cluster.endpoints[0]) == {"ewma_ms": 2500.0}
    it.over()
