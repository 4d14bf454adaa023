"""How a sidecar leaves: what waits for what."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from sidecar.agent import draining
from sidecar.cli.main import main
from support.agents import RunningAgent, upstream
from support.live import Origin, ok, read_answer, run
from support.patience import until

REQUEST = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"


class Companion:
    """An app that ends when the test says so."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.gone = asyncio.Event()

    def inbound_drained(self) -> None:
        self.told.set()

    async def ended(self) -> None:
        await self.gone.wait()


async def connects(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def test_outbound_goes_on_until_the_app_has_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            app = Companion()
            it.agent.drain()
            leaving = asyncio.create_task(it.agent.run_until_drained(app))
            await app.told.wait()
            listener = it.agent.upstreams["a"].listener
            assert not listener.draining
            assert not leaving.done()
            app.gone.set()
            await leaving
            assert listener.draining

    run(main)


def test_an_app_that_ends_early_is_not_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        service, inbound = {"name": "web", "app": "127.0.0.1:9"}, {"bind": "127.0.0.1:0"}
        async with RunningAgent(tmp_path, service=service, inbound=inbound, drain={"delay": "1h"}) as it:
            app = Companion()
            app.gone.set()
            it.agent.drain()
            await it.agent.run_until_drained(app)

    run(main)


async def fine(request: object) -> bytes:
    return ok()


async def kept(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has been used, and rests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    assert (await read_answer(reader)).status == 200
    return reader, writer


@pytest.mark.parametrize("uses", [True, False])
def test_a_connection_that_rests_is_not_closed_under_a_request(
    uses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who uses it is told; who does not is sent away in the end."""
    if not uses:
        monkeypatch.setattr(draining, "LINGER", 0.05)

    async def main() -> None:
        async with Origin(fine) as origin:
            service = {"name": "web", "app": f"127.0.0.1:{origin.port}"}
            async with RunningAgent(tmp_path, service=service, inbound={"bind": "127.0.0.1:0"}) as it:
                listener = it.agent.inbound
                assert listener is not None
                reader, writer = await kept(listener.address.port)
                it.agent.drain()
                leaving = asyncio.create_task(it.agent.run_until_drained())
                await until(lambda: listener.draining)
                if uses:
                    assert not reader.at_eof()
                    writer.write(REQUEST)
                    answer = await read_answer(reader)
                    assert (answer.error, answer.fields["connection"]) == ("draining", "close")
                assert await reader.read() == b""
                writer.close()
                await leaving

    run(main)


def test_new_requests_are_taken_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[tuple[float, bool]] = []

    async def main() -> None:
        service, inbound = {"name": "web", "app": "127.0.0.1:9"}, {"bind": "127.0.0.1:0"}
        async with RunningAgent(tmp_path, service=service, inbound=inbound, drain={"delay": "7s"}) as it:
            listener = it.agent.inbound
            assert listener is not None

            async def sleep(seconds: float) -> None:
                slept.append((seconds, listener.draining))

            monkeypatch.setattr("asyncio.sleep", sleep)
            it.agent.drain()
            await it.agent.run_until_drained()
            monkeypatch.undo()
            assert listener.draining

    run(main)
    assert slept == [(7.0, False)]


def test_it_waits_until_nothing_listens_where_the_app_was(tmp_path: Path) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with RunningAgent(
            tmp_path,
            service={"name": "web", "app": f"127.0.0.1:{port}"},
            inbound={"bind": "127.0.0.1:0"},
            upstreams={"a": upstream()},
            drain={"outbound": "until_app_ends", "timeout": "5m"},
        ) as it:
            it.agent.drain()
            leaving = asyncio.create_task(it.agent.run_until_drained())
            for _ in range(20):  # it would have ended by now
                assert await connects(it.port("a"))
            listener = it.agent.upstreams["a"].listener
            assert not listener.draining
            _, writer = await asyncio.open_connection("127.0.0.1", it.port("a"))
            await until(lambda: listener.stats.client_connections > 0)
            server.close()
            for _ in range(3):  # its port is closed, and it still has something to say
                await asyncio.sleep(draining.LOOK)
            assert not listener.draining
            writer.close()
            await leaving

    run(main)


@pytest.mark.parametrize("ends", [True, False])
def test_who_waits_for_the_drain_ends_the_app_next(ends: bool, tmp_path: Path) -> None:
    """What it dials is served until it has gone, or for drain.app."""

    async def main() -> None:
        release = asyncio.Event()

        async def slow(request: object) -> bytes:
            await release.wait()
            return ok()

        async with contextlib.AsyncExitStack() as stack:
            origin = await stack.enter_async_context(Origin(slow))
            async with RunningAgent(
                tmp_path,
                service={"name": "web", "app": f"127.0.0.1:{origin.port}"},
                inbound={"bind": "127.0.0.1:0"},
                upstreams={"a": upstream()},
                drain={"timeout": "5m" if ends else "1s", "app": "5m" if ends else "1s"},
            ) as it:
                inbound = it.agent.inbound
                assert inbound is not None
                reader, writer = await asyncio.open_connection("127.0.0.1", inbound.address.port)
                writer.write(REQUEST)
                await until(lambda: inbound.stats.active > 0)
                waiting = asyncio.create_task(draining.drain_inbound(it.agent, "a hook"))
                leaving = asyncio.create_task(it.agent.run_until_drained())
                await until(lambda: inbound.draining)
                assert not waiting.done()
                release.set()
                assert (await read_answer(reader)).status == 200
                writer.close()
                await waiting
                await draining.drain_inbound(it.agent, "another")  # who asks again is told the same
                assert not it.agent.upstreams["a"].listener.draining
                assert not leaving.done()
                if ends:
                    await stack.aclose()
                await leaving
                assert it.agent.upstreams["a"].listener.draining

    run(main)


def test_without_an_inbound_port_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with RunningAgent(tmp_path, upstreams={"a": upstream()}) as it:
            await draining.drain_inbound(it.agent, "a hook")
            assert it.agent.phase == "ready"

    run(main)


def test_who_waits_for_the_app_has_to_know_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text("service: {name: a}\ndrain: {outbound: until_app_ends}\n")
    assert main(["check", str(file)]) == 2
    assert "drain.outbound: cannot be seen without inbound and service.app" in capsys.readouterr().err
