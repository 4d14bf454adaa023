"""TCP relaying: bytes, half-close, resets, back-pressure, limits and failover, over real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import cast

import pytest

from sidecar.config.traffic import Inbound
from sidecar.core.limits import Limits
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.resilience.breaker import CLOSED, HALF_OPEN, OPEN
from sidecar.tcp.relay import TcpListener
from support.live import ANY_PORT, Live, run, settle
from support.patience import until
from support.ports import changed, upstream_of
from support.processes import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_CONFIG = upstream_of(
    name="up",
    bind=ANY_PORT,
    protocol="tcp",
    retry=RetrySettings(jitter=False),
    circuit_breaker=CircuitBreakerSettings(failure_threshold=2),
)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


class Server:
    """A TCP server; each connection is closed when ``serve`` returns. Use with ``async with``."""

    def __init__(self, serve: Serve = echo) -> None:
        self.serve = serve
        self.port = 0
        self.accepted = 0
        self.lost: list[Exception | None] = []
        self.writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await settle()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self.writers.add(writer)
        try:
            await self.serve(reader, writer)
            self.lost.append(None)
        except OSError as error:
            self.lost.append(error)
        except asyncio.CancelledError:
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def dial(live: Live) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", live.port)


async def is_reset(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends in a reset."""
    try:
        await reader.read()
    except ConnectionResetError:
        return True
    return False


def test_bytes_pass_both_ways_and_are_counted() -> None:
    async def main() -> None:
        async with Server() as server, Live(_CONFIG, server.port) as live:
            reader, writer = await dial(live)
            for size in (1, 1000, 300_000):
                data = random.Random(size).randbytes(size)
                writer.write(data)
                assert await reader.readexactly(size) == data
            assert live.stats.active == live.stats.tunnels == live.stats.upstream_active == 1
            assert live.listener.cluster.endpoints[0].active == 1
            writer.close()
            await until(live.nothing_left)
            assert live.stats.bytes_in == live.stats.bytes_out == 301_001
            assert live.stats.client_connections == 0
            assert live.stats.requests == {("TCP", 200): 1}
            record = live.records[0]
            assert (record.method, record.status, record.error, record.bytes_in) == ("TCP", 200, None, 301_001)
            assert record.endpoint == f"127.0.0.1:{server.port}"

    run(main)


def test_what_a_client_says_before_the_other_end_stands_is_kept() -> None:
    async def main() -> None:
        late = free_port()
        async with Live(_CONFIG, late) as live:
            reader, writer = await dial(live)
            writer.write(b"first, ")
            await until(lambda: live.stats.retries["connect"] == 1)
            writer.write(b"second")
            writer.write_eof()
            await settle()
            server = Server()
            server.port = late
            async with server:
                live.time.advance(1.1)
                assert await reader.read() == b"first, second"
                await until(live.nothing_left)
                assert live.stats.bytes_in == 13
            writer.close()

    run(main)


def test_early_bytes_are_bounded() -> None:
    async def main() -> None:
        async with Live(_CONFIG, free_port()) as live:
            reader, writer = await dial(live)
            writer.write(bytes(30_000_000))
            await until(lambda: live.stats.retries["connect"] == 1)
            await settle()
            (client,) = live.listener._connections
            assert client.exchange._early_size < 2_000_000  # type: ignore[attr-defined]
            assert writer.transport.get_write_buffer_size() > 10_000_000
            live.time.advance(30)
            assert await is_reset(reader)
            await until(live.nothing_left)
            writer.close()

    run(main)


def test_a_server_that_speaks_first() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 welcome\r\n")

    async def main() -> None:
        async with Server(greet) as server, Live(_CONFIG, server.port) as live:
            for _ in range(20):
                reader, writer = await dial(live)
                assert await reader.read() == b"220 welcome\r\n"
                writer.close()
            await until(live.nothing_left)

    run(main)


