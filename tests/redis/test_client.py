"""The client against servers that a test makes say what they like: logins, failures, scripts, clusters, sentinels."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sidecar.core.address import Address
from sidecar.core.secret import Secret
from sidecar.redis import node
from sidecar.redis.client import Client, Script, slot_of
from sidecar.redis.limits import PROBE
from sidecar.redis.resp import ErrorReply
from sidecar.redis.settings import Settings
from support.patience import PATIENCE, until
from support.processes import free_port
from support.redis import OK, FakeNames, FakeRedis, Told, number, words

SCRIPT = Script("return 1")
SILENT = b""


def _settings(*addresses: Address, **more: Any) -> Settings:
    return Settings(addresses=addresses, **{"timeout": PATIENCE, **more})


@asynccontextmanager
async def client(settings: Settings, names: FakeNames | None = None) -> AsyncIterator[tuple[Client, Told]]:
    """A client, and what it tells of changes."""
    told = Told()
    it = Client(settings, names or FakeNames(), random.Random(1), PROBE, told)
    try:
        yield it, told
    finally:
        await it.close()


async def run(it: Client, key: str = "key") -> Any:
    """What a script comes to; False: nothing was asked."""
    reply = asyncio.get_running_loop().create_future()
    if not it.run(SCRIPT, key, (1, 2), reply.set_result):
        return False
    async with asyncio.timeout(PATIENCE):
        return await reply


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "AWAY", 0.05)
    monkeypatch.setattr(node, "FIRST", 0.01)
    monkeypatch.setattr(node, "LONGEST", 0.02)
    monkeypatch.setattr(node, "CONNECT", 0.5)


@pytest.mark.asyncio
async def test_a_script_runs_by_its_hash() -> None:
    async with FakeRedis() as server, client(_settings(server.address)) as (it, told):
        assert await run(it) == 1  # before it is connected: it waits for that
        assert it.up
        assert server.heard[-1] == ["EVALSHA", SCRIPT.sha, "1", "key", "1", "2"]
        assert it.trouble == ""
    assert told.all == []


@pytest.mark.asyncio
async def test_many_go_out_together_and_come_back_in_order() -> None:
    served = iter(range(1000))

    def replies(command: list[str]) -> bytes | None:
        return number(next(served)) if command[0] == "EVALSHA" else None

    async with FakeRedis(replies) as server, client(_settings(server.address)) as (it, _):
        await it.answered()
        assert await asyncio.gather(*(run(it) for _ in range(200))) == list(range(200))


@pytest.mark.asyncio
async def test_a_login_and_a_database() -> None:
    settings = {"user": "tasks", "password": Secret("hunter2"), "database": 3}
    async with FakeRedis() as server, client(_settings(server.address, **settings)) as (it, _):
        await it.answered()
        assert it.up
        assert server.heard[:2] == [["AUTH", "tasks", "hunter2"], ["SELECT", "3"]]


@pytest.mark.parametrize(
    ("command", "reply", "trouble"),
    [
        ("AUTH", b"-WRONGPASS no\r\n", "it says: WRONGPASS no"),
        ("EVAL", b"-NOPERM \x1b[1m no\r\n", "it says: NOPERM \\x1b[1m no"),
        ("EVAL", b"HTTP/1.1 400 x\r\n", "it does not speak Redis' protocol: a reply of an unknown type"),
        ("EVAL", OK * 3, "it said something that it was not asked"),
    ],
)
@pytest.mark.asyncio
async def test_a_server_that_cannot_be_used(command: str, reply: bytes, trouble: str) -> None:
    def replies(said: list[str]) -> bytes | None:
        return reply if said[0] == command else None

    async with (
        FakeRedis(replies) as server,
        client(_settings(server.address, password=Secret("hunter2"))) as (it, told),
    ):
        await until(lambda: it.trouble, "it is away")
        if reply == OK * 3:  # the login was fine
            await until(lambda: (False, f"{server.address}: {trouble}") in told.all, trouble)
            return
        assert it.trouble == trouble
        assert not it.up
        assert await run(it) is False
        assert told.all == [(False, f"{server.address}: {trouble}")]
        server.replies = lambda said: None
        await until(lambda: it.up, "it is back")
        assert told.all[1:] == [(True, str(server.address))]
        assert "hunter2" not in repr(it.settings) + str(told.all)


@pytest.mark.asyncio
async def test_nobody_listens() -> None:
    async with client(_settings(Address("127.0.0.1", free_port()))) as (it, told):
        reply = Told()
        assert it.run(SCRIPT, "key", (), reply)  # nobody knows yet
        await it.answered()
        await until(lambda: reply.all)
        assert isinstance(reply.all[0], ErrorReply)
        assert await run(it) is False
        assert told.all[0][1].endswith("connection refused: nothing listens there")


@pytest.mark.asyncio
async def test_the_first_questions_do_not_wait_for_a_silent_server() -> None:
    async with (
        FakeRedis(lambda command: SILENT) as server,
        client(_settings(server.address, timeout=0.01)) as (it, _),
    ):
        assert isinstance(await run(it), ErrorReply)
        assert await run(it) is False


@pytest.mark.asyncio
async def test_a_server_that_stops_answering_is_away_in_time() -> None:
    silent = False

    def replies(command: list[str]) -> bytes | None:
        return SILENT if silent else None

    async with FakeRedis(replies) as server, client(_settings(server.address, timeout=0.05)) as (it, told):
        await it.answered()
        silent = True
        assert isinstance(await run(it), ErrorReply)
        assert await run(it) is False
        await until(lambda: told.all)
        assert told.all == [(False, f"{server.address}: no answer within 50 ms")]
        silent = False
        await until(lambda: it.up, "it is back")


@pytest.mark.asyncio
async def test_who_is_cut_off_is_told_at_once_and_stays_away_for_a_while() -> None:
    silent = True

    def replies(command: list[str]) -> bytes | None:
        return SILENT if silent and command[0] == "EVALSHA" else None

    async with FakeRedis(replies) as server, client(_settings(server.address)) as (it, told):
        await it.answered()
        asked = [asyncio.ensure_future(run(it)) for _ in range(3)]
        await until(lambda: len(server.said("EVALSHA")) == 3)
        server.cut()
        assert all(isinstance(reply, ErrorReply) for reply in await asyncio.gather(*asked))
        assert not it.up
        silent = False
        await until(lambda: it.up, "it is back")
        assert await run(it) == 1
        assert [up for up, _ in told.all] == [False, True]


@pytest.mark.asyncio
async def test_a_server_that_closes_idle_connections_is_not_away() -> None:
    async with FakeRedis() as server, client(_settings(server.address)) as (it, told):
        await it.answered()
        await asyncio.sleep(2 * node.AWAY)
        server.close_idle()
        await until(lambda: server.accepted == 2)
        assert await run(it) == 1
        assert it.up
        assert told.all == []
        # But where there is none any more, it is.
        await asyncio.sleep(2 * node.AWAY)
        server.close_idle()
        await server.stop()
        await until(lambda: told.all)
        assert told.all[0][0] is False


@pytest.mark.asyncio
async def test_a_fault_of_one_who_asks_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    def broken(reply: Any) -> None:
        raise ValueError("broken")

    async with FakeRedis() as server, client(_settings(server.address)) as (it, told):
        await it.answered()
        assert it.run(SCRIPT, "key", (), broken)
        assert await run(it) == 1
        assert told.all == []
    assert "a reply of Redis was not dealt with" in caplog.text


@pytest.mark.asyncio
async def test_nothing_flaps() -> None:
    told: list[tuple[bool, float]] = []
    loop = asyncio.get_running_loop()
    async with FakeRedis() as server:
        it = Client(
            _settings(server.address), FakeNames(), random.Random(1), PROBE,
            lambda up, text: told.append((up, loop.time())),
        )  # fmt: skip
        try:
            await it.answered()
            for _ in range(3):
                await until(lambda: it.up)
                server.cut()
                await until(lambda: not it.up)
            await until(lambda: it.up)
        finally:
            await it.close()
    assert [up for up, _ in told] == [False, True] * 3
    for (_, away), (_, back) in zip(told[::2], told[1::2], strict=True):
        assert back - away >= node.AWAY - 0.002  # the loop's clock counts milliseconds


@pytest.mark.asyncio
async def test_the_text_is_sent_where_the_hash_is_not_known() -> None:
    def replies(command: list[str]) -> bytes | None:
        return b"-NOSCRIPT No matching script\r\n" if command[0] == "EVALSHA" else None

    async with FakeRedis(replies) as server, client(_settings(server.address)) as (it, told):
        assert await run(it) == 1
        assert server.heard[-1] == ["EVAL", SCRIPT.text, "1", "key", "1", "2"]
        assert told.all == []


@pytest.mark.parametrize("error", [b"-READONLY You can't\r\n", b"-LOADING\r\n", b"-OOM command\r\n", b"-NOSCRIPT\r\n"])
@pytest.mark.asyncio
async def test_an_error_that_stays_makes_it_away(error: bytes) -> None:
    bad = True

    def replies(command: list[str]) -> bytes | None:
        return error if bad and command[0] in ("EVALSHA", "EVAL") and command[3] == "key" else None

    async with FakeRedis(replies) as server, client(_settings(server.address)) as (it, told):
        assert isinstance(await run(it), ErrorReply)
        if error.startswith(b"-NOSCRIPT"):
            assert it.up  # it is asked again and again for the text: that is no reason
            return
        await until(lambda: told.all)
        assert told.all[0][0] is False


@pytest.mark.asyncio
async def test_names_are_looked_up() -> None:
    async with FakeRedis() as server:
        names = FakeNames(cache="127.0.0.1")
        async with client(_settings(Address("cache", server.port)), names) as (it, _):
            await it.answered()
            assert it.up
        async with client(_settings(Address("nowhere", server.port)), names) as (it, _):
            await it.answered()
            assert it.trouble == "its name does not resolve: there is no such name"


@pytest.mark.asyncio
async def test_tls_with_what_speaks_none() -> None:
    async with FakeRedis() as server, client(_settings(server.address, tls=True)) as (it, _):
        await it.answered()
        assert not it.up
        assert it.trouble
    async with FakeRedis() as server, client(_settings(server.address, tls=True, ca="/none")) as (it, _):
        await it.answered()
        assert "No such file" in it.trouble


# -- clusters ----------------------------------------------------------------------------------------------------------


def moved(key: str, server: FakeRedis, how: str = "MOVED") -> bytes:
    return f"-{how} {slot_of(key)} 127.0.0.1:{server.port}\r\n".encode()


def has(keys: str, where: Callable[[], FakeRedis], how: str = "MOVED") -> Callable[[list[str]], bytes | None]:
    """A node with keys that begin so; the others are elsewhere."""

    def replies(command: list[str]) -> bytes | None:
        if command[0] in ("EVAL", "EVALSHA") and not command[3].startswith(keys):
            return moved(command[3], where(), how)
        return None

    return replies


@pytest.mark.asyncio
async def test_a_cluster_is_followed_and_remembered() -> None:
    servers: list[FakeRedis] = []
    async with FakeRedis(has("a", lambda: servers[1])) as one, FakeRedis(has("b", lambda: servers[0])) as other:
        servers += [one, other]
        async with client(_settings(one.address)) as (it, told):
            assert [await run(it, key) for key in ("a1", "b1", "b1", "a1")] == [1] * 4
            assert it.up
            assert it.nodes == 1
            assert [len([c for c in one.said("EVALSHA") if c[3] == key]) for key in ("a1", "b1")] == [2, 1]
            assert len(other.said("EVALSHA")) == 2
        assert told.all == []


@pytest.mark.asyncio
async def test_a_slot_on_its_way_is_asked_for() -> None:
    servers: list[FakeRedis] = []
    async with FakeRedis(has("a", lambda: servers[1], "ASK")) as one, FakeRedis() as other:
        servers += [one, other]
        async with client(_settings(one.address)) as (it, _):
            assert [await run(it, "b1") for _ in range(2)] == [1, 1]
            assert [c[0] for c in other.heard if c[0] != "EVAL"] == ["ASKING", "EVALSHA"] * 2
            assert len(one.said("EVALSHA")) == 2  # nothing was remembered


@pytest.mark.asyncio
async def test_when_a_node_dies_another_says_who_has_its_slots() -> None:
    nodes: dict[str, FakeRedis] = {}
    has_b = "b"
    async with FakeRedis() as a, FakeRedis() as b, FakeRedis() as c:
        nodes |= {"a": a, "b": b, "c": c}
        a.replies = has("a", lambda: nodes[has_b])
        async with client(_settings(a.address)) as (it, told):
            assert await run(it, "b1") == 1
            await b.stop()
            await until(lambda: told.all)
            assert it.trouble
            assert await run(it, "a1") == 1
            # Until the others know, too, there is nobody for that slot.
            assert isinstance(await run(it, "b1"), ErrorReply)
            has_b = "c"
            assert await run(it, "b1") == 1
            await until(lambda: it.up, "the dead one is forgotten")


@pytest.mark.asyncio
async def test_who_is_sent_in_a_circle_gives_up() -> None:
    servers: list[FakeRedis] = []
    async with FakeRedis(has("-", lambda: servers[1])) as one, FakeRedis(has("-", lambda: servers[0])) as other:
        servers += [one, other]
        async with client(_settings(one.address)) as (it, _):
            assert isinstance(await run(it, "x"), ErrorReply)
            assert len(one.said("EVALSHA")) + len(other.said("EVALSHA")) == 4


@pytest.mark.parametrize("where", ["a:0", "x", "1 2 3", "127.0.0.1:99999", "é:1"])
@pytest.mark.asyncio
async def test_a_move_to_nowhere(where: str) -> None:
    def replies(command: list[str]) -> bytes | None:
        return f"-MOVED 5 {where}\r\n".encode() if command[0] == "EVALSHA" else None

    async with FakeRedis(replies) as server, client(_settings(server.address)) as (it, _):
        assert isinstance(await run(it), ErrorReply)


@pytest.mark.asyncio
async def test_nodes_are_bounded() -> None:
    ports = iter(range(1, 200))

    def replies(command: list[str]) -> bytes | None:
        return f"-MOVED {next(ports)} 127.0.0.1:{next(ports)}\r\n".encode() if command[0] == "EVALSHA" else None

    async with FakeRedis(replies) as server, client(_settings(server.address)) as (it, _):
        await it.answered()
        for n in range(70):
            await run(it, f"{n}")
        assert it.nodes <= 64


def test_slots() -> None:
    # From the specification of clusters.
    assert slot_of("123456789") == 0x31C3 % 16384


# -- sentinels ---------------------------------------------------------------------------------------------------------


def sentinel(master: Callable[[], Address], name: str = "mymaster") -> Callable[[list[str]], bytes | None]:
    def replies(command: list[str]) -> bytes | None:
        assert command[0] == "SENTINEL"
        at = master()
        return words(at.host, str(at.port)) if command[2] == name else b"*-1\r\n"

    return replies


@pytest.mark.asyncio
async def test_sentinels_say_where_the_master_is() -> None:
    masters: list[Address] = []
    async with FakeRedis(lambda c: words("slave") if c[0] == "ROLE" else None) as old, FakeRedis() as new:
        masters.append(old.address)
        async with FakeRedis(sentinel(lambda: masters[-1])) as watcher:
            silent = Address("127.0.0.1", free_port())
            async with client(_settings(silent, watcher.address, sentinel="mymaster")) as (it, told):
                await it.answered()
                assert it.trouble == f"{old.address} is no master (yet), though a sentinel says so"
                masters.append(new.address)
                await until(lambda: it.up, "the new one is in use")
                assert await run(it) == 1
                assert len(new.said("EVALSHA")) == 1
                assert [up for up, _ in told.all] == [False, True]


@pytest.mark.asyncio
async def test_a_master_that_no_sentinel_knows() -> None:
    async with (
        FakeRedis(sentinel(lambda: Address("127.0.0.1", 1), "another")) as watcher,
        client(_settings(watcher.address, sentinel="mymaster")) as (it, _),
    ):
        await it.answered()
        assert it.trouble == f"no sentinel names a master 'mymaster' ({watcher.address}: it knows no such master)"


@pytest.mark.asyncio
async def test_a_sentinel_that_asks_for_a_password() -> None:
    async with FakeRedis() as master:
        known = sentinel(lambda: master.address)
        allowed = False

        def replies(command: list[str]) -> bytes | None:
            nonlocal allowed
            if command[0] == "AUTH":
                allowed = True
                return OK
            return known(command) if allowed else b"-NOAUTH Authentication required.\r\n"

        async with FakeRedis(replies) as watcher:
            settings = _settings(watcher.address, sentinel="mymaster", password=Secret("hunter2"))
            async with client(settings) as (it, _):
                await it.answered()
                assert it.up
                assert master.said("AUTH") == watcher.said("AUTH") == [["AUTH", "hunter2"]]


@pytest.mark.parametrize("reply", [b"-ERR no\r\n", words("a"), words("", "1"), words("a", "x"), OK, SILENT])
@pytest.mark.asyncio
async def test_a_sentinel_that_says_nothing_of_use(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.redis.sentinel.SECONDS", 0.05)
    async with (
        FakeRedis(lambda command: reply) as watcher,
        client(_settings(watcher.address, sentinel="mymaster")) as (it, _),
    ):
        await it.answered()
        assert "no sentinel names a master" in it.trouble
