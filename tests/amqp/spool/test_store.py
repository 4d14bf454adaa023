from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.amqp.spool.errors import SpoolError
from support.spools import AI, Driver, message, number_of, run


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