def test_the_clients_half_close_is_passed_on() -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"%d bytes" % len(data))

    async def main() -> None:
        async with Server(count) as server, Live(_CONFIG, server.port) as live:
            reader, writer = await dial(live)
            writer.write(bytes(500_000))
            writer.write_eof()
            assert await reader.read() == b"500000 bytes"
            await until(live.nothing_left)
            writer.close()

    run(main)


def test_the_servers_half_close_is_passed_on() -> None:
    got = bytearray()

    async def farewell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no more from me")
        writer.write_eof()
        got.extend(await reader.read())

    async def main() -> None:
        async with Server(farewell) as server, Live(_CONFIG, server.port) as live:
            reader, writer = await dial(live)
            assert await reader.read() == b"no more from me"
            writer.write(b"but from me")
            await until(lambda: live.stats.bytes_in == 11)
            assert live.stats.active == 1
            writer.write_eof()
            # The relay is done once its own sockets are; the server reads from its own when its turn comes.
            await until(lambda: bytes(got) == b"but from me")
            await until(live.nothing_left)
            writer.close()

    run(main)


def test_a_reset_of_the_server_reaches_the_client() -> None:
    async def main() -> None:
        async with Server() as server, Live(_CONFIG, server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            reset(next(iter(server.writers)))
            assert await is_reset(reader)
            await until(live.nothing_left)
            writer.close()

    run(main)


def test_a_reset_of_the_client_reaches_the_server() -> None:
    async def main() -> None:
        async with Server() as server, Live(_CONFIG, server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            reset(writer)
            await until(lambda: server.lost)
            assert isinstance(server.lost[0], ConnectionResetError)
            await until(live.nothing_left)

    run(main)


def test_a_failed_connect_goes_to_the_next_endpoint_at_once() -> None:
    async def main() -> None:
        async with Server() as server, Live(_CONFIG, free_port(), server.port) as live:
            for _ in range(4):
                reader, writer = await dial(live)
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
            await until(live.nothing_left)
            assert live.stats.retries == {"connect": 1}
            assert live.breaker_states == []
            assert live.stats.requests == {("TCP", 200): 4}

    run(main)


def test_a_connect_that_hangs_is_cut_and_goes_elsewhere() -> None:
    async def main() -> None:
        # Its queue of accepted connections is full, so a further connect hangs.
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            with socket.create_connection(deaf.getsockname()):
                async with Server() as server, Live(_CONFIG, deaf.getsockname()[1]) as live:
                    reader, writer = await dial(live)
                    writer.write(b"hello")
                    await until(lambda: live.listener.cluster.endpoints[0].active == 1)
                    live.endpoints(deaf.getsockname()[1], server.port)
                    live.time.advance(1.1)
                    assert await reader.readexactly(5) == b"hello"
                    assert live.listener.cluster.endpoints[0].active == 0
                    writer.close()
                    await until(live.nothing_left)

    run(main)


def test_the_breaker_opens_refuses_and_closes_again() -> None:
    async def main() -> None:
        port = free_port()
        config = changed(_CONFIG, retry=None)
        async with Live(config, port) as live:
            for _ in range(3):
                reader, writer = await dial(live)
                assert await is_reset(reader)
                writer.close()
            assert live.breaker_states == [OPEN]
            assert live.stats.rejected == {"connect_failed": 2, "circuit_open": 1}
            assert live.stats.requests == {("TCP", 502): 2, ("TCP", 503): 1}
            live.time.advance(60)
            server = Server()
            server.port = port
            async with server:
                for _ in range(3):
                    reader, writer = await dial(live)
                    writer.write(b"x")
                    await reader.readexactly(1)
                    writer.close()
                assert live.breaker_states == [OPEN, HALF_OPEN, CLOSED]
            await until(live.nothing_left)

    run(main)


def test_no_endpoints() -> None:
    async def main() -> None:
        async with Live(_CONFIG) as live:
            reader, writer = await dial(live)
            assert await is_reset(reader)
            assert live.stats.rejected == {"no_endpoints": 1}
            assert live.nothing_left()
            writer.close()

    run(main)


def test_silence_ends_it() -> None:
    async def main() -> None:
        config = changed(_CONFIG, timeout=TimeoutSettings(idle=10.0))
        async with Server() as server, Live(config, server.port) as live:
            reader, writer = await dial(live)
            for _ in range(3):
                writer.write(b"x")
                await reader.readexactly(1)
                live.time.advance(9)
            assert live.stats.active == 1
            live.time.advance(1.1)
            assert await is_reset(reader)
            assert live.nothing_left()
            assert live.records[0].error == "timeout"
            writer.close()

    run(main)


def test_silence_is_no_end_where_idle_is_off() -> None:
    async def main() -> None:
        config = changed(_CONFIG, timeout=TimeoutSettings(idle=0.0))
        async with Server() as server, Live(config, server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            live.time.advance(1e6)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
            await until(live.nothing_left)

    run(main)


def test_a_slow_client_stops_the_server() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(500):
            writer.write(bytes(100_000))
            await writer.drain()

    async def main() -> None:
        async with Server(flood) as server, Live(_CONFIG, server.port) as live:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                sock.connect(("127.0.0.1", live.port))
                sock.setblocking(False)
                await until(lambda: live.stats.bytes_out > 100_000)
                before = -1
                while before != live.stats.bytes_out:  # until it stands still
                    before = live.stats.bytes_out
                    await asyncio.sleep(0.1)
                assert before < 20_000_000  # what sockets hold; the rest has not even been read
                (client,) = live.listener._connections
                assert client.transport.get_write_buffer_size() < 1_000_000
                loop = asyncio.get_running_loop()
                got = 0
                while data := await loop.sock_recv(sock, 1 << 20):
                    got += len(data)
                assert got == 50_000_000
            await until(live.nothing_left)

    run(main)


def test_a_slow_server_stops_the_client() -> None:
    gate = asyncio.Event()
    got = 0

    async def sleepy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await gate.wait()
        while data := await reader.read(1 << 20):
            got += len(data)

    async def main() -> None:
        async with Server(sleepy) as server, Live(_CONFIG, server.port) as live:
            _, writer = await dial(live)
            writer.write(bytes(50_000_000))
            await until(lambda: live.stats.bytes_in > 100_000)
            before = -1
            while before != live.stats.bytes_in:
                before = live.stats.bytes_in
                await asyncio.sleep(0.1)
            assert before < 20_000_000
            gate.set()
            writer.write_eof()
            await until(lambda: got == 50_000_000)
            writer.close()
            await until(live.nothing_left)

    run(main)


def test_a_client_that_never_reads_the_rest_is_cut_in_the_end() -> None:
    async def burst(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(4_000_000))

    async def main() -> None:
        config = changed(_CONFIG, timeout=TimeoutSettings(idle=10.0))
        async with Server(burst) as server, Live(config, server.port) as live:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", live.port))
                sock.shutdown(socket.SHUT_WR)
                await until(lambda: live.stats.bytes_out > 0)
                await asyncio.sleep(0.1)
                assert live.stats.client_connections == 1
                live.time.advance(10.1)
                live.time.advance(10.1)
                await until(lambda: live.stats.client_connections == 0)
                assert live.nothing_left()

    run(main)


def test_connections_are_limited_and_wait_their_turn() -> None:
    async def main() -> None:
        bulkhead = BulkheadSettings(max_connections=2, max_requests=1, max_pending=1, pending_timeout=5.0)
        config = changed(_CONFIG, bulkhead=bulkhead)
        async with Server() as server, Live(config, server.port) as live:
            talking = [await dial(live) for _ in range(2)]
            for reader, writer in talking:
                writer.write(b"x")
                await reader.readexactly(1)
            waiting_reader, waiting_writer = await dial(live)
            waiting_writer.write(b"y")
            await until(lambda: live.stats.pending == 1)
            refused_reader, refused_writer = await dial(live)
            assert await is_reset(refused_reader)
            assert live.stats.rejected == {"overloaded": 1}
            talking[0][1].close()
            assert await waiting_reader.readexactly(1) == b"y"
            assert live.stats.pending == 0
            assert server.accepted == 3
            for writer in (talking[1][1], waiting_writer, refused_writer):
                writer.close()
            await until(live.nothing_left)

    run(main)


def test_waiting_too_long_and_leaving_the_queue() -> None:
    async def main() -> None:
        config = changed(_CONFIG, bulkhead=BulkheadSettings(max_connections=1, max_pending=5, pending_timeout=5.0))
        async with Server() as server, Live(config, server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            late_reader, late_writer = await dial(live)
            _, leaving = await dial(live)
            await until(lambda: live.stats.pending == 2)
            reset(leaving)
            await until(lambda: live.stats.pending == 1)
            live.time.advance(5.1)
            assert await is_reset(late_reader)
            assert live.stats.rejected == {"overloaded": 1}
            writer.close()
            late_writer.close()
            await until(live.nothing_left)
            assert server.accepted == 1

    run(main)


def test_a_client_that_leaves_while_connecting() -> None:
    async def main() -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            with socket.create_connection(deaf.getsockname()):
                async with Live(_CONFIG, deaf.getsockname()[1]) as live:
                    _, writer = await dial(live)
                    await until(lambda: live.listener.cluster.endpoints[0].active == 1)
                    reset(writer)
                    await until(live.nothing_left)
                    assert live.stats.requests == {("TCP", 0): 1}
                    assert live.breaker_states == []

    run(main)


def test_too_many_clients() -> None:
    async def main() -> None:
        config = replace(_CONFIG, limits=Limits(connections=1))
        async with Server() as server, Live(config, server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            refused, refused_writer = await dial(live)
            assert await is_reset(refused)
            assert live.stats.client_connections == 1
            assert live.stats.rejected == {"overloaded": 1}
            writer.close()
            await until(live.nothing_left)
            assert live.stats.client_connections == 0
            refused_writer.close()

    run(main)


def test_new_connections_are_rate_limited() -> None:
    async def main() -> None:
        config = changed(_CONFIG, rate_limit=RateLimitSettings(rate=1.0, burst=1, key="ip"))
        async with Server() as server, Live(config, server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            refused, refused_writer = await dial(live)
            assert await is_reset(refused)
            assert live.stats.rejected == {"rate_limited": 1}
            writer.close()
            refused_writer.close()
            await until(live.nothing_left)

    run(main)


def test_draining_inbound_finishes_what_is_under_way_and_takes_in_nothing() -> None:
    async def main() -> None:
        async with Server() as server, Live(Inbound(bind=ANY_PORT, protocol="tcp"), server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            live.listener.drain()
            refused, refused_writer = await dial(live)
            assert await is_reset(refused)
            assert live.stats.rejected == {"draining": 1}
            drained = asyncio.ensure_future(live.listener.drained())
            await settle()
            assert not drained.done()
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            writer.close()
            await drained
            refused_writer.close()

    run(main)


def test_stopping_cuts_live_connections() -> None:
    async def main() -> None:
        async with Server() as server, Live(_CONFIG, server.port) as live:
            reader, writer = await dial(live)
            writer.write(b"x")
            await reader.readexactly(1)
            await live.listener.stop()
            assert await is_reset(reader)
            assert live.nothing_left()
            await until(lambda: live.stats.client_connections == 0)
            with pytest.raises(ConnectionRefusedError):
                await dial(live)
            writer.close()

    run(main)


def test_connections_to_a_master_that_is_none_any_more_are_reset() -> None:
    async def main() -> None:
        async with Server() as old, Server() as new, Live(_CONFIG, old.port) as live:
            cast(TcpListener, live.listener).exclusive = True
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            live.endpoints(new.port)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            assert (old.accepted, new.accepted) == (1, 1)
            writer.close()
            await until(live.nothing_left, "all is given back")

    run(main)
