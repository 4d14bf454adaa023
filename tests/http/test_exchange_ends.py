"""How exchanges end when somebody leaves, breaks, stalls or answers early; and what is tried again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from sidecar.core.limits import Limits
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.net.sockets import undelivered
from support.patience import until
from support.plane import Peer, Plane, in_plane

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
AT_ONCE = RetrySettings(initial_delay=0.0)

LEAVE: dict[str, Callable[[Peer], None]] = {"close": Peer.close, "reset": Peer.reset}


# -- the client leaves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
@pytest.mark.parametrize("sent", [GET, POST, POST + b"abc", GET + GET], ids=["GET", "head", "part", "pipeline"])
def test_the_upstream_is_let_go_as_soon_as_the_client_is_gone(leave: Callable[[Peer], None], sent: bytes) -> None:
    """A plain close looks like a half-close until something is sent; see HalfClose."""

    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(sent)
        leave(client)
        await upstream.gone()
        await until(lambda: plane.stats.active == 0, "the exchange has ended")
        assert plane.lines.records[0].status == 499
        assert plane.listener.cluster.endpoints[0].failures == 0

    in_plane(test)


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
def test_the_client_leaves_in_the_middle_of_an_answer(leave: Callable[[Peer], None]) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        leave(client)
        while not upstream.ended:
            upstream.send(b"1\r\nx\r\n")
            await plane_turn(plane)
        assert plane.stats.active == 0

    in_plane(test)


async def plane_turn(plane: Plane) -> None:
    before = plane.loop.time()
    await until(lambda: plane.loop.time() > before + 0.001, "a moment")


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
def test_the_client_leaves_while_it_waits(leave: Callable[[Peer], None]) -> None:
    """In the bulkhead's queue, and in a backoff."""

    async def test(plane: Plane) -> None:
        first, upstream = await plane.request(GET)
        second = await plane.connect()
        second.send(GET)
        await until(lambda: plane.stats.pending == 1, "it waits for a slot")
        leave(second)
        await until(lambda: plane.stats.pending == 0, "it no longer waits")
        upstream.close()
        await until(lambda: plane.stats.retries["reset"] == 1, "it waits for another try")
        leave(first)
        await until(lambda: plane.stats.active == 0, "nothing is active")
        plane.advance(100)
        assert len(plane.upstream.peers) == 1

    in_plane(test, bulkhead=BulkheadSettings(max_requests=1), retry=RetrySettings(initial_delay=5, jitter=False))


# -- half-closed clients --------------------------------------------------------------------------------------------


def test_a_client_that_only_finished_sending_is_answered() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        client.finish()
        assert (await client.answer()).status == 100  # the probe: it still reads
        upstream.send(OK)
        answer = await client.answer()
        while answer.status == 100:
            answer = await client.answer()
        assert (answer.body, answer.fields["connection"]) == (b"ok", "close")
        assert await client.read_all() == b""

    in_plane(test)


def test_the_end_of_a_client_in_the_middle_of_a_head_or_a_body() -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        client.send(b"GET / HTT")
        client.finish()
        assert await client.read_all() == b""
        client, upstream = await plane.request(GET + POST + b"ab")
        client.finish()
        upstream.send(OK)
        answer = await client.answer()
        while answer.status == 100:
            answer = await client.answer()
        assert answer.body == b"ok"
        assert await client.read_all() == b""

    in_plane(test)


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset, Peer.finish], ids=["close", "reset", "half-close"])
def test_a_client_that_leaves_a_quiet_stream_cancels_it_at_once(leave: Callable[[Peer], None]) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        await upstream.head()
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        leave(client)
        await upstream.gone()
        assert plane.stats.requests == {("GET", 499): 1}
        assert plane.stats.rejected == {}
        assert plane.listener.cluster.endpoints[0].failures == 0
        assert plane.listener.breakers[0].failures == 0

    in_plane(test)


def test_an_answer_that_the_sidecar_cuts_is_not_one_whose_client_left() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        (connection,) = plane.listener._connections
        connection.abort()
        await client.was_reset()
        assert plane.stats.requests == {("GET", 200): 1}

    in_plane(test)


@pytest.mark.parametrize("stage", ["waiting", "sent", "backoff"])
def test_an_old_client_that_closes_has_left(stage: str) -> None:
    """HTTP/1.0 has no 100 to ask with."""

    async def test(plane: Plane) -> None:
        blocking = await plane.request(GET) if stage == "waiting" else None
        client = await plane.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        if blocking is not None:
            await until(lambda: plane.stats.pending == 1, "it waits for a slot")
        else:
            upstream = await plane.upstream.accepted()
            if stage == "backoff":
                upstream.close()
                await until(lambda: plane.stats.retries["reset"] == 1, "it waits for another try")
        client.finish()
        await until(lambda: plane.stats.requests["GET", 499] == 1, "it is over")
        if stage == "sent":
            await upstream.gone()

    in_plane(test, retry=RetrySettings(initial_delay=5, jitter=False), bulkhead=BulkheadSettings(max_requests=1))


