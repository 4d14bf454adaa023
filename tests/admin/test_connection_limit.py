"""Connections are bounded in number, and those that say nothing are cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from sidecar.admin.connection_limit import Door
from sidecar.core.health import Health
from support.admin import serving
from support.patience import until
from support.running import running

REQUEST = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


class Slow:
    """Probes of an upstream that take until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = running("ollama")
        self.running.probe = self.probe  # type: ignore[method-assign]

    async def probe(self, upstream: str) -> Health:
        await self.go.wait()
        return Health("healthy", "slow")


async def ask(address: tuple[str, int], path: str = "/ready") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return reader, writer


def test_one_that_is_kept_makes_room_the_oldest_first() -> None:
    async def main() -> None:
        async with asyncio.timeout(180), serving(running(), Door(most=2)) as client:
            kept = []
            for _ in range(2):
                reader, writer = await ask(client.address)
                assert b"200" in await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"}\n")
                kept.append((reader, writer))
            reader, writer = await ask(client.address)
            assert b"200" in await reader.readline()
            assert await ended(kept[0][0])
            kept[1][1].write(REQUEST)
            assert b"200" in await kept[1][0].readline()
            for _, each in (*kept, (reader, writer)):
                each.close()

    asyncio.run(main())


def test_silent_ones_do_not_hold_the_port() -> None:
    async def main() -> None:
        async with asyncio.timeout(180), serving(running(), Door(most=3)) as client:
            silent = [await asyncio.open_connection(*client.address) for _ in range(3)]
            reader, writer = await ask(client.address)
            assert b"200" in await reader.readline()
            assert await ended(silent[0][0])
            for _, each in (*silent, (reader, writer)):
                each.close()

    asyncio.run(main())


def test_one_that_does_not_read_its_answers_does_not_hold_the_port() -> None:
    async def main() -> None:
        door = Door(most=1)
        async with asyncio.timeout(180), serving(running(), door) as client:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(client.address)
            _, deaf = await asyncio.open_connection(sock=sock)
            deaf.transport.pause_reading()  # type: ignore[attr-defined]

            def stuck() -> bool:
                deaf.write(b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
                return any(it.transport and it.transport.get_write_buffer_size() for it in door._resting)

            await until(stuck)
            reader, writer = await ask(client.address)
            assert b"200" in await reader.readline()
            deaf.close()
            writer.close()

    asyncio.run(main())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_too_many(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        slow = Slow()
        door = Door(most=2)
        async with asyncio.timeout(180), serving(slow.running, door) as client:
            busy = [await ask(client.address, "/health/deep/ollama")]
            await until(lambda: door._busy)
            refused, other = await ask(client.address, "/upstreams")  # its part of the room is taken
            assert b" 503 " in await refused.readline()
            assert await refused.read() is not None
            other.close()
            for path in ("/ready", "/metrics", "/health", "/health/ollama"):
                reader, writer = await ask(client.address, path)
                assert b" 200 " in await reader.readline()
                writer.close()
            slow.go.set()
            assert b" 200 " in await busy[0][0].readline()
            busy[0][1].close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_when_all_are_busy_a_new_one_is_closed(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        slow = Slow()
        door = Door(most=1)
        async with asyncio.timeout(180), serving(slow.running, door) as client:
            reader, writer = await ask(client.address, "/health/deep/ollama")
            await until(lambda: door._busy)
            refused, other = await asyncio.open_connection(*client.address)
            assert await ended(refused)
            slow.go.set()
            assert b" 200 " in await reader.readline()
            writer.close()
            other.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_who_says_nothing_or_not_all_of_it_is_cut() -> None:
    async def main() -> None:
        async with asyncio.timeout(180), serving(running(), Door(patience=1.0)) as client:
            silent, one = await asyncio.open_connection(*client.address)
            slow, two = await asyncio.open_connection(*client.address)
            two.write(REQUEST[:-2])
            speaks, three = await asyncio.open_connection(*client.address)
            three.write(REQUEST)
            assert b"200" in await speaks.readuntil(b"\r\n\r\n")
            assert await ended(silent)
            assert await ended(slow)
            three.write(REQUEST)
            await speaks.readuntil(b"HTTP/1.1 200")
            for writer in (one, two, three):
                writer.close()

    asyncio.run(main())


def test_connections_that_come_and_go_in_silence_leave_nothing() -> None:
    async def main() -> None:
        door = Door(most=5)
        async with asyncio.timeout(180), serving(running(), door) as client:
            for _ in range(50):
                _, writer = await asyncio.open_connection(*client.address)
                writer.close()
                await writer.wait_closed()
            while (await _status(client.address)) != b"200":
                pass
            assert len(door._silent) <= 5
            assert len(door._resting) <= 6
        assert not door._silent

    asyncio.run(main())


async def _status(address: tuple[str, int]) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(REQUEST)
        return (await reader.readline())[9:12]
    except ConnectionError:
        return b""
    finally:
        writer.close()
