"""Dialling addresses that answer, refuse, or say nothing."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from sidecar.endpoints.endpoint import Endpoint
from sidecar.net import dial
from support.live import run
from support.patience import until
from support.silent import Silent

DELAY = 0.02


class Accepting:
    """An address that accepts."""

    def __init__(self, host: str, port: int = 0) -> None:
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind((host, port))
        self._listening.listen(16)
        self.port: int = self._listening.getsockname()[1]

    def close(self) -> None:
        self._listening.close()


class Caller(asyncio.Protocol):
    """Dials, and notes what it hears."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.heard: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.heard.append("made")

    async def dial(self, endpoint: Endpoint, *beside: Endpoint, delay: float = DELAY) -> str:
        loop = asyncio.get_running_loop()
        await dial.dial(loop, self, endpoint, beside, delay, self.blamed, self.chosen)
        assert self.transport is not None
        host: str = self.transport.get_extra_info("peername")[0]
        self.transport.abort()
        return host

    def blamed(self, endpoint: Endpoint, error: OSError | None) -> None:
        self.heard.append((endpoint.host, None if error is None else type(error).__name__))

    def chosen(self, endpoint: Endpoint) -> None:
        self.heard.append(endpoint.host)


@pytest.fixture
def good() -> Iterator[Accepting]:
    it = Accepting("127.0.3.1")
    yield it
    it.close()


@pytest.fixture
def silent(good: Accepting) -> Iterator[Silent]:
    it = Silent("127.0.3.2", good.port)
    yield it
    it.close()


def test_one_address(good: Accepting) -> None:
    async def main() -> None:
        caller = Caller()
        assert await caller.dial(Endpoint("127.0.3.1", good.port)) == "127.0.3.1"
        assert caller.heard == ["made"]

    run(main)


def test_one_address_that_refuses(good: Accepting) -> None:
    async def main() -> None:
        caller = Caller()
        with pytest.raises(ConnectionRefusedError):
            await caller.dial(Endpoint("127.0.3.9", good.port))
        assert caller.heard == []

    run(main)


def test_the_first_of_several(good: Accepting) -> None:
    async def main() -> None:
        caller = Caller()
        first, other = Endpoint("127.0.3.1", good.port), Endpoint("127.0.3.9", good.port)
        assert await caller.dial(first, other, delay=5.0) == "127.0.3.1"
        assert caller.heard == ["made"]

    run(main)


def test_the_next_follows_a_refusal_at_once(good: Accepting) -> None:
    async def main() -> None:
        caller = Caller()
        refusing = [Endpoint(f"127.0.3.{i}", good.port) for i in (8, 9)]
        assert await caller.dial(*refusing, Endpoint("127.0.3.1", good.port), delay=30.0) == "127.0.3.1"
        refused = "ConnectionRefusedError"
        assert caller.heard == [("127.0.3.9", refused), ("127.0.3.8", refused), "127.0.3.1", "made"]

    run(main)


def test_the_next_is_tried_beside_a_silent_one(good: Accepting, silent: Silent) -> None:
    async def main() -> None:
        caller = Caller()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        found = await caller.dial(Endpoint("127.0.3.2", good.port), Endpoint("127.0.3.1", good.port))
        assert loop.time() - begun >= DELAY * 0.9  # the loop's clock counts milliseconds
        assert found == "127.0.3.1"
        assert caller.heard == [("127.0.3.2", None), "127.0.3.1", "made"]

    run(main)


def test_nobody_is_blamed_who_had_no_time(good: Accepting, silent: Silent) -> None:
    """The silent one is tried only because another one refused, and loses to the next at once."""

    async def main() -> None:
        caller = Caller()
        refusing, late = Endpoint("127.0.3.9", good.port), Endpoint("127.0.3.8", good.port)
        loop = asyncio.get_running_loop()
        # A clock of the loop's that stands still: whatever the machine does, nothing was silent for any time.
        still = loop.time()
        asked = _StillLoop(loop, still)
        beside = (Endpoint("127.0.3.2", good.port), late, Endpoint("127.0.3.1", good.port))
        await dial.dial(asked, caller, refusing, beside, DELAY, caller.blamed, caller.chosen)  # type: ignore[arg-type]
        assert ("127.0.3.2", None) not in caller.heard
        assert caller.transport is not None
        caller.transport.abort()

    run(main)


class _StillLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._loop = loop
        self._now = now

    def time(self) -> float:
        return self._now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_all_fail(good: Accepting) -> None:
    """The error is that of the one that was asked for; the others are blamed."""

    async def main() -> None:
        caller = Caller()
        with pytest.raises(ConnectionRefusedError):
            await caller.dial(*(Endpoint(f"127.0.3.{i}", good.port) for i in (7, 8, 9)))
        assert caller.heard == [(f"127.0.3.{i}", "ConnectionRefusedError") for i in (8, 9)]

    run(main)


def test_a_name_with_many_dead_addresses_is_no_storm(good: Accepting) -> None:
    async def main() -> None:
        caller = Caller()
        with pytest.raises(ConnectionRefusedError):
            await caller.dial(*(Endpoint(f"127.0.3.{i}", good.port) for i in range(100, 164)))
        assert len(caller.heard) == dial.MOST - 1

    run(main)


def test_giving_up_closes_all_attempts(good: Accepting, silent: Silent) -> None:
    other = Silent("127.0.3.3", good.port)

    async def main() -> None:
        caller = Caller()
        loop = asyncio.get_running_loop()
        before = len(asyncio.all_tasks())
        task = loop.create_task(caller.dial(Endpoint("127.0.3.2", good.port), Endpoint("127.0.3.3", good.port)))
        await until(lambda: len(asyncio.all_tasks()) == before + 3)
        task.cancel()
        await asyncio.wait({task})
        await until(lambda: len(asyncio.all_tasks()) == before)
        assert caller.heard == []

    run(main)  # warnings are errors: a socket that is left open is one
    other.close()


@pytest.mark.skipif(not dial.__file__.endswith(".py"), reason="compiled: its functions cannot be replaced")
def test_what_this_host_lacks_is_nobodys_fault(good: Accepting, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = dial._attempt

    async def lacking(loop: asyncio.AbstractEventLoop, endpoint: Endpoint) -> socket.socket:
        if endpoint.host == "127.0.3.1":
            return await attempt(loop, endpoint)
        raise OSError(errno.EMFILE, "too many files")

    monkeypatch.setattr(dial, "_attempt", lacking)

    async def main() -> None:
        caller = Caller()
        lost = [Endpoint(f"127.0.3.{i}", good.port) for i in (8, 9)]
        assert await caller.dial(*lost, Endpoint("127.0.3.1", good.port)) == "127.0.3.1"
        assert caller.heard == ["127.0.3.1", "made"]
        with pytest.raises(OSError, match="too many files"):
            await caller.dial(*lost)

    run(main)


def test_both_families() -> None:
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = listening.getsockname()[1]

    async def main() -> None:
        caller = Caller()
        assert await caller.dial(Endpoint("127.0.0.1", port), Endpoint("::1", port), delay=5.0) == "::1"
        sock = await dial.connect([("127.0.0.1", port), ("::1", port)])
        assert sock.family == socket.AF_INET6
        sock.close()

    run(main)
    listening.close()


def test_the_pace_leaves_time_for_a_second_address() -> None:
    assert [dial.pace(seconds) for seconds in (10.0, 1.0, 0.2, 0.001)] == [0.25, 0.25, 0.1, 0.01]
