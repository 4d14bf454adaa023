"""A connection that fails for want of something on this host: an answer of its own, and nobody blamed."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from sidecar.config.traffic import Upstream
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.net.shortage import SHORTAGE
from support.live import ANY_PORT, Live, Origin, fetch, ok, run
from support.patience import until
from support.ports import upstream_of

_BREAKER = CircuitBreakerSettings(failure_threshold=1)


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of errors with which the next connections fail."""
    errors: list[int] = []
    dial = SHORTAGE.dial

    async def failing(attempt: Any) -> Any:
        async def one() -> Any:
            if errors:
                number = errors.pop(0)
                raise OSError(number, os.strerror(number))
            return await attempt()

        return await dial(one)

    monkeypatch.setattr(SHORTAGE, "dial", failing)
    return errors


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL])
def test_neither_the_endpoint_nor_the_upstream_is_blamed(lacking: list[int], number: int) -> None:
    async def main() -> None:
        config = upstream_of(name="up", bind=ANY_PORT, circuit_breaker=_BREAKER)
        async with Origin(ok()) as origin, Live(config, origin.port) as live:
            for _ in range(3):
                lacking[:] = [number]
                answer = await fetch(live.port)
                assert (answer.status, answer.error, answer.fields["retry-after"]) == (503, "local_shortage", "1")
                assert os.strerror(number).encode() in answer.body
            (endpoint,) = live.listener.cluster.endpoints
            assert (endpoint.failures, endpoint.ejected_until, live.breaker_states) == (0, 0.0, [])
            assert (await fetch(live.port)).status == 200
            assert live.stats.rejected == {"local_shortage": 3}
            assert live.nothing_left()

    run(main)


def test_a_half_open_breaker_gets_its_permit_back(lacking: list[int]) -> None:
    async def main() -> None:
        config = upstream_of(name="up", bind=ANY_PORT, circuit_breaker=_BREAKER, retry=None)
        async with Origin(ok()) as origin, Live(config, 1) as live:
            assert (await fetch(live.port)).error == "connect_failed"
            live.endpoints(origin.port)
            live.time.advance(61)
            lacking[:] = [errno.EMFILE]
            assert (await fetch(live.port)).error == "local_shortage"
            assert (await fetch(live.port)).status == 200

    run(main)


def test_a_kept_connection_makes_room_for_one_that_is_needed(lacking: list[int]) -> None:
    async def main() -> None:
        config = Upstream(name="up", bind=ANY_PORT)
        async with Origin(ok()) as origin, Live(config, origin.port) as one, Live(config, origin.port) as two:
            assert (await fetch(one.port)).status == 200
            await until(lambda: one.stats.upstream_idle == 1)
            lacking[:] = [errno.EMFILE]
            assert (await fetch(two.port)).status == 200
            assert one.stats.upstream_idle == 0

    run(main)


def test_an_idle_client_makes_room_too_but_not_one_that_has_just_come(lacking: list[int]) -> None:
    async def main() -> None:
        async with Origin(ok()) as origin, Live(Upstream(name="up", bind=ANY_PORT), origin.port) as live:
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            await until(lambda: live.stats.client_connections == 1)
            lacking[:] = [errno.EMFILE]
            assert (await fetch(live.port)).error == "local_shortage"
            live.time.advance(2)
            lacking[:] = [errno.EMFILE]
            assert (await fetch(live.port)).status == 200
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_over_tcp(lacking: list[int]) -> None:
    async def main() -> None:
        config = upstream_of(name="up", bind=ANY_PORT, protocol="tcp", circuit_breaker=_BREAKER)
        async with Origin(ok()) as origin, Live(config, origin.port) as live:
            lacking[:] = [errno.EADDRNOTAVAIL]
            reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
            (endpoint,) = live.listener.cluster.endpoints
            assert (endpoint.failures, live.breaker_states) == (0, [])
            assert live.stats.rejected == {"local_shortage": 1}

    run(main)
