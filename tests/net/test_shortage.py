"""When descriptors or ports run out: what is given up, who is made to wait, and what is said."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket

import pytest

from sidecar.net.listen import Acceptor
from sidecar.net.shortage import QUIET_SECONDS, Shortage, is_local, plain
from support.clock import Clock
from support.live import run, settle
from support.patience import until


class Doors:
    """Accepts when it is not paused."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pause(self) -> None:
        self.events.append("pause")

    def resume(self) -> None:
        self.events.append("resume")


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EADDRNOTAVAIL"])
def test_what_is_local(name: str) -> None:
    assert is_local(OSError(getattr(errno, name), ""))


@pytest.mark.parametrize("error", [OSError(errno.ECONNREFUSED, ""), OSError("several"), ValueError(), None])
def test_what_is_not(error: Exception | None) -> None:
    assert not is_local(error)


def test_an_address_that_nobody_here_can_reach_from_is_no_want_of_ports() -> None:
    error = OSError(errno.EADDRNOTAVAIL, "")
    assert plain(error, "127.0.0.1", 9) is error
    other = OSError(errno.ECONNREFUSED, "")
    assert plain(other, "127.0.0.1", 9) is other


def test_it_is_said_once_in_a_while_with_the_limit_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    shortage = Shortage(lambda: 1024, clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            shortage.met(OSError(errno.EMFILE, ""))
        shortage.met(OSError(errno.EADDRNOTAVAIL, ""))
    first, second = caplog.messages
    assert "1024" in first
    assert "ulimit -n" in first
    assert "ip_local_port_range" in second
    clock.now += QUIET_SECONDS
    shortage.met(OSError(errno.EMFILE, ""))
    assert len(caplog.messages) == 3


def test_kept_connections_go_before_clients() -> None:
    shortage = Shortage(lambda: 1024)
    kept, idle = [1, 2], [3]
    shortage.idle[lambda: bool(idle and idle.pop())] = None
    shortage.kept[lambda: bool(kept and kept.pop())] = None
    assert shortage.relieve()
    assert shortage.relieve()
    assert (kept, idle) == ([], [3])
    assert not shortage.relieve(ports=True)  # a client's connection holds no local port of its own
    assert shortage.relieve()
    assert not shortage.relieve()


def test_a_connection_is_tried_once_more_after_something_was_given_up() -> None:
    async def main() -> None:
        shortage = Shortage(lambda: 1 << 20)
        kept = [1]
        tries = 0

        async def attempt() -> str:
            nonlocal tries
            tries += 1
            if kept or tries > 2:
                raise OSError(errno.EMFILE, "")
            return "connected"

        shortage.kept[lambda: bool(kept and kept.pop())] = None
        assert await shortage.dial(attempt) == "connected"
        with pytest.raises(OSError):
            await shortage.dial(attempt)
        assert tries == 3  # there was nothing to give up

    run(main)


def test_traffic_leaves_a_reserve() -> None:
    async def main() -> None:
        used = len(os.listdir("/proc/self/fd"))
        highest = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
        shortage = Shortage(lambda: used // 2)

        async def attempt() -> None:
            raise AssertionError("it must not be tried")

        with pytest.raises(OSError) as caught:
            await shortage.dial(attempt)
        assert caught.value.errno == errno.EMFILE
        shortage = Shortage(lambda: highest + 1000)
        with pytest.raises(AssertionError):
            await shortage.dial(attempt)

    run(main)


def test_accepting_pauses_when_nothing_can_be_given_up_and_goes_on_by_itself() -> None:
    async def main() -> None:
        limit = 800
        asked = 0

        def descriptors() -> int:
            nonlocal asked
            asked += 1
            return limit

        shortage = Shortage(descriptors)
        doors = Doors()
        shortage.accepting[doors] = None
        kept = [1]
        shortage.kept[lambda: bool(kept and kept.pop())] = None
        shortage.accepted(735)
        assert (doors.events, kept) == ([], [1])
        shortage.accepted(736)
        assert (doors.events, kept) == ([], [])
        limit = 8
        shortage.accepted(9)
        shortage.accepted(10)
        assert doors.events == ["pause"]
        before = asked
        await until(lambda: asked >= before + 3, "it has looked again and again")
        assert doors.events == ["pause"]
        limit = 1 << 20
        await until(lambda: doors.events == ["pause", "resume"])

    run(main)


def test_a_burst_leaves_a_part_of_the_reserve_and_goes_on_giving_up() -> None:
    async def main() -> None:
        limit = 800
        shortage = Shortage(lambda: limit)
        doors = Doors()
        shortage.accepting[doors] = None
        idle = [1] * 100
        shortage.idle[lambda: bool(idle and idle.pop())] = None
        assert shortage.accepted(767)
        assert doors.events == []
        # All of these were accepted before anybody heard of the first.
        assert [shortage.accepted(number) for number in range(768, 800)] == [True] * 16 + [False] * 16
        assert doors.events == ["pause"]
        limit = 8
        await until(lambda: not idle)
        limit = 1 << 20
        await until(lambda: doors.events == ["pause", "resume"])

    run(main)


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"hello")  # type: ignore[attr-defined]
        transport.close()


def test_who_connects_in_a_pause_is_served_after_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        acceptor = Acceptor(loop, Greeting)
        await acceptor.start("127.0.0.1", 0)
        before = len(os.listdir("/proc/self/fd"))
        address = acceptor.sockets[0].getsockname()
        for _ in range(3):
            acceptor.pause()
            await settle()
            clients = [socket.create_connection(address) for _ in range(3)]
            for client in clients:
                client.setblocking(False)
            await settle()
            with pytest.raises(BlockingIOError):
                clients[0].recv(5)
            acceptor.resume()
            acceptor.resume()
            for client in clients:
                assert await loop.sock_recv(client, 5) == b"hello"
                client.close()
        await settle()
        assert len(os.listdir("/proc/self/fd")) == before
        acceptor.close()
        acceptor.resume()
        await settle()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    run(main)


@pytest.mark.parametrize(("limit", "pairs"), [(1024, 480), (65_536, 32_736), (256, 112), (1, 1)])
def test_how_many_relayed_connections_fit(limit: int, pairs: int) -> None:
    assert Shortage(lambda: limit).pairs == pairs
