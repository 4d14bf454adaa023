"""What the admin server does with HTTP/1.1 itself: keeping connections, bodies, streams, and clients that are odd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from sidecar.admin import connection as wire
from sidecar.admin.connection import Connection
from sidecar.admin.message import Gone, Reply, Request, Unreadable
from sidecar.core.operations import Broken, Stream

pytestmark = pytest.mark.asyncio


class Transport(asyncio.Transport):
    """Keeps what is written; ``full`` of it are not read yet."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.full = 0
        self.reading = True
        self.ended = ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.full

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("10.0.0.9", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return self.ended in ("closed", "aborted")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write_eof(self) -> None:
        self.ended = "half"

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Site:
    """Answers with what it was asked; paths have meanings."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answered = 0
        self.gone = 0
        self.go_on = asyncio.Event()
        self.closed = 0
        self.transport = Transport()
        self.connection = Connection(self, self.on_answered, self.on_gone)
        self.connection.connection_made(self.transport)

    def on_answered(self, _: Connection) -> None:
        self.answered += 1

    def on_gone(self, _: Connection) -> None:
        self.gone += 1

    async def __call__(self, request: Request) -> Reply:
        self.asked.append(f"{request.method} {request.path}?{request.query}")
        try:
            if request.path == "/body":
                return Reply(200, "text/plain", await request.connection.body())
        except Unreadable as error:
            return Reply(error.status, "text/plain", error.code.encode())
        except Gone:
            self.asked.append("gone")
        if request.path == "/wait":
            await self.go_on.wait()
        if request.path.startswith("/stream"):
            return Reply(200, "text/plain", stream=Stream(self.pieces(request.path), "text/plain", self.on_closed))
        return Reply(200, "text/plain", b"ok", close=request.path == "/last")

    def on_closed(self) -> None:
        self.closed += 1

    async def pieces(self, path: str) -> AsyncIterator[bytes]:
        yield b"one"
        yield b""
        if path == "/stream-broken":
            raise Broken("no more")
        if path == "/stream-fault":
            raise RuntimeError("a fault")
        yield b"t" * 20

    async def say(self, data: bytes) -> bytes:
        """What is written by then."""
        before = len(self.transport.written)
        self.connection.data_received(data)
        await settled()
        return self.transport.written[before:]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def head(request: str, *fields: str) -> bytes:
    return "\r\n".join((request, "Host: localhost", *fields, "", "")).encode()


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.replace(b"HTTP/1.0 ", b"HTTP/1.1 ").split(b"HTTP/1.1 ")[1:]]


async def test_requests_are_answered_in_turn_on_one_connection() -> None:
    site = Site()
    answer = await site.say(
        head("GET /wait?a=b HTTP/1.1") + head("GET /b%20c HTTP/1.1") + b"\r\n" + head("GET /d HTTP/1.1")
    )
    assert (answer, site.asked) == (b"", ["GET /wait?a=b"])
    site.go_on.set()
    await settled()
    assert site.asked == ["GET /wait?a=b", "GET /b c?", "GET /d?"]
    assert statuses(site.transport.written) == [200, 200, 200]
    assert (site.answered, site.transport.ended) == (3, "")


async def test_a_head_may_come_in_pieces() -> None:
    site = Site()
    for byte in head("GET /a HTTP/1.1")[:-1]:
        assert await site.say(bytes((byte,))) == b""
    answer = await site.say(b"\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: ")
    assert answer.endswith(b"Content-Length: 2\r\n\r\nok")


@pytest.mark.parametrize(
    ("request_line", "fields", "kept", "said"),
    [
        ("GET / HTTP/1.1", (), True, b""),
        ("GET / HTTP/1.1", ("Connection: close",), False, b"Connection: close\r\n"),
        ("GET / HTTP/1.0", (), False, b""),
        ("GET / HTTP/1.0", ("Connection: keep-alive",), True, b"Connection: keep-alive\r\n"),
        ("GET /last HTTP/1.1", (), False, b"Connection: close\r\n"),
    ],
)
async def test_which_connections_are_kept(request_line: str, fields: tuple[str, ...], kept: bool, said: bytes) -> None:
    site = Site()
    answer = await site.say(head(request_line, *fields))
    assert (b"Connection:" in answer, said in answer) == (bool(said), True)
    assert site.transport.ended == ("" if kept else "closed")


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"GET /" + b"a" * 20_000, b"GET / HTTP/2.0\r\n\r\n",
     head("GET / HTTP/1.1", "Host: other"), head("POST / HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked")],
)  # fmt: skip
async def test_what_is_no_request_is_answered_and_ended(junk: bytes) -> None:
    site = Site()
    answer = await site.say(junk)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "bad_request"
    assert site.transport.ended == "half"
    assert await site.say(head("GET / HTTP/1.1")) == b""
    assert site.asked == []


@pytest.mark.parametrize(
    "fields",
    [("Content-Length: 5",), ("Transfer-Encoding: chunked",)],
)
async def test_a_body_is_waited_for(fields: tuple[str, ...]) -> None:
    site = Site()
    assert await site.say(head("PUT /body HTTP/1.1", *fields)) == b""
    chunked = fields[0].startswith("T")
    assert await site.say(b"2\r\nde\r\n" if chunked else b"de") == b""
    answer = await site.say((b"3\r\nbug\r\n0\r\n\r\n" if chunked else b"bug") + head("GET /next HTTP/1.1"))
    assert b"\r\n\r\ndebugHTTP/1.1 200" in answer
    assert site.asked[1] == "GET /next?"


async def test_a_client_is_told_to_send_its_body() -> None:
    site = Site()
    asked = await site.say(head("PUT /body HTTP/1.1", "Content-Length: 2", "Expect: 100-continue"))
    assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await site.say(b"ab")).endswith(b"\r\n\r\nab")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"zz\r\n", 400),
        (b"1001\r\n" + b"x" * 0x1001, 413),
        (b"2000\r\n" + b"x" * 0x2000 + b"\r\n0\r\n\r\n", 413),
        (b"1000\r\n" + b"x" * 0x1000 + b"\r\n0\r\n\r\n", 200),
    ],
)
async def test_bodies_have_bounds(body: bytes, status: int) -> None:
    site = Site()
    answer = await site.say(head("PUT /body HTTP/1.1", "Transfer-Encoding: chunked") + body)
    assert statuses(answer) == [status]
    assert site.transport.ended == ("" if status == 200 else "half")


async def test_who_has_not_sent_all_is_let_see_the_answer() -> None:
    site = Site()
    answer = await site.say(head("POST /a HTTP/1.1", "Content-Length: 5") + b"ab")
    assert b"Connection: close" in answer
    assert site.transport.ended == "half"  # not reset with what it still sends unread
    assert await site.say(b"cde" + head("GET /b HTTP/1.1")) == b""
    assert site.asked == ["POST /a?"]


async def test_what_is_pipelined_has_a_bound() -> None:
    site = Site()
    await site.say(head("GET /wait HTTP/1.1"))
    await site.say(b"x" * (wire.PIPELINED + 1))
    assert not site.transport.reading
    site.go_on.set()
    await settled()
    assert statuses(site.transport.written) == [200, 400]


async def test_nothing_is_read_for_who_does_not_read() -> None:
    site = Site()
    site.connection.pause_writing()
    assert statuses(await site.say(head("GET /a HTTP/1.1"))) == []
    site.connection.resume_writing()
    await settled()
    assert site.asked == ["GET /a?"]


@pytest.mark.parametrize("version", [0, 1])
async def test_a_stream(version: int) -> None:
    site = Site()
    fields = () if version else ("Connection: keep-alive",)
    answer = await site.say(head(f"GET /stream HTTP/1.{version}", *fields))
    start, _, rest = answer.partition(b"\r\n\r\n")
    assert b"Content-Length" not in start
    if version:
        assert rest == b"3\r\none\r\n14\r\n" + b"t" * 20 + b"\r\n0\r\n\r\n"
    else:
        assert rest == b"one" + b"t" * 20
    assert site.transport.ended == ("" if version else "closed")  # HTTP/1.0 knows no other end
    assert (site.closed, site.answered) == (1, 1)


@pytest.mark.parametrize("path", ["/stream-broken", "/stream-fault"])
async def test_a_stream_that_fails_is_cut_off(path: str) -> None:
    site = Site()
    answer = await site.say(head(f"GET {path} HTTP/1.1"))
    assert answer.endswith(b"3\r\none\r\n")
    assert (site.transport.ended, site.closed) == ("aborted", 1)


async def test_a_stream_waits_for_its_reader_and_ends_with_it() -> None:
    site = Site()
    site.connection.data_received(head("GET /stream HTTP/1.1"))
    site.connection.pause_writing()
    await settled()
    assert site.transport.written.endswith(b"3\r\none\r\n")
    site.connection.resume_writing()
    await settled()
    assert site.transport.written.endswith(b"0\r\n\r\n")
    site.connection.data_received(head("GET /wait HTTP/1.1") + head("GET /stream HTTP/1.1"))
    site.connection.connection_lost(None)
    site.go_on.set()
    await settled()
    assert (site.gone, site.closed) == (1, 1)


async def test_a_reader_that_is_too_slow_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "STREAM_SECONDS", 0.0)
    site = Site()
    site.connection.data_received(head("GET /stream HTTP/1.1"))
    site.connection.pause_writing()
    await settled()
    assert (site.transport.ended, site.closed) == ("aborted", 1)


@pytest.mark.parametrize("path", ["/a", "/stream"])
async def test_a_head_is_asked_for_without_its_body(path: str) -> None:
    site = Site()
    answer = await site.say(head(f"HEAD {path} HTTP/1.1"))
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1
    assert (site.transport.ended, site.closed) == ("", int(path == "/stream"))


async def test_who_has_finished_sending_reads_its_answer() -> None:
    site = Site()
    await site.say(head("GET /wait HTTP/1.1"))
    assert site.connection.eof_received()
    site.go_on.set()
    await settled()
    assert statuses(site.transport.written) == [200]
    assert site.transport.ended == "closed"


async def test_who_goes_in_the_middle_of_a_body_is_not_waited_for() -> None:
    for end in ("eof", "lost"):
        site = Site()
        await site.say(head("PUT /body HTTP/1.1", "Content-Length: 5") + b"ab")
        if end == "eof":
            assert not site.connection.eof_received()
        else:
            site.connection.connection_lost(None)
        await settled()
        assert site.asked[-1] == "gone"
    assert not Site().connection.eof_received()


async def test_an_idle_connection_ends_but_not_one_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []

    class Handle:
        def cancel(self) -> None:
            later.clear()

    def call_later(seconds: float, call: Callable[..., object], *arguments: Any) -> Handle:
        later.append((seconds, call, arguments))
        return Handle()

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
    site = Site()
    site.transport.full = 100
    await site.say(head("GET /a HTTP/1.1"))
    assert [it[0] for it in later] == [wire.KEEPALIVE_SECONDS]

    def wait() -> None:
        _, call, arguments = later[0]
        call(*arguments)

    site.transport.full = 50
    wait()
    assert site.transport.ended == ""
    await site.say(head("GET /b HTTP/1.1")[:-1])  # no whole request
    wait()
    assert site.transport.ended == "aborted"


async def test_closing_lets_the_answer_go_out() -> None:
    idle, busy = Site(), Site()
    await busy.say(head("GET /wait HTTP/1.1"))
    for site in (idle, busy):
        site.connection.close()
    assert (idle.transport.ended, busy.transport.ended) == ("closed", "")
    busy.go_on.set()
    await settled()
    assert b"Connection: close" in busy.transport.written
    assert busy.transport.ended == "closed"
