"""The dashboards of ``deploy/grafana``, as tests read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from support.processes import ROOT

FOLDER = ROOT / "deploy" / "grafana"
NAMES = ("mesh", "service", "amqp")


class Query(NamedTuple):
    """What a panel asks Prometheus."""

    board: str
    panel: str
    ref: str
    expression: str

    def filled(self, **variables: str) -> str:
        """The query with the values of its variables, the longest name first."""
        text = self.expression
        for name in sorted(variables, key=len, reverse=True):
            text = text.replace(f"${name}", variables[name])
        return text


def board(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboards" / f"{name}.json").read_text("utf-8"))
    return found


def queries() -> Iterator[Query]:
    """All of them."""
    for name in NAMES:
        for panel in board(name)["panels"]:
            for target in panel.get("targets", ()):
                yield Query(name, panel["title"], target["refId"], target["expr"])
