"""``GET /diagnose``: the running sidecar works through the checklist, one run at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sidecar.agent.findings import Finding
from sidecar.core.json_schema import FLAG, NUMBER, TEXT, array, or_null, record, ref
from sidecar.core.operations import REFUSED, Answer, Call, Contribution, NotKnown, Operation, Query


class Diagnosis:
    """The handler. ``names`` are those of upstreams; ``examine`` works through what is about one of them (empty: about
    all), and about the sidecar ``service`` with that ``id`` itself."""

    def __init__(
        self,
        service: str,
        id: str,
        names: Callable[[], Sequence[str]],
        examine: Callable[[str], Awaitable[Sequence[Finding]]],
    ) -> None:
        self._service = service
        self._id = id
        self._names = names
        self._examine = examine
        self._turn = asyncio.Lock()
        #: Runs under way or in line, by what they are about: those who ask for the same share one.
        self._runs: dict[str, asyncio.Task[dict[str, Any]]] = {}

    def contribution(self) -> Contribution:
        """Return the operation, with the shape of its answer."""
        operation = Operation(
            "GET", "/diagnose", "Look at everything that may be wrong, now: what was found, and what to do next",
            self.diagnose, {200: "findings", 404: "no such upstream", **REFUSED}, "Diagnosis", private=True,
            query=(Query("upstream", "only this one, beside what is about the sidecar itself"),),
        )  # fmt: skip
        finding = record(
            check=TEXT,
            upstream=or_null(TEXT),
            result={"type": "string", "enum": ["good", "bad", "none"]},
            evidence=TEXT,
            step=or_null(TEXT | {"description": "what to do next, where it is bad"}),
        )
        answer = record(service=TEXT, id=TEXT, well=FLAG, seconds=NUMBER, findings=array(ref("Finding")))
        return Contribution((operation,), {"Finding": finding, "Diagnosis": answer})

    async def diagnose(self, call: Call) -> Answer:
        """Answer ``GET /diagnose``."""
        name = dict(call.query).get("upstream", "")
        known = self._names()
        if name and name not in known:
            raise NotKnown(f"no such upstream: {name[:80]!r}; there are: {', '.join(known) or 'none'}")
        task = self._runs.get(name)
        if task is None:
            task = self._runs[name] = asyncio.ensure_future(self._run(name))
            task.add_done_callback(lambda _: self._runs.pop(name))
        return Answer(await asyncio.shield(task))

    async def _run(self, name: str) -> dict[str, Any]:
        async with self._turn:
            began = time.monotonic()
            findings = await self._examine(name)
        return {
            "service": self._service,
            "id": self._id,
            "well": all(it.good is not False for it in findings),
            "seconds": round(time.monotonic() - began, 3),
            "findings": [it.as_dict() for it in findings],
        }
