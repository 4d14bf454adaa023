"""Upgrades: a WebSocket's bytes pass untouched in both directions, and each side may finish by itself."""

from __future__ import annotations

import pytest

from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.timeout import TimeoutSettings
from support.patience import until
from support.plane import Peer, Plane, in_plane

ASK = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


async def tunnel(plane: Plane, early: bytes = b"") -> tuple[Peer, Peer]:
    client, upstream = await plane.request(ASK + early)
    head = await upstream.head()
    assert b"upgrade: websocket\r\n" in head
    assert b"connection: upgrade\r\n" in head
    upstream.send(SWITCH)
    assert await client.head() == SWITCH
    return client, upstream


def test_bytes_pass_both_ways() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await tunnel(plane)
        for n in range(20):
            frame = bytes(range(n, n + 50)) + b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"
            client.send(frame)
            assert await upstream.read(len(frame)) == frame
            upstream.send(frame)
            assert await client.read(len(frame)) == frame
        assert plane.stats.tunnels == 1
        client.close()
        assert await upstream.read_all() == b""
        upstream.close()

    in_plane(test)


def test_what_both_sides_say_at_once_is_not_lost() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(ASK + b"early")
        upstream.send(SWITCH + b"first")
        assert await client.head() == SWITCH
        assert await client.read(5) == b"first"
        await upstream.head()
        assert await upstream.read(5) == b"early"

    in_plane(test)


@pytest.mark.parametrize("client_first", [True, False])
def test_each_side_finishes_by_itself(client_first: bool) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await tunnel(plane)
        one, other = (client, upstream) if client_first else (upstream, client)
        one.send(b"last words")
        one.finish()
        assert await other.read_all() == b"last words"
        other.transport.pause_reading()
        other.send(b"x" * 5_000_000)
        other.finish()
        assert len(await one.read_all()) == 5_000_000
        await until(lambda: plane.stats.tunnels == 0, "the tunnel is gone")

    in_plane(test)


def test_a_client_that_finished_before_the_switch() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(ASK)
        client.finish()
        await until(lambda: next(iter(plane.listener._connections)).half_closed, "EOF")  # type: ignore[attr-defined]
        upstream.send(SWITCH + b"bye")
        upstream.finish()
        assert (await client.read_all()).endswith(b"bye")
        await upstream.gone()

    in_plane(test)


@pytest.mark.parametrize("client_first", [True, False])
def test_a_reset_passes_too(client_first: bool) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await tunnel(plane)
        if client_first:
            client.reset()
            await upstream.gone()
        else:
            upstream.reset()
            await client.was_reset()

    in_plane(test)


def test_a_tunnel_takes_no_place_from_requests_and_is_cut_when_silent() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await tunnel(plane)
        limiter, tunnels = plane.limiters()
        assert (limiter.active, tunnels.active) == (0, 1)
        assert (plane.stats.upstream_active, plane.stats.tunnels) == (1, 1)
        other = await plane.connect()
        other.send(GET)
        second = await plane.upstream.accepted()
        second.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await other.answer()).body == b"ok"
        for _ in range(5):
            plane.advance(4)
            client.send(b"ping")
            await upstream.read(4)
        plane.advance(6)
        await client.was_reset()
        await upstream.gone()
        assert tunnels.active == 0

    in_plane(test, bulkhead=BulkheadSettings(max_connections=1), timeout=TimeoutSettings(idle=5, total=3))


def test_tunnels_have_a_bound_of_their_own() -> None:
    async def test(plane: Plane) -> None:
        first = await tunnel(plane)
        late, asked = await plane.request(ASK)  # while there is room for one more
        await tunnel(plane)
        refused = await plane.connect()
        refused.send(ASK)
        answer = await refused.answer()
        assert (answer.status, answer.fields["x-sidecar-error"]) == (503, "overloaded")
        assert b"max_tunnels" in answer.body
        assert plane.limiters()[0].active == 1, "it holds no slot"
        asked.send(SWITCH)
        answer = await late.answer()
        assert (answer.fields["x-sidecar-error"], answer.fields["connection"]) == ("overloaded", "close")
        await asked.gone()
        assert plane.listener.cluster.endpoints[0].failures == 0
        for peer in first:
            peer.close()
        await until(lambda: plane.stats.tunnels == 1, "one is gone")
        await tunnel(plane)

    in_plane(test, bulkhead=BulkheadSettings(max_tunnels=2))


def test_hundreds_of_tunnels_turn_no_request_away() -> None:
    async def test(plane: Plane) -> None:
        for _ in range(300):
            await tunnel(plane)
        assert plane.stats.tunnels == 300
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await client.answer()).body == b"ok"

    in_plane(test, inbound=True)


def test_a_refused_upgrade_is_an_answer_like_any_other() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(ASK)
        upstream.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        assert (await client.answer()).status == 403
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await upstream.head()
        await upstream.head()

    in_plane(test)


@pytest.mark.parametrize("protocol", [b"h2c", b"H2C", b"websocket, h2c"])
def test_http_2_does_not_get_through_unseen(protocol: bytes) -> None:
    async def test(plane: Plane) -> None:
        _, upstream = await plane.request(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\n"
            b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n" % protocol
        )
        head = (await upstream.head()).lower()
        assert b"upgrade" not in head
        assert b"http2" not in head

    in_plane(test)
