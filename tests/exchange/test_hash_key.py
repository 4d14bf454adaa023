"""Where a request goes by a hash: what of it counts, and that nothing is read where nothing is hashed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sidecar.agent import balancing
from sidecar.config.balancing import Hash
from sidecar.config.traffic import Upstream
from sidecar.endpoints.cluster import Cluster
from sidecar.exchange.hash_key import hash_key
from support.http import Stage, request


@pytest.mark.parametrize(
    ("by", "line", "fields", "key"),
    [
        ("header:x-agent-id", "GET / HTTP/1.1", ("X-Agent-ID:  a7 ",), "a7"),
        ("header:x-agent-id", "GET / HTTP/1.1", ("x-agent-id:",), ""),
        ("header:x-agent-id", "GET / HTTP/1.1", (), ""),
        ("header:x-agent-id", "GET / HTTP/1.1", ("x-agent-id: \xfc",), "\xfc"),
        ("cookie:id", "GET / HTTP/1.1", ("cookie: xid=1; id=2;id=3",), "2"),
        ("cookie:id", "GET / HTTP/1.1", ("cookie: id",), ""),
        ("cookie:id", "GET / HTTP/1.1", (), ""),
        ("query:user", "GET /a?x=1&user=7&user=8 HTTP/1.1", (), "7"),
        ("query:user", "GET /user=7 HTTP/1.1", (), ""),
        ("path", "GET /a/%41/../b?user=7 HTTP/1.1", (), "/a/b"),
    ],
)
def test_what_counts(by: str, line: str, fields: tuple[str, ...], key: str) -> None:
    it = Stage()
    find = hash_key(by)
    assert find is not None
    assert find(it.exchange(request(line, *fields))) == key


def test_an_address_needs_no_search() -> None:
    assert hash_key("ip") is None


def test_requests_with_one_key_go_to_one_endpoint() -> None:
    it = Stage(endpoints=3, balancer="consistent_hash", hash=Hash(by="header:x-agent-id"))
    of: dict[int, list[int]] = {}
    for n in range(12):
        for _ in range(2):
            client = it.asks("GET /", f"x-agent-id: {n}")
            upstream = it.upstream()
            upstream.hears()
            tried = [e.port for e in it.listener.cluster.endpoints if e.active]
            assert of.setdefault(n, tried) == tried
            upstream.answers()
            client.gets()
    assert len({tuple(ports) for ports in of.values()}) == 3
    it.over()


def _goes_by(it: Stage, **changes: Any) -> Cluster:
    """Its cluster, with those settings from now on."""
    it.reload(**changes)
    assert isinstance(it.config, Upstream)
    balancing.change(it.listener.cluster, it.config, random.Random(1), it.loop)
    return it.listener.cluster


def test_a_running_cluster_goes_by_other_settings() -> None:
    it = Stage(endpoints=3, balancer="peak_ewma")
    assert len(it.listener.cluster.watchers) == 1
    seen: list[object] = []
    it.listener.cluster.watchers += (lambda *of: seen.append(of),)
    cluster = _goes_by(it, balancer="consistent_hash", hash=Hash(by="path"))
    assert len(cluster.watchers) == 1  # the one that is no balancer's
    assert cluster.key_of is not None
    cluster = _goes_by(it, balancer="prequal", hash=None)
    assert (cluster.key_of, len(cluster.watchers)) == (None, 2)
    client = it.asks()
    upstream = it.upstream()
    upstream.hears()
    it.advance(0.02)
    upstream.answers()
    client.gets()
    assert len(seen) == 1
    assert [told["ewma_ms"] for told in cluster.candidates() if "ewma_ms" in told] == [20.0]
    it.over()
