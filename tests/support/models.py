"""An upstream that runs language models, in the hands of a test."""

from __future__ import annotations

import json
from typing import Any

from sidecar.config.llm import LlmSettings
from sidecar.filters.llm import Llm
from support.http import Client, Message, Server, Stage

PROMPT = json.dumps({"model": "llama3.2", "prompt": "hi"}).encode()
EVENTS = ("content-type: text/event-stream", "transfer-encoding: chunked")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Models(Stage):
    """An upstream that runs models."""

    def __init__(self, *, endpoints: int = 1, more: dict[str, Any] | None = None, **own: Any) -> None:
        super().__init__(llm=LlmSettings(**{"slots": 1, **own}), endpoints=endpoints, why=True, **(more or {}))

    @property
    def llm(self) -> Llm:
        return self.filter(Llm)

    def prompts(self, agent: str = "a", body: bytes = PROMPT) -> Client:
        return self.asks("POST /api/generate", f"x-agent-id: {agent}", body=body)

    def begins(self, server: Server, *fields: str) -> None:
        """The head of a streamed answer."""
        server.says("\r\n".join(["HTTP/1.1 200 x", *(fields or EVENTS), "", ""]).encode())

    def answered(self, client: Client, status: int = 200, body: bytes = b"ok", *fields: str) -> Message:
        server = self.upstream()
        server.hears()
        server.answers(status, body, *fields)
        self.loop.settle()
        return client.gets()

    @property
    def state(self) -> tuple[int, int]:
        """How many slots are used, and how many wait, which the metrics say, too."""
        stats = self.stats.llm
        assert stats is not None
        assert (stats.used, stats.waiting) == (self.llm.limiter.active, self.llm.limiter.pending)
        return stats.used, stats.waiting