def test_clients_that_half_close_can_be_allowed_to() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(b"GET / HTTP/1.0\r\n\r\n")
        client.finish()
        (connection,) = plane.listener._connections
        await until(lambda: connection.half_closed, "EOF")  # type: ignore[attr-defined]
        upstream.send(OK)
        assert (await client.answer()).body == b"ok"
        client = await plane.connect()
        client.send(GET)
        await upstream.read_until(GET[:16])
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
        await client.head()
        client.finish()
        await until(lambda: any(c.half_closed for c in plane.listener._connections), "EOF")  # type: ignore
        upstream.send(b"ok")
        assert await client.read_all() == b"okok"

    in_plane(test, limits=Limits(half_close=True))


def test_an_answer_that_begins_after_the_half_close_is_delivered() -> None:
    """However long it is, and whether or not it comes at once."""

    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        client.finish()
        (connection,) = plane.listener._connections
        await until(lambda: connection.half_closed, "EOF")  # type: ignore[attr-defined]
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
        assert b"200" in await client.head()
        upstream.send(b"ok")
        assert await client.read_all() == b"okok"
        assert plane.stats.requests == {("GET", 200): 1}

    in_plane(test)


def test_an_old_client_that_finished_sending_and_then_left_is_noticed() -> None:
    """Where it may; that it resets its connection can still be seen."""

    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(b"GET / HTTP/1.0\r\n\r\n")
        client.finish()
        upstream.close()
        await until(lambda: plane.stats.retries["reset"] == 1, "it waits for another try")
        client.reset()
        await until(lambda: plane.stats.active == 0, "nothing is active")
        assert not client.received

    in_plane(test, retry=RetrySettings(initial_delay=5, jitter=False), limits=Limits(half_close=True))


# -- kept connections that close as they are used ------------------------------------------------------------------


def test_an_idempotent_request_goes_again_on_a_fresh_connection() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(OK)
        await client.answer()
        client.send(GET)
        await upstream.head()
        await upstream.head()
        upstream.close()
        again = await plane.upstream.accepted()
        again.send(OK)
        assert (await client.answer()).body == b"ok"
        assert plane.stats.retries == {"race": 1}
        assert plane.listener.cluster.endpoints[0].failures == 0

    in_plane(test, retry=None)


def test_a_post_is_not_sent_twice() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(OK)
        await client.answer()
        client.send(POST + b"body")
        await upstream.read_until(b"body")
        upstream.close()
        answer = await client.answer()
        assert (answer.status, answer.fields["x-sidecar-error"]) == (502, "upstream_reset")
        assert len(plane.upstream.peers) == 1

    in_plane(test)


def test_after_a_part_of_an_answer_nothing_is_a_race() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(OK)
        await client.answer()
        client.send(GET)
        await upstream.head()
        await upstream.head()
        upstream.send(b"HTTP/1.1 200")
        upstream.close()
        assert (await client.answer()).status == 502

    in_plane(test, retry=None)


# -- tries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_is_sent_again_also_one_that_is_still_arriving(whole: bool) -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nsome")
        first = await plane.accepted()
        await first.read_until(b"some")
        if whole:
            client.send(b"more")
            await first.read(4)
        first.close()
        second = await plane.accepted()
        if not whole:
            client.send(b"more")
        await second.read_until(b"somemore")
        second.send(OK)
        assert (await client.answer()).body == b"ok"
        assert plane.stats.retries == {"reset": 1}

    in_plane(test, upstreams=2, retry=AT_ONCE)


def test_a_body_that_is_too_large_to_keep_is_not_sent_again() -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
        first = await plane.accepted()
        await first.head()
        await first.read(100_000)
        first.close()
        assert (await client.answer()).fields["x-sidecar-error"] == "upstream_reset"
        await client.gone()
        assert sum(len(u.peers) for u in plane.upstreams) == 1

    in_plane(test, upstreams=2, retry=AT_ONCE)


def test_a_body_that_arrives_while_there_is_nowhere_to_send_it_stops_the_client() -> None:
    async def test(plane: Plane) -> None:
        await plane.request(GET)
        client = await plane.connect()
        size = 8_000_000
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await until(lambda: plane.stats.pending, "it waits")
        connection = list(plane.listener._connections)[1]
        await until(lambda: connection.reading_paused, "it is not read from")  # type: ignore[attr-defined]
        exchange = connection.exchange  # type: ignore[attr-defined]
        assert exchange.kept_size < 1_000_000
        plane.clients[0].reset()
        upstream = await plane.upstream.accepted()
        await upstream.head()
        await upstream.read(size)
        upstream.send(OK)
        await client.answer()

    in_plane(test, bulkhead=BulkheadSettings(max_requests=1))


