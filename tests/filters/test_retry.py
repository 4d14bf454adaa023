"""Retries: the rules by plain calls, and what upstreams and clients see of them."""

from __future__ import annotations

import asyncio
import random
from email.utils import formatdate
from typing import Any

import pytest

from sidecar.config.model import CircuitBreaker, Timeout, Upstream
from sidecar.config.model import Retry as Config
from sidecar.exchange.attempt import CONNECT, MALFORMED, RACE, RESET, TIMEOUT
from sidecar.filters.retry import Retry
from sidecar.resilience.backoff import Backoff
from support.http import Stage, answer, request
from support.live import ANY_PORT, Live, Origin, Request, fetch, ok, run, settle, until
from support.processes import free_port

#: Unix time, as far as the tests go.
WALL = 1_800_000_000.0


class Bench:
    """A retry filter, and exchanges whose first try is under way."""

    def __init__(self, endpoints: int = 1, **settings: Any) -> None:
        self.stage = Stage(endpoints=endpoints)
        config = Config(**{"jitter": False, **settings})
        delays = Backoff(config.initial_delay, config.max_delay, random.Random(1), config.backoff_type, config.jitter)
        self.filter = Retry(config, delays, self.stage.loop, lambda: WALL)

    def exchange(self, method: str = "GET") -> Any:
        x = self.stage.exchange(request(f"{method} / HTTP/1.1"))
        self.stage.tries(x)
        return x


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_an_idempotent_method_is_repeated_after_a_reset(method: str) -> None:
    bench = Bench()
    again = bench.filter.on_failure(bench.exchange(method), RESET)
    assert again is not None
    assert (again.delay, again.reason) == (1.0, "reset")


@pytest.mark.parametrize("kind", [RESET, MALFORMED])
def test_another_method_is_not_repeated_once_it_was_sent(kind: str) -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange("POST"), kind) is None
    assert Bench(methods=frozenset({"POST"})).filter.on_failure(bench.exchange("POST"), kind) is not None


def test_without_a_connection_any_method_is_repeated() -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange("POST"), CONNECT) is not None
    assert Bench(on=frozenset({"reset"})).filter.on_failure(bench.exchange("POST"), CONNECT) is None


def test_a_failed_connect_goes_elsewhere_at_once_and_waits_when_there_is_nowhere() -> None:
    bench = Bench(endpoints=2)
    x = bench.exchange("POST")
    again = bench.filter.on_failure(x, CONNECT)
    assert again is not None
    assert again.delay == 0.0
    bench.stage.tries(x, 1)
    again = bench.filter.on_failure(x, CONNECT)
    assert again is not None
    assert again.delay == 2.0


def test_a_timeout_is_only_repeated_when_asked_for() -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange(), TIMEOUT) is None
    assert Bench(on=frozenset({"timeout"})).filter.on_failure(bench.exchange(), TIMEOUT) is not None


def test_a_lost_race_is_not_its_business() -> None:
    bench = Bench()
    assert bench.filter.on_failure(bench.exchange(), RACE) is None


@pytest.mark.parametrize(
    ("on", "status", "repeated"),
    [
        ({"503"}, 503, True),
        ({"503"}, 500, False),
        ({"5xx"}, 500, True),
        ({"5xx"}, 404, False),
        ({"429"}, 429, True),
        ({"connect"}, 503, False),
    ],
)
def test_configured_statuses(on: set[str], status: int, repeated: bool) -> None:
    bench = Bench(on=frozenset(on))
    assert (bench.filter.on_answer(bench.exchange(), answer(status)) is not None) is repeated
    assert bench.filter.on_answer(bench.exchange("POST"), answer(status)) is None


def test_max_attempts_counts_the_first() -> None:
    bench = Bench(max_attempts=2)
    x = bench.exchange()
    assert bench.filter.on_failure(x, RESET) is not None
    bench.stage.tries(x)
    assert bench.filter.on_failure(x, RESET) is None


def test_a_body_that_is_gone_cannot_be_repeated() -> None:
    bench = Bench()
    x = bench.exchange()
    x.replayable = False
    assert bench.filter.on_failure(x, CONNECT) is None
    assert bench.filter.on_answer(x, answer(503)) is None


def test_never_past_the_deadline() -> None:
    bench = Bench()
    x = bench.exchange()
    bench.stage.loop.advance(28.9)
    assert bench.filter.on_failure(x, RESET) is not None
    bench.stage.loop.advance(0.2)
    assert bench.filter.on_failure(x, RESET) is None


