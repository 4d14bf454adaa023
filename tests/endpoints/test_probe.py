from __future__ import annotations

import socket
import time

from sidecar.endpoints.endpoint import Endpoint
from sidecar.endpoints.probe import MOST, probe
from support.live import run


def test_without_endpoints_it_is_unhealthy() -> None:
    async def main() -> None:
        assert (await probe((), 1.0)).status == "unhealthy"

    run(main)


def test_of_many_endpoints_some_are_asked() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel takes the connections
            port = server.getsockname()[1]
            found = await probe([Endpoint("127.0.0.1", port) for _ in range(100)], 1.0)
        assert found.status == "healthy"
        assert found.output == f"{MOST} of {MOST} endpoints (of 100 that are known) take connections"

    run(main)


def test_names_that_cannot_be_names_and_silence_are_failures() -> None:
    async def main() -> None:
        began = time.monotonic()
        found = await probe([Endpoint("x" * 70 + ".test", 1), Endpoint("127.0.0.1", 9)], 0.5)
        assert found.status == "unhealthy"
        assert found.output.startswith("0 of 2 endpoints take connections; ")
        assert "there is no such name (1)" in found.output
        assert time.monotonic() - began < 30

    run(main)
