"""Whatever happens to exchanges, everything that was taken is given back: slots, permits, connections, counts.

Clients and servers behave at random (with a seed); what is checked holds for every order of events.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from dataclasses import replace

import pytest

from sidecar.config.traffic import Upstream
from sidecar.filters.bulkhead import BulkheadSettings
from sidecar.filters.circuit_breaker import CircuitBreakerSettings
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.filters.retry import RetrySettings
from sidecar.filters.timeout import TimeoutSettings
from sidecar.resilience.breaker import CLOSED
from support.live import ANY_PORT, Live, fetch, ok, run
from support.patience import until
from support.ports import upstream_of
from support.processes import free_port

_HTTP = upstream_of(
    name="up",
    bind=ANY_PORT,
    timeout=TimeoutSettings(request=3.0, idle=2.0, connect=1.0),
    retry=RetrySettings(initial_delay=0.2, on=frozenset({"connect", "reset", "timeout", "5xx"})),
    circuit_breaker=CircuitBreakerSettings(
        failure_threshold=4, timeout_duration=1.0, reset_timeout=1.0, half_open_requests=2
    ),
    bulkhead=BulkheadSettings(max_connections=6, max_requests=6, max_pending=5, pending_timeout=1.0),
    rate_limit=RateLimitSettings(rate=200.0, burst=20),
)
_TCP = replace(_HTTP, protocol="tcp")


class Moody:
    """A server that answers, stalls, resets, or breaks off, at random."""

    def __init__(self, rng: random.Random) -> None:
        self.port = 0
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Moody:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            mood = self._rng.random()
            if mood < 0.05:
                reset(writer)
                return
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if length is not None and mood < 0.9:  # else it answers early, and takes the rest for another head
                await reader.readexactly(int(length[1]))
            if mood < 0.15:
                await asyncio.Event().wait()
            elif mood < 0.25:
                reset(writer)
                return
            elif mood < 0.35:
                writer.write(ok(b"12345")[:-3])
                return
            elif mood < 0.5:
                writer.write(ok(status="503 no"))
            elif mood < 0.55:
                writer.write(b"nonsense\r\n\r\n")
            elif mood < 0.6:
                writer.write(ok(b"", "connection: close"))
                return
            else:
                await asyncio.sleep(self._rng.random() * 0.01)
                writer.write(ok())


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def client(port: int, rng: random.Random) -> None:
    """One request, perhaps not waited for."""
    call = asyncio.ensure_future(
        fetch(port, method=rng.choice(["GET", "POST"]), body=bytes(rng.choice([0, 10, 100_000])))
    )
    if rng.random() < 0.3:
        await asyncio.sleep(rng.random() * 0.02)
        call.cancel()
    try:
        await call
    except (asyncio.CancelledError, OSError):
        pass


@pytest.mark.parametrize("config", [_HTTP, _TCP], ids=["http", "tcp"])
@pytest.mark.parametrize("seed", range(3))
def test_everything_is_given_back(config: Upstream, seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        async with Moody(rng) as one, Moody(rng) as two, Live(config, one.port, two.port, free_port()) as live:
            clients: set[asyncio.Task[None]] = set()
            for _ in range(250):
                clients.add(asyncio.ensure_future(client(live.port, rng)))
                live.time.advance(rng.random() * 0.1)
                await asyncio.sleep(0.001)
                assert live.stats.active - live.stats.pending <= 6 + 1  # one may be between its slot and its end
            for _ in range(100):  # longer than any time that is configured
                live.time.advance(0.1)
                await asyncio.sleep(0.001)
            await until(lambda: all(c.done() for c in clients), "every client got an end")
            await until(live.nothing_left, "everything was given back")
            stats = live.stats
            assert stats.client_connections == 0
            assert sum(stats.requests.values()) == len(live.records)
            assert stats.duration.count() <= len(live.records)  # those that had a try
            (breaker,) = live.listener.breakers
            live.time.advance(2)
            for _ in range(2):  # as many as half_open_requests, if none of their permits was lost
                token = breaker.allow()
                assert token, "no permit of a half-open breaker was lost"
                breaker.success(token)
            assert breaker.state == CLOSED

    run(main, 20)
