"""Requests and answers through a real listener: framing, order, interim answers, versions."""

from __future__ import annotations

import pytest

from support.plane import Plane, in_plane

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_request_and_its_answer_pass_byte_for_byte() -> None:
    async def test(plane: Plane) -> None:
        head = (
            b"GET /a%20b?c=d HTTP/1.1\r\nX-Second: 2 \r\nhOSt: Example.org:80\r\nx-first:1\r\n"
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nx-request-id: mine\r\n\r\n"
        )
        client, upstream = await plane.request(head)
        heard, time_left, _ = (await upstream.head()).rpartition(b"x-sidecar-deadline: ")
        assert (heard + b"\r\n", time_left) == (head, b"x-sidecar-deadline: ")
        answer = (
            b"HTTP/1.1 207 What ever\r\nB: 2\r\nA:  1\r\nContent-Length: 3\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nabc"
        )
        upstream.send(answer)
        assert await client.read(len(answer)) == answer
        (record,) = plane.lines.records
        assert (record.status, record.bytes_out, record.request_id) == (207, 3, "mine")

    in_plane(test)


def test_connections_are_kept_on_both_sides() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        for _ in range(3):
            await upstream.head()
            upstream.send(OK)
            assert (await client.answer()).body == b"ok"
            client.send(GET)
        await upstream.head()
        assert len(plane.upstream.peers) == 1

    in_plane(test)


def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    async def test(plane: Plane) -> None:
        targets = [b"/%d" % n for n in range(20)]
        sent = b"".join(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % target for target in targets)
        client, upstream = await plane.request(sent)
        for target in targets:
            assert (await upstream.head()).startswith(b"POST " + target + b" ")
            assert await upstream.read(3) == b"abc"
            assert not upstream.buffer
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))
        for target in targets:
            assert (await client.answer()).body == target

    in_plane(test)


def test_a_client_that_finished_sending_gets_all_its_answers() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET * 3 + b"\r\n")
        client.finish()
        for _ in range(3):
            await upstream.head()
            upstream.send(OK)
        for _ in range(3):
            answer = await client.answer()
            while answer.status == 100:  # it was asked whether it still reads
                answer = await client.answer()
            assert answer.body == b"ok"
        assert await client.read_all() == b""

    in_plane(test)


def test_a_deep_pipeline_of_refused_requests() -> None:
    async def test(plane: Plane) -> None:
        plane.listener.cluster.update([])
        client = await plane.connect()
        client.send(GET * 5000)
        for _ in range(5000):
            answer = await client.answer()
            assert (answer.status, answer.fields["x-sidecar-error"]) == (503, "no_endpoints")

    in_plane(test)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1_000_000])
def test_bodies_with_a_length(size: int) -> None:
    async def test(plane: Plane) -> None:
        body = bytes(range(256)) * (size // 256 + 1)
        body = body[:size]
        client = await plane.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body)
        upstream = await plane.upstream.accepted()
        await upstream.head()
        assert await upstream.read(size) == body
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
        assert (await client.answer()).body == body
        assert (plane.stats.bytes_in, plane.stats.bytes_out) == (size, size)
        client.send(GET)
        await upstream.head()

    in_plane(test)


def test_chunked_bodies_pass_with_their_borders_and_trailers() -> None:
    async def test(plane: Plane) -> None:
        chunked = b"5\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\nx-other: \r\n\r\n"
        client, upstream = await plane.request(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked
        )
        await upstream.head()
        assert await upstream.read(len(chunked)) == chunked
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        rest = chunked
        while rest:  # each byte as soon as it is there, but a size only when it is whole
            size = rest.index(b"\n") + 1 if rest[:1] in b"510" and rest[1:2] == b"\r" else 1
            upstream.send(rest[:size])
            assert await client.read(size) == rest[:size]
            rest = rest[size:]
        client.send(GET)
        await upstream.head()
        assert len(plane.upstream.peers) == 1

    in_plane(test)


