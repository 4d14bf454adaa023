"""What the sidecars that share a canary tell each other: each keeps a note of its evidence beside the state in the
registry, and reads those of all, as often as is bearable.

A note is of one step. It is replaced by the next step's, and removed by its writer when there is none. What a sidecar
leaves behind that is killed counts for as long as the step lasts; then whoever sees it removes it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from math import inf
from typing import Final, NamedTuple

from sidecar.agent.canary_time import Timing
from sidecar.registry import Found, Registry
from sidecar.registry.link import describe
from sidecar.resilience.canary_counts import Known
from sidecar.resilience.canary_evidence import Evidence, Note, Step, decode, encode
from sidecar.resilience.canary_judge import MOST, Judge, Verdict
from sidecar.resilience.rollout import Unreadable
from sidecar.resilience.token_bucket import TokenBucket

logger = logging.getLogger("sidecar.canary")

#: Seconds between two exchanges: at least; for each of the sidecars; as a part of the time that the step lasts
#: already; and with that at most.
LEAST: Final = 1.0
EACH: Final = 0.125
PART: Final = 1 / 60
SLOWEST: Final = 10.0
#: The same while there is nothing to tell, and notes are left from before.
IDLE: Final = 30.0
#: Seconds after which an exchange that is under way is taken for one that fails: a disk may hang for long.
LATE: Final = 15.0
#: Notes that are read in one go; then requests are served.
AT_ONCE: Final = 16
#: Seconds after which a note of another step is removed, and of this one, if there are too many.
LEFT: Final = 30.0
LEFT_HERE: Final = 3600.0


class Pool:
    """The notes beside the state ``name``; ``registry`` is where; None: nobody hears of anything. ``heard`` is called
    with what a judge says of what it has heard."""

    def __init__(
        self, registry: Registry | None, name: str, timing: Timing, heard: Callable[[Judge, Verdict], None]
    ) -> None:
        self._registry = registry
        self._on_heard = heard
        self._name = name
        self._timing = timing
        self._who = secrets.token_hex(8)
        self._busy = self._closed = False
        #: Whose evidence is told, since the last turn.
        self._judge: Judge | None = None
        self._due = self._began = timing.clock()
        self._put = b""
        #: Notes that were found, by who wrote them.
        self._found: dict[str, _Seen] = {}
        self._asked = False
        #: The registry has answered the last time; or has not.
        self.heard = self.away = False
        #: It is told that it does not, and how often that may be said.
        self._told_away = False
        self._lines = TokenBucket(1 / 60, 4, timing.clock())

    def turn(self, step: Step | None, judge: Judge | None) -> None:
        """Tell of the step what is known, and hear what others know, if it is time for that; None: there is no step."""
        now = self._timing.clock()
        if judge is not self._judge:
            self._judge, self._due = judge, now
        elif judge is None and self._asked and not self._found and not self._put:
            return
        if self._busy and now - self._began >= LATE:
            self._away(judge, TimeoutError())
        if self._registry is None or self._busy or self._closed or now < self._due:
            return
        self._busy, self._began = True, now
        self._timing.spawn(self._exchange(self._registry, step, judge))

    def close(self) -> None:
        """Tell and hear nothing any more. What was told stays true."""
        self._closed = True

    async def _exchange(self, registry: Registry, step: Step | None, judge: Judge | None) -> None:
        data, told = b"", None
        if step is not None and judge is not None and (judge.here != Evidence() or judge.known.answers):
            data, told = encode(step, judge.here, judge.known), judge.here
        try:
            found = await registry.exchange(self._name, self._who, data if data and data != self._put else None)
            # What somebody has removed meanwhile is put there again.
            self._put = (data or self._put) if self._who in found else b""
            await self._see(found)
            self._back()
            if judge is not None:
                await self._tell(judge, step, told)
            if not self._closed:
                await self._tidy(registry, step)
        except Exception as error:
            self._away(judge, error)
        finally:
            self._due = self._timing.clock() + self._pause(judge)
            self._busy = False

    def _back(self) -> None:
        self.heard, self.away = True, False
        if self._told_away:
            self._told_away = False
            logger.info("%s: what others have seen of the canary can be read again", self._name)

    def _away(self, judge: Judge | None, error: Exception) -> None:
        """It cannot be asked, or says what makes no sense: one line when that begins, not one for each time."""
        self.heard, self.away = False, True
        if judge is None:
            return
        judge.cut_off()
        logger.debug("%s: what others have seen of the canary cannot be read: %s", self._name, error)
        if not self._told_away and not self._closed and not self._lines.take(self._timing.clock()):
            self._told_away = True
            logger.warning(
                "%s: what others have seen of the canary cannot be read (%s); it is judged by what is seen here",
                self._name, describe(error), exc_info=None if isinstance(error, OSError) else error,
            )  # fmt: skip

    def _pause(self, judge: Judge | None) -> float:
        if judge is None:
            return IDLE
        lasts = judge.judged(self._timing.clock())
        return max(LEAST, min(SLOWEST, lasts * PART), EACH * len(self._found))

    async def _see(self, found: Mapping[str, Found]) -> None:
        """These are the notes of all. What has not changed is not read again."""
        now = self._timing.clock()
        there: dict[str, _Seen] = {}
        for number, (who, it) in enumerate(found.items(), 1):
            seen = self._found.get(who)
            if seen is None or seen.version != it.version:
                seen = _Seen(it.version, now, _note(it))
            there[who] = seen
            await _rest(number)
        self._asked, self._found = True, there

    async def _tell(self, judge: Judge, step: Step | None, told: Evidence | None) -> None:
        """Hand over what others say; ``told`` is what they can read of this one."""
        notes = {who: it.note for who, it in self._found.items() if it.note is not None and it.note.step == step}
        mine = notes.pop(self._who, None)
        known, heard = Known(), dict(sorted(notes.items())[:MOST])
        for number, note in enumerate(heard.values(), 1):
            known.add(note.known.answers, note.known.bad, note.known.latencies)
            await _rest(number)
        evidence = {who: note.evidence for who, note in heard.items()}
        self._on_heard(judge, judge.hear(evidence, known, told if mine is not None else None))

    async def _tidy(self, registry: Registry, step: Step | None) -> None:
        """Remove what nobody needs any more."""
        now, many = self._timing.clock(), len(self._found) > MOST
        old: dict[str, object] = {}
        for who, it in self._found.items():
            here = it.note is not None and it.note.step == step
            patience = LEFT if not here else LEFT_HERE if many else inf
            if now - it.since >= patience if who != self._who else step is None:
                old[who] = it.version
        if not await self._erase(registry, old):
            return
        for who in old:
            del self._found[who]
        if step is None:
            self._put = b""

    async def _erase(self, registry: Registry, notes: Mapping[str, object]) -> bool:
        """Whether they are gone. That they cannot be removed keeps nobody from reading what there is; it is tried again
        with the next exchange."""
        try:
            if notes:
                await registry.erase(self._name, notes)
        except (OSError, TimeoutError) as error:
            logger.debug("%s: old evidence cannot be removed: %s", self._name, error)
            return False
        return True


class _Seen(NamedTuple):
    """A note of this version was there first at ``since``; it says nothing that can be read if ``note`` is None."""

    version: object
    since: float
    note: Note | None


async def _rest(number: int) -> None:
    """Let others do something after so many notes."""
    if number % AT_ONCE == 0:
        await asyncio.sleep(0)


def _note(found: Found) -> Note | None:
    try:
        return decode(found.data or b"")
    except Unreadable:
        return None
