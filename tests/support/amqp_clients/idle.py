"""Connections that do nothing for ten heartbeats, one of each kind of client and all at once, so that it takes ten
seconds once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import aio_pika
import pika
import pytest

from support.amqp_clients.processes import done_by, problems, start_node
from support.amqp_clients.raw import HEARTBEAT, RawClient
from support.rabbitmq import parameters_to

IDLE = 10.5  # seconds: ten heartbeats of one second, the shortest there is


@contextmanager
def idling(port: int) -> Iterator[dict[str, Future[None]]]:
    """What becomes of each. They begin now."""
    kinds: dict[str, Callable[[int], None]] = {
        "raw": _idle_raw, "silent": _silent_raw, "pika": _idle_pika, "aio_pika": _idle_aio_pika, "node": _idle_node,
    }  # fmt: skip
    with ThreadPoolExecutor(len(kinds)) as pool:
        yield {name: pool.submit(kind, port) for name, kind in kinds.items()}


def _idle_raw(port: int) -> None:
    """It sends heartbeats and gets some all the time; neither end gives up."""
    with RawClient(port, heartbeat=1) as client:
        client.open_channel()
        started = last = time.monotonic()
        gaps: list[float] = []
        while time.monotonic() - started < IDLE:
            client.send_heartbeat()
            frame = client.read(0.4)
            if frame is not None:
                assert (frame.kind, frame.channel, frame.payload) == (HEARTBEAT, 0, b"")
                gaps.append(frame.at - last)
                last = frame.at
        assert len(gaps) >= 10
        assert max(gaps) < 2.0  # §4.2.7: then it is taken for dead
        assert client.queue()
        client.close()


def _silent_raw(port: int) -> None:
    """A client that sends nothing for two heartbeats is taken for dead (§4.2.7), though it gets some meanwhile."""
    with RawClient(port, heartbeat=1) as client:
        started = time.monotonic()
        with pytest.raises((EOFError, ConnectionResetError)):
            _read_on(client, IDLE)
        assert 1.5 < time.monotonic() - started < 20


def _read_on(client: RawClient, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.read(1)


def _idle_pika(port: int) -> None:
    connection = pika.BlockingConnection(parameters_to(port, heartbeat=1))
    channel = connection.channel()
    connection.sleep(IDLE)
    assert channel.queue_declare("", exclusive=True).method.queue
    connection.close()


def _idle_aio_pika(port: int) -> None:
    async def main() -> None:
        connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/?heartbeat=1")
        async with connection:
            channel = await connection.channel()
            await asyncio.sleep(IDLE)
            assert (await channel.declare_queue(exclusive=True)).name

    asyncio.run(main())


def _idle_node(port: int) -> None:
    assert problems(done_by(start_node(port, "idle", str(IDLE)))) == {}
