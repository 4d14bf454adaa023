"""The scripts and the client against real servers: one, a master that fails over, a cluster."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.core.address import Address
from sidecar.core.secret import Secret
from sidecar.redis.client import Client, slot_of
from sidecar.redis.limits import PROBE, TAKE, SharedLimits
from sidecar.redis.settings import Settings
from sidecar.resilience.shared_limit import ASKED, SharedLimit
from support.examples import examples
from support.patience import PATIENCE, until
from support.processes import ending, free_port, missing
from support.redis import FakeNames, Told
from support.servers import Redis, RedisSentinel, redis_says_all


class Waits:
    def __init__(self) -> None:
        self.told: list[float] = []

    def decide(self, wait: float) -> bool:
        self.told.append(wait)
        return True


@asynccontextmanager
async def sharing(
    port: int, used: list[SharedLimit] | None = None, **more: Any
) -> AsyncIterator[tuple[SharedLimits, Told]]:
    rng, told = random.Random(), Told()
    where = Settings(addresses=(Address("127.0.0.1", port),), **{"timeout": PATIENCE, **more})
    client = Client(where, FakeNames(), rng, PROBE, told)
    it = SharedLimits(client, f"me-{rng.random()}", lambda: used or [], rng.random, "refuse")
    try:
        await client.answered()
        yield it, told
    finally:
        await it.close()


#: What docs/resilience.md says that an account needs.
RIGHTS = "~sidecar:limit:* +eval +evalsha +time +get +set +zadd +zcard +zremrangebyscore +expire"


def tls_files(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1."""
    openssl = shutil.which("openssl") or missing("there is no openssl to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
         str(certificate)],
        check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    return key, certificate


async def take(limit: SharedLimit, key: str = "") -> float:
    """0: it passes; else when it may come again."""
    verdict = limit.take(key)
    if verdict == ASKED:
        waits = Waits()
        limit.join(key, waits)
        await until(lambda: waits.told)
        (verdict,) = waits.told
    return verdict


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with ending(Redis(tmp_path_factory.mktemp("redis")).ready()) as processes:
        server = processes[0]
        assert isinstance(server, Redis)
        yield server


@pytest.mark.asyncio
async def test_a_burst_then_nothing_for_all_who_share(redis: Redis) -> None:
    async with sharing(redis.port) as (one, _), sharing(redis.port) as (other, _):
        limits = [it.limit("outbound:a", 1 / 3600, 20, "none") for it in (one, other)]
        passed, refused = 0, [0, 0]
        while min(refused) < 3:
            for n, limit in enumerate(limits):
                wait = await take(limit)
                passed += not wait
                refused[n] += bool(wait)
                assert wait < 3601
        assert passed == 20
        assert redis.ask("PTTL", limits[0].name) > 3600 * 1000
        assert one.counts["failed"] == 0


@pytest.mark.asyncio
async def test_keys_are_apart(redis: Redis) -> None:
    async with sharing(redis.port) as (it, _):
        limit = it.limit("outbound:keyed", 1 / 3600, 2, "ip")
        assert [bool(await take(limit, key)) for key in ("a", "a", "a", "b")] == [False, False, True, False]


@pytest.mark.asyncio
async def test_no_more_than_the_rate_by_the_servers_own_clock(redis: Redis) -> None:
    used: list[SharedLimit] = []
    async with sharing(redis.port, used) as (it, _):
        used += [it.limit("outbound:rate", 500.0, 50, "none") for _ in range(3)]
        began = redis.time()
        passed = 0
        while redis.time() < began + 0.4:
            for limit in used:
                for _ in range(20):
                    passed += await take(limit) == 0
        assert passed <= 500 * (redis.time() - began) + 50
        assert passed > 50


