"""Kept connections: order, age, bounds, and what makes one unfit."""

from __future__ import annotations

import pytest

from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.timeout import TimeoutSettings
from support.patience import until
from support.plane import Peer, Plane, in_plane

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def several(plane: Plane, count: int, answer: bytes = OK) -> tuple[list[Peer], list[Peer]]:
    """That many exchanges at once, and so that many connections, all idle in the end."""
    pairs = [await plane.request(GET) for _ in range(count)]
    for client, upstream in pairs:
        await upstream.head()
        upstream.send(answer)
        await client.answer()
        plane.advance(0.1)
    return [c for c, _ in pairs], [u for _, u in pairs]


def test_the_last_one_kept_is_the_first_one_used() -> None:
    async def test(plane: Plane) -> None:
        clients, upstreams = await several(plane, 3)
        assert (plane.stats.upstream_active, plane.stats.upstream_idle) == (0, 3)
        for _ in range(3):
            clients[0].send(GET)
            await upstreams[2].head()
            upstreams[2].send(OK)
            await clients[0].answer()

    in_plane(test)


def test_unused_ones_are_closed_in_time() -> None:
    async def test(plane: Plane) -> None:
        _, upstreams = await several(plane, 2)
        plane.advance(2.5)
        assert not upstreams[0].ended
        plane.advance(2)
        await upstreams[0].gone()
        await upstreams[1].gone()
        await until(lambda: plane.listener.pool.total == 0, "nothing is kept")

    in_plane(test, timeout=TimeoutSettings(keepalive=4))


@pytest.mark.parametrize(
    ("told", "kept"), [(b"timeout=3, max=100", 2), (b"max=5, timeout=2", 1), (b"timeout=1", 0), (b"timeout=900", 4)]
)
def test_the_upstreams_own_time_is_honoured(told: bytes, kept: float) -> None:
    async def test(plane: Plane) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: %b\r\nConnection: keep-alive\r\n\r\n" % told
        client, upstream = await plane.request(GET)
        upstream.send(answer)
        assert "keep-alive" not in (await client.answer()).fields
        if kept:
            plane.advance(kept - 0.1)
            assert not plane.listener.pool._idle[plane.listener.cluster.endpoints[0]][0].transport.is_closing()
            plane.advance(0.2)
        await upstream.gone()

    in_plane(test, timeout=TimeoutSettings(keepalive=4))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK + b"surplus",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nsurplus",
    ],
)
def test_what_cannot_be_trusted_is_not_kept(answer: bytes) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(answer)
        assert (await client.answer()).status == 200
        await upstream.gone()
        client.send(GET)
        assert await plane.upstream.accepted()

    in_plane(test)


def test_unasked_bytes_and_closing_end_an_idle_connection() -> None:
    async def test(plane: Plane) -> None:
        _, upstreams = await several(plane, 3)
        upstreams[0].send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await upstreams[0].gone()
        upstreams[1].close()
        upstreams[2].reset()
        await until(lambda: plane.listener.pool.total == 0, "nothing is kept")

    in_plane(test)


def test_an_upstream_that_speaks_first_on_a_new_connection() -> None:
    """The bytes may even be there before the request: then they are taken for its answer and are not one."""

    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"220 hello\r\n\r\n")
        assert (await client.answer()).fields["x-sidecar-error"] == "bad_upstream"

    in_plane(test, retry=None)


def test_a_request_that_cannot_go_twice_gets_a_fresh_connection() -> None:
    async def test(plane: Plane) -> None:
        clients, upstreams = await several(plane, 1)
        clients[0].send(POST)
        await upstreams[0].head()  # used this very moment: as good as fresh
        upstreams[0].send(OK)
        await clients[0].answer()
        plane.advance(1.5)
        clients[0].send(POST)
        assert (await plane.upstream.accepted()).received.startswith(b"POST")

    in_plane(test)


def test_connections_are_bounded_and_idle_ones_make_room() -> None:
    async def test(plane: Plane) -> None:
        plane.listener.pool.max_connections = 3
        clients, upstreams = await several(plane, 3)
        plane.advance(1.5)
        for client in clients:
            client.send(POST)  # wants a fresh connection each
        fresh = [await plane.upstream.accepted() for _ in range(3)]
        for upstream in upstreams:
            await upstream.gone()
        late = await plane.connect()
        late.send(GET)
        assert (await late.answer()).fields["x-sidecar-error"] == "overloaded"
        assert plane.listener.pool.total == 3
        assert len(fresh) == 3

    in_plane(test, bulkhead=BulkheadSettings(max_connections=0, max_requests=0))


def test_an_endpoint_that_leaves_takes_its_kept_connections_along() -> None:
    async def test(plane: Plane) -> None:
        _, upstreams = await several(plane, 2)
        plane.listener.cluster.update([])
        for upstream in upstreams:
            await upstream.gone()
        await until(lambda: plane.listener.pool.total == 0, "nothing is kept")
        assert plane.listener.pool._idle == {}

    in_plane(test)


def test_cancelled_connects_are_counted_out() -> None:
    async def test(plane: Plane) -> None:
        for turn in range(200):
            client = await plane.connect()
            client.send(GET)
            if turn % 2:
                await until(lambda: plane.stats.active, "a request")
            client.reset()
            await until(lambda: not plane.stats.client_connections, "gone")
        await until(lambda: plane.listener.pool.total == 0, "nothing is counted")

    in_plane(test)
