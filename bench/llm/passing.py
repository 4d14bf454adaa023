"""What the sidecar adds: to the first byte, and to each of the pieces of a stream; and whether they stay pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from bench.goals import Goal, quantile
from bench.llm.client import Answer, Client, prompt
from bench.llm.site import Site, upstream
from bench.processes import BenchError

#: Seconds.
GOAL: Final = 0.005
#: Between two tokens of the stream whose pieces are counted, seconds.
APART: Final = 0.02


def added(direct: Sequence[float], through: Sequence[float], share: float) -> float:
    """Seconds that lie between the quantiles of both."""
    return quantile(through, share) - quantile(direct, share)


def compared(what: str, direct: Sequence[float], through: Sequence[float]) -> Iterator[Goal]:
    """A row for the median and one for p99, in which it is said what either takes."""
    for name, share in (("median", 0.5), ("p99", 0.99)):
        more = added(direct, through, share)
        both = f"{quantile(direct, share) * 1000:.2f} → {quantile(through, share) * 1000:.2f} ms"
        yield Goal(f"{what}, {name}", f"{more * 1000:+.2f} ms ({both})", "≤ 5 ms more", more <= GOAL)


def measure(site: Site, requests: int, clauses: int) -> Iterator[Goal]:
    """Six rows."""
    quick = site.server("quick-server", slots=4, load=0, rate=500)
    paced = site.server("paced-server", slots=4, load=0, rate=1 / APART)
    sidecar = site.sidecar("passing-sidecar", quick=upstream(quick.port), paced=upstream(paced.port))
    found = asyncio.run(_first_bytes(quick.port, sidecar.ports["quick"], requests))
    yield from compared(f"first byte of {requests} answers, through it and direct", *found)
    direct, through = asyncio.run(_streams(paced.port, sidecar.ports["paced"], clauses))
    yield _counted("direct", direct, None)
    yield _counted("through it", through, pieces(direct))
    yield from compared("a line's way from the server", delays(direct), delays(through))


def delays(answer: Answer) -> list[float]:
    """How long each line was on its way, seconds."""
    return [arrived - made for made, arrived in answer.lines()]


def pieces(answer: Answer) -> int:
    """In how many pieces the lines arrived."""
    return len({arrived for _, arrived in answer.lines()})


def _counted(what: str, answer: Answer, least: int | None) -> Goal:
    lines, arrived = len(answer.lines()), pieces(answer)
    # The last line may come with the one before it: there is no pause between these.
    met = None if least is None else lines > 0 and arrived >= min(least, lines - 1)
    title = f"lines {APART * 1000:.0f} ms apart, {what}: pieces in which they arrive"
    return Goal(title, f"{arrived} for {lines} lines", "one each, as direct" if least is not None else "", met)


async def _first_bytes(direct: int, through: int, requests: int) -> tuple[list[float], list[float]]:
    """By turns."""
    found: tuple[list[float], list[float]] = ([], [])
    async with Client(direct) as one, Client(through) as two:
        for number in range(requests + 10):
            for client, seconds in zip((one, two), found, strict=True):
                answer = await client.ask(prompt())
                if answer.status != 200:
                    raise BenchError(f"an answer with status {answer.status}")
                if number >= 10:  # the first ones warm up what there is to warm up
                    seconds.append(answer.first)
    return found


async def _streams(direct: int, through: int, clauses: int) -> tuple[Answer, Answer]:
    async with Client(direct) as one, Client(through) as two:
        return await one.ask(prompt(clauses)), await two.ask(prompt(clauses))
