"""The settings of a fallback: its steps, and what makes one of them wrong by itself."""

from __future__ import annotations

from typing import Any, Final

from sidecar.config.containers import ListOf, MapOf
from sidecar.config.declared import Settings, key, section
from sidecar.config.document import Node, Scalar
from sidecar.config.kinds import Place
from sidecar.config.values import HEADER, NAME, Duration, Failure, Integer, Text

#: Codes of the sidecar's own that steps go by; those of the client's own mistakes are not among them.
CODES: Final = (
    "no_endpoints", "circuit_open", "overloaded", "rate_limited", "connect_failed", "connect_timeout", "timeout",
    "upstream_reset", "bad_upstream", "local_shortage", "filter_failed", "fault_injected",
)  # fmt: skip
#: The longest body of a static answer, characters.
MOST_BODY: Final = 65536


class Steps(ListOf):
    """A list of steps, or ``off``, which is none."""

    def read(self, node: Node, at: Place) -> Any:
        if isinstance(node, Scalar) and node.text.lower() in ("off", "false", "no"):
            return []
        return super().read(node, at)

    def show(self, value: Any) -> Any:
        return [self.item.show(item) for item in value] if value else "off"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [super().schema(), {"enum": ["off", False]}]}


class AnswerSettings(Settings):
    """A whole answer."""

    status: int = key(Integer(200, 599), "Its status.", default=200)
    headers: dict[str, str] = key(
        MapOf(HEADER, Text("a header's value", r"[\x20-\x7e\xa0-\xff]{1,1024}"), maximum=32),
        "Its header fields; those about framing are added.",
        default={},
        example={"content-type": "application/json"},
    )
    body: str = key(
        Text(f"at most {MOST_BODY} characters", r"[\s\S]{1,65536}", empty=True),
        "Its body.",
        default="",
        example='{"mode":"simple"}',
    )


_ANSWER: Final = section(AnswerSettings)


class StepSettings(Settings):
    """One of upstream, stale and answer, and what it is for."""

    cross = ({"oneOf": [{"required": [kind]} for kind in ("upstream", "stale", "answer")]},)

    on: frozenset[str] = key(
        ListOf(Failure(*CODES, "5xx"), minimum=1, maximum=64, into=frozenset),
        "What it is for: codes of the sidecar, 5xx, single statuses; statuses are those that the client would see.",
        example=["circuit_open", "no_endpoints", "connect_failed", "timeout", "5xx"],
    )
    upstream: str | None = key(NAME, "Another upstream of this sidecar is asked.", default=None, example="simple-tasks")
    stale: float | None = key(
        Duration("1s", "7d"), "An earlier good answer to the same request, of at most that age.", default=None,
        example="1h",
    )  # fmt: skip
    answer: AnswerSettings | None = key(_ANSWER, "This is answered.", default=None)

    @property
    def kind(self) -> str:
        """``upstream``, ``stale`` or ``answer``."""
        return "upstream" if self.upstream else "stale" if self.stale else "answer"

    def matches(self, code: str, status: int) -> bool:
        """Whether it is for that code (empty: an answer of the upstream's own) and that status."""
        on = self.on
        return code in on or (status >= 500 and "5xx" in on) or str(status) in on
