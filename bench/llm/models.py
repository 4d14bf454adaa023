"""Two instances, each with a model of its own: who is asked for which, and what comes of it when one is killed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from bench.goals import Goal
from bench.llm.client import Answer, Client, prompt
from bench.llm.site import Server, Site, upstream
from bench.sidecars import wait

MODELS: Final = ("one", "two")
GOAL: Final = 0.99
#: Seconds that a model takes to load.
LOAD: Final = 1.0


class Seen(NamedTuple):
    """An answer: for which model; when it was asked for, and had ended or was given up (seconds of the machine's
    clock)."""

    model: str
    asked: float
    ended: float
    answer: Answer


class After(NamedTuple):
    """Of the requests for the model whose instance is gone: those answered, those that failed before their first byte,
    those that were cut in their answer; and seconds until the first one was answered that was asked for after that."""

    answered: int
    failed: int
    cut: int
    again: float


def after(seen: Sequence[Seen], killed: float, model: str) -> After:
    """What became of those that were under way then, or came later."""
    those = [it for it in seen if it.model == model and it.ended >= killed]
    whole = [it for it in those if it.answer.whole and it.answer.status == 200]
    cut = sum(bool(it.answer.pieces) and not it.answer.whole and it.answer.status == 200 for it in those)
    again = [it.ended - killed for it in whole if it.asked >= killed]
    return After(len(whole), len(those) - len(whole) - cut, cut, min(again, default=float("inf")))


def measure(site: Site, seconds: float) -> Iterator[Goal]:
    """Three rows."""
    servers = [site.server(f"model-{it}", slots=2, load=LOAD, rate=200, models=list(MODELS)) for it in MODELS]
    for server, model in zip(servers, MODELS, strict=True):
        asyncio.run(_load(server, model))
    sidecar = site.sidecar("models-sidecar", both=upstream(*(it.port for it in servers), loaded="ollama"))
    wait(
        lambda: all(json.dumps(sidecar.upstream("both")["endpoints"]).count(f'"{it}') for it in MODELS),
        "it is known who has which model", sidecar.process,
    )  # fmt: skip
    port = sidecar.ports["both"]
    before = [it.told()["asked"] for it in servers]
    asyncio.run(_ask(port, seconds))
    own, all_of_them = _owned(servers, before)
    found = f"{own / max(1, all_of_them):.2%} ({own} of {all_of_them})"
    yield Goal("two instances: requests to the one that has their model", found, "≥ 99 %", own >= GOAL * all_of_them)
    seen, killed = asyncio.run(_ask(port, seconds, servers[0]))
    it = after(seen, killed, MODELS[0])
    yield Goal(
        "one is killed: requests for its model that fail before their first byte",
        f"{it.failed} of {it.answered + it.failed + it.cut}; {it.cut} cut in their answer", "0", it.failed == 0,
    )  # fmt: skip
    yield Goal(
        "the other one answers them", f"after {it.again:.1f} s, {LOAD:g} s of which are a load", "yes", it.answered > 0
    )


def _owned(servers: Sequence[Server], before: Sequence[dict[str, int]]) -> tuple[int, int]:
    """How many requests came to the instance that has their model, and how many there were."""
    own = total = 0
    for server, model, earlier in zip(servers, MODELS, before, strict=True):
        asked = {it: count - earlier.get(it, 0) for it, count in server.told()["asked"].items()}
        own += asked.get(model, 0)
        total += sum(asked.values())
    return own, total


async def _load(server: Server, model: str) -> None:
    async with Client(server.port) as client:
        await client.ask(prompt(model=model))


async def _ask(port: int, seconds: float, victim: Server | None = None) -> tuple[list[Seen], float]:
    """Two clients for each model; a third into it, the victim is killed. When that was, too."""
    seen: list[Seen] = []
    began = time.monotonic()

    async def one(model: str, number: int) -> None:
        async with Client(port, f"{model}-{number}") as client:
            while (asked := time.monotonic()) < began + seconds:
                answer = await client.ask(prompt(2, model))
                seen.append(Seen(model, asked, time.monotonic(), answer))

    asking = asyncio.gather(*[one(model, number) for model in MODELS for number in range(2)])
    killed = began
    if victim is not None:
        await asyncio.sleep(seconds / 3)
        killed = time.monotonic()
        victim.process.kill()
    await asking
    return seen, killed