@pytest.mark.parametrize("whole", [True, False])
def test_odd_chunk_sizes_go_on_as_plain_ones(whole: bool) -> None:
    async def test(plane: Plane) -> None:
        plain = b"5\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\n\r\n"
        asked = b'5;a=b;c="d;\\"e"\r\nhello\r\n001\r\n!\r\n00 ; last\r\nX-Sum: 7\r\n\r\n'
        client, upstream = await plane.request(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        if whole:
            client.send(asked)
        else:
            (connection,) = plane.listener._connections
            for n in range(len(asked)):
                connection.data_received(asked[n : n + 1])  # type: ignore[attr-defined]
        await upstream.head()
        assert await upstream.read(len(plain)) == plain
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        answered = b"5  \r\nhello\r\n" + b"0" * 40 + "1;ü=€ oder so\t\r\n".encode() + b"!\r\n"
        answered += b"0;" + b"x" * 9000 + b"\r\nX-Sum: 7\r\n\r\n"
        for n in range(0, len(answered), len(answered) if whole else 7):
            upstream.send(answered[n : n + (len(answered) if whole else 7)])
        assert await client.read(len(plain)) == plain
        client.send(GET)  # over the same two connections
        await upstream.head()
        assert len(plane.upstream.peers) == 1

    in_plane(test)


def test_events_pass_as_they_come() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        for n in range(50):
            event = b"data: %d\n\n" % n
            upstream.send(b"%x\r\n%b\r\n" % (len(event), event))
            assert await client.read_until(event + b"\r\n")
        upstream.send(b"0\r\n\r\n")
        await client.read_until(b"0\r\n\r\n")

    in_plane(test)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_answers_without_a_body(method: str, answer: bytes) -> None:
    async def test(plane: Plane) -> None:
        request = f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        client, upstream = await plane.request(request)
        for _ in range(2):
            await upstream.head()
            upstream.send(answer)
            assert await client.read(len(answer)) == answer
            client.send(request)
        await upstream.head()
        assert len(plane.upstream.peers) == 1

    in_plane(test)


def test_an_answer_until_the_upstream_closes() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        head = await client.head()
        assert b"connection: close\r\n" in head
        assert await client.read(4) == b"some"
        upstream.send(b" more")
        upstream.close()
        assert await client.read_all() == b" more"

    in_plane(test)


def test_an_answer_until_close_that_breaks_does_not_look_complete() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await client.read_until(b"some")
        upstream.reset()
        await client.was_reset()
        assert plane.stats.rejected["upstream_reset"] == 1

    in_plane(test)


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome",
    ],
)
def test_an_answer_that_is_cut_off_is_cut_off_for_the_client_too(sent: bytes) -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(sent)
        await client.read_until(b"some")
        upstream.close()
        await client.was_reset()

    in_plane(test)


# -- interim answers ------------------------------------------------------------------------------------------------


def test_100_continue_is_the_upstreams_to_give() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert b"Expect: 100-continue\r\n" in await upstream.head()
        upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await client.answer()).status == 100
        client.send(b"body")
        assert await upstream.read(4) == b"body"
        upstream.send(OK)
        assert (await client.answer()).body == b"ok"
        client.send(GET)
        await upstream.head()

    in_plane(test)


def test_a_final_answer_instead_of_100_closes_for_the_body_may_or_may_not_come() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        await upstream.head()
        upstream.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (417, "close")
        await client.gone()
        await upstream.gone()
        assert upstream.received.endswith(b"\r\n\r\n")

    in_plane(test)


def test_other_interim_answers_pass_but_only_so_many() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        upstream.send(hints * 2 + OK)
        assert await client.head() == hints
        assert await client.head() == hints
        assert (await client.answer()).status == 200
        client.send(GET)
        await upstream.head()
        await upstream.head()
        upstream.send(hints * 100 + OK)
        status = 103
        while status == 103:
            status = (await client.answer()).status
        assert status == 502
        await upstream.gone()

    in_plane(test, retry=None)


def test_http_1_0_clients_get_no_interim_answers() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(b"GET / HTTP/1.0\r\n\r\n")
        upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
        assert (await client.answer()).status == 200
        assert await client.read_all() == b""

    in_plane(test)


# -- HTTP/1.0 -------------------------------------------------------------------------------------------------------


def test_an_http_1_0_request_goes_on_as_1_1_with_a_host() -> None:
    async def test(plane: Plane) -> None:
        _, upstream = await plane.request(b"GET / HTTP/1.0\r\n\r\n")
        head = await upstream.head()
        assert head.startswith(b"GET / HTTP/1.1\r\n")
        assert b"\r\nhost: up\r\n" in head

    in_plane(test)


def test_an_http_1_0_client_gets_the_data_of_chunks() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n1")
        upstream.send(b"0\r\n0123456789abcdef\r\n0\r\nx: y\r\n\r\n")
        answer = await client.answer()
        assert "transfer-encoding" not in answer.fields
        assert answer.fields["connection"] == "close"
        assert answer.body == b"some0123456789abcdef"

    in_plane(test)


def test_an_http_1_0_client_may_keep_its_connection() -> None:
    async def test(plane: Plane) -> None:
        request = b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
        client, upstream = await plane.request(request)
        for _ in range(2):
            await upstream.head()
            upstream.send(OK)
            assert (await client.answer()).fields["connection"] == "keep-alive"
            client.send(request)
        await upstream.head()

    in_plane(test)


def test_an_http_1_0_upstream() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(GET)
        upstream.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        answer = await client.answer()
        assert answer.head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert "connection" not in answer.fields
        await upstream.gone()
        client.send(GET)
        again = await plane.upstream.accepted()
        again.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok")
        await client.answer()
        client.send(GET)
        await again.read_until(b"\r\n\r\n")

    in_plane(test)


def test_empty_lines_before_a_request_cost_nothing() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(b"\r\n" * 100_000 + GET)
        await upstream.head()
        upstream.send(OK)
        await client.answer()

    in_plane(test)
