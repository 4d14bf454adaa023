"""Crafted messages: what two implementations could read in two ways goes no further than here.

Each request is followed on its connection by one that must stay hidden. The client has to get its refusal and the
connection must close, and no upstream may see one byte of any of it.
"""

from __future__ import annotations

import pytest

from support.plane import Plane, in_plane
from support.smuggling import AMBIGUOUS, FRAMING, HOSTS, LINES, post

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("corpus", [FRAMING, LINES, HOSTS], ids=["framing", "lines", "hosts"])
def test_refused_before_anything_went_on(corpus: dict[str, bytes], whole: bool) -> None:
    async def test(plane: Plane) -> None:
        for what, data in corpus.items():
            client = await plane.connect()
            if whole:
                client.send(data + HIDDEN)
            else:
                # Each byte is a call of its own into the parser, without the network's help.
                (connection,) = plane.listener._connections
                for n in range(len(data)):
                    connection.data_received(data[n : n + 1])  # type: ignore[attr-defined]
                connection.data_received(HIDDEN)  # type: ignore[attr-defined]
            answer = await client.answer()
            assert (answer.status, answer.fields["x-sidecar-error"]) == (400, "bad_request"), what
            assert answer.fields["connection"] == "close"
            assert await client.read_all() == b"", what
            client.close()
            await client.wait(lambda client=client: client.lost, "closed")  # type: ignore[misc]
            assert not plane.upstream.peers, what
        assert plane.stats.rejected["bad_request"] == len(corpus)

    in_plane(test)


TOO_LARGE = {
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
    "endless header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70000,
    "long target": b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "endless method": b"G" * 70000,
}


def test_heads_over_the_limits() -> None:
    async def test(plane: Plane) -> None:
        for what, data in TOO_LARGE.items():
            client = await plane.connect()
            client.send(data)
            answer = await client.answer()
            assert (answer.status, answer.fields["x-sidecar-error"]) == (431, "headers_too_large"), what
            assert await client.read_all() == b""
            assert not plane.upstream.peers

    in_plane(test)


#: Bad from the first chunk on, and bad behind a good chunk. The upstream may have seen what came before the fault.
CHUNKS = {
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "leading space": b" 5\r\nhello\r\n0\r\n\r\n",
    "trailing space": b"5 \r\nhello\r\n0\r\n\r\n",
    "tab": b"5\t\r\nhello\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "overflow": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "empty": b"\r\nhello\r\n0\r\n\r\n",
    "extension empty": b"5;\r\nhello\r\n0\r\n\r\n",
    "extension without a name": b"5;=a\r\nhello\r\n0\r\n\r\n",
    "extension without a value": b"5;a=\r\nhello\r\n0\r\n\r\n",
    "extension with a space": b"5;a b\r\nhello\r\n0\r\n\r\n",
    "extension, open quote": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "extension, text behind quotes": b'5;a="b"c\r\nhello\r\n0\r\n\r\n',
    "extension, not ascii": "5;ü\r\nhello\r\n0\r\n\r\n".encode(),
    "extension only": b";a\r\nhello\r\n0\r\n\r\n",
    "letter": b"g\r\nhello\r\n0\r\n\r\n",
    "bare LF": b"5\nhello\r\n0\r\n\r\n",
    "bare CR": b"5\rhello\r\n0\r\n\r\n",
    "LF after data": b"5\r\nhello\n0\r\n\r\n",
    "data too long": b"5\r\nhello!\r\n0\r\n\r\n",
    "data too short": b"5\r\nhell\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    "endless extension": b"5;" + b"a" * 17000,
    "last chunk, bare LF": b"0\n\n",
    "trailers, bare LF": b"0\r\nX: y\n\r\n\r\n",
    "trailers, LF LF": b"0\r\nX: y\n\n",
    "trailer folded": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer without colon": b"0\r\nX\r\n\r\n",
    "trailer NUL": b"0\r\nX: \x00\r\n\r\n",
    "trailer length": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer host": b"0\r\nHost: b\r\n\r\n",
    "trailer of ours": b"0\r\nX-Sidecar-Queued: 1\r\n\r\n",
    "trailer of ours, as apps may read it": b"0\r\nX_sidecar-Queued: 1\r\n\r\n",
    "trailers endless": b"0\r\n" + b"X: y\r\n" * 5000,
}


#: Those that have one reading, though they are not as they should be: that is for requests only.
ONLY_ODD = {what for what in CHUNKS if what.startswith("extension ") or what.startswith("extension,")} - {
    "extension only"
} | {"trailing space", "tab"}  # fmt: skip


