"""Redirected connections in a running sidecar; where each was going is what the test says, in the kernel's place."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from sidecar.agent.lifecycle import StartError
from sidecar.agent.redirection import problem
from sidecar.config.errors import ConfigError
from sidecar.core.address import Address
from sidecar.net.original import original_destination
from support.agents import NOBODY, RunningAgent, upstream
from support.configs import config_of
from support.live import Origin, ok, run
from support.patience import PATIENCE, until
from support.processes import free_port

GET = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"


async def fine(request: object) -> bytes:
    return ok()


class Redirecting(RunningAgent):
    """With ports of its own, and a kernel that the test plays."""

    def __init__(self, folder: Path, unknown: str = "pass", **config: Any) -> None:
        self.out = free_port()
        outbound = {"ports": ["1-65535"], "port": self.out, "unknown": unknown}
        super().__init__(folder, redirect={"uid": os.geteuid(), "outbound": outbound}, **config)

    async def dial(self, host: str, port: int, *, finish: bool = False) -> bytes:
        """What comes of a connection that was going there, in the end; raises OSError."""
        for listener in self.agent.redirection.listeners:
            listener.original = lambda sock: (host, port)
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.out)
            try:
                writer.write(GET)
                if finish:
                    writer.write_eof()
                return await reader.read()
            finally:
                writer.close()

    def counted(self) -> dict[str, int]:
        samples = [sample for family in self.agent.redirection.families() for sample in family.samples]
        return {" ".join(labels): int(value) for labels, value in samples}


def test_each_goes_where_it_belongs(tmp_path: Path) -> None:
    async def main() -> None:
        async with Origin(fine) as own, Origin(fine) as other:
            upstreams = {
                "any": upstream(f"127.0.0.1:{other.port}", redirect=["*:7000"]),
                "named": upstream(f"127.0.0.1:{other.port}", redirect=["localhost:7000", "[FD00:0::1]:7000"]),
                "owned": upstream(f"127.0.0.1:{own.port}"),
            }
            async with Redirecting(tmp_path, upstreams=upstreams) as it:
                # By its list, names looked up; by an endpoint, of the first that has it; by a port of any address.
                for host, port, name in (
                    ("127.0.0.1", 7000, "named"), ("fd00::1", 7000, "named"), ("127.0.0.1", own.port, "owned"),
                    ("127.0.0.1", other.port, "any"), ("10.0.0.1", 7000, "any"),
                ):  # fmt: skip
                    assert (await it.dial(host, port)).startswith(b"HTTP/1.1 200")
                    assert it.agent.redirection.belongs(host, port) is it.agent.upstreams[name].listener
                assert it.agent.redirection.belongs("127.0.0.1", 1) is None
                assert it.counted() == {
                    "outbound any handed": 2, "outbound named handed": 2, "outbound owned handed": 1,
                }  # fmt: skip
                assert all(not listener.redirected for listener in it.agent.listeners())
                _, _, page = await it.ask("GET", "/metrics")
                assert b'sidecar_redirected_total{direction="outbound",upstream="any",outcome="handed"} 2' in page
                _, _, body = await it.ask("GET", "/redirect")
                whose = {it["name"]: it["destinations"] for it in json.loads(body)["upstreams"]}
                assert whose["any"] == ["*:7000"]
                assert {"127.0.0.1:7000", "[fd00::1]:7000"} <= {*whose["named"]}
                # A reload with other destinations.
                it.write(upstreams={**upstreams, "any": upstream(NOBODY, redirect=["10.0.0.2:7000"])})
                await it.agent.reload()
                assert it.agent.redirection.belongs("10.0.0.1", 7000) is None
                assert it.agent.redirection.belongs("10.0.0.2", 7000) is it.agent.upstreams["any"].listener
                # The ports themselves are those of the rules.
                it.write(redirect={"uid": os.geteuid(), "outbound": {"ports": [80], "port": it.out}})
                with pytest.raises(ConfigError, match=r"redirect\.outbound\.ports"):
                    await it.agent.reload()

    run(main)


def test_what_belongs_to_nobody_is_passed_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with Origin(fine) as origin, Redirecting(tmp_path, log={"access": "all"}) as it:
            records: list[Any] = []
            it.agent.access_log.record = records.append
            assert (await it.dial("127.0.0.1", origin.port, finish=True)).startswith(b"HTTP/1.1 200")
            await until(lambda: records)
            assert (records[0].upstream, records[0].status) == ("redirect", 200)
            assert records[0].endpoint == records[0].dialled == f"127.0.0.1:{origin.port}"
            with pytest.raises(OSError):  # nobody is there: as the app would see it without us
                await it.dial("127.0.0.1", free_port())
            (stats,) = it.agent.redirection.stats
            assert stats.connect_failures == {"refused": 1}
            assert stats.active == 0
            passed = [{"outcome": "passed", "upstream": "", "count": 2}]
            port = {"direction": "outbound", "bind": f"loopback:{it.out}", "connections": passed}
            assert it.agent.redirection.view() == {"ports": [port], "upstreams": []}

    run(main)


def test_what_belongs_to_nobody_may_be_blocked(tmp_path: Path) -> None:
    async def main() -> None:
        async with Origin(fine) as origin, Redirecting(tmp_path, "block") as it:
            for _ in range(2):
                with pytest.raises(OSError):
                    await it.dial("127.0.0.1", origin.port)
            assert it.counted() == {"outbound  blocked": 2}

    run(main)


def test_a_direct_dial_is_refused_and_so_is_what_its_listener_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        async with Redirecting(tmp_path, upstreams={"a": upstream("127.0.0.1:9")}) as it:
            listener = it.agent.redirection.listeners[0]
            assert listener.original is original_destination
            for host in ("127.0.0.1", "::1"):
                reader, writer = await asyncio.open_connection(host, it.out)
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()
            it.agent.upstreams["a"].listener._acceptor.shut()
            with pytest.raises(OSError):
                await it.dial("127.0.0.1", 9)
            assert it.counted() == {"outbound  refused": 2, "outbound a refused": 1}

    run(main)


def test_inbound_arrives_at_the_inbound_listener(tmp_path: Path) -> None:
    async def main() -> None:
        async with Origin(fine) as app:
            port = free_port()
            config = {
                "service": {"name": "web", "app": f"127.0.0.1:{app.port}"},
                "inbound": {"bind": "127.0.0.1:0"},
                "redirect": {"inbound": {"port": port}},
            }
            async with RunningAgent(tmp_path, **config) as it:
                (listener,) = it.agent.redirection.listeners
                assert it.agent.redirection.stats == []
                listener.original = lambda sock: ("10.0.0.1", app.port)
                await until(lambda: it.agent.inbound.cluster.endpoints)  # type: ignore[union-attr]
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(GET)
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()
                assert it.agent.inbound is not None
                assert sum(it.agent.inbound.stats.requests.values()) == 1

    run(main)


def test_another_user_cannot_serve_it(tmp_path: Path) -> None:
    config = config_of("service: {name: a}\nredirect: {uid: 5, outbound: {ports: [80]}}")
    assert problem(config, 5) == ""
    assert "this runs as user 6" in problem(config, 6)
    assert problem(config_of("service: {name: a}"), 6) == ""

    async def main() -> None:
        other = os.geteuid() + 1
        with pytest.raises(StartError, match=f"redirect.uid is {other}"):
            async with RunningAgent(tmp_path, redirect={"uid": other, "outbound": {"ports": [80]}}):
                pass

    run(main)


def test_the_kernel_s_answer() -> None:
    class Socket:
        def __init__(self, family: int, found: bytes) -> None:
            self.family = family
            self._found = found

        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            assert (option, size) == (80, len(self._found))
            return self._found

        def getsockname(self) -> tuple[object, ...]:
            return ("10.0.0.1", 80)

    v4 = b"\2\0\0\x50" + socket.inet_aton("10.9.0.77") + bytes(8)
    v6 = b"\x0a\0\x1f\x90" + bytes(4) + socket.inet_pton(socket.AF_INET6, "fd00::77") + bytes(4)
    assert original_destination(Socket(socket.AF_INET, v4)) == ("10.9.0.77", 80)
    assert original_destination(Socket(socket.AF_INET6, v6)) == ("fd00::77", 8080)
    own = b"\2\0\0\x50" + socket.inet_aton("10.0.0.1") + bytes(8)
    assert original_destination(Socket(socket.AF_INET, own)) is None
    with socket.socket() as unconnected:
        assert original_destination(unconnected) is None
    assert str(Address(*("fd00::77", 8080))) == "[fd00::77]:8080"
