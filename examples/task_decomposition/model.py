"""A language model's steps for a task, by way of Ollama's API at a port of 127.0.0.1.

There may be none to be had: Ollama is away, its breaker is open, all its slots are taken, it is too slow. The sidecar
finds that out and answers ``{"mode": "simple"}`` in its place, or cuts what takes too long. All that this program knows
of it is that it then goes on without a model, and says so in its answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import aiohttp

PROMPT = """Split the task into steps, one on a line, in an order in which they can be done. Behind each write
(needs N, M) with the numbers of the lines that it waits for, or (needs nothing). Write nothing else.
Task: """
#: An answer is read as far as this.
MAX_ANSWER = 64 * 1024


class NoModel(Exception):
    """There is no answer of a model; why."""


class Model:
    def __init__(self, session: aiohttp.ClientSession, url: str, name: str) -> None:
        self._session = session
        self._url = url
        self._name = name

    async def steps(self, task: str, patience: str, context: Mapping[str, str]) -> str:
        """The lines that it writes. ``patience`` is ``now`` where somebody waits for the answer and ``queued`` where
        nobody does: the sidecar's routes go by it. Raises NoModel."""
        asked = {"model": self._name, "prompt": PROMPT + task, "stream": True}
        try:
            async with self._session.post(
                f"{self._url}/api/generate", json=asked, headers={**context, "x-patience": patience}
            ) as answer:
                return await _read(answer)
        except aiohttp.ClientPayloadError as error:
            raise NoModel("it had begun, and was cut off for being too slow, or ended") from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is among them
            raise NoModel(str(error) or type(error).__name__) from error


async def _read(answer: aiohttp.ClientResponse) -> str:
    """The text of a stream of tokens, once it is whole."""
    if answer.status != 200:
        raise NoModel(f"status {answer.status}, {answer.headers.get('x-sidecar-error', 'of Ollama itself')}")
    text, size = [], 0
    async for line in answer.content:
        size += len(line)
        if size > MAX_ANSWER:
            raise NoModel(f"it wrote more than {MAX_ANSWER} bytes")
        try:
            told = json.loads(line)
        except ValueError as error:
            raise NoModel("what it wrote is not JSON") from error
        if told.get("mode") == "simple":
            raise NoModel("it is away, busy or too slow")
        text.append(str(told.get("response", "")))
        if told.get("done"):
            return "".join(text)
    raise NoModel("its answer broke off")