#: The script with a time that a test says, in seconds and microseconds; and with a life that is long enough for it.
TIMED = TAKE.text.replace("redis.call('TIME')", "{ARGV[4], ARGV[5]}").replace(
    "string.format('%.0f', (full - now) / 1000 + 1)", "'100000'"
)
#: Microseconds of our century.
NOW = 1_790_000_000_000_000


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rate=st.one_of(st.floats(1 / 86400, 10), st.floats(10, 1e6), st.sampled_from([3.0, 1000.0, 3000.0, 1e6])),
    burst=st.integers(1, 1_000_000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1.2)), min_size=1, max_size=12),
)
def test_the_script_grants_what_it_should(
    redis: Redis, rate: float, burst: int, steps: list[tuple[float, float]]
) -> None:
    assert TIMED.count("ARGV[4]") == 1
    assert "'100000'" in TIMED
    interval = 1e6 / rate
    now, commands, asked = NOW, [], []
    for pause, share in steps:  # pauses in times that it takes to fill a tenth, sizes as shares of the burst
        now += int(pause * interval * max(burst / 10, 1))
        wanted = max(1, int(share * burst))
        asked.append((now, wanted))
        commands.append(
            ("EVAL", TIMED, 1, "sidecar:limit:timed", repr(interval), burst, wanted, now // 10**6, now % 10**6)
        )
    replies = redis_says_all(redis.port, ("DEL", "sidecar:limit:timed"), *commands)[1:]
    # In exact numbers: when the bucket is full, as its own clock goes.
    full, granted_in_all = Fraction(NOW), 0
    for (now, wanted), (granted, again) in zip(asked, replies, strict=True):
        # A quarter of a microsecond is as exact as it is; many operations add up.
        slack = Fraction(1, 100) + Fraction(len(asked) * 4) / Fraction(interval)
        granted_in_all += granted
        assert granted_in_all <= Fraction(rate) * (now - NOW) / 10**6 + burst + slack
        full = max(full, Fraction(now))
        free = (now + burst * Fraction(interval) - full) / Fraction(interval)
        assert min(wanted, int(free - slack)) <= granted <= min(wanted, int(free + slack))
        full += granted * Fraction(interval)
        if granted < wanted:
            assert 0 <= int(again) <= interval + 10


@pytest.mark.asyncio
async def test_nothing_that_is_stored_is_believed(redis: Redis) -> None:
    async with sharing(redis.port) as (it, told):
        for n, stored in enumerate(["x", "nan", "inf", "-inf", "-5", "1e300", "9" * 400]):
            limit = it.limit(f"outbound:stored-{n}", 1000.0, 10, "none")
            redis.ask("SET", limit.name, stored)
            wait = await take(limit)
            assert 0 <= wait < 0.2, stored
        wrong = it.limit("outbound:list", 1000.0, 10, "none")
        redis.ask("RPUSH", wrong.name, "1")
        assert await take(wrong) > 0  # an error: as without Redis
        await until(lambda: told.all)
        assert "WRONGTYPE" in told.all[0][1]


@pytest.mark.asyncio
async def test_sidecars_know_of_each_other(redis: Redis) -> None:
    used: list[list[SharedLimit]] = [[], []]
    async with sharing(redis.port, used[0]) as (one, _), sharing(redis.port, used[1]) as (other, _):
        for it, limits in zip((one, other), used, strict=True):
            limits.append(it.limit("outbound:known", 1.0, 10, "none"))
            it._task.cancel()  # it would take two seconds
        one._tell(used[0][0])
        other._tell(used[1][0])
        await until(lambda: max(limits[0].sidecars for limits in used) == 2, "the second has heard of the first")
        one._tell(used[0][0])
        await until(lambda: used[0][0].sidecars == 2, "the first has heard of the second")


@pytest.mark.asyncio
async def test_a_server_that_forgets_its_scripts(redis: Redis) -> None:
    async with sharing(redis.port) as (it, told):
        redis.ask("SCRIPT", "FLUSH")
        assert await take(it.limit("outbound:flushed", 1.0, 10, "none")) == 0
        assert told.all == []


@pytest.mark.asyncio
async def test_a_login_over_tls(tmp_path: Path) -> None:
    key, certificate = tls_files(tmp_path)
    port = free_port()
    server = Redis(
        tmp_path, port, "--port", "0", "--tls-port", str(port), "--tls-cert-file", str(certificate),
        "--tls-key-file", str(key), "--tls-auth-clients", "no",
        "--user", "tasks", "on", ">hunter2", *RIGHTS.split(),
    )  # fmt: skip
    with ending(server.ready()):
        login: dict[str, Any] = {"tls": True, "user": "tasks", "password": Secret("hunter2")}
        async with sharing(server.port, ca=str(certificate), **login) as (it, _):
            limit = it.limit("outbound:tls", 1.0, 10, "none")
            assert await take(limit) == 0, it.client.trouble
            it._heard[limit.name] = deque([5], maxlen=1)
            it._tell(limit)
            await until(lambda: it._heard[limit.name] == deque([1]), "it is told how many they are")
        async with sharing(server.port, **login) as (it, _):
            assert "certificate" in it.client.trouble.lower()
        async with sharing(server.port, ca=str(certificate), **{**login, "password": Secret("wrong")}) as (it, _):
            assert "WRONGPASS" in it.client.trouble


@pytest.mark.costly
@pytest.mark.asyncio
async def test_a_failover_is_followed(tmp_path: Path) -> None:
    with ending(Redis(tmp_path).ready()) as processes:
        master: Any = processes[0]
        replica = Redis(tmp_path, None, "--replicaof", "127.0.0.1", str(master.port)).ready()
        processes.append(replica)
        sentinels = [RedisSentinel(tmp_path, master.port) for _ in range(3)]
        processes += sentinels
        for it in sentinels:
            it.ready()
        await until(lambda: all(it.knows_all() for it in sentinels), "the sentinels know each other")
        async with sharing(sentinels[0].port, sentinel="mymaster") as (shared, told):
            limit = shared.limit("outbound:failover", 1 / 3600, 5, "none")
            assert [bool(await take(limit)) for _ in range(6)] == [False] * 5 + [True]
            await until(lambda: replica.ask("EXISTS", limit.name) == 1, "it is replicated")
            master.kill()
            await until(lambda: told.all, "it is told that the master is away")
            fresh = shared.limit("outbound:fresh", 1 / 3600, 5, "none")
            assert await take(fresh) == 1.0  # refused, as it is to be without Redis
            await until(lambda: shared.client.up, "the new master is in use")
            assert replica.ask("ROLE")[0] == b"master"
            assert await take(fresh) == 0
            limit._leases.clear()
            assert await take(limit) > 1  # what was used up stays so
            assert (told.all[0][0], told.all[-1][0]) == (False, True)


@pytest.mark.costly
@pytest.mark.asyncio
async def test_a_cluster_is_followed(tmp_path: Path) -> None:
    with ending() as processes:
        nodes: list[Redis] = []
        for n in range(3):
            nodes.append(Redis(tmp_path, None, "--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{n}.conf"))
            processes.append(nodes[-1])
        for node in nodes:
            node.ready()
        bounds = [0, 5461, 10923, 16384]
        for node, first, beyond in zip(nodes, bounds[:-1], bounds[1:], strict=True):
            node.ask("CLUSTER", "ADDSLOTS", *range(first, beyond))
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        await until(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in nodes), "they agree")
        async with sharing(nodes[0].port) as (shared, told):
            limit = shared.limit("outbound:cluster", 1 / 3600, 1, "ip")
            keys = [f"10.0.0.{n}" for n in range(12)]
            assert [bool(await take(limit, key)) for key in keys] == [False] * 12
            assert [bool(await take(limit, key)) for key in keys] == [True] * 12
            assert shared.client.up
            assert shared.client.nodes == 2
            assert shared.counts["failed"] == 0
            # One dies: its keys go without, the others go on.
            nodes[2].kill()
            await until(lambda: told.all)
            leases = {key: limit._leases[key] for key in keys}
            dead = {key: slot_of(f"{limit.name}:{lease.digest}") >= bounds[2] for key, lease in leases.items()}
            limit._leases.clear()
            assert {key: await take(limit, key) == 1.0 for key in keys} == dead
            assert set(dead.values()) == {True, False}
