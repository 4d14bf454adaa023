from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from sidecar.amqp.failover import credential_cache as module
from sidecar.amqp.failover.credential_cache import Credential, CredentialCache
from sidecar.amqp.wire.tables import encode_table
from sidecar.core.amqp_settings import AmqpCredentials
from sidecar.core.secret import Secret
from sidecar.storage.json_file import Saving

DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Hashing that is quick; what has been hashed."""
    hashed: list[bytes] = []
    real = module._hash

    def quick(secret: bytes, salt: bytes) -> bytes:
        hashed.append(secret)
        return real(secret, salt)

    monkeypatch.setattr(module, "_COST", 2)
    monkeypatch.setattr(module, "_hash", quick)
    return hashed


def plain(user: str, password: str) -> bytes:
    return f"\0{user}\0{password}".encode()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def accept(accounts: CredentialCache, user: str, password: str, vhost: str = "/") -> None:
    accounts.accepted("PLAIN", plain(user, password), vhost)
    await accounts.close()


async def verify(accounts: CredentialCache, user: str, password: str) -> Credential | None:
    return await accounts.verify("PLAIN", plain(user, password))


def test_whom_the_broker_has_let_in_may_come_in(hashes: list[bytes]) -> None:
    async def work() -> None:
        accounts = CredentialCache(wall=Clock())
        assert await verify(accounts, "anna", "secret") is None
        await accept(accounts, "anna", "secret")
        account = await verify(accounts, "anna", "secret")
        assert account is not None
        assert account.user == "anna"
        assert account.opens("/")
        assert not account.opens("/other")
        await accept(accounts, "anna", "secret", "/other")
        assert account.opens("/other")
        assert await verify(accounts, "anna", "wrong") is None
        assert await verify(accounts, "bert", "secret") is None
        assert accounts.count == 1

    run(work())
    # Once for whom there is not, once for the acceptance, once each for a wrong password and a wrong user.
    assert len(hashes) == 4


def test_a_login_is_the_same_whichever_way_it_is_said() -> None:
    async def work() -> None:
        accounts = CredentialCache(wall=Clock())
        await accept(accounts, "anna", "s\u00e9cret")
        response = encode_table({"LOGIN": "anna", "PASSWORD": "s\u00e9cret"})[4:]
        assert await accounts.verify("AMQPLAIN", response) is not None
        assert await accounts.verify("AMQPLAIN", response[:-1]) is None
        assert await accounts.verify("AMQPLAIN", encode_table({"LOGIN": "anna", "PASSWORD": 5})[4:]) is None

    run(work())


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("EXTERNAL", b""),
        ("ANONYMOUS", b"anna"),
        ("RABBIT-CR-DEMO", plain("anna", "secret")),
        ("PLAIN", b""),
        ("PLAIN", b"\0anna\0"),
        ("PLAIN", b"\0\0secret"),
        ("PLAIN", b"anna\0secret"),
        ("PLAIN", plain("anna", "x" * module.MAX_RESPONSE)),
        ("AMQPLAIN", b"\x05LOGIN"),
        ("AMQPLAIN", b""),
    ],
)
def test_what_proves_nothing_is_neither_kept_nor_good(mechanism: str, response: bytes) -> None:
    async def work() -> None:
        accounts = CredentialCache(wall=Clock())
        accounts.accepted(mechanism, response, "/")
        accounts.refused(mechanism, response)
        await accounts.close()
        assert accounts.count == 0
        assert await accounts.verify(mechanism, response) is None

    run(work())


def test_the_sidecars_own_account_is_always_good(hashes: list[bytes]) -> None:
    async def work() -> None:
        accounts = CredentialCache(
            credentials=AmqpCredentials(username="sidecar", password=Secret("own")), wall=Clock()
        )
        account = await verify(accounts, "sidecar", "own")
        assert account is not None
        assert account.opens("/anything")
        assert await verify(accounts, "sidecar", "other") is None
        assert await verify(accounts, "other", "own") is None
        await accept(accounts, "sidecar", "own")
        assert accounts.count == 0
        unset = CredentialCache(credentials=AmqpCredentials(username="sidecar"), wall=Clock())
        assert await unset.verify("PLAIN", b"\0sidecar\0") is None

    run(work())
    assert b"own" not in hashes[:1]


def test_a_week_after_it_was_last_accepted_it_is_forgotten() -> None:
    async def work() -> None:
        clock = Clock()
        accounts = CredentialCache(wall=clock)
        await accept(accounts, "anna", "secret")
        clock.now += 6 * DAY
        await accept(accounts, "anna", "secret")
        await accept(accounts, "anna", "secret", "/other")
        clock.now += 6.9 * DAY
        assert await verify(accounts, "anna", "secret") is not None
        clock.now += DAY
        assert await verify(accounts, "anna", "secret") is None
        assert accounts.count == 0

    run(work())


def test_each_vhost_has_its_own_week() -> None:
    async def work() -> None:
        clock = Clock()
        accounts = CredentialCache(wall=clock)
        await accept(accounts, "anna", "secret", "/old")
        clock.now += 6 * DAY
        await accept(accounts, "anna", "secret", "/new")
        clock.now += 2 * DAY
        account = await verify(accounts, "anna", "secret")
        assert account is not None
        assert account.opens("/new")
        assert not account.opens("/old")

    run(work())


def test_whom_the_broker_refuses_is_forgotten() -> None:
    async def work() -> None:
        accounts = CredentialCache(wall=Clock())
        await accept(accounts, "anna", "old")
        await accept(accounts, "anna", "new")
        accounts.refused("PLAIN", plain("anna", "old"))
        accounts.refused("PLAIN", plain("bert", "old"))
        assert await verify(accounts, "anna", "old") is None
        assert await verify(accounts, "anna", "new") is not None

    run(work())


def test_a_restart_is_survived_and_the_file_says_no_secret(tmp_path: Path, hashes: list[bytes]) -> None:
    path = tmp_path / "spool" / "logins.json"
    clock = Clock()

    async def work() -> None:
        accounts = CredentialCache(path, wall=clock)
        accounts.load()
        await accept(accounts, "anna", "secret", "/\udcff")
        await accept(accounts, "bert", "geheim")
        await Saving([accounts]).save()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        text = path.read_text()
        assert "anna" in text
        assert "secret" not in text
        assert "geheim" not in text
        again = CredentialCache(path, wall=clock)
        again.load()
        hashes.clear()
        for _ in range(3):
            account = await verify(again, "anna", "secret")
            assert account is not None
            assert account.opens("/\udcff")
        assert len(hashes) == 1
        assert await verify(again, "bert", "secret") is None
        # What is refused and was never verified in this process is found as well, once it was tried.
        clock.now += 8 * DAY
        late = CredentialCache(path, wall=clock)
        late.load()
        assert late.count == 0

    run(work())


def test_a_clock_that_was_ahead_gives_nobody_more_time(tmp_path: Path) -> None:
    path = tmp_path / "logins.json"
    clock = Clock()

    async def work() -> None:
        clock.now += 300 * DAY
        accounts = CredentialCache(path, wall=clock)
        await accept(accounts, "anna", "secret")
        await Saving([accounts]).save()
        clock.now -= 300 * DAY
        again = CredentialCache(path, wall=clock)
        again.load()
        clock.now += 8 * DAY
        assert await verify(again, "anna", "secret") is None

    run(work())


@pytest.mark.parametrize(
    "logins",
    [5, [5], [["anna", "!", "", {}]], [["anna", "", "", {}]], [[5, "", "", {}]], [["anna", "AAAA", "AAAA", []]]],
)
def test_a_corrupt_file_is_set_aside(logins: object, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logins.json"
    path.write_text(json.dumps({"version": 1, "logins": logins}))
    accounts = CredentialCache(path, wall=Clock())
    accounts.load()
    assert accounts.count == 0
    assert "corrupt" in caplog.text
    assert (tmp_path / "logins.json.corrupt-1000000").exists()


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOGINS", 5)
    monkeypatch.setattr(module, "MAX_OF_USER", 2)
    monkeypatch.setattr(module, "MAX_VHOSTS", 3)

    async def work() -> None:
        clock = Clock()
        accounts = CredentialCache(wall=clock)
        for number in range(4):
            clock.now += 1
            await accept(accounts, "anna", f"secret{number}")
        assert [await verify(accounts, "anna", f"secret{n}") is not None for n in range(4)] == [
            False, False, True, True,
        ]  # fmt: skip
        for number in range(10):
            clock.now += 1
            await accept(accounts, f"user{number}", "secret")
        assert accounts.count == 5
        assert await verify(accounts, "anna", "secret3") is None
        assert await verify(accounts, "user9", "secret") is not None
        for number in range(10):
            clock.now += 1
            await accept(accounts, "user9", "secret", f"/{number}")
        account = await verify(accounts, "user9", "secret")
        assert account is not None
        assert sorted(account.vhosts) == ["/7", "/8", "/9"]
        assert len(accounts._by_secret) <= 5
        accounts.accepted("PLAIN", plain("user9", "secret"), "x" * 300)
        assert len(account.vhosts) == 3

    run(work())


def test_a_storm_of_logins_is_hashed_one_by_one_and_only_so_many_wait(
    monkeypatch: pytest.MonkeyPatch, hashes: list[bytes]
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 10)

    async def work() -> None:
        accounts = CredentialCache(wall=Clock())
        await accept(accounts, "anna", "secret")
        hashes.clear()
        found = await asyncio.gather(*[verify(accounts, "anna", f"wrong{n}") for n in range(100)])
        assert found == [None] * 100
        assert len(hashes) == 10
        hashes.clear()
        good = await asyncio.gather(*[verify(accounts, "anna", "secret") for _ in range(100)])
        assert None not in good
        assert hashes == []
        for number in range(100):
            accounts.accepted("PLAIN", plain(f"user{number}", "secret"), "/")
        await accounts.close()
        assert accounts.count == 11
        assert accounts._pending == 0

    run(work())


def test_many_connections_of_one_new_login_are_hashed_once_and_kept_once(hashes: list[bytes]) -> None:
    async def work() -> None:
        accounts = CredentialCache(wall=Clock())
        for _ in range(20):
            accounts.accepted("PLAIN", plain("anna", "secret"), "/")
        await accounts.close()
        assert accounts.count == 1
        assert len(hashes) == 1

    run(work())


def test_the_hash_costs_what_it_should() -> None:
    assert module._BLOCK == 8
    assert module._MEMORY >= 128 * 8 * (1 << 14)
