"""A rate limit that sidecars share, as requests meet it: some pass at once, some wait for an answer."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sidecar.config.traffic import Match
from sidecar.core.address import Address
from sidecar.filters.rate_limit import RateLimit
from sidecar.filters.rate_limit import RateLimitSettings as Settings
from sidecar.resilience.shared_limit import Lease, SharedLimit
from sidecar.why.causes import Cause, cause_of
from support.http import Message, Stage
from support.ports import route_of, upstream_of


class Store:
    """Answers when a test says so. ``made`` are the limits."""

    def __init__(self, on_failure: str = "local") -> None:
        self.up = True
        self.on_failure = on_failure
        self.made: list[SharedLimit] = []
        self.asked: list[tuple[SharedLimit, Lease, int]] = []
        self.stage: Any = None

    def make(self, name: str, rate: float, burst: int, key: str) -> SharedLimit:
        counts = dict.fromkeys(("local", "refuse", "allow"), 0)
        clock = lambda: self.stage.loop()  # noqa: E731 - it is there later
        self.made.append(
            SharedLimit(name, rate, burst, key != "none", self.ask, clock, lambda: 0.5, counts, self.on_failure)
        )
        return self.made[-1]

    def ask(self, limit: SharedLimit, lease: Lease, tokens: int) -> bool:
        if self.up:
            self.asked.append((limit, lease, tokens))
        return self.up

    def grant(self, granted: int | None = None, again: float = 0.0) -> None:
        limit, lease, tokens = self.asked.pop(0)
        limit.answered(lease, tokens if granted is None else granted, again)
        self.stage.loop.settle()

    def fail(self) -> None:
        limit, lease, _ = self.asked.pop(0)
        limit.failed(lease)
        self.stage.loop.settle()


def bench(on_failure: str = "local", **settings: Any) -> tuple[Stage, Store]:
    store = Store(on_failure)
    limit = Settings(**{"rate": 1.0, "burst": 2, "shared": True, **settings})
    store.stage = stage = Stage(rate_limit=limit, shared=store.make, why=True)
    return stage, store


def answered(stage: Stage, client: Any) -> Message:
    """What a request comes to, once nothing holds it back; the upstream answers at once."""
    for upstream in stage.asked():
        upstream.hears()
        upstream.answers()
    message: Message = client.gets()
    return message


def over(stage: Stage) -> None:
    assert stage.nothing_left()
    stage.over()


def test_a_request_waits_for_the_answer_and_goes_on() -> None:
    stage, store = bench()
    client = stage.asks("GET /")
    assert client.gets_nothing()
    assert stage.asked() == []
    store.grant()
    assert answered(stage, client).status == 200
    assert stage.stats.rejected == {}
    over(stage)


def test_a_request_is_refused_by_the_answer_and_the_next_without_one() -> None:
    stage, store = bench(rate=0.1)
    client = stage.asks("GET /")
    store.grant(0, again=7.0)
    refused = client.gets()
    assert (refused.status, refused.error, refused.fields["retry-after"]) == (429, "rate_limited", "8")
    assert stage.asks("GET /").gets().status == 429
    assert store.asked == []
    (first, second) = stage.stories
    assert cause_of(first) == Cause(
        "the rate limit of 6 per minute (burst 2) for all clients together was used up; "
        "the next request would pass in 7.03 s",
        "upstreams.up.rate_limit.rate",
    )
    assert first["events"][0]["shared"] == second["events"][0]["shared"] == "redis"
    over(stage)


def test_a_client_that_leaves_meanwhile_costs_nothing() -> None:
    stage, store = bench()
    client = stage.asks("GET /")
    client.breaks()
    next_one = stage.asks("GET /")
    store.grant()
    assert answered(stage, next_one).status == 200
    assert store.asked == []
    over(stage)


def test_requests_in_a_row_on_one_connection() -> None:
    stage, store = bench()
    client = stage.client()
    client.asks("GET /1")
    client.asks("GET /2")
    store.grant()
    assert answered(stage, client).status == 200
    store.grant(0, again=1.0)
    assert client.gets().status == 429
    over(stage)


@pytest.mark.parametrize(
    ("mode", "status", "sentence", "setting"),
    [
        ("local", [200, 200, 429], "for all clients together was used up", "upstreams.up.rate_limit.rate"),
        ("allow", [200, 200, 200], "", ""),
        ("refuse", [429, 429, 429], "Redis, in which the limit of all sidecars is kept, was away", "redis.on_failure"),
    ],
)
def test_without_the_store(mode: str, status: list[int], sentence: str, setting: str) -> None:
    stage, store = bench(mode)
    store.up = False
    assert [answered(stage, stage.asks("GET /")).status for _ in range(3)] == status
    if sentence:
        cause = cause_of(stage.stories[-1])
        assert sentence in cause.sentence
        assert cause.setting == setting
    shown = stage.stats.filters["rate_limit"]
    assert shown.view is not None
    assert shown.view() == {"shared": mode, "sidecars": 1, "keys": 1, "leased": 0}
    over(stage)


def test_the_store_goes_away_while_a_request_waits() -> None:
    stage, store = bench("refuse")
    client = stage.asks("GET /")
    store.fail()
    refused = client.gets()
    assert (refused.status, refused.error) == (429, "rate_limited")
    assert "Redis, which keeps the limit of all sidecars, is away" in refused.body.decode()
    over(stage)


def test_the_share_is_told() -> None:
    stage, store = bench(rate=8.0, burst=8)
    store.made[0].sidecars = 8
    store.up = False
    assert [answered(stage, stage.asks("GET /")).status for _ in range(2)] == [200, 429]
    assert "in this sidecar its share, one 8th, because Redis was away" in cause_of(stage.stories[-1]).sentence
    store.up = True
    client = stage.asks("GET /")
    store.grant(0, again=1.0)
    assert client.gets().status == 429
    assert "in all 8 sidecars together" in cause_of(stage.stories[-1]).sentence
    over(stage)


def test_a_store_that_forgets_to_answer_holds_nobody_up_for_ever() -> None:
    stage, store = bench()
    client = stage.asks("GET /")
    stage.advance(6.0)
    assert answered(stage, client).status == 200
    store.grant()  # too late: nobody waits any more
    over(stage)


def test_each_key_has_a_bucket_of_its_own() -> None:
    stage, store = bench(key="header:x-agent")
    clients = [stage.asks("GET /", f"x-agent: {name}") for name in ("a", "b")]
    assert len({lease.digest for _, lease, _ in store.asked}) == 2
    store.grant(0, again=1.0)
    store.grant()
    assert clients[0].gets().status == 429
    assert answered(stage, clients[1]).status == 200
    over(stage)


def test_routes_have_limits_of_their_own_and_names_are_the_same_everywhere() -> None:
    store = Store()
    limit = Settings(rate=1.0, burst=2, shared=True)
    config = upstream_of(
        name="up",
        bind=Address("127.0.0.1", 0),
        rate_limit=limit,
        routes=(route_of(match=Match(path="/a*", methods=("GET",), headers={"x": "1"}), rate_limit=limit),),
    )
    store.stage = stage = Stage(config, shared=store.make)
    assert [it.name for it in store.made] == ["outbound:up", "outbound:up:/a*:GET:[('x', '1')]"]
    assert len({id(it.shared) for it in cast(Any, stage.listener.assembly).filters if isinstance(it, RateLimit)}) == 2
    stage.over()


def test_where_there_is_no_store_it_is_a_limit_of_ones_own() -> None:
    stage = Stage(rate_limit=Settings(rate=1.0, burst=2, shared=True))
    assert [answered(stage, stage.asks("GET /")).status for _ in range(3)] == [200, 200, 429]
    over(stage)


def test_connections_over_tcp_wait_too() -> None:
    store = Store()
    store.stage = stage = Stage(protocol="tcp", rate_limit=Settings(rate=1.0, burst=1, shared=True), shared=store.make)
    first = stage.client()
    assert stage.accepted == []
    store.grant()
    assert len(stage.accepted) == 1
    stage.client()
    store.grant(0, again=1.0)
    assert len(stage.accepted) == 1
    assert stage.stats.rejected == {"rate_limited": 1}
    assert not first.transport.gone
    stage.over()
