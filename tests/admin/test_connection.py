"""One connection of the admin API: what comes in, what goes out, and when it ends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from sidecar.admin.auth import Access
from sidecar.admin.connection_limit import Door
from sidecar.admin.server import Application, serve
from sidecar.core.address import Address
from sidecar.core.operations import Answer, Call, Operation, Page, Stream
from support.patience import until

pytestmark = pytest.mark.asyncio


class Asked:
    """What the server was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.bodies: list[bytes] = []

    async def echo(self, call: Call) -> Answer:
        self.calls.append(call)
        self.bodies.append(await call.read())
        return Answer({"path": dict(call.parts), "query": list(call.query), "body": self.bodies[-1].decode("latin-1")})

    async def deaf(self, call: Call) -> Page:
        self.calls.append(call)
        return Page(b"whole", "text/plain")

    async def pieces(self, call: Call) -> Stream:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            yield b""
            yield b"two"

        return Stream(pieces(), "text/plain", lambda: None)


@asynccontextmanager
async def serving(
    *operations: Operation, door: Door | None = None
) -> AsyncIterator[tuple[Application, tuple[str, int], Door]]:
    door = door or Door()
    app = Application(operations, lambda: Access("127.0.0.1"), door)
    async with asyncio.timeout(180):
        server = await serve(app, Address("127.0.0.1", 0), door)
        try:
            yield app, server.address, door
        finally:
            await server.close()


@asynccontextmanager
async def served(asked: Asked, door: Door | None = None) -> AsyncIterator[tuple[str, int]]:
    operations = [
        Operation("PUT", "/echo/{what}", "", asked.echo, {}),
        Operation("PUT", "/large", "", asked.echo, {}, largest=100_000),
        Operation("PUT", "/echo", "", asked.echo, {}),
        Operation("GET", "/deaf", "", asked.deaf, {}),
        Operation("POST", "/deaf", "", asked.deaf, {}),
        Operation("GET", "/pieces", "", asked.pieces, {}),
    ]
    async with serving(*operations, door=door) as (_, address, _):
        yield address


@pytest.fixture
def asked() -> Asked:
    return Asked()


async def answers(address: tuple[str, int], *pieces: bytes) -> bytes:
    """All that the server says, until it closes."""
    reader, writer = await asyncio.open_connection(*address)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    try:
        return await reader.read()
    finally:
        writer.close()


def head(request: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((request, b"Host: localhost", *lines, b"", b""))


def statuses(said: bytes) -> list[int]:
    return [int(it) for it in re.findall(rb"HTTP/1\.1 (\d+) ", said)]


LAST = head(b"GET /deaf HTTP/1.1", b"Connection: close")


async def test_requests_one_after_the_other_and_all_at_once(asked: Asked) -> None:
    async with served(asked) as address:
        put = head(b"PUT /echo?n=1&n= HTTP/1.1", b"Content-Length: 3")
        said = await answers(address, b"\r\n" + put + b"abc" + put + b"def\r\n" + LAST)
    assert statuses(said) == [200, 200, 200]
    assert asked.bodies == [b"abc", b"def"]
    assert list(asked.calls[0].query) == [("n", "1"), ("n", "")]
    assert asked.calls[0].client == "127.0.0.1"
    assert said.count(b"Connection: keep-alive\r\n") == 2
    assert said.endswith(b"Connection: close\r\n\r\nwhole")


async def test_what_every_answer_says(asked: Asked) -> None:
    async with served(asked) as address:
        said = await answers(address, LAST)
    date = rb"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n"
    assert re.match(rb"HTTP/1.1 200 OK\r\n" + date + rb"Server: sidecar\r\n", said)
    assert b"\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n" in said


async def test_chunks_in_pieces(asked: Asked) -> None:
    async with served(asked) as address:
        chunked = head(b"PUT /echo/%C3%A4%2Fb HTTP/1.1", b"Transfer-Encoding: chunked", b"Connection: close")
        said = await answers(address, chunked + b"2\r\nab\r\n", b"1\r\nc\r", b"\n0\r\n\r\n")
    assert statuses(said) == [200]
    assert asked.bodies == [b"abc"]
    assert asked.calls[0].parts == {"what": "ä/b"}


async def test_a_client_that_waits_to_be_told(asked: Asked) -> None:
    async with served(asked) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head(b"PUT /echo HTTP/1.1", b"Content-Length: 2", b"Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_body_that_nobody_wants_ends_the_connection_gently(asked: Asked) -> None:
    async with served(asked) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head(b"POST /deaf HTTP/1.1", b"Content-Length: 4096"))
        said = await reader.read()
        writer.write(bytes(4096) + LAST)  # no reset, and no further answer
        assert await reader.read() == b""
        writer.close()
    assert statuses(said) == [200]
    assert b"\r\nConnection: close\r\n" in said


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head(b"PUT /echo HTTP/1.1", b"Content-Length: 4097"), 413),
        (head(b"PUT /echo HTTP/1.1", b"Transfer-Encoding: chunked") + b"x\r\n", 400),
        (head(b"GET /deaf?" + b"a&" * 200 + b" HTTP/1.1"), 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /deaf HTTP/1.1\r\n\r\n", 400),
        (b"GET /deaf HTTP/1.1\nHost", 400),
        (b"GET /" + b"a" * 20_000, 431),
        (head(b"CONNECT a:1 HTTP/1.1"), 400),
        (head(b"GET /deaf HTTP/2.0"), 400),
    ],
)
async def test_what_is_refused_ends_the_connection(request_: bytes, status: int, asked: Asked) -> None:
    async with served(asked) as address:
        said = await answers(address, request_)
    assert statuses(said) == [status]
    assert b"\r\nConnection: close\r\n" in said
    assert b'"error": "' in said


