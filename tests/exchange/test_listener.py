"""Binding, counting connections in and out, and the end."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.address import Address
from sidecar.core.limits import Limits
from sidecar.exchange.listener import MAX_REFUSED, ListenerError
from support.live import ANY_PORT, Live, Origin, Request, fetch, ok, read_answer, run, settle
from support.patience import until
from support.ports import upstream_of

_CONFIG = Upstream(name="up", bind=ANY_PORT)


def test_port_0_is_told_after_the_start() -> None:
    async def main() -> None:
        live = Live(_CONFIG)
        async with live:
            assert live.listener.bind == ANY_PORT
            assert live.listener.address.host == "127.0.0.1"
            assert live.listener.address.port > 0
            assert (await fetch(live.port)).error == "no_endpoints"

    run(main)


def test_a_port_in_use() -> None:
    async def main() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            async with Live(_CONFIG) as live:
                live.listener.bind = Address("127.0.0.1", port)
                with pytest.raises(ListenerError) as caught:
                    await live.listener.start()
        assert str(caught.value) == (
            f"up: cannot listen on 127.0.0.1:{port}: Address already in use "
            "(another process listens there; stop it, or choose another bind)"
        )

    run(main)


def test_an_address_of_another_host() -> None:
    async def main() -> None:
        async with Live(_CONFIG) as live:
            live.listener.bind = Address("192.0.2.1", 0)
            with pytest.raises(ListenerError, match=r"192\.0\.2\.1:0: .* \(this host has no such address\)"):
                await live.listener.start()

    run(main)


def test_a_host_that_does_not_exist() -> None:
    async def main() -> None:
        async with Live(_CONFIG) as live:
            live.listener.bind = Address("no-such-host.invalid", 0)
            with pytest.raises(ListenerError, match=r"up: cannot listen on no-such-host\.invalid:0: "):
                await live.listener.start()

    run(main)


def test_ipv6() -> None:
    async def main() -> None:
        async with Live(_CONFIG) as live:
            live.listener.close_socket()
            live.listener.bind = Address("::1", 0)
            try:
                await live.listener.start()
            except ListenerError:
                pytest.skip("this host has no IPv6")
            assert str(live.listener.address) == f"[::1]:{live.port}"
            reader, writer = await asyncio.open_connection("::1", live.port)
            writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
            assert (await read_answer(reader)).error == "no_endpoints"
            assert live.records[0].client == "::1"
            writer.close()

    run(main)


def test_the_longest_idle_connection_makes_room() -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, limits=Limits(connections=2))
        async with Live(config) as live:
            first, first_writer = await asyncio.open_connection("127.0.0.1", live.port)
            _, second_writer = await asyncio.open_connection("127.0.0.1", live.port)
            await until(lambda: live.stats.client_connections == 2)
            assert (await fetch(live.port)).error == "no_endpoints"
            assert await first.read() == b""
            await until(lambda: live.stats.client_connections == 1)
            first_writer.close()
            second_writer.close()
            await until(lambda: live.stats.client_connections == 0)

    run(main)


def test_without_an_idle_one_the_new_one_is_told() -> None:
    async def main() -> None:
        async def never(_: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        config = Upstream(name="up", bind=ANY_PORT, limits=Limits(connections=1))
        async with Origin(never) as origin, Live(config, origin.port) as live:
            busy = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            refused = await fetch(live.port)
            assert (refused.status, refused.error, refused.fields["retry-after"]) == (503, "overloaded", "1")
            assert live.stats.rejected == {"overloaded": 1}
            assert live.stats.requests == {("other", 503): 1}
            assert live.stats.client_connections == 1
            busy.cancel()
            await until(lambda: live.stats.client_connections == 0)

    run(main)


def test_those_that_are_told_so_are_bounded_too_and_end_with_the_listener() -> None:
    async def main() -> None:
        async def never(_: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        config = Upstream(name="up", bind=ANY_PORT, limits=Limits(connections=1))
        async with Origin(never) as origin, Live(config, origin.port) as live:
            busy = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests)
            clients, refused = [], []
            for _ in range(MAX_REFUSED + 2):  # they stay for more
                reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
                clients.append(writer)
                assert (await read_answer(reader)).error == "overloaded"
                refused.append(list(live.listener._refused)[-1])
            assert [it.transport.is_closing() for it in refused] == [True] * 2 + [False] * MAX_REFUSED
            assert list(live.listener._refused) == refused[2:]
            await live.listener.stop()
            await until(lambda: not live.listener._refused)
            for writer in clients:
                writer.close()
            await busy

    run(main)


def test_one_that_does_not_read_its_answer_makes_no_room() -> None:
    """It would stay open when it is not counted any more."""

    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT, limits=Limits(connections=1))
        async with Origin(ok(bytes(2_000_000))) as origin, Live(config, origin.port) as live:
            (listening,) = live.listener._acceptor.sockets  # what it accepts has its options
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            loop = asyncio.get_running_loop()
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
                sock.connect(("127.0.0.1", live.port))
                sock.setblocking(False)
                await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
                await until(lambda: live.stats.active == 1)
                while live.stats.active:
                    assert await loop.sock_recv(sock, 4096)
                (connection,) = live.listener._connections
                assert connection.idle
                assert connection.transport.get_write_buffer_size()
                assert (await fetch(live.port)).error == "overloaded"
                assert live.stats.client_connections == 1
                while await loop.sock_recv(sock, 1 << 20):
                    pass
            await until(lambda: live.stats.client_connections == 0)
            assert (await fetch(live.port)).status == 200

    run(main)


def test_draining_closes_idle_connections_and_waits_for_the_others() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def held(_: Request) -> bytes:
            await gate.wait()
            return ok()

        async with Origin(held) as origin, Live(Inbound(bind=ANY_PORT), origin.port) as live:
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", live.port)
            busy = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests and live.stats.client_connections == 2)
            live.listener.drain()
            assert await idle.read() == b""
            drained = asyncio.ensure_future(live.listener.drained())
            await settle()
            assert not drained.done()
            gate.set()
            assert (await busy).status == 200
            await drained
            idle_writer.close()

    run(main)


def test_stopping_ends_what_is_under_way_and_gives_everything_back() -> None:
    async def main() -> None:
        async def never(_: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        async with Origin(never) as origin, Live(_CONFIG, origin.port) as live:
            idle, idle_writer = await asyncio.open_connection("127.0.0.1", live.port)
            busy = asyncio.ensure_future(fetch(live.port))
            await until(lambda: origin.requests and live.stats.client_connections == 2)
            await live.listener.stop()
            assert (await busy).status == 0
            assert await idle.read() == b""
            await until(live.nothing_left)
            assert live.stats.client_connections == 0
            assert len(live.records) == 1
            assert live.stats.upstream_active == live.stats.upstream_idle == 0
            with pytest.raises(ConnectionRefusedError):
                await fetch(live.port)
            idle_writer.close()

    run(main)


def test_an_idle_connection_is_found_behind_any_number_of_busy_ones() -> None:
    async def main() -> None:
        async def never(_: Request) -> bytes:
            await asyncio.Event().wait()
            return b""

        busy = 100
        config = upstream_of(name="up", bind=ANY_PORT, limits=Limits(connections=busy + 2), bulkhead=None)
        async with Origin(never) as origin, Live(config, origin.port) as live:
            requests = [asyncio.ensure_future(fetch(live.port)) for _ in range(busy)]
            await until(lambda: len(origin.requests) == busy)
            idle = []
            for number in (1, 2):
                idle.append(await asyncio.open_connection("127.0.0.1", live.port))
                await until(lambda wanted=busy + number: live.stats.client_connections == wanted)  # type: ignore[misc]
                live.time.advance(0.1)
            for reader, writer in idle:  # the one that has been idle for longer first
                requests.append(asyncio.ensure_future(fetch(live.port)))
                assert await reader.read() == b""
                writer.close()
                await until(lambda: live.stats.active == len(requests))
                live.time.advance(0.2)
            for request in requests:
                request.cancel()

    run(main, seconds=20)
