"""Which filters stand in a chain and in which order, and what a reload keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sidecar.config.cache import CacheSettings
from sidecar.config.fallback import StepSettings
from sidecar.config.faults import FaultSettings
from sidecar.config.llm import LlmSettings
from sidecar.config.traffic import Inbound, Match, Route, Upstream
from sidecar.core.limits import Limits
from sidecar.exchange.filter import Filter
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.mirror import MirrorSettings
from sidecar.filters.order import ORDER, RANK
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.filters.wait import WaitSettings
from sidecar.resilience.breaker import OPEN
from support.foreign import used
from support.live import ANY_PORT, Live, Origin, Request, fetch, ok, run
from support.patience import until
from support.ports import inbound_of, route_of, upstream_of


def with_listener(config: Inbound | Upstream, check: Callable[[Live], None]) -> None:
    async def main() -> None:
        async with Live(config) as live:
            check(live)

    run(main)


def names(live: Live) -> list[str]:
    return [type(f).__name__ for f in live.listener.chain.filters]


def filters(live: Live, chain: Any = None) -> dict[str, Any]:
    return {type(f).__name__: f for f in (chain or live.listener.chain).filters}


def route_chain(live: Live, number: int = 0) -> Any:
    return live.listener.routes._routes[number][3].chain  # type: ignore[attr-defined]


_ORDER = ["Tracing", "RequestId", "Forwarded", "Drain", "Timeout", "RateLimit", "Bulkhead", "CircuitBreaker", "Retry",
          "Metrics", "Why", "Record", "AccessLog"]  # fmt: skip
_LIMIT = RateLimitSettings(rate=1.0, burst=1)


def test_outbound_http() -> None:
    def check(live: Live) -> None:
        assert names(live) == [name for name in _ORDER if name not in ("Forwarded", "Drain")]

    with_listener(upstream_of(name="up", bind=ANY_PORT, rate_limit=_LIMIT), check)


def test_inbound_http() -> None:
    def check(live: Live) -> None:
        assert names(live) == [name for name in _ORDER if name not in ("CircuitBreaker", "Retry")]

    with_listener(inbound_of(bind=ANY_PORT, rate_limit=_LIMIT), check)


def test_outbound_tcp() -> None:
    def check(live: Live) -> None:
        assert names(live) == [
            "Timeout", "RateLimit", "Bulkhead", "CircuitBreaker", "Retry", "ConnectionMetrics", "Why", "AccessLog",
        ]  # fmt: skip

    with_listener(upstream_of(name="up", bind=ANY_PORT, protocol="tcp", rate_limit=_LIMIT), check)


def test_inbound_tcp() -> None:
    def check(live: Live) -> None:
        assert names(live) == ["Drain", "Timeout", "Bulkhead", "ConnectionMetrics", "Why", "AccessLog"]

    with_listener(Inbound(bind=ANY_PORT, protocol="tcp"), check)


def test_what_is_off_is_not_there() -> None:
    def check(live: Live) -> None:
        assert names(live) == ["Tracing", "RequestId", "Timeout", "Metrics", "Why", "Record", "AccessLog"]
        assert live.listener.breakers == ()

    with_listener(upstream_of(name="up", bind=ANY_PORT, bulkhead=None, circuit_breaker=None, retry=None), check)


def test_every_place_in_the_order_has_a_reason_and_a_filter() -> None:
    assert all(place.reason for place in ORDER)
    of_chains: set[str] = set()

    def check(live: Live) -> None:
        ranks = [RANK[f.name] for f in live.listener.chain.filters]
        assert ranks == sorted(ranks)
        of_chains.update(f.name for f in live.listener.chain.filters)

    with_listener(inbound_of(bind=ANY_PORT, rate_limit=_LIMIT), check)
    steps = (StepSettings(on=frozenset({"5xx"}), stale=1.0),)
    with_listener(upstream_of(name="up", bind=ANY_PORT, host="a", wait=WaitSettings(), fallback=steps), check)
    with_listener(upstream_of(name="up", bind=ANY_PORT, cache=CacheSettings()), check)
    with_listener(upstream_of(name="up", bind=ANY_PORT, host="a", protocol="http", balancer="prequal"), check)
    with_listener(upstream_of(name="up", bind=ANY_PORT, faults=(FaultSettings(abort=503),)), check)
    rollout = {"split": (("next", 1),), "mirror": MirrorSettings(upstream="shadow")}
    with_listener(upstream_of(name="up", bind=ANY_PORT, **rollout), check)
    with_listener(upstream_of(name="up", bind=ANY_PORT, llm=LlmSettings()), check)
    with_listener(Inbound(bind=ANY_PORT, protocol="tcp"), check)
    assert of_chains | {"queue", "queue_door", "delivered"} == RANK.keys()


def test_a_route_shares_what_it_inherits_and_has_the_rest_for_itself() -> None:
    def check(live: Live) -> None:
        main, first, second = filters(live), *(filters(live, route_chain(live, n)) for n in range(2))
        assert first["CircuitBreaker"] is main["CircuitBreaker"]
        assert first["Bulkhead"] is main["Bulkhead"]
        assert first["RateLimit"] is not main["RateLimit"]
        assert "Retry" not in first
        assert second["CircuitBreaker"] is not main["CircuitBreaker"]
        assert second["RateLimit"] is main["RateLimit"]
        assert second["Retry"] is main["Retry"]
        assert first["Metrics"] is second["Metrics"] is main["Metrics"]
        own = second["CircuitBreaker"].mechanism
        assert live.listener.breakers == (main["CircuitBreaker"].mechanism, own)
        assert route_chain(live, 0).timeout.request == 30.0
        assert route_chain(live, 1).timeout.request == 9.0
        assert route_chain(live, 1).patience == 7.0

    routes = (
        route_of(match=Match(path="/a", headers={"x-a": "b"}), rate_limit=_LIMIT, retry=None),
        route_of(
            match=Match(path="/b"),
            circuit_breaker=CircuitBreakerSettings(timeout_duration=7.0),
            timeout=TimeoutSettings(request=9.0),
        ),
    )
    with_listener(upstream_of(name="up", bind=ANY_PORT, rate_limit=_LIMIT, routes=routes), check)


def test_a_route_of_an_inbound_listener_has_no_breaker() -> None:
    def check(live: Live) -> None:
        assert "CircuitBreaker" not in filters(live, route_chain(live))

    with_listener(Inbound(bind=ANY_PORT, routes=(Route(match=Match(path="/a")),)), check)


def test_a_reload_keeps_the_state_of_what_did_not_change() -> None:
    async def main() -> None:
        config = upstream_of(
            name="up",
            bind=ANY_PORT,
            retry=None,
            circuit_breaker=CircuitBreakerSettings(failure_threshold=1),
            rate_limit=RateLimitSettings(rate=1.0, burst=3),
            routes=(
                route_of(match=Match(path="/r", headers={"x-a": "b"}), rate_limit=RateLimitSettings(rate=1.0, burst=1)),
            ),
        )
        async with Origin(ok(status="500 no")) as origin, Live(config, origin.port) as live:
            before, before_route = filters(live), filters(live, route_chain(live))
            await fetch(live.port)
            assert live.breaker_states == [OPEN]
            live.reload(timeout=TimeoutSettings(request=7.0), retry=RetrySettings(), limits=Limits(body=5))
            after, after_route = filters(live), filters(live, route_chain(live))
            for name in ("CircuitBreaker", "RateLimit", "Bulkhead", "Metrics"):
                assert after[name] is before[name]
            assert after_route["RateLimit"] is before_route["RateLimit"]
            assert "Retry" in after
            assert live.listener.timeout.request == 7.0
            assert live.listener.limits.body == 5
            assert (await fetch(live.port)).error == "circuit_open"
            live.reload(circuit_breaker=CircuitBreakerSettings(failure_threshold=2), rate_limit=None)
            assert (await fetch(live.port)).status == 500
            assert filters(live)["Bulkhead"] is before["Bulkhead"]
            live.reload(routes=())
            assert not live.listener.routes  # type: ignore[attr-defined]

    run(main)


class First(Filter):
    name = "first"

    def on_request(self, x: Any) -> None:
        """It does nothing."""


class Second(First):
    name = "second"


def test_a_reload_replaces_filters_of_other_packages_that_have_no_settings() -> None:
    def check(live: Live) -> None:
        kept = filters(live)["First"]
        live.reload(filters=(used(First), used(Second)))
        assert filters(live)["First"] is kept
        assert "Second" in filters(live)
        live.reload(filters=(used(Second),))
        assert "First" not in filters(live)
        assert "Second" in filters(live)
        live.reload(filters=(used(First),))
        assert "Second" not in filters(live)

    with_listener(upstream_of(name="up", bind=ANY_PORT, filters=(used(First),)), check)


class Impatient(First):
    name = "impatient"
    patience: Any = 5.0


def test_a_filter_of_another_package_does_not_say_how_long_a_try_may_take() -> None:
    def check(live: Live) -> None:
        assert "Impatient" in filters(live)
        assert live.listener.timeout.request == TimeoutSettings().request

    with_listener(upstream_of(name="up", bind=ANY_PORT, filters=(used(Impatient),)), check)


def test_a_reload_counts_what_is_under_way() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def held(_: Request) -> bytes:
            await gate.wait()
            return ok()

        config = upstream_of(name="up", bind=ANY_PORT, bulkhead=BulkheadSettings(max_requests=2, max_pending=0))
        async with Origin(held) as origin, Live(config, origin.port) as live:
            clients = [asyncio.ensure_future(fetch(live.port)) for _ in range(2)]
            await until(lambda: len(origin.requests) == 2)
            live.reload(bulkhead=replace(config.policies["bulkhead"], max_requests=3))
            clients.append(asyncio.ensure_future(fetch(live.port)))
            await until(lambda: len(origin.requests) == 3)
            assert (await fetch(live.port)).error == "overloaded"
            gate.set()
            assert [(await c).status for c in clients] == [200] * 3
            await until(live.nothing_left)

    run(main)


def test_what_is_under_way_keeps_the_chain_it_began_with() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def held(_: Request) -> bytes:
            await gate.wait()
            return ok()

        config = Upstream(name="up", bind=ANY_PORT)
        async with Origin(held) as origin, Live(config, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            bulkhead = filters(live)["Bulkhead"]
            live.reload(bulkhead=None, circuit_breaker=None, retry=None)
            gate.set()
            assert (await client).status == 200
            assert bulkhead.limiter.active == 0

    run(main)
