"""Upstreams that were taken out of service while the sidecar runs on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from sidecar.agent.clusters import RunningUpstream
from sidecar.exchange.listener import Listener


class Retirement:
    """What is under way on them is given some time, in the background."""

    def __init__(self) -> None:
        self._finishing: dict[asyncio.Task[None], Listener] = {}

    def add(self, upstream: RunningUpstream, seconds: float) -> None:
        """Take an upstream out of service; what is under way on it has so long to finish."""
        upstream.leave()
        upstream.listener.close_socket()
        upstream.listener.drain()
        task = asyncio.get_running_loop().create_task(_finish(upstream.listener, seconds))
        self._finishing[task] = upstream.listener
        task.add_done_callback(lambda _: self._finishing.pop(task))

    def end(self) -> Sequence[Listener]:
        """Wait for none of them any longer; those that are still to be stopped."""
        for task in self._finishing:
            task.cancel()
        return tuple(self._finishing.values())


async def _finish(listener: Listener, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await listener.drained()
    await listener.stop()
