"""Every answer that the sidecar gives itself, reached on the wire: status, code, headers, body."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from sidecar.core.instance import Instance
from sidecar.core.limits import Limits
from sidecar.core.replies import STATUS
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from support.patience import until
from support.plane import Answer, Peer, Plane, in_plane, silent_port
from support.processes import free_port

GET = b"GET / HTTP/1.1\r\nHost: a\r\nx-request-id: given\r\n\r\n"


def check(answer: Answer, code: str, *, retry_after: bool = False, request_id: str = "given") -> None:
    assert (answer.status, answer.fields["x-sidecar-error"]) == (STATUS[code], code)
    body = orjson.loads(answer.body)
    assert list(body) == ["error", "message", "upstream", "request_id"]
    assert (body["error"], body["upstream"]) == (code, "up")
    assert body["message"]
    assert body["request_id"] == answer.fields["x-request-id"]
    if request_id:
        assert body["request_id"] == request_id
    assert answer.fields["content-type"] == "application/json"
    assert ("retry-after" in answer.fields) == retry_after
    if retry_after:
        assert int(answer.fields["retry-after"]) >= 1


async def get(plane: Plane, data: bytes = GET) -> Peer:
    client = await plane.connect()
    client.send(data)
    return client


def test_bad_request_and_limits() -> None:
    async def test(plane: Plane) -> None:
        for data, code in (
            (b"GET / HTTP/3\r\n\r\n", "bad_request"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2000 + b"\r\n\r\n", "headers_too_large"),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "body_too_large"),
        ):
            client = await get(plane, data)
            check(await client.answer(), code, request_id="")
            assert await client.read_all() == b""
        assert not plane.upstream.peers

    in_plane(test, limits=Limits(head=1000, body=10))


@pytest.mark.parametrize("split", [True, False])
def test_body_too_large_in_chunks(split: bool) -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n")
        await plane.upstream.accepted()
        client.send(b"6\r\n" + (b"" if split else b"123456\r\n0\r\n\r\n"))
        if split:
            client.send(b"123456\r\n0\r\n\r\n")
        check(await client.answer(), "body_too_large", request_id="")
        assert await client.read_all() == b""

    in_plane(test, limits=Limits(body=10))


def test_rate_limited() -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane)
        upstream = await plane.upstream.accepted()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await client.answer()
        client.send(GET)
        check(await client.answer(), "rate_limited", retry_after=True)
        plane.advance(10)
        client.send(GET)  # the connection is still good
        await upstream.head()

    in_plane(test, rate_limit=RateLimitSettings(rate=0.1, burst=1))


def test_no_endpoints() -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane)
        check(await client.answer(), "no_endpoints")
        client.send(GET.replace(b"GET", b"HEAD"))
        assert (await client.answer("HEAD")).status == 503
        client.send(GET)
        check(await client.answer(), "no_endpoints")  # there was no body behind the answer to HEAD

    in_plane(test, upstreams=0)


def test_circuit_open() -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane)
        (await plane.upstream.accepted()).send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        await client.answer()
        client.send(GET)
        check(await client.answer(), "circuit_open", retry_after=True)

    in_plane(test, circuit_breaker=CircuitBreakerSettings(failure_threshold=1))


def test_overloaded() -> None:
    async def test(plane: Plane) -> None:
        first, waiting, refused = await get(plane), await get(plane), None
        await until(lambda: plane.stats.pending, "one waits")
        refused = await get(plane)
        check(await refused.answer(), "overloaded", retry_after=True)
        plane.advance(6)
        check(await waiting.answer(), "overloaded", retry_after=True)
        upstream = await plane.upstream.accepted()
        third = await get(plane)
        await until(lambda: plane.stats.pending, "another one waits")
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await first.answer()
        await upstream.head()
        await upstream.head()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await third.answer()).status == 200

    in_plane(test, bulkhead=BulkheadSettings(max_requests=1, max_pending=1))


def test_too_many_clients() -> None:
    async def test(plane: Plane) -> None:
        await get(plane)
        await plane.upstream.accepted()
        client = await get(plane)
        check(await client.answer(), "overloaded", retry_after=True, request_id="")
        assert await client.read_all() == b""

    in_plane(test, limits=Limits(connections=1))


def test_draining() -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane)
        upstream = await plane.upstream.accepted()
        idle = await plane.connect()
        await until(lambda: plane.stats.client_connections == 2, "two clients")
        plane.listener.drain()
        await idle.gone()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        late = await get(plane)
        check(await late.answer(), "draining")
        assert await late.read_all() == b""

    in_plane(test, inbound=True)


def test_connect_failed() -> None:
    async def test(plane: Plane) -> None:
        plane.listener.cluster.update([Instance(host="127.0.0.1", port=free_port())])
        client = await get(plane)
        check(await client.answer(), "connect_failed")
        client.send(GET)
        check(await client.answer(), "connect_failed")

    in_plane(test, retry=None)


def test_connect_failed_for_a_host_that_is_no_host_name() -> None:
    async def test(plane: Plane) -> None:
        plane.listener.cluster.update([Instance(host="a" * 300, port=1)])
        client = await get(plane)
        check(await client.answer(), "connect_failed")

    in_plane(test, retry=None)


def test_connect_timeout() -> None:
    async def test(plane: Plane) -> None:
        with silent_port() as port:
            plane.listener.cluster.update([Instance(host="127.0.0.1", port=port)])
            client = await get(plane)
            await until(lambda: plane.stats.active, "the request")
            plane.advance(1.1)
            check(await client.answer(), "connect_timeout")

    in_plane(test, retry=None)


def test_upstream_reset() -> None:
    async def test(plane: Plane) -> None:
        def in_the_middle(peer: Peer) -> None:
            peer.send(b"HTTP/1.")
            peer.close()

        ends: list[Callable[[Peer], None]] = [Peer.close, Peer.reset, in_the_middle]
        client = await plane.connect()
        for end in ends:
            client.send(GET)
            end(await plane.upstream.accepted())
            check(await client.answer(), "upstream_reset")

    in_plane(test, retry=None)


def test_bad_upstream() -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane)
        (await plane.upstream.accepted()).send(b"220 mail.example.org ESMTP\r\n\r\n")
        answer = await client.answer()
        check(answer, "bad_upstream")
        assert b"127.0.0.1" in answer.body

    in_plane(test, retry=None)


@pytest.mark.parametrize(
    ("timeout", "breaker", "seconds"),
    [
        (TimeoutSettings(request=3), CircuitBreakerSettings(), 3.1),
        (TimeoutSettings(request=30), CircuitBreakerSettings(timeout_duration=2), 2.1),
        (TimeoutSettings(request=30, total=4), None, 4.1),
    ],
)
def test_timeout(timeout: TimeoutSettings, breaker: CircuitBreakerSettings | None, seconds: float) -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane)
        upstream = await plane.upstream.accepted()
        plane.advance(seconds - 0.2)
        assert plane.stats.active == 1
        plane.advance(0.2)
        check(await client.answer(), "timeout")
        await upstream.gone()
        client.send(GET)  # the connection is still good
        await plane.upstream.accepted()

    in_plane(test, retry=None, timeout=timeout, circuit_breaker=breaker)


def test_an_answer_of_the_upstream_never_carries_our_header() -> None:
    async def test(plane: Plane) -> None:
        client = await get(plane)
        upstream = await plane.upstream.accepted()
        upstream.send(b"HTTP/1.1 503 No\r\nX-Sidecar-Error: draining\r\nContent-Length: 0\r\n\r\n")
        assert "x-sidecar-error" not in (await client.answer()).fields

    in_plane(test, retry=None)


def test_a_retry_is_told_apart_from_an_answer() -> None:
    async def test(plane: Plane) -> None:
        plane.endpoints(sidecars=True)
        client = await get(plane)
        (await plane.accepted()).send(b"HTTP/1.1 503 No\r\nx-sidecar-error: draining\r\nContent-Length: 0\r\n\r\n")
        upstream = await plane.accepted()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await client.answer()).status == 200
        assert plane.stats.retries == {"503": 1}

    in_plane(test, upstreams=2, retry=RetrySettings())
