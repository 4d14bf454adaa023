"""Requests are split among the subsets of an upstream: in exact shares, to where their client was, and past what is
empty."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest

from sidecar.admin import report
from sidecar.agent import balancing, snapshots
from sidecar.agent.clusters import RunningUpstream
from sidecar.config.balancing import BALANCERS, Hash
from sidecar.config.health import Health
from sidecar.config.subsets import Select
from sidecar.config.traffic import Match, Upstream
from sidecar.core.instance import Instance
from sidecar.endpoints.metrics import subset_families
from sidecar.endpoints.names import Names
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.retry import HedgeSettings, RetrySettings
from sidecar.filters.split import SplitTraffic
from support.http import Stage
from support.names import FakeResolver
from support.ports import changed, route_of

BOTH = {"stable": Select(tag="v1"), "next": Select(tag="v2")}
NINE_OF_TEN = (("stable", 90), ("next", 10))


class Rollout(Stage):
    """An upstream with instances of two versions: those of v1 are at ports from 1, those of v2 from 101."""

    def __init__(self, stable: int = 3, next: int = 2, *, split: Any = NINE_OF_TEN, **more: Any) -> None:
        more.setdefault("retry", None)
        more.setdefault("circuit_breaker", None)
        super().__init__(subsets=more.pop("subsets", BOTH), split=split, **more)
        self.versions(stable, next)

    def versions(self, stable: int, next: int) -> None:
        """So many instances of each from now on."""
        self.listener.cluster.update(
            Instance(host="10.0.0.1", port=port, tags=(tag,))
            for tag, first, count in (("v1", 1, stable), ("v2", 101, next))
            for port in range(first, first + count)
        )

    def apply(self, **changes: Any) -> None:
        """What a reload does."""
        self.reload(**changes)
        balancing.divide(self.listener.cluster, self.config, self._context.rng, self.loop)

    def served(self, requests: int = 1, *fields: str, line: str = "GET /", ip: str = "10.1.1.1") -> Counter[str]:
        """How many of so many requests went to which subset; all are answered 200."""
        found: Counter[str] = Counter()
        client = self.client(ip)
        for _ in range(requests):
            client.asks(line, *fields)
            found[self.where()] += 1
            self.answers()
            assert client.gets().status == 200
        return found

    def where(self) -> str:
        """The subset that is asked now."""
        (endpoint,) = [it for it in self.listener.cluster.endpoints if it.active]
        return endpoint.subset

    def fails(self) -> str:
        """The subset that is asked now answers 503."""
        where = self.where()
        self.answers(503)
        return where

    def answers(self, status: int = 200) -> None:
        """Who was asked last answers."""
        upstream = self.upstream()
        upstream.hears()
        upstream.answers(status)

    def counted(self, name: str) -> dict[int, int]:
        subsets = self.listener.cluster.subsets
        assert subsets is not None
        return dict(subsets.by_name[name].requests)


@pytest.mark.parametrize("balancer", BALANCERS)
def test_shares_are_exact_with_every_balancer(balancer: str) -> None:
    it = Rollout(balancer=balancer, hash=Hash(by="path") if balancer == "consistent_hash" else None)
    assert it.served(100) == {"stable": 90, "next": 10}
    assert (it.counted("stable"), it.counted("next")) == ({200: 90}, {200: 10})
    it.over()


def test_a_key_goes_to_one_endpoint_of_each() -> None:
    it = Rollout(balancer="consistent_hash", hash=Hash(by="header:x-agent"), split=(("stable", 1), ("next", 1)))
    client, found = it.client(), set()
    for _ in range(20):
        client.asks("GET /", "x-agent: 7")
        found |= {(e.subset, e.port) for e in it.listener.cluster.endpoints if e.active}
        it.answers()
        client.gets()
    assert sorted(subset for subset, _ in found) == ["next", "stable"]
    it.over()


def test_without_a_split_all_are_one_set() -> None:
    it = Rollout(split=())
    assert it.served(10) == {"stable": 6, "next": 4}
    assert not any(isinstance(each, SplitTraffic) for each in it.listener.chain.filters)
    assert it.counted("next") == {200: 4}
    it.over()


def test_a_client_stays_with_its_subset() -> None:
    it = Rollout(split=(("stable", 1), ("next", 1)), sticky="header:x-session")
    found = {n: it.served(4, f"x-session: {n}") for n in range(12)}
    assert all(len(each) == 1 for each in found.values()), found
    assert {name for each in found.values() for name in each} == {"stable", "next"}
    assert it.served(10) == {"stable": 5, "next": 5}, "what has none goes by the weights"
    other = Rollout(split=(("stable", 1), ("next", 1)), sticky="header:x-session")
    assert {n: other.served(4, f"x-session: {n}") for n in range(12)} == found, "all sidecars choose alike"
    it.over()


@pytest.mark.parametrize(("sticky", "field"), [("cookie:sid", "cookie: a=1; sid={}"), ("ip", "x-nothing: {}")])
def test_a_client_is_known_by_its_cookie_or_address(sticky: str, field: str) -> None:
    it = Rollout(split=(("stable", 1), ("next", 1)), sticky=sticky)
    found = [it.served(3, field.format(n), ip=f"10.1.1.{n}") for n in range(1, 13)]
    assert all(len(each) == 1 for each in found), found
    assert {name for each in found for name in each} == {"stable", "next"}
    it.over()


def test_a_route_leads_to_a_subset_by_a_header_or_a_cookie() -> None:
    routes = (
        route_of(match=Match(headers={"x-version": "next"}), split=(("next", 1),)),
        route_of(match=Match(headers={"cookie": "*beta=1*"}), split=(("next", 1),)),
        route_of(match=Match(path="/all/*"), split=()),
    )
    it = Rollout(split=(("stable", 1),), routes=routes)
    assert it.served(5) == {"stable": 5}
    assert it.served(5, "x-version: next") == {"next": 5}
    assert it.served(5, "cookie: a=b; beta=1") == {"next": 5}
    assert it.served(10, line="GET /all/x") == {"stable": 6, "next": 4}
    it.over()


def test_the_share_of_what_is_empty_goes_to_the_others() -> None:
    it = Rollout(next=0)
    assert it.served(50) == {"stable": 50}
    it.versions(3, 1)
    assert it.served(50) == {"stable": 45, "next": 5}
    it.versions(0, 1)
    assert it.served(10) == {"next": 10}
    it.over()


def test_so_does_that_of_one_whose_endpoints_are_ejected_and_it_comes_back() -> None:
    it = Rollout(next=1, split=(("stable", 1), ("next", 1)), retry=RetrySettings(initial_delay=0, jitter=False))
    it.loop.dialled = lambda host, port: "refuse" if port > 100 else "accept"
    assert it.served(10) == {"stable": 10}, "who was sent to next is tried again elsewhere"
    assert it.counted("next") == {502: 1}
    it.loop.dialled = lambda host, port: "accept"
    it.advance(2)
    assert it.served(10) == {"stable": 5, "next": 5}
    it.over()


def test_clients_of_an_empty_subset_are_elsewhere_until_it_is_back() -> None:
    it = Rollout(split=(("stable", 1), ("next", 1)), sticky="header:x-session")
    home = {n: next(iter(it.served(1, f"x-session: {n}"))) for n in range(8)}
    it.versions(3, 0)
    assert {next(iter(it.served(1, f"x-session: {n}"))) for n in home} == {"stable"}
    it.versions(3, 2)
    assert {n: next(iter(it.served(1, f"x-session: {n}"))) for n in home} == home
    it.over()


def test_a_retry_stays_in_its_subset_while_that_has_another_endpoint() -> None:
    it = Rollout(2, 2, split=(("next", 1), ("stable", 1)), why=True, retry=RetrySettings(
        max_attempts=4, initial_delay=0, jitter=False))  # fmt: skip
    client = it.client()
    for _ in range(2):
        client.asks()
        first = it.fails()
        assert it.fails() == first, "its other endpoint"
        other = it.fails()
        assert other != first
        assert it.where() == other
        it.answers()
        assert client.gets().status == 200
    story = it.stories[-1]
    assert [e["subset"] for e in story["events"] if e["what"] == "attempt"] == [first, first, other, other]
    (moved,) = [e for e in story["events"] if e["what"] == "subset"]
    assert (moved["subset"], moved["instead_of"]) == (other, first)
    assert sum(it.counted(name)[503] for name in BOTH) == 6
    it.over()


def test_a_retry_never_goes_to_a_subset_without_a_weight() -> None:
    it = Rollout(2, 1, split=(("next", 1), ("stable", 0)), retry=RetrySettings(initial_delay=0, jitter=False))
    client = it.asks()
    assert [it.fails() for _ in range(3)] == ["next"] * 3
    assert client.gets().status == 503
    it.over()


def test_a_second_try_beside_the_first_is_in_the_same_subset() -> None:
    hedge = RetrySettings(initial_delay=0, jitter=False, hedge=HedgeSettings(after=0.5))
    it = Rollout(2, 2, split=(("next", 1), ("stable", 1)), retry=hedge)
    client = it.asks()
    first = it.upstream()
    first.hears()
    it.advance(0.55)
    assert len({e.subset for e in it.listener.cluster.endpoints if e.active}) == 1
    assert sum(e.active for e in it.listener.cluster.endpoints) == 2
    it.answers()
    assert client.gets().status == 200
    it.over()


def test_when_all_are_empty_it_is_as_the_upstream_says() -> None:
    it = Rollout(1, 1, split=(("next", 1),))
    it.loop.dialled = lambda host, port: "refuse"
    assert it.asks().gets().error == "connect_failed"
    it.loop.dialled = lambda host, port: "accept"
    assert it.served(3) == {"next": 3}, "use_all"
    it.over()
    it = Rollout(1, 1, split=(("next", 1),), health=Health(when_none="refuse"))
    it.loop.dialled = lambda host, port: "refuse"
    assert it.asks().gets().error == "connect_failed"
    assert it.asks().gets().error == "no_endpoints"
    it.over()


def test_where_no_instance_is_the_answer_says_which_subset() -> None:
    it = Rollout(2, 0, split=(("next", 1),), why=True)
    found = it.asks().gets()
    assert (found.status, found.error) == (503, "no_endpoints")
    assert b"none of its 2 instances is in the subset next" in found.body
    (event,) = [e for e in it.stories[-1]["events"] if e["what"] == "no_endpoint"]
    assert (event["subset"], event["candidates"]) == ("next", [])
    it.over()


def test_weights_are_set_while_requests_come() -> None:
    it = Rollout(split=(("stable", 100), ("next", 0)))
    assert it.served(20) == {"stable": 20}
    kept = it.filter(SplitTraffic)
    kept.split.set({"stable": 75, "next": 25})
    assert it.served(20) == {"stable": 15, "next": 5}
    assert kept.view() == {"weights": {"stable": 75, "next": 25}}
    it.apply(split=(("stable", 50), ("next", 50)))
    assert it.filter(SplitTraffic) is kept
    assert it.served(20) == {"stable": 10, "next": 10}
    it.over()


def test_a_reload_brings_subsets_and_takes_them() -> None:
    it = Rollout(split=(), subsets={})
    assert it.listener.cluster.subsets is None
    it.apply(subsets=BOTH, split=NINE_OF_TEN)
    assert it.served(10) == {"stable": 9, "next": 1}
    it.apply(subsets={**BOTH, "none": Select(tag="v3")})
    assert it.served(10) == {"stable": 9, "next": 1}
    assert it.counted("stable") == {200: 18}
    client = it.asks()
    it.apply(subsets={}, split=())
    it.answers()
    assert client.gets().status == 200
    assert it.served(10) == {"": 10}
    it.over()


def test_another_balancer_is_for_all_subsets() -> None:
    it = Rollout(split=(("next", 1),))
    config = changed(it.config, balancer="least_connections")
    balancing.change(it.listener.cluster, cast(Upstream, config), it._context.rng, it.loop)
    subsets = it.listener.cluster.subsets
    assert subsets is not None
    assert {type(each.balancer).__name__ for each in subsets.by_name.values()} == {"LeastConnections"}
    assert it.served(4) == {"next": 4}
    it.over()


def test_tcp_connections_are_split_too() -> None:
    it = Rollout(protocol="tcp", split=(("stable", 3), ("next", 1)))
    found: Counter[str] = Counter()
    for _ in range(8):
        client = it.client()
        it.loop.settle()
        found[it.where()] += 1
        client.transport.lose(ConnectionResetError())
        it.loop.settle()
    assert found == {"stable": 6, "next": 2}
    assert (it.counted("stable"), it.counted("next")) == ({200: 6}, {200: 2})
    it.over()


def test_a_breaker_that_is_open_is_asked_before() -> None:
    it = Rollout(next=1, split=(("next", 1),), circuit_breaker=CircuitBreakerSettings(failure_threshold=1))
    client = it.client()
    client.asks()
    it.fails()
    assert client.gets().status == 503
    assert it.asks().gets().error == "circuit_open"
    it.over()


def test_it_is_shown_and_counted() -> None:
    it = Rollout(2, 1)
    it.served(20)
    running = RunningUpstream(cast(Upstream, it.config), it.listener, Names(FakeResolver(), 1.0, 60.0))
    now = snapshots.of_upstream(running)
    stable, next_one = report.upstream(now)["subsets"]
    quick = {"p50_ms": next_one["p50_ms"], "p99_ms": next_one["p99_ms"]}
    assert next_one == {
        "name": "next", "weight": 10, "share": 0.1, "endpoints": 1, "usable": 1, "requests": {"200": 2}, **quick
    }  # fmt: skip
    assert (stable["share"], stable["requests"]) == (0.9, {"200": 18})
    assert [it["subset"] for it in report.upstream(now)["endpoints"]] == ["stable", "stable", "next"]
    assert report.upstream_health(now)["status"] == "healthy"
    requests, duration, share = subset_families({"up": [(it, part) for it, _, part in running.subsets]})
    assert requests.samples == [(("up", "stable", "200"), 18), (("up", "next", "200"), 2)]
    assert [histogram.count() for _, histogram in duration.histograms] == [18, 2]
    assert share.samples == [(("up", "stable"), 0.9), (("up", "next"), 0.1)]
    it.versions(2, 0)
    now = snapshots.of_upstream(running)
    assert [each["share"] for each in report.upstream(now)["subsets"]] == [1.0, 0.0]
    assert report.upstream_health(now) == {
        "status": "warning", "output": "the subset next is empty: its share goes to the others"
    }  # fmt: skip
    it.over()