def test_an_endpoint_that_is_removed_while_it_works() -> None:
    async def test(plane: Plane) -> None:
        (endpoint,) = plane.listener.cluster.endpoints
        client, upstream = await plane.request(GET)
        plane.listener.cluster.update([])
        upstream.close()
        assert (await client.answer()).status == 502
        assert endpoint.active == 0

    in_plane(test, retry=None)


# -- early answers --------------------------------------------------------------------------------------------------


def test_an_answer_while_the_body_is_still_on_its_way() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
        await upstream.head()
        upstream.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        answer = await client.answer()
        assert (answer.status, answer.body, answer.fields["connection"]) == (413, b"no", "close")
        assert await client.read_all() == b""  # an orderly end, not a reset
        client.send(b"x" * 100_000)
        await upstream.gone()

    in_plane(test)


def test_an_early_answer_that_streams_while_the_body_does() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        )
        await upstream.head()
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        for n in range(5):
            client.send(b"1\r\n%d\r\n" % n)
            await upstream.read_until(b"1\r\n%d\r\n" % n)
            upstream.send(b"1\r\n%d\r\n" % n)
            await client.read_until(b"1\r\n%d\r\n" % n)
        client.send(b"0\r\n\r\n")
        await upstream.read_until(b"0\r\n\r\n")
        upstream.send(b"0\r\n\r\n")
        await client.read_until(b"0\r\n\r\n")
        assert await client.read_all() == b""

    in_plane(test)


# -- time -----------------------------------------------------------------------------------------------------------


def test_a_head_has_its_time_from_its_first_byte_however_it_drips() -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        await until(lambda: plane.stats.client_connections, "connected")
        plane.advance(60)  # nothing begun: that is an idle connection
        for n in range(12):
            client.send(GET[n : n + 1])
            (connection,) = plane.listener._connections
            await until(lambda n=n, c=connection: c._begun == n + 1 or c.closing, "a byte")  # type: ignore
            plane.advance(0.9)
        answer = await client.answer()
        assert (answer.status, answer.fields["x-sidecar-error"]) == (400, "bad_request")
        assert await client.read_all() == b""

    in_plane(test, timeout=TimeoutSettings(head=10))


def test_idle_clients_are_closed() -> None:
    async def test(plane: Plane) -> None:
        silent = await plane.connect()
        client, upstream = await plane.request(GET)
        plane.advance(4)
        upstream.send(OK)
        await client.answer()
        plane.advance(2)
        assert await silent.read_all() == b""
        assert not client.ended
        plane.advance(4)
        assert await client.read_all() == b""

    in_plane(test, timeout=TimeoutSettings(idle=5))


def test_an_answer_that_stops_is_cut_and_one_that_goes_on_lives() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        for _ in range(20):
            plane.advance(4)
            upstream.send(b"1\r\nx\r\n")
            await client.read(6)
        plane.advance(6)
        await client.was_reset()
        await upstream.gone()
        assert plane.stats.rejected == {"timeout": 1}

    in_plane(test, timeout=TimeoutSettings(idle=5, request=1))


def test_the_total_time_bounds_streams_too() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        for _ in range(5):
            plane.advance(1)
            upstream.send(b"1\r\nx\r\n")
            await client.read(6)
        plane.advance(1.1)
        await client.was_reset()

    in_plane(test, timeout=TimeoutSettings(total=6))


def blameless(plane: Plane) -> None:
    assert plane.listener.cluster.endpoints[0].failures == 0
    assert plane.listener.breakers[0].failures == 0


def test_a_client_that_stalls_is_not_the_upstreams_failure() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(POST.replace(b"4", b"40000") + b"ab")
        await upstream.head()
        plane.advance(20)
        client.send(b"c" * 30_000)
        await upstream.read(30_002)
        plane.advance(20)
        assert plane.stats.active == 1  # the time runs from the latest byte
        plane.advance(10.1)
        answer = await client.answer()
        assert (answer.status, answer.fields["x-sidecar-error"]) == (504, "timeout")
        await upstream.gone()
        blameless(plane)

    in_plane(test)


CHUNKS = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "byte"),
    [
        (POST.replace(b"4", b"4000"), b"x"),
        (CHUNKS + b"fff;", b"x"),
        (CHUNKS, b"1\r\nx\r\n"),
        (CHUNKS + b"0\r\nx-a: ", b"x"),
    ],
    ids=["length", "extension", "chunks", "trailer"],
)
def test_a_byte_now_and_then_buys_no_time(head: bytes, byte: bytes) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(head)
        await upstream.head()
        for _ in range(2):
            plane.advance(1.5)
            assert plane.stats.active == 1
            seen = plane.stats.bytes_in
            client.send(byte)
            await until(lambda seen=seen: plane.stats.bytes_in > seen, "a byte")  # type: ignore[misc]
        plane.advance(1.5)
        assert (await client.answer()).fields["x-sidecar-error"] == "timeout"
        await upstream.gone()
        blameless(plane)

    in_plane(test, timeout=TimeoutSettings(request=4))


