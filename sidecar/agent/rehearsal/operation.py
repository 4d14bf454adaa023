"""``POST /rehearse``: tries a configuration against the record, in a process of its own. One at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sidecar.config import show
from sidecar.core.decisions import Decisions
from sidecar.core.json_schema import COUNT, COUNTS, FLAG, NUMBER, TEXT, array, or_null, record, ref
from sidecar.core.operations import REFUSED, Answer, Call, Contribution, Operation

logger = logging.getLogger("sidecar.rehearsal")

#: The largest configuration, bytes; the longest line that the process may say; and the seconds that it has.
MAX_CONFIGURATION: Final = 1 << 20
_MOST_LINE: Final = 16 << 20
SECONDS: Final = 300.0

_COMMAND: Final = ("-P", "-m", "sidecar.agent.rehearsal.worker")

_END: Final = {
    **record(status=COUNT, error=or_null(TEXT), attempts=COUNT),
    "properties": {"status": COUNT, "error": or_null(TEXT), "attempts": COUNT, "route": TEXT},
}
_SIDE: Final = record(
    admitted=COUNT, rejected=COUNTS, failed=COUNT, retries=COUNT, breaker_openings=COUNT, routes=COUNTS
)
_CHANGED: Final = {"type": "object", "additionalProperties": {"type": "integer"}}
SCHEMAS: Final[Mapping[str, Any]] = {
    "RehearsalExample": record(
        at=TEXT, upstream=or_null(TEXT), method=TEXT, path=TEXT, changes=array(TEXT), happened=_END, would=_END,
        setting=or_null(TEXT),
    ),
    "Rehearsal": record(
        decisions=COUNT, covered=record(**{"from": or_null(TEXT), "to": TEXT, "seconds": NUMBER}),
        agreement=or_null(NUMBER), agreement_of=COUNT, changed=_CHANGED,
        upstreams=array(record(name=or_null(TEXT), requests=COUNT, changed=_CHANGED, before=_SIDE, after=_SIDE)),
        differences=array(record(path=TEXT, old=TEXT, new=TEXT)), examples=array(ref("RehearsalExample")),
        assumed=array(TEXT), not_rehearsed=array(record(what=TEXT, reason=TEXT)), seconds=NUMBER,
    ),
    "RehearsalState": record(records=COUNT, remembered=COUNT, running=FLAG, share=NUMBER),
    "Configuration": {"type": "object", "description": "a configuration, as in a file; YAML, too"},
}  # fmt: skip


class Rehearse:
    """The handlers. ``running`` is the effective configuration; ``clock`` that of the record."""

    def __init__(
        self,
        decisions: Decisions,
        running: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._decisions = decisions
        self._running = running
        self._clock = clock
        self._wall = wall
        self._process: asyncio.subprocess.Process | None = None
        self._busy = False
        self._share = 0.0

    def contribution(self) -> Contribution:
        """Return the operations."""
        return Contribution(
            (
                Operation("GET", "/rehearse", "What a rehearsal could go by, and how far one is that is under way",
                          self.state, {200: "the state", **REFUSED}, "RehearsalState", private=True),
                Operation("POST", "/rehearse", "What would have been different in the last hour with another "
                          "configuration: the record is replayed with that and with the running one",
                          self.rehearse,
                          {200: "what would have been different", 400: "no text", 409: "one is under way already",
                           413: "too large", 500: "it was given up", 422: "the configuration cannot be used",
                           503: "nothing is recorded",
                           **REFUSED}, "Rehearsal", body="Configuration", largest=MAX_CONFIGURATION),
            ),
            SCHEMAS,
        )  # fmt: skip

    async def state(self, call: Call) -> Answer:
        """Answer ``GET /rehearse``."""
        it = self._decisions
        it.forget(self._clock())
        return Answer(
            {"records": it.records, "remembered": len(it), "running": self._busy, "share": self._share if self._busy
             else 0.0}
        )  # fmt: skip

    async def rehearse(self, call: Call) -> Answer:
        """Answer ``POST /rehearse``."""
        try:
            text = (await call.read()).decode("utf-8-sig")
        except UnicodeDecodeError:
            return Answer({"error": "bad_request", "message": "a configuration is text in UTF-8"}, 400)
        if not self._decisions.records:
            return Answer({"error": "not_recorded", "message": "rehearsal.records is 0: nothing is recorded"}, 503)
        if self._busy:
            return Answer({"error": "busy", "message": "another rehearsal is under way; ask again when it is over "
                           "(GET /rehearse)"}, 409)  # fmt: skip
        self._busy, self._share = True, 0.0
        try:
            async with asyncio.timeout(SECONDS):
                found = await self._run(text)
        except TimeoutError:
            found = {"failed": f"it took more than {SECONDS:g} s; fewer rehearsal.records take less"}
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            found = {"failed": str(error) or type(error).__name__}
        finally:
            self._busy = False
        if "result" in found:
            return Answer(found["result"])
        if "failed" in found:
            logger.warning("a rehearsal was given up: %s", found["failed"])
            return Answer({"error": "internal", "message": f"the rehearsal was given up: {found['failed']}"}, 500)
        return Answer({"error": "bad_config", "message": found["refused"], "problems": found["problems"]}, 422)

    async def _run(self, text: str) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *_COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, limit=_MOST_LINE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            await self._hand_in(process.stdin, text)
            while line := await process.stdout.readline():
                said: dict[str, Any] = json.loads(line)
                if "share" not in said:
                    return said
                self._share = said["share"]
            raise ValueError("its process has ended, which lacked time or memory; fewer rehearsal.records take less")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _hand_in(self, to: asyncio.StreamWriter, text: str) -> None:
        """Copy the record, a segment at a time, with a turn for traffic after each."""
        import pickle  # takes 0.4 MiB, which nobody else need have

        it = self._decisions
        it.forget(self._clock())
        segments = tuple(it.segments)
        to.write(
            pickle.dumps(
                {
                    "running": show.text(self._running()), "configuration": text, "segments": len(segments),
                    "salt": it.salt, "generation": it.generation, "now": self._clock(), "wall": self._wall(),
                }
            )
        )  # fmt: skip
        for segment in segments:
            to.write(pickle.dumps(segment.taken()))
            await to.drain()
            await asyncio.sleep(0)
        to.close()
