"""Limits kept in Redis: what is asked, what of the answers is believed, and how it is shown."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sidecar.redis import limits as limits_module
from sidecar.redis.client import Client
from sidecar.redis.limits import ANNOUNCE, PROBE, TAKE, SharedLimits
from sidecar.redis.metrics import families
from sidecar.redis.settings import Settings
from sidecar.resilience.shared_limit import ASKED, SharedLimit
from support.patience import PATIENCE, until
from support.redis import FakeNames, FakeRedis, Told, number, taken


class Waits:
    def __init__(self) -> None:
        self.told: list[float] = []

    def decide(self, wait: float) -> bool:
        self.told.append(wait)
        return True


@asynccontextmanager
async def shared(server: FakeRedis, used: list[SharedLimit], on_failure: str = "local") -> AsyncIterator[SharedLimits]:
    rng = random.Random(1)
    settings = Settings(addresses=(server.address,), timeout=PATIENCE)
    client = Client(settings, FakeNames(), rng, PROBE, Told())
    it = SharedLimits(client, "tasks-1", lambda: used, rng.random, on_failure)
    try:
        yield it
    finally:
        await it.close()


def ask(limit: SharedLimit, key: bytes = b"") -> Waits:
    assert limit.take(key) == ASKED
    waits = Waits()
    limit.join(key, waits)
    return waits


def takes(reply: bytes) -> Callable[[list[str]], bytes | None]:
    return lambda command: reply if command[:2] == ["EVALSHA", TAKE.sha] else None


@pytest.mark.asyncio
async def test_a_token_is_asked_for() -> None:
    async with FakeRedis() as server, shared(server, []) as it:
        limit = it.limit("inbound:tasks", 100.0, 50, "none")
        waits = ask(limit)
        await until(lambda: waits.told)
        assert waits.told == [0.0]
        assert server.said("EVALSHA") == [["EVALSHA", TAKE.sha, "1", limit.name, "10000.0", "50", "1"]]
        assert it.counts["granted"] == 1
        assert limits_module.as_dict(it) == {
            "up": True, "where": str(server.address), "trouble": None, "checks": it.counts
        }  # fmt: skip


@pytest.mark.asyncio
async def test_keys_are_hashed_and_other_settings_are_another_limit() -> None:
    async with FakeRedis() as server, shared(server, []) as it:
        keyed = it.limit("inbound:tasks", 100.0, 50, "header:x-key")
        waits = ask(keyed, b"secret")
        await until(lambda: waits.told)
        (command,) = server.said("EVALSHA")
        assert command[3].startswith(f"{keyed.name}:")
        assert "secret" not in str(server.heard)
        names = {
            it.limit(*of).name
            for of in [
                ("a", 1.0, 1, "none"), ("a", 2.0, 1, "none"), ("a", 1.0, 2, "none"), ("a", 1.0, 1, "ip"),
                ("b", 1.0, 1, "none"),
            ]
        }  # fmt: skip
        assert len(names) == 5
        assert not set(it.limit("a{b}\n" + "x" * 500, 1.0, 1, "none").name) & set("{}\n")
        assert len(it.limit("x" * 5000, 1.0, 1, "none").name) < 200


@pytest.mark.asyncio
async def test_none_are_left() -> None:
    async with FakeRedis(takes(taken(0, 7.0))) as server, shared(server, []) as it:
        limit = it.limit("a", 0.1, 1, "none")
        waits = ask(limit)
        await until(lambda: waits.told)
        assert waits.told[0] == pytest.approx(7.05, abs=0.1)
        assert it.counts["refused"] == 1


@pytest.mark.parametrize(
    "reply", [number(1), b"-ERR x\r\n", b"*2\r\n:1\r\n:1\r\n", b"*2\r\n:1\r\n$2\r\n-1\r\n", b"*1\r\n:1\r\n"]
)
@pytest.mark.asyncio
async def test_an_answer_that_is_none(reply: bytes) -> None:
    async with FakeRedis(takes(reply)) as server, shared(server, [], "allow") as it:
        limit = it.limit("a", 1.0, 1, "none")
        waits = ask(limit)
        await until(lambda: waits.told)
        assert waits.told == [0.0]
        assert (it.counts["failed"], it.counts["allow"], limit.away) == (1, 1, True)


@pytest.mark.asyncio
async def test_no_more_is_taken_than_was_asked_for() -> None:
    async with FakeRedis(takes(taken(1_000_000))) as server, shared(server, []) as it:
        limit = it.limit("a", 1.0, 1, "none")
        waits = ask(limit)
        await until(lambda: waits.told)
        assert limit.view()["leased"] == 0


@pytest.mark.asyncio
async def test_who_shares_a_limit_is_told_and_heard() -> None:
    used: list[SharedLimit] = []
    reply = number(8)
    async with FakeRedis(lambda c: reply if ANNOUNCE.sha in c else None) as server, shared(server, used) as it:
        used.append(it.limit("a", 1.0, 1, "none"))
        await until(lambda: used[0].sidecars == 8)
        (command,) = server.said("EVALSHA")
        assert command[2:] == ["1", f"{used[0].name}:sidecars", "tasks-1", "7"]


@pytest.mark.asyncio
async def test_a_redis_that_has_forgotten_them_is_not_believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "ANNOUNCED", 0.01)
    used: list[SharedLimit] = []
    replies = iter([8, 1, 3, 1])
    heard: list[int] = []

    def reply(command: list[str]) -> bytes | None:
        if ANNOUNCE.sha not in command:
            return None
        heard.append(used[0].sidecars)
        return number(next(replies, 2))

    async with FakeRedis(reply) as server, shared(server, used) as it:
        used.append(it.limit("a", 1.0, 1, "none"))
        await until(lambda: len(heard) > 10)
        assert heard[1:8] == [8, 8, 8, 8, 3, 3, 2]
        used.clear()
        await until(lambda: not it._heard, "what is not in use is forgotten")


@pytest.mark.asyncio
async def test_announcing_goes_on_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "ANNOUNCED", 0.01)

    def broken() -> list[SharedLimit]:
        calls.append(1)
        raise ValueError("broken")

    calls: list[int] = []
    async with FakeRedis() as server, shared(server, []) as it:
        it._in_use = broken
        await until(lambda: len(calls) > 2)


@pytest.mark.asyncio
async def test_leases_end_when_a_server_is_away() -> None:
    used: list[SharedLimit] = []
    async with FakeRedis() as server, shared(server, used) as it:
        used.append(it.limit("a", 1000.0, 1000, "none"))
        waits = ask(used[0])
        await until(lambda: waits.told)
        lease = next(iter(used[0]._leases.values()))
        before = lease.lapses
        it.changed(False)
        assert lease.lapses < before
        assert used[0].away
        it.changed(True)
        assert not used[0].away


@pytest.mark.asyncio
async def test_metrics() -> None:
    async with FakeRedis() as server, shared(server, []) as it:
        await it.client.answered()
        checks, up = families(it)
        assert {labels[0] for labels, _ in checks.samples} == set(it.counts)
        assert up.samples == [((), 1.0)]
