"""What a slow reader of a relayed connection gets: everything; and what is counted when it does not."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sidecar.config.traffic import Upstream
from sidecar.filters.timeout import TimeoutSettings
from sidecar.net.sockets import KEEPALIVE_SECONDS, undelivered
from support.live import ANY_PORT, Live, fetch, run
from support.patience import until
from support.ports import upstream_of

SIZE = 6_000_000


class Burst(asyncio.Protocol):
    """A server that says everything at once, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(bytes(SIZE))  # type: ignore[attr-defined]
        transport.close()


class Scene:
    """A relay between :class:`Burst` and a client that reads only when told."""

    def __init__(self, live: Live, sock: socket.socket) -> None:
        self.live, self.sock, self.got = live, sock, 0

    @property
    def exchange(self) -> Any:
        (client,) = self.live.listener._connections
        return client.exchange  # type: ignore[attr-defined]

    def delivered(self) -> int:
        return int(self.live.stats.bytes_out - self.exchange.undelivered())

    async def read(self, size: int) -> None:
        """Read that much, and wait until the relay's side of the connection has noticed."""
        loop = asyncio.get_running_loop()
        end = self.got + size
        while self.got < end and (data := await loop.sock_recv(self.sock, min(65536, end - self.got))):
            self.got += len(data)
        await until(lambda: self.delivered() >= self.got - 1)  # the end of the stream counts as a byte, too

    async def standstill(self) -> None:
        """Wait until all buffers are full and what can be acknowledged is."""
        before = -1
        while before != (now := self.delivered()):
            before = now
            await asyncio.sleep(0.1)

    async def read_all(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self.sock, 1 << 20):
            self.got += len(data)


def play(scene: Any, idle: float, half_close: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Burst, "127.0.0.1", 0)
        config = upstream_of(name="up", bind=ANY_PORT, protocol="tcp", timeout=TimeoutSettings(idle=idle))
        try:
            async with Live(config, server.sockets[0].getsockname()[1]) as live:
                (listening,) = live.listener._acceptor.sockets  # what it accepts has its options
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                with socket.socket() as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
                    sock.connect(("127.0.0.1", live.port))
                    sock.setblocking(False)
                    if half_close:
                        sock.shutdown(socket.SHUT_WR)
                    await until(lambda: live.stats.bytes_out > 0)
                    await scene(Scene(live, sock))
        finally:
            server.close()  # or the loop would never end

    run(main)


@pytest.mark.parametrize("half_close", [False, True], ids=["open", "half-closed"])
def test_draining_to_a_slow_reader_is_no_silence(half_close: bool) -> None:
    async def scene(it: Scene) -> None:
        for _ in range(8):
            await it.read(300_000)
            it.live.time.advance(9)
            assert it.live.stats.active == 1
        await it.read_all()
        assert it.got == SIZE
        if not half_close:
            it.sock.shutdown(socket.SHUT_WR)
        await until(it.live.nothing_left)
        assert it.live.stats.bytes_out == SIZE
        assert it.live.records[0].error is None

    play(scene, 10.0, half_close)


@pytest.mark.parametrize("half_close", [False, True], ids=["open", "half-closed"])
def test_a_reader_that_stops_is_cut_and_what_it_did_not_get_is_not_counted(half_close: bool) -> None:
    async def scene(it: Scene) -> None:
        await it.read(300_000)
        await it.standstill()
        delivered = it.delivered()
        it.live.time.advance(9)
        it.live.time.advance(2.5)
        assert it.live.nothing_left()
        record = it.live.records[0]
        assert record.error == "timeout"
        with pytest.raises(ConnectionResetError):
            await it.read_all()
        assert record.bytes_out == it.live.stats.bytes_out == delivered < SIZE - 1_000_000

    play(scene, 10.0, half_close)


def test_without_idle_a_reader_may_rest_for_ever() -> None:
    async def scene(it: Scene) -> None:
        await it.read(300_000)
        it.live.time.advance(1e6)
        await it.read_all()
        assert it.got == SIZE

    play(scene, 0.0, half_close=False)


def test_a_reset_of_the_reader_takes_back_what_it_had_not_acknowledged() -> None:
    async def scene(it: Scene) -> None:
        await it.read(300_000)
        passed = it.live.stats.passed()[1]
        left = undelivered(it.exchange.client.transport)
        assert left > 100_000
        it.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        it.sock.close()
        await until(it.live.nothing_left)
        assert it.live.records[0].bytes_out < SIZE
        assert it.live.stats.passed()[1] >= passed  # a counter never falls

    play(scene, 10.0, half_close=False)


def test_little_that_is_sent_counts_as_delivered() -> None:
    async def scene(it: Scene) -> None:
        await it.read_all()
        await until(lambda: it.exchange.undelivered() == 0)  # the end of the stream is acknowledged a moment later

    play(scene, 10.0, half_close=False)


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_the_kernel_looks_after_silent_clients(protocol: str) -> None:
    async def main() -> None:
        async with Live(Upstream(name="up", bind=ANY_PORT, protocol=protocol), 1) as live:
            (listening,) = live.listener._acceptor.sockets
            assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_SECONDS

    run(main)


def test_and_after_silent_upstreams() -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(answer)  # type: ignore[attr-defined]

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0)
        async with Live(Upstream(name="up", bind=ANY_PORT), server.sockets[0].getsockname()[1]) as live:
            assert (await fetch(live.port)).status == 200
            ((kept,),) = live.listener.pool._idle.values()  # type: ignore[attr-defined]
            sock = kept.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_SECONDS
        server.close()

    run(main)