def test_exponential_with_full_jitter() -> None:
    bench = Bench(jitter=True, max_attempts=10, max_delay=4.0)
    seen: list[float] = []
    for attempt, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0)):
        for _ in range(50):
            x = bench.exchange()
            x.attempts = attempt
            again = bench.filter.on_failure(x, RESET)
            assert again is not None
            assert 0.0 <= again.delay <= longest
            seen.append(again.delay / longest)
    assert min(seen) < 0.1
    assert max(seen) > 0.9


@pytest.mark.parametrize(
    ("value", "delay"),
    [
        ("7", 7.0),
        (formatdate(WALL + 10, usegmt=True), 10.0),
        (formatdate(WALL - 10, usegmt=True), 0.0),
        ("soon", 1.0),  # the backoff's own
        ("-1", 1.0),
    ],
)
def test_retry_after_is_honoured(value: str, delay: float) -> None:
    bench = Bench()
    again = bench.filter.on_answer(bench.exchange(), answer(503, f"retry-after: {value}"))
    assert again is not None
    assert again.delay == delay


@pytest.mark.parametrize("value", ["31", "99999999999999999999", formatdate(WALL + 3600, usegmt=True)])
def test_retry_after_beyond_the_deadline_ends_it(value: str) -> None:
    bench = Bench()
    assert bench.filter.on_answer(bench.exchange(), answer(503, f"retry-after: {value}")) is None


@pytest.mark.parametrize("code", ["draining", "connect_failed", "connect_timeout", "no_endpoints"])
def test_what_a_peer_could_not_deliver_goes_elsewhere_at_once(code: str) -> None:
    bench = Bench(endpoints=2)
    again = bench.filter.on_answer(bench.exchange("POST"), answer(503, f"x-sidecar-error: {code}"))
    assert again is not None
    assert again.delay == 0.0


@pytest.mark.parametrize("code", ["overloaded", "rate_limited", "timeout", "upstream_reset", "made_up"])
def test_what_a_peer_may_have_delivered_does_not(code: str) -> None:
    bench = Bench(endpoints=2)
    assert bench.filter.on_answer(bench.exchange("POST"), answer(503, f"x-sidecar-error: {code}")) is None


def test_a_peers_code_of_an_earlier_try_does_not_stick() -> None:
    bench = Bench(endpoints=2)
    x = bench.exchange("POST")
    assert bench.filter.on_answer(x, answer(503, "x-sidecar-error: draining")) is not None
    bench.stage.tries(x, 1)
    assert bench.filter.on_answer(x, answer(404)) is None
    assert bench.filter.on_answer(x, answer(503)) is None


# -- as upstreams and clients see it ---------------------------------------------------------------------

_CONFIG = Upstream(
    name="up", bind=ANY_PORT, retry=Config(jitter=False), circuit_breaker=CircuitBreaker(failure_threshold=100)
)


def test_an_upstream_sees_each_try_and_the_client_one_answer() -> None:
    async def main() -> None:
        async with Origin(ok(b"no", status="503 no")) as origin, Live(_CONFIG, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: len(origin.requests) == 1)
            await settle()
            live.time.advance(0.9)
            await settle()
            assert len(origin.requests) == 1
            live.time.advance(0.2)  # 1 s
            await until(lambda: len(origin.requests) == 2)
            await settle()
            origin.handler = ok(b"yes")
            live.time.advance(2.1)
            answered = await client
            assert (answered.status, answered.body, len(origin.requests)) == (200, b"yes", 3)
            assert len({r.fields["x-request-id"] for r in origin.requests}) == 1
            assert live.stats.retries == {"503": 2}
            assert live.log.records[-1].attempts == 3

    run(main)


def test_the_last_answer_is_passed_on_as_it_is() -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, retry=Config(max_attempts=2, initial_delay=0.0))
        async with Origin(ok(b"sorry", "x-a: b", status="503 no")) as origin, Live(config, origin.port) as live:
            answered = await fetch(live.port)
            assert (answered.status, answered.body, answered.fields["x-a"]) == (503, b"sorry", "b")
            assert answered.error == ""
            assert len(origin.requests) == 2

    run(main)


def test_a_post_is_not_sent_twice() -> None:
    async def main() -> None:
        async with Origin(ok(status="503 no")) as origin, Live(_CONFIG, origin.port) as live:
            assert (await fetch(live.port, method="POST", body=b"x")).status == 503
            origin.handler = None
            answered = await fetch(live.port, method="POST", body=b"x")
            assert (answered.status, answered.error) == (502, "upstream_reset")
            assert len(origin.requests) == 2

    run(main)


