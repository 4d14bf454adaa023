"""The master of a port, as sentinels tell it, against servers that a test makes say what they like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sidecar.core.address import Address
from sidecar.redis.master import MasterWatch
from support.patience import until
from support.processes import free_port
from support.redis import OK, FakeNames, FakeRedis, words

SLAVE = words("slave", "10.0.0.1", "6379", "connected", "1")


def sentinel(master: Callable[[], Address]) -> Callable[[list[str]], bytes | None]:
    def replies(command: list[str]) -> bytes | None:
        at = master()
        return words(at.host, str(at.port)) if command[2] == "mymaster" else b"*-1\r\n"

    return replies


@asynccontextmanager
async def watching(*at: Address, name: str = "mymaster") -> AsyncIterator[tuple[MasterWatch, list[Address]]]:
    """A watch that never really sleeps, and the masters that it has told of."""
    told: list[Address] = []
    watch = MasterWatch(name, at, FakeNames(), told.append, sleep=lambda seconds: asyncio.sleep(0.001))
    yield watch, told
    watch.stop()


@pytest.mark.asyncio
async def test_the_master_is_told_once_and_again_when_it_is_another() -> None:
    async with FakeRedis() as old, FakeRedis() as new:
        masters = [old.address]
        async with FakeRedis(sentinel(lambda: masters[-1])) as it, watching(it.address) as (watch, told):
            await until(lambda: len(it.said("SENTINEL")) > 3, "it is asked again and again")
            assert (told, watch.up, watch.trouble) == ([old.address], True, "")
            assert len(old.said("ROLE")) == it.accepted == 1
            masters.append(new.address)
            await until(lambda: len(told) == 2, "the new one is told")
            assert told[1] == watch.master == new.address


@pytest.mark.asyncio
async def test_one_that_is_no_master_yet_is_asked_until_it_is() -> None:
    role = SLAVE
    async with (
        FakeRedis(lambda command: role if command[0] == "ROLE" else None) as server,
        FakeRedis(sentinel(lambda: server.address)) as it,
        watching(it.address) as (watch, told),
    ):
        await until(lambda: "is no master (yet)" in watch.trouble, "it says so")
        assert told == []
        role = words("master")
        await until(lambda: told == [server.address], "it has become one")
        assert watch.trouble == ""


@pytest.mark.asyncio
async def test_a_master_that_says_nothing_to_strangers_is_believed() -> None:
    async with (
        FakeRedis(lambda command: b"-NOAUTH Authentication required.\r\n") as server,
        FakeRedis(sentinel(lambda: server.address)) as it,
        watching(it.address) as (_, told),
    ):
        await until(lambda: told == [server.address], "it is told")


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [(b"-LOADING soon\r\n", "it says: LOADING soon"), (OK, "is no master"), (b"?\r\n", "protocol")],
)
@pytest.mark.asyncio
async def test_a_master_that_makes_no_sense_is_not_taken(reply: bytes, trouble: str) -> None:
    async with (
        FakeRedis(lambda command: reply) as server,
        FakeRedis(sentinel(lambda: server.address)) as it,
        watching(it.address) as (watch, told),
    ):
        await until(lambda: trouble in watch.trouble, "it is told")
        assert told == []


@pytest.mark.asyncio
async def test_a_master_that_cannot_be_reached_changes_nothing() -> None:
    async with FakeRedis() as server:
        masters = [server.address]
        async with FakeRedis(sentinel(lambda: masters[-1])) as it, watching(it.address) as (watch, told):
            await until(lambda: told, "the first one")
            masters.append(Address("127.0.0.1", free_port()))
            await until(lambda: "cannot be reached" in watch.trouble, "it is told")
            assert (told, watch.master) == ([server.address], server.address)


@pytest.mark.asyncio
async def test_the_next_sentinel_is_asked_when_one_goes() -> None:
    async with FakeRedis() as server, FakeRedis(sentinel(lambda: server.address)) as second:
        first = FakeRedis(sentinel(lambda: server.address))
        async with first, watching(first.address, second.address) as (watch, told):
            await until(lambda: first.said("SENTINEL"), "the first is asked")
            await first.stop()
            await until(lambda: len(second.said("SENTINEL")) > 2, "the second is")
            assert (told, watch.up) == ([server.address], True)


@pytest.mark.parametrize("reply", [b"-ERR no\r\n", words("a"), words("", "1"), words("a", "x"), OK])
@pytest.mark.asyncio
async def test_sentinels_that_say_nothing_of_use_are_told_of(reply: bytes) -> None:
    dead = Address("127.0.0.1", free_port())
    async with FakeRedis(lambda command: reply) as it, watching(it.address, dead) as (watch, told):
        await until(lambda: watch.trouble, "it says so")
        assert watch.trouble.startswith(f"no sentinel tells the master 'mymaster' ({it.address}: ")
        assert f"{dead}: " in watch.trouble
        assert (told, watch.up) == ([], False)


@pytest.mark.asyncio
async def test_a_name_that_no_sentinel_knows() -> None:
    async with FakeRedis(sentinel(lambda: Address("127.0.0.1", 1))) as it, watching(it.address, name="x") as (watch, _):
        await until(lambda: "it knows no such master" in watch.trouble, "it is told")
