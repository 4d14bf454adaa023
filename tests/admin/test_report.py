"""What is said about upstreams and health, without any HTTP."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sidecar.admin import report
from sidecar.agent import snapshots
from sidecar.agent.lifecycle import Agent
from sidecar.config.traffic import Match, Route
from sidecar.core.health import Health
from sidecar.core.instance import Instance
from sidecar.core.stats import FilterStats, QueueStats
from sidecar.endpoints.endpoint import Checked, Endpoint, LastError
from sidecar.endpoints.load import Report
from sidecar.endpoints.names import Expansion
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from support.names import FakeNames, settled
from support.ports import route_of
from support.running import FakeRegistry, FakeRunning, FakeUpstream, running

ROUTES = (
    Route(match=Match(path="/shared/*")),
    route_of(match=Match(path="/off/*"), circuit_breaker=None),
    route_of(match=Match(path="/own/*"), circuit_breaker=CircuitBreakerSettings()),
)


def health_of(it: FakeRunning) -> dict[str, Any]:
    now = snapshots.of_sidecar(cast(Agent, it))
    return report.health(now, [upstream.now for upstream in it.upstreams.values()])


def found(upstream: FakeUpstream) -> tuple[str, str]:
    health = report.upstream_health(upstream.now)
    return health["status"], health["output"]


def test_an_upstream_that_is_well() -> None:
    assert found(FakeUpstream("a")) == ("healthy", "1 endpoint")


def test_no_endpoints() -> None:
    upstream = FakeUpstream("a")
    upstream.endpoints = []
    assert found(upstream) == ("unhealthy", "no endpoints are known")


def test_ejected_endpoints() -> None:
    upstream = FakeUpstream("a")
    upstream.endpoints.append(Endpoint("10.0.0.2", 80))
    upstream.endpoints[0].ejected_until = 1.0
    assert found(upstream) == ("warning", "1 of 2 endpoints is ejected")
    upstream.endpoints[1].ejected_until = 1.0
    assert found(upstream) == ("unhealthy", "every endpoint has failed")


def test_endpoints_in_the_warning_state() -> None:
    upstream = FakeUpstream("a")
    upstream.endpoints[0].state = "warning"
    assert found(upstream) == ("warning", "1 of 1 endpoint is in the warning state")


def test_breakers() -> None:
    upstream = FakeUpstream("a", routes=ROUTES)
    own, of_route = upstream.breakers
    of_route.force("open")
    assert found(upstream) == ("warning", "the circuit breaker of route /own/* is open")
    own.failures = 4
    own.failure(own.allow())
    assert found(upstream) == ("unhealthy", "the circuit breaker is open")
    upstream.clock.advance(60)
    assert found(upstream)[1].startswith("the circuit breaker is half-open; ")


def test_a_routes_breaker_is_not_taken_for_the_upstreams() -> None:
    upstream = FakeUpstream("a", circuit_breaker=None, routes=ROUTES)
    upstream.breakers[0].force("open")
    assert found(upstream)[0] == "warning"
    shown = report.upstream(upstream.now)
    assert shown["breaker"] is None
    assert [(b["path"], b["state"], b["forced"]) for b in shown["route_breakers"]] == [("/own/*", "open", "open")]


def test_everything_about_an_upstream() -> None:
    upstream = FakeUpstream("ollama")
    stats = upstream.stats
    stats.tally("GET", 200).n += 3
    stats.tally("POST", 200).n += 1
    stats.tally("GET", 0).n += 1
    for _ in range(100):
        stats.duration.observe(0.015)
    stats.retries["connect"] += 2
    stats.rejected["timeout"] += 1
    stats.active = 5
    stats.connect_failures["refused"] = 1
    stats.peer_errors["draining"] += 1
    upstream.endpoints[0].active = 5
    upstream.endpoints[0].last_error = LastError(1_700_000_000.5, "refused", "connection refused")
    own = upstream.breakers[0]
    own.force("open")
    upstream.clock.advance(1.5)
    assert report.upstream(upstream.now) == {
        "name": "ollama",
        "bind": "127.0.0.1:11434",
        "protocol": "http",
        "balancer": "round_robin",
        "health": "unhealthy",
        "endpoints": [
            {
                "address": "10.0.0.1:80",
                "hostname": None,
                "id": "ollama-1",
                "weight": 10,
                "state": "healthy",
                "ejected": False,
                "ejection": None,
                "share": 1.0,
                "check": None,
                "active": 5,
                "failures": 0,
                "ewma_ms": None,
                "reported": None,
                "hash_share": None,
                "models": None,
                "subset": None,
                "admin": None,
                "last_error": {"at": "2023-11-14T22:13:20.500Z", "kind": "refused", "text": "connection refused"},
            }
        ],
        "subsets": [],
        "canary": None,
        "names": [],
        "breaker": {
            "state": "open",
            "forced": "open",
            "failures": 0,
            "open_seconds": 1.5,
            "retry_after": 60.0,
            "held": None,
        },
        "route_breakers": [],
        "stats": {
            "requests": {"200": 4, "0": 1},
            "active": 5,
            "pending": 0,
            "p50_ms": 17.5,
            "p99_ms": 24.85,
            "retries": {"connect": 2},
            "rejected": {"timeout": 1},
            "connect_failures": {"refused": 1},
            "peer_errors": {"draining": 1},
            "queue": None,
            "filters": {},
            "bytes_in": 0,
            "bytes_out": 0,
            "connections": {"client": 0, "active": 0, "idle": 0, "tunnel": 0},
        },
    }


def test_what_is_queued() -> None:
    upstream = FakeUpstream("a")
    upstream.stats.queue = queue = QueueStats()
    queue.requests, queue.bytes = 3, 700
    queue.outcomes["queued"] += 4
    assert report.listener(upstream.stats)["queue"] == {"requests": 3, "bytes": 700, "outcomes": {"queued": 4}}


def test_a_broker_with_an_alarm_and_full_queues_are_a_warning() -> None:
    upstream = FakeUpstream("a", protocol="amqp")
    assert upstream.amqp is not None
    upstream.amqp.queue("free", depth=3)
    upstream.amqp.queue("gone", depth=-1, problem="no such queue")
    assert found(upstream) == ("healthy", "1 endpoint")
    upstream.amqp.queue("tasks", depth=12, full=True)
    assert found(upstream) == ("warning", "1 of 3 watched queues are full")
    upstream.amqp.stats.blocked = True
    assert found(upstream)[1].startswith("the broker has an alarm and takes no publishes; 1 of 3")
    upstream.endpoints[0].ejected_until = 1.0
    assert found(upstream)[0] == "unhealthy"
    assert found(upstream)[1].startswith("every endpoint has failed; the broker has an alarm")


@pytest.mark.parametrize("app", ["healthy", "warning", "unhealthy"])
def test_only_the_app_makes_the_whole_unhealthy(app: str) -> None:
    it = running("a", app=Health(app, "said"))
    assert health_of(it)["status"] == app
    it.upstreams["a"].endpoints = []
    health = health_of(it)
    assert health["status"] == ("warning" if app == "healthy" else app)
    assert health["upstreams"]["a"]["status"] == "unhealthy"


def test_a_registry_that_is_away_is_a_warning() -> None:
    assert health_of(running())["registry"] is None
    assert health_of(running(registry=FakeRegistry()))["status"] == "healthy"
    health = health_of(running(registry=FakeRegistry(up=False, age=3.00049)))
    assert (health["status"], health["registry"]) == ("warning", {"url": "none", "up": False, "age": 3.0})


def test_names() -> None:
    """A name that does not resolve is named, with the reason; one that has kept its addresses is a doubt."""
    upstream = FakeUpstream("db")

    async def main() -> None:
        names = FakeNames()
        expansion = Expansion(names, "upstream db", lambda instances: None)
        names.fake.set("db.test", "10.0.0.1")
        names.fake.fail("gone.test", "there is no such name", missing=True)
        expansion.update([Instance(host="db.test", port=80), Instance(host="gone.test", port=80)])
        await settled()
        names.time.now += 2.5
        upstream.names = list(expansion.names)
        upstream.problem = expansion.problem
        expansion.close()

    asyncio.run(main())
    assert report.upstream(upstream.now)["names"] == [
        {"name": "db.test", "addresses": ["10.0.0.1"], "age": 2.5, "error": None, "cause": None},
        {"name": "gone.test", "addresses": [], "age": None, "error": "there is no such name",
         "cause": "no_such_name"},
    ]  # fmt: skip
    assert found(upstream) == ("warning", "gone.test does not resolve: there is no such name")
    upstream.endpoints = []
    assert found(upstream) == (
        "unhealthy", "no endpoints are known: gone.test does not resolve: there is no such name",
    )  # fmt: skip


def test_a_host_that_works_over_one_family_is_well() -> None:
    upstream = FakeUpstream("app")
    four, six = (Endpoint(host, 80, hostname="localhost") for host in ("127.0.0.1", "::1"))
    upstream.endpoints = [four, six]
    six.ejected_until = 1.0
    assert found(upstream) == ("healthy", "2 endpoints")
    assert report.upstream(upstream.now)["endpoints"][1]["hostname"] == "localhost"
    upstream.endpoints = [four, Endpoint("127.0.0.2", 80, hostname="localhost"), six]
    upstream.endpoints[1].ejected_until = 1.0
    six.ejected_until = 0.0
    assert found(upstream) == ("warning", "1 of 3 endpoints is ejected")
    four.ejected_until = 1.0
    assert found(upstream)[0] == "healthy"
    six.ejected_until = 1.0
    assert found(upstream)[0] == "unhealthy"


def test_filters_that_are_in_use() -> None:
    upstream = FakeUpstream("a")
    used, gone = (FilterStats({"refused": "Refused."}, "sidecar_filter_") for _ in range(2))
    used.view = lambda: {"limit": 5}
    upstream.stats.filters.update(used=used, gone=gone)
    assert report.upstream(upstream.now)["stats"]["filters"] == {"used": {"refused": 0, "limit": 5}}
    used.failures.update(on_try=2, view=1)
    assert report.upstream(upstream.now)["stats"]["filters"] == {"used": {"refused": 0, "failures": 3, "limit": 5}}


def test_endpoints_that_are_out_and_those_that_begin_slowly() -> None:
    upstream = FakeUpstream("a")
    one, two = upstream.endpoints = [Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)]
    one.ejected_until = upstream.clock.now + 10
    one.ejected_for, one.ejection = "latency", "it is slow"
    two.share = 0.25
    shown = [report.endpoint_as_dict(it) for it in upstream.now.endpoints]
    assert shown[0]["ejection"]["reason"] == "latency"
    assert shown[0]["ejection"]["text"] == "it is slow"
    assert shown[0]["ejection"]["until"] > "2023"
    assert [it["share"] for it in shown] == [0.0, 0.25]
    assert found(upstream) == ("warning", "1 of 2 endpoints is ejected")
    two.state, two.down = "unhealthy", True
    two.checked = Checked("unhealthy", "GET /health: 500", 1_700_000_000.0, 3)
    shown = [report.endpoint_as_dict(it) for it in upstream.now.endpoints]
    assert shown[1]["check"] == {
        "status": "unhealthy", "output": "GET /health: 500", "at": "2023-11-14T22:13:20.000Z", "row": 3,
    }  # fmt: skip
    assert found(upstream) == ("unhealthy", "every endpoint has failed: GET /health: 500")
    one.ejected_until = 0.0
    assert found(upstream) == ("warning", "1 of 2 endpoints is unhealthy")


def test_what_a_balancer_goes_by_is_shown() -> None:
    upstream = FakeUpstream("a", balancer="prequal")
    keys = ("ewma_ms", "reported", "hash_share")
    assert [report.upstream(upstream.now)["endpoints"][0][key] for key in keys] == [None, None, None]
    endpoint = upstream.endpoints[0]
    upstream.balancer.told(endpoint, 0.02, 200, "")
    upstream.balancer.reported(endpoint, Report(3, 0.015))
    shown = report.upstream(upstream.now)["endpoints"][0]
    assert (shown["ewma_ms"], shown["reported"]) == (20.0, {"in_flight": 3, "latency_ms": 15.0, "age_ms": 0})
    hashing = FakeUpstream("a", balancer="consistent_hash")
    hashing.balancer.update(hashing.endpoints)
    assert report.upstream(hashing.now)["endpoints"][0]["hash_share"] == 1.0
