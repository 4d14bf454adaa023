"""Which addresses a bind means, that they all have one port, and when connections to it wait or are refused."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import cast

import pytest

from sidecar.config.traffic import Upstream
from sidecar.exchange.listener import ListenerError
from sidecar.net.listen import Acceptor, bind
from support.live import ANY_PORT, Live, read_answer, run, settle


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6")


def bound(host: str, port: int = 0) -> list[tuple[str, int]]:
    """What sockets there are for it."""
    found: list[tuple[str, int]] = []

    async def main() -> None:
        sockets = await bind(asyncio.get_running_loop(), host, port)
        for sock in sockets:
            found.append(sock.getsockname()[:2])
            sock.close()

    run(main)
    return found


@ipv6
@pytest.mark.parametrize("host", ["::", "0:0:0:0:0:0:0:0"])
def test_the_wildcard_of_ipv6_is_both_families_on_one_port(host: str) -> None:
    (four, port), (six, same) = bound(host)
    assert (four, six) == ("0.0.0.0", "::")
    assert port == same > 0


def test_that_of_ipv4_is_ipv4_alone() -> None:
    ((host, port),) = bound("0.0.0.0")
    assert host == "0.0.0.0"
    assert port > 0


@ipv6
def test_a_port_that_one_family_has_in_use_is_in_use() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(OSError) as caught:
            bound("::", other.getsockname()[1])
        assert caught.value.errno == errno.EADDRINUSE


def test_a_family_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Four(socket.socket):
        def __init__(self, family: int = -1, *more: int, **also: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "")
            super().__init__(family, *more, **also)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("socket.socket", Four)
        (sock,) = await bind(loop, "::", 0)
        assert sock.getsockname()[0] == "0.0.0.0"
        sock.close()
        with pytest.raises(OSError):
            await bind(loop, "::1", 0)

    run(main)


def test_an_address_of_another_host() -> None:
    with pytest.raises(OSError) as caught:
        bound("192.0.2.1")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_closing_leaves_nothing() -> None:
    async def main() -> None:
        acceptor = Acceptor(asyncio.get_running_loop(), asyncio.Protocol)
        await acceptor.start("127.0.0.1", 0)
        address = acceptor.sockets[0].getsockname()
        acceptor.close()
        await asyncio.sleep(0)
        with socket.socket() as sock:
            sock.bind(address)

    run(main)


@ipv6
def test_clients_of_both_families_are_served_and_known_by_their_addresses() -> None:
    async def main() -> None:
        async with Live(Upstream(name="up", bind=ANY_PORT)) as live:
            live.listener.close_socket()
            live.listener.bind = type(ANY_PORT)("::", 0)
            try:
                await live.listener.start()
            except ListenerError as error:
                pytest.fail(str(error))
            assert str(live.listener.address) == f"[::]:{live.port}"
            for host in ("127.0.0.1", "::1"):
                reader, writer = await asyncio.open_connection(host, live.port)
                writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
                assert (await read_answer(reader)).error == "no_endpoints"
                writer.close()
            assert [record.client for record in live.records] == ["127.0.0.1", "::1"]

    run(main)


# -- pauses, and being shut --------------------------------------------------------------------------------------------


class _Greets(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # a loop closes one that nobody knows any more
        self.transport.write(b"hi")


async def greeted(port: int, host: str = "127.0.0.1") -> None:
    reader, writer = await asyncio.open_connection(host, port)
    assert await reader.readexactly(2) == b"hi"
    writer.close()


async def refused(port: int, host: str = "127.0.0.1") -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::", marks=ipv6)])
def test_one_that_is_shut_refuses_and_keeps_its_port(host: str) -> None:
    async def main() -> None:
        acceptor = Acceptor(asyncio.get_running_loop(), _Greets)
        await acceptor.start(host, 0)
        port = acceptor.sockets[0].getsockname()[1]
        dialled = ("127.0.0.1", "::1") if host == "::" else ("127.0.0.1",)
        for _ in range(3):
            acceptor.shut()
            acceptor.shut()
            for each in dialled:
                await refused(port, each)
            assert {sock.getsockname()[1] for sock in acceptor.sockets} == {port}
            acceptor.reopen()
            await settle()
            for each in dialled:
                await greeted(port, each)
        acceptor.close()
        await refused(port)

    run(main)


def test_who_waits_for_a_paused_one_is_reset_when_it_is_shut() -> None:
    async def main() -> None:
        acceptor = Acceptor(asyncio.get_running_loop(), _Greets)
        await acceptor.start("127.0.0.1", 0)
        port = acceptor.sockets[0].getsockname()[1]
        acceptor.pause()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        acceptor.shut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        # Each reason has to be gone.
        acceptor.resume()
        await settle()
        await refused(port)
        acceptor.pause()
        acceptor.reopen()
        await settle()
        acceptor.resume()
        await settle()
        await greeted(port)
        acceptor.close()

    run(main)


def test_being_shut_while_it_is_about_to_accept_again() -> None:
    async def main() -> None:
        acceptor = Acceptor(asyncio.get_running_loop(), _Greets)
        await acceptor.start("127.0.0.1", 0)
        port = acceptor.sockets[0].getsockname()[1]
        acceptor.shut()
        acceptor.reopen()
        acceptor.shut()
        await settle()
        await refused(port)
        acceptor.reopen()
        await settle()
        await greeted(port)
        acceptor.close()

    run(main)


def test_one_that_is_shut_before_it_starts() -> None:
    async def main() -> None:
        acceptor = Acceptor(asyncio.get_running_loop(), _Greets)
        acceptor.shut()
        await acceptor.start("127.0.0.1", 0)
        port = acceptor.sockets[0].getsockname()[1]
        await refused(port)
        acceptor.reopen()
        await settle()
        await greeted(port)
        acceptor.close()

    run(main)


def test_one_that_is_held_listens_and_accepts_when_it_is_released() -> None:
    async def main() -> None:
        acceptor = Acceptor(asyncio.get_running_loop(), _Greets)
        acceptor.hold()
        acceptor.release()  # before there is anything to accept on
        acceptor.hold()
        await acceptor.start("127.0.0.1", 0)
        port = acceptor.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        acceptor.pause()
        acceptor.resume()
        acceptor.shut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        acceptor.reopen()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0)
        assert not acceptor._servers
        acceptor.release()
        assert await reader.readexactly(2) == b"hi"
        writer.close()
        acceptor.close()

    run(main)
