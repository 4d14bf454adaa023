"""Whether a model that is being loaded is taken for a server that is dead: breaker openings meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

from bench.goals import Goal
from bench.llm.client import Client, prompt
from bench.llm.site import Site, upstream
from bench.sidecars import Running


class Cold:
    """A load that takes ``seconds``. There are clients that wait for it, and such as are given up long before."""

    def __init__(self, site: Site, seconds: float) -> None:
        self.seconds = seconds
        server = site.server("cold-server", slots=16, load=seconds, rate=200)
        patient = upstream(server.port, first_byte=f"{2 * seconds:g}s")
        hurried = upstream(server.port, first_byte=f"{max(0.2, seconds / 8):g}s", slots=8)
        self._sidecar: Running = site.sidecar("cold-sidecar", patient=patient, hurried=hurried)

    async def run(self) -> tuple[Counter[int], Counter[int], float]:
        """The statuses of both, and how long it took."""
        began = time.monotonic()
        patient: Counter[int] = Counter()
        hurried: Counter[int] = Counter()

        async def wait(agent: int) -> None:
            async with Client(self._sidecar.ports["patient"], f"agent-{agent}") as client:
                patient[(await client.ask(prompt())).status] += 1

        async def hurry(agent: int) -> None:
            async with Client(self._sidecar.ports["hurried"], f"agent-{agent}") as client:
                while 200 not in hurried and time.monotonic() < began + 2 * self.seconds:
                    hurried[(await client.ask(prompt())).status] += 1

        first = [asyncio.create_task(wait(it)) for it in range(4)]
        await asyncio.sleep(0.2)  # they make the server load it
        await asyncio.gather(*first, *[wait(it) for it in range(4, 24)], *map(hurry, range(8)))
        return patient, hurried, time.monotonic() - began

    def goals(self, found: tuple[Counter[int], Counter[int], float]) -> Iterator[Goal]:
        """Two rows, of what :meth:`run` has found."""
        patient, hurried, took = found
        opened = len(self._sidecar.events("breaker"))
        late = hurried[504]
        yield Goal(
            f"breaker openings while a model loads for {self.seconds:g} s, {late} requests timing out", str(opened),
            "0", opened == 0 and late >= 5,
        )  # fmt: skip
        told = ", ".join(f"{count} × {status or 'none'}" for status, count in sorted(patient.items()))
        yield Goal(f"24 requests that wait for it, {took:.0f} s", told, "24 × 200", patient == {200: 24})
