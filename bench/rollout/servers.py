"""``python -m bench.rollout.servers PORT=ERRORS,SPREAD…``: versions of a service, one at each port.

A version fails for a share of its requests (500), and has a tail of latencies that is exponential, as of a server with
a queue: it answers nine tenths after 40 ms, and SPREAD seconds lie between p90, which is at 100 ms, and p99. So have
those of ``python -m sidecar.simulate canary``.
"""

from __future__ import annotations

import asyncio
import random
import sys
from functools import partial
from math import log
from typing import Final

from sidecar.simulate.scenarios.canary import Version

QUICK: Final = 0.040
SLOW: Final = 0.100
_TAIL: Final = 0.1


def seconds_of(version: Version, rng: random.Random) -> float:
    """How long an answer takes."""
    if rng.random() >= _TAIL:
        return QUICK
    return SLOW - version.spread / log(10) * log(1 - rng.random())


class Served(asyncio.Protocol):
    """A connection of a version; requests have no bodies, and one is under way at a time."""

    def __init__(self, version: Version, rng: random.Random) -> None:
        self._version, self._rng = version, rng
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(b"\r\n\r\n"):
            self._data = b""
            asyncio.get_running_loop().call_later(seconds_of(self._version, self._rng), self._answer)

    def _answer(self) -> None:
        assert self._transport is not None
        status = b"500 Failed" if self._rng.random() < self._version.errors else b"200 OK"
        self._transport.write(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\nok" % status)


async def main(arguments: list[str]) -> None:
    loop = asyncio.get_running_loop()
    for it in arguments:
        port, _, given = it.partition("=")
        version = Version(*map(float, given.split(",")))
        rng = random.Random()
        made = partial(Served, version, rng)
        await loop.create_server(made, "127.0.0.1", int(port), backlog=1024)
    await loop.create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
