"""An upstream of a running sidecar, and what its registry says of it."""

from __future__ import annotations

from typing import cast

from sidecar.agent.clusters import RunningUpstream
from sidecar.config.traffic import Upstream
from sidecar.core.instance import Instance
from sidecar.endpoints.names import Names
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.resilience.breaker import HALF_OPEN, OPEN
from support.http import Stage
from support.names import FakeResolver


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