def test_a_long_upload_has_its_time() -> None:
    """As long as it is quick enough on average; then the answer has all of its own."""

    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(POST.replace(b"4", b"40000"))
        await upstream.head()
        for n in range(1, 11):
            plane.advance(3.9)
            client.send(b"x" * 4000)
            await until(lambda n=n: len(upstream.buffer) == n * 4000, "it is passed on")  # type: ignore[misc]
        plane.advance(3.9)
        upstream.send(OK)
        assert (await client.answer()).body == b"ok"

    in_plane(test, timeout=TimeoutSettings(request=4))


@pytest.mark.parametrize("rate", [0, 1], ids=["none", "lower"])
def test_the_least_rate_can_be_lowered(rate: int) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(POST.replace(b"4", b"20"))
        await upstream.head()
        for n in range(1, 11):
            plane.advance(1.9)
            client.send(b"xx")
            await until(lambda n=n: len(upstream.buffer) == n * 2, "it is passed on")  # type: ignore[misc]
        upstream.send(OK)
        assert (await client.answer()).body == b"ok"

    in_plane(test, timeout=TimeoutSettings(request=4), limits=Limits(body_rate=rate))


def test_time_in_which_the_upstream_does_not_read_is_not_the_clients() -> None:
    async def test(plane: Plane) -> None:
        size = 20_000_000
        client, upstream = await plane.request(POST.replace(b"4", b"%d" % (size + 2)))
        await upstream.head()
        upstream.transport.pause_reading()
        client.send(b"x" * size)
        (connection,) = plane.listener._connections
        await until(lambda: connection.reading_paused, "the client is not read from")  # type: ignore[attr-defined]
        plane.advance(3)
        upstream.transport.resume_reading()
        await upstream.read(size)
        plane.advance(3.9)  # all in all longer than its bytes are worth
        client.send(b"yy")
        await upstream.read(2)
        upstream.send(OK)
        assert (await client.answer()).body == b"ok"

    in_plane(test, timeout=TimeoutSettings(request=4), limits=Limits(body_rate=1 << 30))


def test_an_upstream_that_does_not_say_continue_is_the_upstreams_failure() -> None:
    async def test(plane: Plane) -> None:
        client, _ = await plane.request(POST.replace(b"Host", b"Expect: 100-continue\r\nHost"))
        plane.advance(30.1)
        assert (await client.answer()).fields["x-sidecar-error"] == "timeout"
        assert plane.listener.breakers[0].failures == 1

    in_plane(test)


LAST = GET.replace(b"Host", b"Connection: close\r\nHost")


@pytest.mark.parametrize("request_", [GET, LAST], ids=["kept", "last"])
def test_a_slow_reader_gets_the_rest_of_an_answer_that_is_finished(request_: bytes) -> None:
    """The upstream has long gone; while the client reads, however slowly, that is no silence."""

    async def test(plane: Plane) -> None:
        client = await plane.connect()
        client.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await until(lambda: plane.listener._connections, "connected")
        (connection,) = plane.listener._connections
        transport = connection.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.transport.pause_reading()
        client.send(request_)
        upstream = await plane.upstream.accepted()
        size = 110_000  # the kernel takes a part; what is left is below the mark at which the upstream is not read from
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await until(lambda: plane.stats.requests["GET", 200], "the exchange is over")
        draining = asyncio.create_task(plane.listener.drained())
        pieces = 0
        while len(client.received) < size:
            assert undelivered(transport) or pieces
            plane.advance(2)
            before = len(client.received)
            client.transport.resume_reading()
            await client.wait(lambda before=before: len(client.received) > before, "some of it")  # type: ignore[misc]
            client.transport.pause_reading()
            pieces += 1
        assert pieces > 3, "longer than timeout.idle"
        client.transport.resume_reading()
        await draining

    in_plane(test, timeout=TimeoutSettings(idle=5))


def test_a_client_that_does_not_take_its_last_bytes_is_cut_in_the_end() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET.replace(b"Host", b"Connection: close\r\nHost"))
        client.transport.pause_reading()
        size = 20_000_000
        upstream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * size)
        upstream.close()
        await until(lambda: next(iter(plane.listener._connections)).paused_writing, "stopped")  # type: ignore
        plane.advance(6)
        client.transport.resume_reading()
        await client.was_reset()
        assert len(client.received) < size

    in_plane(test, timeout=TimeoutSettings(idle=5))
