from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sidecar.amqp.spool.errors import SpoolError
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.spool.store import Spool

AI = ("/", "ai.tasks")


def message(number: int, lane: str = "ai.tasks", priority: int = 0, size: int = 100) -> SpooledMessage:
    body = b"%d:" % number
    return SpooledMessage("/", lane, "ai.tasks", "some.key", b"header", body + b"x" * (size - len(body)), 0, priority)


def number_of(message: SpooledMessage) -> int:
    return int(message.body.split(b":")[0])


class Driver:
    """A spool, as coroutines."""

    def __init__(self, path: Path, max_bytes: int = 1 << 30) -> None:
        self.now = 1000.0
        self.spool = Spool(path, "rabbitmq", max_bytes, asyncio.get_running_loop(), lambda: self.now)
        self.spool.open()

    async def put(self, *messages: SpooledMessage) -> None:
        """Raises what the spool answers."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(_: list[SpooledMessage], error: SpoolError | None) -> None:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        assert self.spool.put(list(messages), done)
        await future

    async def fetch(
        self, key: tuple[str, str] = AI, after: tuple[int, int] | None = None, limit: int = 1000, size: int = 1 << 30
    ) -> list[SpooledMessage]:
        future: asyncio.Future[list[SpooledMessage]] = asyncio.get_running_loop().create_future()
        self.spool.fetch(key, after, limit, size, future.set_result)
        return await future

    async def numbers(self, key: tuple[str, str] = AI) -> list[int]:
        return [number_of(it) for it in await self.fetch(key)]


def run(tmp_path: Path, test: Callable[[Driver], Coroutine[Any, Any, None]], max_bytes: int = 1 << 30) -> None:
    async def main() -> None:
        driver = Driver(tmp_path, max_bytes)
        try:
            await test(driver)
        finally:
            await driver.spool.close()

    asyncio.run(main())


def test_what_was_put_is_fetched_in_order_and_gone_once_removed(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        spool = driver.spool
        messages = [message(number) for number in range(100)]
        await driver.put(*messages[:70])
        await driver.put(*messages[70:])
        ids = [it.id for it in messages]
        assert ids == sorted(set(ids))
        assert ids[0] > 0
        assert spool.keys[AI].count == 100
        found = await driver.fetch(limit=60)
        assert [number_of(it) for it in found] == list(range(60))
        assert [it.body for it in found] == [it.body for it in messages[:60]]
        found += await driver.fetch(after=found[-1].cursor)
        assert [number_of(it) for it in found] == list(range(100))
        spool.remove(found[:99])
        assert spool.messages == spool.keys[AI].count == 1
        assert spool.bytes == found[99].size
        assert await driver.numbers() == [99]
        spool.remove(found[99:])
        assert spool.keys == {}
        assert spool.bytes == 0
        assert await driver.numbers() == []

    run(tmp_path, test)


def test_it_is_all_there_after_a_restart(tmp_path: Path) -> None:
    async def before(driver: Driver) -> None:
        await driver.put(message(1), message(2, "other"), message(3, priority=5))
        driver.spool.tried([(await driver.fetch())[0]])
        driver.spool.dead((await driver.fetch(("/", "other")))[0], "no such exchange", 404)

    async def after(driver: Driver) -> None:
        assert {key: it.count for key, it in driver.spool.keys.items()} == {AI: 2}
        found = await driver.fetch()
        assert [(number_of(it), it.attempts) for it in found] == [(3, 1), (1, 0)]
        (letter,) = await driver.spool.dead_letters.list(10)
        assert letter.message is not None
        assert (number_of(letter.message), letter.reason, letter.code) == (2, "no such exchange", 404)
        await driver.put(message(4))
        assert await driver.numbers() == [3, 1, 4]

    run(tmp_path, before)
    run(tmp_path, after)


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    async def test(driver: Driver) -> None:
        with pytest.raises(SpoolError, match="in use by another process"):
            Driver(tmp_path)

    run(tmp_path, test)
