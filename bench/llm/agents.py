"""Whether the slots are shared fairly: 24 agents ask again and again, one of them for many answers at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Final

from bench.goals import Goal
from bench.llm.client import Client, prompt
from bench.llm.site import Site, upstream

AGENTS: Final = 24
#: What one of them asks for at once; the others wait for each answer.
GREEDY: Final = 40
GOAL: Final = 1.3


def share(served: Mapping[str, int]) -> float:
    """The most that one agent was served, of the least."""
    return max(served.values()) / max(1, min(served.values()))


def measure(site: Site, seconds: float) -> Iterator[Goal]:
    """Two rows."""
    server = site.server("agents-server", slots=4, load=0, rate=200)
    sidecar = site.sidecar("agents-sidecar", agents=upstream(server.port))
    yield from shares(asyncio.run(ask(sidecar.ports["agents"], seconds, prompt())))


def shares(found: tuple[Mapping[str, int], int]) -> Iterator[Goal]:
    """What :func:`ask` has found, as rows."""
    served, refused = found
    total = sum(served.values())
    span = f"{min(served.values())} to {max(served.values())} of {total}; the greedy one {served['agent-0']}"
    yield Goal(
        f"{AGENTS} agents at 4 slots, one with {GREEDY} at once: most served / least",
        f"{share(served):.2f} ({span})",
        f"≤ {GOAL}",
        share(served) <= GOAL,
    )
    yield Goal("of them refused or failed", str(refused), "0", refused == 0)


async def ask(port: int, seconds: float, body: bytes, path: str = "/api/generate") -> tuple[dict[str, int], int]:
    """Have them ask for that again and again; how often each was served, and how often one was not."""
    served = dict.fromkeys([f"agent-{number}" for number in range(AGENTS)], 0)
    refused = 0
    end = time.monotonic() + seconds

    async def be(agent: str) -> None:
        nonlocal refused
        async with Client(port, agent, path) as client:
            while time.monotonic() < end:
                answer = await client.ask(body)
                well = answer.status == 200 and answer.whole
                refused += not well
                if time.monotonic() < end:
                    served[agent] += well

    agents = [*served, *["agent-0"] * (GREEDY - 1)]
    await asyncio.gather(*map(be, agents))
    return served, refused
