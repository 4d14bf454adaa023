"""Rate limits by none, address, path and header."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.replies import Reply
from sidecar.filters.rate_limit import RateLimit
from sidecar.filters.rate_limit import RateLimitSettings as Config
from support.http import Message, Stage, request
from support.ports import site


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.stage = Stage()
        self.filter = RateLimit(Config(**{"rate": 1.0, "burst": 2, **settings}), site(self.stage.loop))

    def ask(self, line: str = "GET / HTTP/1.1", *fields: str, ip: str = "10.0.0.1") -> Reply | None:
        x = self.stage.exchange(request(line, *fields), ip)
        refused = self.filter.on_request(x)
        x.client_gone()
        assert refused is None or isinstance(refused, Reply)
        return refused


def test_one_bucket_for_all() -> None:
    bench = Bench()
    assert bench.ask() is None
    assert bench.ask(ip="10.0.0.2") is None
    refused = bench.ask("GET /other HTTP/1.1")
    assert refused is not None
    assert refused.code == "rate_limited"
    assert refused.retry_after == pytest.approx(1.0)
    bench.stage.loop.advance(1.0)
    assert bench.ask() is None
    assert bench.ask() is not None


def test_one_for_each_address() -> None:
    bench = Bench(key="ip")
    assert [bench.ask(ip="10.0.0.1") is None for _ in range(3)] == [True, True, False]
    assert [bench.ask(ip="10.0.0.2") is None for _ in range(3)] == [True, True, False]


def test_one_for_each_path_without_its_query() -> None:
    bench = Bench(key="path")
    assert [bench.ask(f"GET /a?{n} HTTP/1.1") is None for n in range(3)] == [True, True, False]
    assert bench.ask("GET /b HTTP/1.1") is None


def test_one_for_each_value_of_a_header() -> None:
    bench = Bench(key="header:X-Agent")
    assert [bench.ask("GET / HTTP/1.1", "x-AGENT: one") is None for _ in range(3)] == [True, True, False]
    assert bench.ask("GET / HTTP/1.1", "x-agent: two") is None
    assert [bench.ask() is None for _ in range(3)] == [True, True, False]  # without it, all together


def test_hostile_values_take_bounded_memory() -> None:
    bench = Bench(key="header:x-agent")
    for n in range(12_000):
        bench.ask("GET / HTTP/1.1", f"x-agent: {n:05}{'a' * 400}")
    keyed = bench.filter._keyed
    assert keyed is not None
    assert len(keyed) <= keyed.max_keys
    assert all(isinstance(key, int) for key in keyed._full_at)  # long ones are kept as a hash


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 100.0}, "more requests than the 100 per second that are allowed"),
        ({"rate": 1e6}, "more requests than the 1000000 per second that are allowed"),
        ({"rate": 1 / 6, "key": "ip"}, "more requests from one address than the 10 per minute that are allowed"),
        ({"rate": 2.5, "key": "path"}, "more requests for one path than the 2.5 per second that are allowed"),
        ({"key": "header:x-a"}, "more requests with the same x-a than the 1 per second that are allowed"),
    ],
)
def test_the_message(settings: dict[str, Any], message: str) -> None:
    bench = Bench(**{**settings, "burst": 1})
    bench.ask()
    refused = bench.ask()
    assert refused is not None
    assert refused.message == message


def asks(stage: Stage, *fields: str) -> Message:
    """What becomes of a request that the upstream, if it gets it, answers at once."""
    client = stage.asks("GET /", *fields)
    for upstream in stage.asked():
        upstream.hears()
        upstream.answers()
    return client.gets()


def test_a_client_is_told_when_to_come_again() -> None:
    stage = Stage(inbound=True, rate_limit=Config(rate=0.5, burst=1, key="header:x-agent"))
    assert asks(stage, "x-agent: a").status == 200
    refused = asks(stage, "x-agent: a")
    assert (refused.status, refused.error, refused.fields["retry-after"]) == (429, "rate_limited", "2")
    assert asks(stage, "x-agent: b").status == 200
    stage.advance(2)
    assert asks(stage, "x-agent: a").status == 200
    assert stage.stats.rejected == {"rate_limited": 1}
    assert stage.nothing_left()
    stage.over()


def test_what_is_refused_takes_no_place_in_the_bulkhead() -> None:
    stage = Stage(rate_limit=Config(rate=1.0, burst=1))
    assert [asks(stage).status for _ in range(5)] == [200, 429, 429, 429, 429]
    assert stage.nothing_left()
    stage.over()
