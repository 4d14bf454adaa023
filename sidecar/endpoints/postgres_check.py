"""Asks a PostgreSQL server whether it accepts writes: a connection, a login and a question, and it is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.core.health import Health
from sidecar.core.secret import Secret
from sidecar.endpoints.postgres import Question
from sidecar.endpoints.postgres_login import Salted
from sidecar.net.dial import connect

WHAT: Final = "PostgreSQL"
#: Seconds for which a primary that answers no more is known to be later than one that was left behind.
_REMEMBERED: Final = 600.0


class Primary:
    """Who asks, as whom."""

    def __init__(self, user: str, database: str, password: Secret, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._user, self._database, self._password = user, database, password
        self._salted = Salted(password.reveal())
        #: Of those that have said last that they accept writes, and when that was.
        self._timelines: dict[tuple[tuple[str, int], ...], tuple[int, float]] = {}

    async def ask(self, addresses: Sequence[tuple[str, int]]) -> Health:
        """Healthy: it accepts writes. Raises OSError, EOFError, ValueError, Unsure."""
        reader, writer = await asyncio.open_connection(sock=await connect(addresses))
        try:
            question = Question(self._user, self._database, self._password.reveal(), self._salted)
            writer.write(question.begin)
            while not question.over:
                data = await reader.read(8192)
                if not data:
                    raise EOFError("it has closed the connection")
                if question.hashes:  # which may take milliseconds, and all traffic would wait for them
                    writer.write(await asyncio.to_thread(question.feed, data))
                else:
                    writer.write(question.feed(data))
        finally:
            writer.close()
        return self._judged(tuple(addresses), question)

    def _judged(self, key: tuple[tuple[str, int], ...], question: Question) -> Health:
        """One that accepts writes is the primary, unless there is a later one: then it was left behind."""
        if not question.writable:
            self._timelines.pop(key, None)
            return Health("unhealthy", f"{WHAT}: {'it is a standby' if question.standby else 'it is read-only'}")
        now = self._clock()
        self._timelines = {it: found for it, found in self._timelines.items() if now - found[1] < _REMEMBERED}
        self._timelines[key] = (question.timeline, now)
        latest = max(timeline for timeline, _ in self._timelines.values())
        if question.timeline < latest:
            text = f"it accepts writes on timeline {question.timeline}, while another is on {latest}"
            return Health("unhealthy", f"{WHAT}: {text}: it was left behind")
        return Health("healthy", f"{WHAT}: it accepts writes")
