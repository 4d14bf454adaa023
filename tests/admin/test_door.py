"""Connections are bounded in number, and those that say nothing are cut."""

from __future__ import annotations

import asyncio

from sidecar.admin.door import Door
from support.admin import serving
from support.running import running

REQUEST = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


def test_one_too_many() -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(running(), Door(most=2)) as client:
            held = []
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*client.address)
                writer.write(REQUEST)
                assert b"200" in await reader.readline()
                held.append(writer)
            reader, writer = await asyncio.open_connection(*client.address)
            assert await ended(reader)
            writer.close()
            held[0].close()
            await held[0].wait_closed()
            while True:  # the server sees the end a moment later
                reader, writer = await asyncio.open_connection(*client.address)
                try:
                    writer.write(REQUEST)
                    first = await reader.readline()
                except ConnectionError:
                    first = b""
                writer.close()
                if b"200" in first:
                    break
            held[1].close()

    asyncio.run(main())


def test_who_says_nothing_or_not_all_of_it_is_cut() -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(running(), Door(patience=0.05)) as client:
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
        async with asyncio.timeout(60), serving(running(), door) as client:
            for _ in range(50):
                _, writer = await asyncio.open_connection(*client.address)
                writer.close()
                await writer.wait_closed()
            while (await _status(client.address)) != b"200":
                pass
            assert len(door._silent) <= 5
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