async def test_streams_in_chunks_and_for_those_who_know_none(asked: Asked) -> None:
    async with served(asked) as address:
        new = await answers(address, head(b"GET /pieces HTTP/1.1") + LAST)
        old = await answers(address, b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        none = await answers(address, head(b"HEAD /pieces HTTP/1.1", b"Connection: close"))
    assert b"\r\nTransfer-Encoding: chunked\r\n" in new
    assert b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n" in new
    assert b"chunked" not in old
    assert old.endswith(b"Connection: close\r\n\r\nonetwo")
    assert none.endswith(b"\r\n\r\n")


async def test_http_1_0_keeps_its_connection_when_it_asks_for_it(asked: Asked) -> None:
    async with served(asked) as address:
        kept = b"GET /deaf HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        said = await answers(address, kept + b"HEAD /deaf HTTP/1.0\r\n\r\n")
    assert statuses(said) == [200, 200]
    assert b"Connection: keep-alive\r\n\r\nwhole" in said
    assert said.endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\n")


async def test_a_kept_connection_ends_some_time(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.admin.connection.KEEPALIVE_SECONDS", 0.01)
    async with served(asked) as address:
        assert statuses(await answers(address, head(b"GET /deaf HTTP/1.1"))) == [200]


async def test_one_who_leaves_in_the_middle_is_no_fault(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    door = Door()
    async with served(asked, door) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(head(b"PUT /echo HTTP/1.1", b"Content-Length: 5") + b"ab")
        await until(lambda: bool(asked.calls))
        writer.transport.abort()
        await until(lambda: not door.server.connections and not door._busy)
    assert asked.bodies == []
    assert not caplog.records


async def test_much_that_is_sent_ahead_waits_outside(asked: Asked) -> None:
    async with served(asked) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head(b"PUT /large HTTP/1.1", b"Content-Length: 100000"))
        await until(lambda: bool(asked.calls))
        for _ in range(3):
            writer.write(bytes(100_000) + head(b"PUT /large HTTP/1.1", b"Content-Length: 100000"))
        writer.write(bytes(100_000) + LAST)
        said = await reader.read()
        writer.close()
    assert statuses(said) == [200] * 5
    assert asked.bodies == [bytes(100_000)] * 4


async def test_the_end_of_the_server_lets_a_request_end_and_cuts_one_that_does_not() -> None:
    go, entered = asyncio.Event(), asyncio.Event()

    async def waits(call: Call) -> Answer:
        entered.set()
        await go.wait()
        return Answer({})

    async def never(call: Call) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    door = Door()
    operations = [Operation("GET", "/waits", "", waits, {}), Operation("GET", "/never", "", never, {})]
    app = Application(operations, lambda: Access("127.0.0.1"), door)
    async with asyncio.timeout(180):
        server = await serve(app, Address("127.0.0.1", 0), door)
        slow = asyncio.create_task(answers(server.address, head(b"GET /never HTTP/1.1")))
        good = asyncio.create_task(answers(server.address, head(b"GET /waits HTTP/1.1")))
        await until(lambda: entered.is_set() and len(door._busy) == 2)
        closing = asyncio.create_task(server.close())
        await until(lambda: app.server.closing)
        go.set()
        await closing
        assert statuses(await good) == [200]
        assert await slow == b""


async def test_answers_that_nobody_reads_are_not_heaped_up(asked: Asked) -> None:
    """Each request is far smaller than its answer, so whoever sends many and reads nothing could fill the memory."""
    body = bytes(500_000)

    async def large(call: Call) -> Page:
        asked.calls.append(call)
        return Page(body, "text/plain")

    async with serving(Operation("GET", "/large", "", large, {})) as (app, address, _):
        reader, writer = await asyncio.open_connection(*address)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(head(b"GET /large HTTP/1.1") * 60 + head(b"GET /large HTTP/1.1", b"Connection: close"))
        await until(lambda: any(it._full and it.task is None for it in app.server.connections))
        (held,) = app.server.connections
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(asked.calls) < 60
        assert held.transport is not None
        assert held.transport.get_write_buffer_size() < 3 * len(body)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert statuses(await reader.read()) == [200] * 61
        writer.close()


async def test_who_does_not_read_the_last_answer_is_let_go(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    async def large(call: Call) -> Page:
        return Page(bytes(50_000_000), "text/plain")

    monkeypatch.setattr("sidecar.admin.connection.KEEPALIVE_SECONDS", 0.01)
    async with serving(Operation("GET", "/large", "", large, {})) as (app, address, door):
        _, writer = await asyncio.open_connection(*address, limit=1)
        writer.write(head(b"GET /large HTTP/1.1", b"Connection: close"))
        await until(lambda: bool(door._resting))
        await until(lambda: not app.server.connections)
        writer.close()


async def test_a_client_that_says_that_it_sends_nothing_more_gets_its_answers() -> None:
    """As ``nc -N`` does: both requests, and nothing for the half of a third."""
    go = asyncio.Event()

    async def waits(call: Call) -> Answer:
        await go.wait()
        return Answer({})

    async with serving(Operation("GET", "/waits", "", waits, {})) as (app, address, _):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head(b"GET /waits HTTP/1.1") * 2 + b"GET /wai")
        writer.write_eof()
        await until(lambda: any(it._ended for it in app.server.connections))
        go.set()
        assert statuses(await reader.read()) == [200, 200]
        writer.close()


async def test_what_goes_wrong_in_the_middle_of_a_stream_cuts_it(caplog: pytest.LogCaptureFixture) -> None:
    """There can be no second head among its pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise ValueError("broken")

    async def breaks(call: Call) -> Stream:
        return Stream(pieces(), "text/plain", lambda: None)

    async with serving(Operation("GET", "/breaks", "", breaks, {})) as (_, address, _):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head(b"GET /breaks HTTP/1.1") + LAST)
        said = b""
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                said += piece
        writer.close()
    assert said.count(b"HTTP/1.1 ") <= 1
    assert b"0\r\n\r\n" not in said
    assert [it.message for it in caplog.records] == ["GET /breaks failed"]


@pytest.mark.parametrize(("error", "status"), [(ConnectionRefusedError(), [500]), (asyncio.CancelledError(), [])])
async def test_a_handler_whose_own_call_fails_leaves_nobody_waiting(error: BaseException, status: list[int]) -> None:
    """Its connection to somebody else is not the client's; and where there is no answer, the connection ends."""

    async def fails(call: Call) -> Answer:
        raise error

    async with serving(Operation("GET", "/fails", "", fails, {})) as (_, address, _):
        async with asyncio.timeout(60):  # less than a kept connection's rest
            last = b"Connection: close" if status else b"X: y"
            assert statuses(await answers(address, head(b"GET /fails HTTP/1.1", last))) == status