@pytest.mark.parametrize("whole", [True, False], ids=["with the head", "after the head"])
def test_bad_chunks(whole: bool) -> None:
    async def test(plane: Plane) -> None:
        for what, body in CHUNKS.items():
            for before in (b"", b"3\r\nabc\r\n"):
                data = chunked(before + body) + HIDDEN
                client = await plane.connect()
                if whole:
                    client.send(data)
                else:
                    head, _, rest = data.partition(b"\r\n\r\n")
                    client.send(head + b"\r\n\r\n")
                    await plane.upstream.accepted()
                    client.send(rest)
                answer = await client.answer()
                assert (answer.status, answer.fields["x-sidecar-error"]) == (400, "bad_request"), what
                assert await client.read_all() == b"", what
                client.close()
        for peer in plane.upstream.peers:
            await peer.gone()
            seen = bytes(peer.received)
            assert b"hidden" not in seen
            assert seen.count(b"HTTP/1.1") == 1
            assert not seen.endswith(b"\r\n0\r\n\r\n")

    in_plane(test, bulkhead=None)


@pytest.mark.parametrize("name", ["LF LF", "framing", "NUL"])
def test_no_byte_of_a_bad_trailer_line_completes_anything(name: str) -> None:
    """Byte by byte, so that every prefix is passed on that may be."""
    trailer = {"LF LF": b"X: y\n\n", "framing": b"Content-Length: 5\r\n\r\n", "NUL": b"X\x00: y\r\n\r\n"}[name]

    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(chunked(b"0\r\n"))
        (connection,) = plane.listener._connections
        for n in range(len(trailer)):
            connection.data_received(trailer[n : n + 1])  # type: ignore[attr-defined]
        connection.data_received(HIDDEN)  # type: ignore[attr-defined]
        assert (await client.answer()).status == 400
        await upstream.gone()
        assert b"\n\n" not in upstream.received.replace(b"\r\n\r\n", b"", 1)
        assert b"hidden" not in upstream.received

    in_plane(test)


# -- answers --------------------------------------------------------------------------------------------------------


def test_ambiguous_answers_end_at_the_sidecar_and_their_connection_too() -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        for what, data in AMBIGUOUS.items():
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            upstream = await plane.upstream.accepted()
            upstream.send(data + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden")
            answer = await client.answer()
            assert (answer.status, answer.fields["x-sidecar-error"]) == (502, "bad_upstream"), what
            assert b"hidden" not in client.received
            await upstream.gone()

    in_plane(test, retry=None, circuit_breaker=None)


def test_a_second_answer_behind_the_first_never_reaches_anybody() -> None:
    async def test(plane: Plane) -> None:
        first = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        hidden = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden"
        client = await plane.connect()
        for delayed in (False, True):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            upstream = await plane.upstream.accepted()
            if delayed:
                upstream.send(first)
                assert (await client.answer()).body == b"ok"
                upstream.send(hidden)
            else:
                upstream.send(first + hidden)
                assert (await client.answer()).body == b"ok"
            await upstream.gone()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = await plane.upstream.accepted()
        upstream.send(first)
        assert (await client.answer()).body == b"ok"
        assert b"hidden" not in client.received

    in_plane(test)


def test_bad_chunks_in_an_answer_reset_the_client() -> None:
    async def test(plane: Plane) -> None:
        for what, body in CHUNKS.items():
            if what in ONLY_ODD:
                continue
            client = await plane.connect()
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            upstream = await plane.upstream.accepted()
            upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.head()
            upstream.send(body + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden")
            await client.gone()
            assert client.error is not None, what
            assert b"hidden" not in client.received
            await upstream.gone()

    in_plane(test, circuit_breaker=None)


HALVES = {
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "bare LF in the middle": b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\nok",
    "NUL": b"HTTP/1.1 200 OK\r\nX: \x00",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n",
    "a byte": b"\x15",
}


def test_an_answer_that_can_become_none_is_not_waited_for() -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        for what, data in HALVES.items():
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            upstream = await plane.upstream.accepted()
            upstream.send(data)
            answer = await client.answer()  # time stands still here
            assert (answer.status, answer.fields["x-sidecar-error"]) == (502, "bad_upstream"), what
            await upstream.gone()

    in_plane(test, retry=None, circuit_breaker=None)


def test_what_follows_an_answer_that_has_no_body_is_nobodys() -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        for head in (
            b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n",
            b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n",
            b"HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n",
        ):
            for late in (False, True):
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                upstream = await plane.upstream.accepted()  # each time a new connection
                upstream.send(head + b"\r\n" + (b"" if late else b"hello"))
                assert (await client.answer()).status in (204, 304)
                await upstream.gone()
        assert b"hello" not in client.received
        assert b"204 No\r\n\r\n" in client.received

    in_plane(test)


def test_what_follows_an_interim_answer_is_the_next_head() -> None:
    async def test(plane: Plane) -> None:
        client, upstream = await plane.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream.send(b"HTTP/1.1 103 H\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 103 H\r\n\r\n"
        assert (await client.answer()).fields["x-sidecar-error"] == "bad_upstream"
        await upstream.gone()

    in_plane(test, retry=None)


def test_a_connection_that_a_method_would_make_a_tunnel_of_is_nobody_elses() -> None:
    async def test(plane: Plane) -> None:
        client = await plane.connect()
        client.send(b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN)
        assert (await client.answer()).status == 400
        assert not plane.upstream.peers

    in_plane(test)
