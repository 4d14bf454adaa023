"""The resolver against a DNS server of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.net.hosts import HostsFile
from sidecar.net.lookup import Answer, LookupFailed
from sidecar.net.resolver import HOSTS_TTL, SystemResolver
from support.clock import Clock
from support.dns import SERVFAIL, A, DnsServer, Zone
from support.live import run


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as it:
        yield it


def resolver(server: DnsServer, tmp_path: Path, clock: Clock | None = None, timeout: float = 2.0) -> SystemResolver:
    return SystemResolver([server.address], timeout, 60.0, hosts=HostsFile(tmp_path / "hosts"), clock=clock or Clock())


async def failure(it: SystemResolver, name: str) -> tuple[str, bool]:
    with pytest.raises(LookupFailed) as error:
        await it.resolve(name)
    return str(error.value), error.value.missing


def test_addresses_of_both_families_and_the_shortest_ttl(server: DnsServer, tmp_path: Path) -> None:
    server.zones["a.test"] = Zone(["127.0.0.1", "127.0.0.2", "::1"], ttl=7)

    async def main() -> None:
        it = resolver(server, tmp_path)
        assert it.known("a.test") is None
        answer = await it.resolve("a.test")
        assert set(answer.addresses) == {"127.0.0.1", "127.0.0.2", "::1"}
        assert answer.ttl == 7
        await it.close()

    run(main)


def test_why_there_is_no_answer(server: DnsServer, tmp_path: Path) -> None:
    server.zones |= {
        "fails.test": Zone(rcode=SERVFAIL),
        "empty.test": Zone(),
        "blocked.test": Zone(["0.0.0.0", "::", "224.0.0.1"]),
        "silent.test": Zone(silent=True),
    }

    async def main() -> None:
        it = resolver(server, tmp_path, timeout=0.1)
        assert await failure(it, "nobody.test") == ("there is no such name", True)
        assert await failure(it, "empty.test") == ("it has no address", True)
        assert await failure(it, "blocked.test") == ("it has no address of a host", True)
        assert await failure(it, "fails.test") == ("the DNS server has failed to find out", False)
        assert await failure(it, "silent.test") == ("no DNS server has answered in time", False)
        await it.close()

    run(main)


def test_a_silent_name_holds_up_nobody(server: DnsServer, tmp_path: Path) -> None:
    server.zones |= {f"silent{i}.test": Zone(silent=True) for i in range(50)}
    server.zones["good.test"] = Zone(["10.0.0.1"])

    async def main() -> None:
        it = resolver(server, tmp_path, timeout=30.0)
        waiting = [asyncio.ensure_future(it.resolve(f"silent{i}.test")) for i in range(50)]
        await asyncio.sleep(0)
        assert (await it.resolve("good.test")).addresses == ("10.0.0.1",)
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await it.close()

    run(main)


def test_a_server_that_is_silent_about_one_family(server: DnsServer, tmp_path: Path) -> None:
    server.zones["a.test"] = Zone(["10.0.0.1"], silent_types=[28])

    async def main() -> None:
        it = resolver(server, tmp_path, timeout=0.1)
        assert (await it.resolve("a.test")).addresses == ("10.0.0.1",)
        await it.close()

    run(main)


def test_the_hosts_file_comes_first_and_asks_nobody(server: DnsServer, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.9 a.test\n")
    server.zones["a.test"] = Zone(["10.0.0.1"])

    async def main() -> None:
        it = resolver(server, tmp_path)
        assert it.known("a.test") == await it.resolve("a.test") == Answer(("10.0.0.9",), HOSTS_TTL)
        assert it.known("localhost") == Answer(("127.0.0.1", "::1"), HOSTS_TTL)
        assert not server.asked
        await it.close()

    run(main)


def test_the_ceiling_is_stronger_than_a_ttl(server: DnsServer, tmp_path: Path) -> None:
    server.zones["a.test"] = Zone(["10.0.0.1"], ttl=3600)

    async def main() -> None:
        clock = Clock()
        it = resolver(server, tmp_path, clock)
        await it.resolve("a.test")
        server.zones["a.test"] = Zone(["10.0.0.2"], ttl=3600)
        assert (await it.resolve("a.test")).addresses == ("10.0.0.1",)  # c-ares still knows
        assert server.asked["a.test", A] == 1
        clock.advance(60)
        assert (await it.resolve("a.test")).addresses == ("10.0.0.2",)
        await it.close()

    run(main)


def test_closing_ends_what_is_under_way(server: DnsServer, tmp_path: Path) -> None:
    server.zones["silent.test"] = Zone(silent=True)

    async def main() -> None:
        it = resolver(server, tmp_path, timeout=30.0)
        waiting = asyncio.ensure_future(it.resolve("silent.test"))
        await asyncio.sleep(0)
        await it.close()
        with pytest.raises(LookupFailed):
            await waiting
        await it.close()

    run(main)
