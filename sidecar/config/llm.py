"""The settings for servers that run language models."""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.config import declared
from sidecar.config.containers import ListOf
from sidecar.config.declared import Settings
from sidecar.config.document import Scalar
from sidecar.config.errors import nearest
from sidecar.config.kinds import Refused, ScalarKind
from sidecar.config.values import Duration, Enum, Integer, Method, RateKey, Size

#: What an upstream may be, as a whole.
PROFILES: Final = ("llm",)


class ModelFrom(ScalarKind):
    """Where a request says which model it is for."""

    allowed = "json:<name>, header:<name>, or path"
    _NAMED = re.compile(r"json:[^\x00-\x20\x7f]{1,64}|header:[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")

    def parse(self, scalar: Scalar) -> str:
        text = scalar.text
        if text == "path":
            return text
        if self._NAMED.fullmatch(text):
            return text.lower() if text.startswith("header:") else text
        raise Refused("does not say where the model stands", nearest=nearest(text, ("json:model", "header:", "path")))

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(path|(json|header):.+)$|\$\{"}


class LlmSettings(Settings):
    """What asks for an answer takes a slot until that has ended: a request with a body. ``first_byte`` and
    ``between_chunks`` stand in place of ``timeout.request`` and ``timeout.idle``."""

    short = "slots"

    slots: int = declared.key(
        Integer(1, 10_000),
        "Answers that are made at once, by all instances together: Ollama's OLLAMA_NUM_PARALLEL times their number.",
        default=4,
    )
    queue: int = declared.key(Integer(0, 10_000), "Most that wait for a slot; 0: none waits.", default=100)
    queue_timeout: float = declared.key(
        Duration(), "The longest that one waits for a slot.", default=300.0, example="5m"
    )
    first_byte: float = declared.key(
        Duration(),
        "From then on, until the head of the answer, a model's loading and other tries included.",
        default=120.0,
        example="2m",
    )
    between_chunks: float = declared.key(
        Duration(zero=True), "The longest silence in the middle of an answer; 0: any.", default=60.0, example="60s"
    )
    heartbeat: float = declared.key(
        Duration(zero=True),
        "A comment goes into an event stream that has been silent for so long, and again after that; 0: none does.",
        default=15.0,
        example="15s",
    )
    model: str = declared.key(
        ModelFrom(), "Where a request says which model it is for: metrics have it.", default="json:model"
    )
    loaded: str | None = declared.key(
        Enum("ollama", "tags"),
        "Which instance is asked first. ollama: one that has the model loaded, as its own API says; tags: only those "
        "that have a tag of the model's name, as long as there are any.",
        default=None,
        example="ollama",
        told="any, by the balancer",
        route="is not for a route: an upstream chooses its instances in one way",
    )
    key: str = declared.key(
        RateKey(),
        "Who takes turns in the queue: what has the same of this. What lacks the header goes by its address.",
        default="header:x-agent-id",
    )
    max_body: int = declared.key(
        Size("1B", "64MiB"),
        "A request with a smaller body waits until that is here, and can be sent again; as much of it is looked into.",
        default=1 << 20,
        example="1MiB",
    )
    repeat: frozenset[str] = declared.key(
        ListOf(Method(), maximum=64, into=frozenset),
        "Methods that may be sent again before an answer has begun, beside retry.methods: a prompt changes nothing.",
        default=frozenset({"POST"}),
        example=["POST"],
    )
