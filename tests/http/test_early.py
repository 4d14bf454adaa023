"""Answers that come before all of the request was read: they are the app's, and arrive whole."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from sidecar.core.instance import Instance
from sidecar.filters.retry import RetrySettings
from sidecar.http.h1.server import LINGER_SECONDS, LINGER_SILENCE
from support.patience import until
from support.plane import Peer, Plane, in_plane

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
HEAD = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n"
BODY = b"too large" * 3_000  # no more than the window that a connection begins with
ANSWERS = {
    "length": HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "close": HEAD + b"\r\n" + BODY,
}


class Hasty:
    """A server that is a plain socket, so that a test does several things to it before the loop turns."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)
        self.port: int = self.listening.getsockname()[1]

    async def accept(self) -> socket.socket:
        """The next connection; a request lies unread on it."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listening)
        connection.setblocking(False)

        def arrived() -> bool:
            try:
                return bool(connection.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                return False

        await until(arrived, "a request")
        return connection


@pytest.fixture
def hasty() -> Iterator[Hasty]:
    server = Hasty()
    yield server
    server.listening.close()


async def uploading(plane: Plane, server: Hasty, request: bytes = POST + b"x") -> tuple[Peer, socket.socket]:
    plane.listener.cluster.update([Instance(host="127.0.0.1", port=server.port)])
    client = await plane.connect()
    client.send(request)
    return client, await server.accept()


def write_into_the_reset(plane: Plane) -> None:
    """More of the upload comes, and is written before the loop has looked at what the upstream has sent."""
    (connection,) = plane.listener._connections
    connection.data_received(b"x")  # type: ignore[attr-defined]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_failed_write_does_not_destroy_the_answer(hasty: Hasty, answer: bytes) -> None:
    async def test(plane: Plane) -> None:
        client, connection = await uploading(plane, hasty)
        assert connection.send(answer) == len(answer)
        connection.close()  # with a reset, as most of the request was not read
        write_into_the_reset(plane)
        got = await client.answer()
        assert (got.status, got.body) == (413, BODY)
        assert "x-sidecar-error" not in got.fields
        assert got.fields["connection"] == "close"
        assert await client.read_all() == b""
        assert plane.lines.records[0].status == 413
        assert plane.listener.cluster.endpoints[0].failures == 0
        assert plane.listener.breakers[0].failures == 0

    in_plane(test)


def test_the_rest_of_an_answer_that_has_begun(hasty: Hasty) -> None:
    async def test(plane: Plane) -> None:
        client, connection = await uploading(plane, hasty)
        answer = ANSWERS["length"]
        connection.send(answer[:200])
        head = await client.head()
        assert b"413" in head
        connection.send(answer[200:])
        connection.close()
        write_into_the_reset(plane)
        assert await client.read(len(BODY)) == BODY
        assert await client.read_all() == b""

    in_plane(test)


def test_an_early_answer_counts_by_its_status(hasty: Hasty) -> None:
    async def test(plane: Plane) -> None:
        client, connection = await uploading(plane, hasty)
        connection.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        connection.close()
        write_into_the_reset(plane)
        assert (await client.answer()).status == 500
        assert plane.listener.breakers[0].failures == 1

    in_plane(test)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 413 Con"], ids=["nothing", "part"])
def test_a_reset_without_an_answer_is_the_upstreams_failure(hasty: Hasty, part: bytes) -> None:
    async def test(plane: Plane) -> None:
        client, connection = await uploading(plane, hasty)
        connection.send(part)
        connection.close()
        write_into_the_reset(plane)
        got = await client.answer()
        assert (got.status, got.fields["x-sidecar-error"]) == (502, "upstream_reset")
        assert plane.listener.cluster.endpoints[0].failures == 1

    in_plane(test)


def test_an_early_answer_that_is_cut_is_not_taken_for_whole(hasty: Hasty) -> None:
    async def test(plane: Plane) -> None:
        client, connection = await uploading(plane, hasty)
        connection.send(ANSWERS["length"][:-1])
        connection.close()
        write_into_the_reset(plane)
        await client.was_reset()
        assert plane.stats.rejected == {"upstream_reset": 1}

    in_plane(test)


def test_an_early_answer_may_be_tried_again(hasty: Hasty) -> None:
    async def test(plane: Plane) -> None:
        request = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nx"
        client, connection = await uploading(plane, hasty, request)
        connection.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        connection.close()
        write_into_the_reset(plane)
        with await hasty.accept() as again:
            again.send(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
            assert (await client.answer()).status == 413
        assert plane.stats.retries == {"503": 1}

    in_plane(test, retry=RetrySettings(initial_delay=0.0))


def test_a_client_that_expects_continue_gets_the_final_answer() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(POST.replace(b"Host", b"Expect: 100-continue\r\nHost"))
        await upstream.head()
        upstream.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        got = await client.answer()
        assert (got.status, got.fields["connection"]) == (417, "close")
        assert await client.read_all() == b""
        assert plane.listener.cluster.endpoints[0].failures == 0

    in_plane(test)


# -- the client goes on sending ---------------------------------------------------------------------------------------


async def answered_early(plane: Plane) -> Peer:
    client, upstream = await plane.request(POST + b"x")
    await upstream.head()
    upstream.send(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
    assert (await client.answer()).status == 413
    await client.wait(lambda: client.ended, "our side is closed")
    return client


def test_a_client_that_sends_everything_first_still_finds_the_answer() -> None:
    async def test(plane: Plane) -> None:
        client = await answered_early(plane)
        (connection,) = plane.listener._connections
        for _ in range(20):
            client.send(b"x" * 1_000_000)
            await until(lambda: not client.transport.get_write_buffer_size(), "it is read")
            plane.advance(LINGER_SILENCE / 2)
            connection.data_received(b"x")  # type: ignore[attr-defined]
        assert not client.lost
        plane.advance(LINGER_SECONDS)
        await until(lambda: not plane.stats.client_connections, "it had its time")

    in_plane(test)


def test_a_client_that_is_silent_is_let_go() -> None:
    async def test(plane: Plane) -> None:
        client = await answered_early(plane)
        plane.advance(LINGER_SILENCE + 0.1)
        await until(lambda: not plane.stats.client_connections, "it is gone")
        assert client.error is None

    in_plane(test)


def test_one_that_was_answered_makes_room() -> None:
    async def test(plane: Plane) -> None:
        await answered_early(plane)
        (connection,) = plane.listener._connections
        connection.close()
        await until(lambda: not plane.stats.client_connections, "it is gone at once")

    in_plane(test)
