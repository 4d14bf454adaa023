"""A spool for tests, as coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.store import Spool
from sidecar.storage.errors import SpoolError
from support.patience import PATIENCE

AI = ("/", "ai.tasks")


def message(
    number: int, lane: str = "ai.tasks", priority: int = 0, size: int = 100, expires: float = 0.0
) -> SpooledMessage:
    """One that can be recognised by its number."""
    body = b"%d:" % number
    return SpooledMessage(
        "/", lane, "ai.tasks", "a.key", b"header", body + b"x" * (size - len(body)), 0, priority, "", 900.0, expires
    )


def number_of(message: SpooledMessage) -> int:
    """The number that :func:`message` gave it."""
    return int(message.body[:20].split(b":")[0])


class Driver:
    """A spool and a clock."""

    def __init__(self, path: Path, max_bytes: int = 1 << 30) -> None:
        self.now = 1000.0
        self.spool = Spool(path, "rabbitmq", max_bytes, asyncio.get_running_loop(), lambda: self.now)
        self.spool.open()

    async def put(self, *messages: SpooledMessage) -> None:
        """Store them; raises what the spool answers."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: list[SpooledMessage], error: SpoolError | None) -> None:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        assert self.spool.put(list(messages), done)
        await future

    async def fetch(
        self, key: tuple[str, str] = AI, after: tuple[int, int] | None = None, limit: int = 100_000, size: int = 1 << 30
    ) -> list[SpooledMessage]:
        """The next messages of a key."""
        future: asyncio.Future[list[SpooledMessage]] = asyncio.get_running_loop().create_future()
        self.spool.fetch(key, after, limit, size, future.set_result)
        return await future

    async def numbers(self, key: tuple[str, str] = AI) -> list[int]:
        """Which messages are there."""
        return [number_of(it) for it in await self.fetch(key)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """It has become true; or it fails."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


def run(path: Path, test: Callable[[Driver], Coroutine[Any, Any, None]], max_bytes: int = 1 << 30) -> None:
    """``test`` with a spool that is closed at its end."""

    async def main() -> None:
        driver = Driver(path, max_bytes)
        try:
            await test(driver)
        finally:
            await driver.spool.close()

    asyncio.run(main())


async def fill_and_empty(driver: Driver, make_room: Callable[[], None]) -> set[int]:
    """Put until the disk takes no more, look whether that is borne, ``make_room``, and put again. Which messages must
    be there at the end."""
    spool = driver.spool
    stored: set[int] = set()
    number = 0
    failure: SpoolError | None = None
    while failure is None:
        batch = [message(number + offset, size=4000) for offset in range(20)]
        number += 20
        assert number < 100_000
        try:
            await driver.put(*batch)
            stored |= {number_of(it) for it in batch}
        except SpoolError as error:
            assert {it.id for it in batch} == {0}
            failure = error if spool.problem else None  # it has found room since: then there is more to fill
    assert "cannot store messages" in failure.text
    assert spool.messages == len(stored)
    assert stored
    # What is delivered, or dies, is gone at once; it makes room in the file, but there is none for new messages yet.
    first = await driver.fetch()
    assert {number_of(it) for it in first} == stored
    assert len(first) > 120
    for start in range(0, len(first) - 110, 30):
        gone = first[start : min(start + 30, len(first) - 110)]
        spool.remove(gone[1:])
        spool.dead(gone[0], "expired", 0)
        stored -= {number_of(it) for it in gone}
        left = await driver.fetch()
        assert [number_of(it) for it in left] == sorted(stored)
    assert spool.dead_letters.count == sum(spool.dead_letters.reasons.values()) > 2
    make_room()
    await driver.until(lambda: not spool.problem)
    last = message(number, size=4000)
    await driver.put(last)
    stored.add(number)
    assert spool.messages == len(stored)
    assert set(await driver.numbers()) == stored
    return stored
