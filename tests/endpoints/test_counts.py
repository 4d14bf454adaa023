"""What an endpoint counts of the tries that are sent to it."""

from __future__ import annotations

from random import Random

import pytest

from sidecar.endpoints import metrics
from sidecar.endpoints.balancers.table import create
from sidecar.filters.retry import RetrySettings
from support.balancing import make
from support.clock import Clock
from support.http import Stage


def test_tries_their_time_and_those_that_failed() -> None:
    it = Stage(retry=RetrySettings(max_attempts=3, initial_delay=0.0), circuit_breaker=None)
    (endpoint,) = it.listener.cluster.endpoints
    client = it.asks("GET /")
    upstream = it.upstream()
    upstream.hears()
    it.loop.advance(0.2)
    upstream.breaks()
    upstream = it.upstream()
    upstream.hears()
    assert (endpoint.tries, endpoint.failed, endpoint.active) == (2, 1, 1)
    it.loop.advance(0.3)
    upstream.answers(200, b"ok")
    assert client.gets().status == 200
    assert (endpoint.tries, endpoint.failed, endpoint.active) == (2, 1, 0)
    assert endpoint.seconds == pytest.approx(0.5)
    it.over()


def test_connections_of_tcp() -> None:
    it = Stage(protocol="tcp")
    (endpoint,) = it.listener.cluster.endpoints
    client = it.client()
    it.loop.settle()
    assert (endpoint.tries, endpoint.failed, endpoint.active) == (1, 0, 1)
    it.loop.advance(2.0)
    client.breaks()
    it.loop.settle()
    assert (endpoint.tries, endpoint.active) == (1, 0)
    assert endpoint.seconds == pytest.approx(2.0)


def test_what_balancers_count() -> None:
    endpoints = make(1, 1)
    hashing, quick = create("consistent_hash", Random(1)), create("peak_ewma", Random(1), Clock(5.0))
    hashing.update(endpoints)
    for _ in range(3):
        hashing.pick(endpoints, "hot").begin()
    (family,) = metrics.overflow_families({"a": hashing, "b": quick})
    assert family.samples == [(("a",), 1)]
    quick.told(endpoints[0], 0.25, 200, "")
    *_, family = metrics.endpoint_families({"b": endpoints})
    assert family.samples == [(("b", "10.0.0.1:8000"), 0.25)]
