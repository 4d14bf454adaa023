"""Host names of instances become addresses, beside the data path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from sidecar.core.instance import Instance
from sidecar.endpoints import names as module
from sidecar.endpoints.names import GRACE, MAX_ADDRESSES, MAX_LOOKED_AT, MAX_NAMES, Expansion, with_route
from sidecar.net.lookup import Answer
from support.names import FakeNames, settled


class Setup:
    """An upstream that follows names, and what it is told."""

    def __init__(self, min_ttl: float = 1.0, max_ttl: float = 300.0) -> None:
        self.names = FakeNames(min_ttl, max_ttl)
        self.dns = self.names.fake
        self.time = self.names.time
        self.told: list[tuple[Instance, ...]] = []
        self.expansion = Expansion(self.names, "upstream up", self.told.append)

    def follow(self, *hosts: str, **more: Any) -> None:
        self.expansion.update(Instance(host=host, port=80, **more) for host in hosts)

    @property
    def hosts(self) -> list[str]:
        """Of the last set that was told."""
        return [instance.host for instance in self.told[-1]]


def run(main: Coroutine[Any, Any, None]) -> None:
    async def all_of_it() -> None:
        await main
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    asyncio.run(all_of_it())


def test_addresses_pass_at_once_and_cost_no_task() -> None:
    async def main() -> None:
        s = Setup()
        instances = [
            Instance(host=host, port=80, id=host, weight=7) for host in ("10.0.0.1", "fd00::1", "fe80::1%eth0")
        ]
        s.expansion.update(instances)
        assert s.told == [tuple(instances)]
        assert len(asyncio.all_tasks()) == 1
        assert s.expansion.problem == ""

    run(main())


def test_each_address_of_a_name_is_an_instance() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("db.test", "10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2")
        s.follow("DB.test", id="db-1", weight=5, state="warning", tags=("a",))
        assert s.told == [()]
        assert s.expansion.problem == "db.test is being looked up"
        await settled()
        assert s.hosts == ["10.0.0.1", "10.0.0.2", "fd00::1"]
        assert {(i.id, i.weight, i.state, i.tags, i.port, i.hostname) for i in s.told[-1]} == {
            ("db-1", 5, "warning", ("a",), 80, "db.test")
        }
        assert s.expansion.problem == ""
        assert s.names.lookups == {"ok": 1, "missing": 0, "failed": 0}

    run(main())


def test_what_the_hosts_file_knows_is_there_at_once() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.file["localhost"] = Answer(("127.0.0.1", "::1"), 2.0)
        s.follow("localhost")
        assert s.hosts == ["127.0.0.1", "::1"]
        await s.names.answered()
        await settled()
        assert not s.dns.asked
        s.dns.set("localhost", "127.0.0.1")
        await s.time.pass_by(2.5)
        assert s.hosts == ["127.0.0.1"]

    run(main())


def test_a_name_that_moves_is_followed_within_its_ttl_and_a_second() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("db.test", "10.0.0.1", ttl=30)
        s.follow("db.test")
        await settled()
        s.dns.set("db.test", "10.0.0.2", ttl=30)
        await s.time.pass_by(29.9)
        assert (s.hosts, s.dns.asked["db.test"]) == (["10.0.0.1"], 1)
        await s.time.pass_by(1.1)
        assert (s.hosts, s.dns.asked["db.test"]) == (["10.0.0.2"], 2)

    run(main())


@pytest.mark.parametrize(("ttl", "expected"), [(0, 2.0), (1, 2.0), (5, 5.0), (3600, 20.0)])
def test_a_ttl_has_a_floor_and_a_ceiling(ttl: float, expected: float) -> None:
    async def main() -> None:
        s = Setup(min_ttl=2.0, max_ttl=20.0)
        s.dns.set("db.test", "10.0.0.1", ttl=ttl)
        s.follow("db.test")
        await settled()
        await s.time.pass_by(expected - 0.01)
        assert s.dns.asked["db.test"] == 1
        await s.time.pass_by(0.51)
        assert s.dns.asked["db.test"] == 2

    run(main())


def test_another_order_is_no_change() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("db.test", "10.0.0.1", "10.0.0.2", ttl=1)
        s.follow("db.test")
        await settled()
        before = len(s.told)
        s.dns.set("db.test", "10.0.0.2", "10.0.0.1", ttl=1)
        await s.time.pass_by(10)
        assert s.dns.asked["db.test"] > 5
        assert len(s.told) == before

    run(main())


def test_a_silent_name_holds_up_no_other() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("good.test", "10.0.0.1")
        s.follow("silent.test", "10.0.0.9", "good.test")
        assert s.hosts == ["10.0.0.9"]
        await settled()
        assert s.hosts == ["10.0.0.9", "10.0.0.1"]
        assert s.expansion.problem == "silent.test is being looked up"

    run(main())


def test_the_last_addresses_are_kept_while_the_resolver_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("db.test", "10.0.0.1", ttl=1)
        s.follow("db.test")
        await settled()
        s.dns.fail("db.test")
        await s.time.pass_by(3600)
        assert s.hosts == ["10.0.0.1"]
        assert s.expansion.problem == ""
        (name,) = s.expansion.names
        assert name.error == "no DNS server has answered in time"
        assert name.age is not None
        assert name.age > 3500
        assert 3600 / 12 < s.names.lookups["failed"] < 3600 / 8 + 10  # about every ten seconds
        assert len(caplog.records) == 1
        assert "db.test does not resolve: no DNS server has answered in time; its last addresses" in caplog.text
        s.dns.set("db.test", "10.0.0.2", ttl=1)
        await s.time.pass_by(12.1)
        assert s.hosts == ["10.0.0.2"]
        assert name.error == ""

    caplog.set_level(logging.WARNING)
    run(main())


def test_that_a_name_is_gone_is_believed_after_a_while() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("db.test", "10.0.0.1", ttl=300)
        s.follow("db.test")
        await settled()
        s.dns.fail("db.test", "there is no such name", missing=True)
        await s.time.pass_by(301)
        assert s.dns.asked["db.test"] == 2
        await s.time.pass_by(GRACE - 2)
        assert s.hosts == ["10.0.0.1"]
        await s.time.pass_by(14)
        assert s.hosts == []
        assert s.expansion.problem == "db.test does not resolve: there is no such name"
        s.dns.set("db.test", "10.0.0.2")
        await s.time.pass_by(12.1)
        assert s.hosts == ["10.0.0.2"]

    run(main())


def test_silence_in_between_is_no_word_that_a_name_is_gone() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("db.test", "10.0.0.1", ttl=1)
        s.follow("db.test")
        await settled()
        for _ in range(10):
            s.dns.fail("db.test", "there is no such name", missing=True)
            await s.time.pass_by(GRACE * 0.5)
            s.dns.fail("db.test")
            await s.time.pass_by(15)
        assert s.hosts == ["10.0.0.1"]

    run(main())


def test_a_name_that_never_resolves(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        s = Setup()
        s.dns.fail("db.test", "there is no such name", missing=True)
        s.follow("db.test")
        await asyncio.wait_for(s.names.answered(), 5)
        assert s.told == [(), ()]
        assert s.expansion.problem == "db.test does not resolve: there is no such name"
        await s.time.pass_by(60)
        assert 7 < s.dns.asked["db.test"] < 12
        assert len(caplog.records) == 1
        assert len(s.told) == 2

    run(main())


def test_a_resolver_that_breaks_is_asked_again() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.put("db.test", RuntimeError("oh"))
        s.follow("db.test")
        await settled()
        assert s.expansion.problem == "db.test does not resolve: RuntimeError"
        s.dns.set("db.test", "10.0.0.1")
        await s.time.pass_by(2)
        assert s.hosts == ["10.0.0.1"]

    run(main())


def test_a_malformed_host_fails_for_itself_only_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        s = Setup()
        s.follow("10.0.0.1", "a..b", "x\ny", "127.1", "z" * 300)
        s.follow("10.0.0.1", "a..b", "x\ny", "127.1", "z" * 300)
        assert s.hosts == ["10.0.0.1"]
        assert [record.getMessage()[:60] for record in caplog.records] == [
            "upstream up: the host 'a..b' is neither an address nor a hos",
            "upstream up: the host 'x\\ny' is neither an address nor a hos",
            "upstream up: the host '127.1' is neither an address nor a ho",
            f"upstream up: the host '{'z' * 37}",
        ]
        assert len(asyncio.all_tasks()) == 1
        assert "'a..b' is neither" in s.expansion.problem
        s.follow("10.0.0.1")
        assert s.expansion.problem == ""

    run(main())


def test_upstreams_share_a_name_and_the_last_one_ends_it() -> None:
    async def main() -> None:
        s = Setup()
        told: list[tuple[Instance, ...]] = []
        other = Expansion(s.names, "upstream other", told.append)
        s.dns.set("db.test", "10.0.0.1", ttl=5)
        s.follow("db.test")
        other.update([Instance(host="db.test", port=81)])
        await settled()
        assert s.dns.asked["db.test"] == 1
        assert (s.hosts, told[-1][0].host, told[-1][0].port) == (["10.0.0.1"], "10.0.0.1", 81)
        s.expansion.close()
        s.dns.set("db.test", "10.0.0.2", ttl=5)
        await s.time.pass_by(6)
        assert (s.hosts, told[-1][0].host) == (["10.0.0.1"], "10.0.0.2")
        other.close()
        assert not s.names.known
        await s.time.pass_by(60)
        assert s.dns.asked["db.test"] == 2
        await s.names.close()
        assert s.dns.closed

    run(main())


def test_what_was_known_serves_until_other_names_are_known() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("old.test", "10.0.0.1")
        s.follow("old.test")
        await settled()
        s.follow("new.test")
        assert s.hosts == ["10.0.0.1"]
        s.dns.set("new.test", "10.0.0.2")
        await settled()
        assert s.hosts == ["10.0.0.2"]
        s.follow("nobody.test")
        s.dns.fail("nobody.test")
        await settled()
        assert s.hosts == []

    run(main())


def test_names_share_the_weight_of_their_instance() -> None:
    async def main() -> None:
        s = Setup()
        s.dns.set("two.test", "10.0.0.1", "10.0.0.2")
        s.dns.set("three.test", "10.0.1.1", "10.0.1.2", "10.0.1.3")
        s.follow("two.test", "three.test", "10.0.2.1", weight=2)
        await settled()
        assert {i.host: i.weight for i in s.told[-1]} == {
            "10.0.0.1": 6, "10.0.0.2": 6, "10.0.1.1": 4, "10.0.1.2": 4, "10.0.1.3": 4, "10.0.2.1": 12,
        }  # fmt: skip
        s.follow("two.test", weight=2)
        assert [i.weight for i in s.told[-1]] == [2, 2]

    run(main())


def test_weights_stay_numbers_of_a_sensible_size() -> None:
    async def main() -> None:
        s = Setup()
        for n in (61, 59, 53, 47):
            s.dns.set(f"n{n}.test", *(f"10.0.{n}.{i}" for i in range(n)))
        s.follow(*(f"n{n}.test" for n in (61, 59, 53, 47)), weight=3)
        await settled()
        assert {i.weight for i in s.told[-1]} == {3}

    run(main())


def test_names_and_addresses_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        s = Setup()
        for i in range(MAX_NAMES + 2):
            s.dns.set(f"n{i}.test", f"10.0.{i // 256}.{i % 256}")
        s.follow(*(f"n{i}.test" for i in range(MAX_NAMES + 2)), "10.9.9.9")
        await settled()
        assert len(s.hosts) == MAX_NAMES + 1
        assert caplog.text.count("one name too many") == 2
        s.dns.set("many.test", *(f"10.0.0.{i}" for i in range(200)))
        s.follow("many.test")
        await settled()
        assert len(s.hosts) == MAX_ADDRESSES
        looked_at: list[int] = []

        def reachable(addresses: Sequence[str]) -> Sequence[str]:
            looked_at.append(len(addresses))
            return addresses

        s.names.reachable = reachable
        s.dns.set("crowd.test", *(f"10.{i // 256}.{i % 256}.1" for i in range(4000)))
        s.follow("crowd.test")
        await settled()
        assert looked_at == [MAX_LOOKED_AT]

    run(main())


def test_addresses_without_a_route_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_route", lambda address: ":" not in address)
    assert with_route(["10.0.0.1", "fd00::1"]) == ["10.0.0.1"]
    assert with_route(["fd00::2", "fd00::1"]) == ["fd00::2", "fd00::1"]  # better than nothing


def test_loopback_has_a_route() -> None:
    assert with_route(["127.0.0.1", "127.9.9.9"]) == ["127.0.0.1", "127.9.9.9"]