@pytest.mark.parametrize(("size", "tries"), [(1, 2), (65536, 2), (65537, 1)])
def test_a_body_is_kept_up_to_64_kib(size: int, tries: int) -> None:
    body = random.Random(size).randbytes(size)

    async def main() -> None:
        async def second_time(_: Request) -> bytes:
            return ok() if len(origin.requests) > 1 else ok(status="503 no")

        config = Upstream(name="up", bind=ANY_PORT, retry=Config(max_attempts=3, initial_delay=0.0))
        async with Origin(second_time) as origin, Live(config, origin.port) as live:
            answered = await fetch(live.port, method="PUT", body=body)
            assert answered.status == (200 if tries == 2 else 503)
            assert [r.body == body for r in origin.requests] == [True] * tries

    run(main)


def test_a_post_that_could_not_connect_goes_to_another_endpoint_at_once() -> None:
    async def main() -> None:
        async with Origin() as origin, Live(_CONFIG, free_port(), origin.port) as live:
            for _ in range(4):
                assert (await fetch(live.port, method="POST", body=b"abc")).status == 200
            assert [r.body for r in origin.requests] == [b"abc"] * 4
            assert live.stats.retries["connect"] == 1  # then it is out of the rotation
            assert live.nothing_left()

    run(main)


def test_a_post_to_a_draining_peer_goes_to_another_endpoint_at_once() -> None:
    draining = ok(b"{}", "x-sidecar-error: draining", status="503 Service Unavailable")

    async def main() -> None:
        async with Origin(draining) as old, Origin() as new, Live(_CONFIG, old.port, new.port) as live:
            live.endpoints(old.port, new.port, sidecars=True)
            answers = [await fetch(live.port, method="POST", body=b"abc") for _ in range(4)]
            assert [a.status for a in answers] == [200] * 4
            assert (len(old.requests), len(new.requests)) == (1, 4)
            assert live.breaker_states == []

    run(main)


@pytest.mark.parametrize("code", ["draining", "connect_failed", "no_endpoints"])
def test_an_app_that_says_so_is_not_believed(code: str) -> None:
    lie = ok(b"{}", f"x-sidecar-error: {code}", status="503 Service Unavailable")

    async def main() -> None:
        async with Origin(lie) as one, Origin(lie) as two, Live(_CONFIG, one.port, two.port) as live:
            answer = await fetch(live.port, method="POST", body=b"abc")
            assert answer.status == 503
            assert "x-sidecar-error" not in answer.fields
            assert len(one.requests) + len(two.requests) == 1
            assert not any(endpoint.ejected_until for endpoint in live.listener.cluster.endpoints)

    run(main)


def test_a_closed_keep_alive_connection_costs_a_get_nothing() -> None:
    async def main() -> None:
        async def once(_: Request) -> bytes | None:
            return ok() if len(origin.requests) != 2 else None

        async with Origin(once) as origin, Live(_CONFIG, origin.port) as live:
            assert (await fetch(live.port)).status == 200
            assert (await fetch(live.port)).status == 200  # the second request met a connection being closed
            assert len(origin.requests) == 3
            assert live.stats.retries == {"race": 1}

    run(main)


def test_retry_after_is_waited_for() -> None:
    async def main() -> None:
        async with (
            Origin(ok(b"", "retry-after: 5", status="503 no")) as origin,
            Live(_CONFIG, origin.port) as live,
        ):
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: len(origin.requests) == 1)
            await settle()
            origin.handler = ok()
            live.time.advance(4.9)
            await settle()
            assert len(origin.requests) == 1
            live.time.advance(0.2)
            assert (await client).status == 200

    run(main)


def test_the_deadline_ends_the_tries() -> None:
    async def main() -> None:
        config = Upstream(
            name="up", bind=ANY_PORT, retry=Config(max_attempts=10, jitter=False), timeout=Timeout(request=2.5)
        )
        async with Origin(ok(status="503 no")) as origin, Live(config, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: len(origin.requests) == 1)
            await settle()
            live.time.advance(1.05)
            answered = await client  # the next delay, 2 s, would end after the deadline
            assert (answered.status, len(origin.requests)) == (503, 2)

    run(main)


def test_a_client_that_leaves_during_the_backoff_is_not_tried_for_again() -> None:
    async def main() -> None:
        async with Origin(ok(status="503 no")) as origin, Live(_CONFIG, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: live.stats.retries["503"] == 1)
            client.cancel()
            await until(lambda: live.stats.active == 0)
            live.time.advance(60)
            await settle()
            assert len(origin.requests) == 1
            assert live.nothing_left()

    run(main)


def test_not_after_the_first_byte_of_an_answer() -> None:
    async def main() -> None:
        async def half(_: Request) -> bytes:
            return b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"

        async with Origin(half) as origin, Live(_CONFIG, origin.port) as live:
            client = asyncio.ensure_future(fetch(live.port))
            await until(lambda: live.stats.bytes_out == 4)
            await origin.stop()
            assert (await client).status == 0  # cut off: the client cannot take it for the whole
            assert len(origin.requests) == 1
            await until(live.nothing_left)

    run(main)
