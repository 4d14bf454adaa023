"""What the admin API answers about AMQP ports, their spools and dead letters: operations that this room contributes.

What they read may be large, and whoever asks may be slow: so they read a few letters at a time, and few at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from sidecar.amqp.views import spool
from sidecar.amqp.views.schemas import SCHEMAS
from sidecar.core.operations import (
    REFUSED,
    Answer,
    Broken,
    Call,
    Contribution,
    Handler,
    NotKnown,
    Operation,
    Page,
    Query,
    Stream,
)
from sidecar.storage.errors import SpoolError

if TYPE_CHECKING:
    from sidecar.amqp.spool.dead_letters import DeadLetter
    from sidecar.amqp.views.protocols import AmqpView, SpoolView

logger = logging.getLogger("sidecar.admin")

#: Letters in a page of the list, unless asked otherwise, and at most.
PAGE: Final = 100
MAX_PAGE: Final = 1000
#: Letters that are read at a time; each may be as large as a message may be.
STEP: Final = 16
#: How long one request may go on changing letters, seconds. Whoever asked may ask again.
CHANGE_SECONDS: Final = 5.0
#: Exports at once.
EXPORTS: Final = 2
#: Bytes that are given to a connection at a time.
PIECE: Final = 64 * 1024

_MOST: Final = (1 << 63) - 1

_WHICH: Final = (
    Query("reason", "only those that died of this reason"),
    Query("exchange", "only those that were published to this exchange; empty: the default one"),
)
_AFTER: Final = Query("after", "only those behind this number", "integer")
_BEFORE: Final = Query("before", "only those that died before this, Unix time; now, if not given", "number")
_LIMIT: Final = Query("limit", f"at most so many (1 to {MAX_PAGE}, otherwise {PAGE})", "integer")
_UNKNOWN: Final = {404: "no such upstream, or it has no spool"}
_UNKNOWN_LETTER: Final = {404: "no such upstream or dead letter"}
#: Of those that look into the spool's file, and need the token.
_GUARDED: Final = {**REFUSED, 503: "the spool cannot be used now"}
#: The media type of JSON lines.
_LINES: Final = "application/x-ndjson"


class Api:
    """The handlers. ``ports`` gives the AMQP ports that there are now, by upstream; ``clock`` is Unix time."""

    def __init__(self, ports: Callable[[], Mapping[str, AmqpView]], clock: Callable[[], float] = time.time) -> None:
        self._ports = ports
        self._clock = clock
        self._exports = 0
        # What is read for whoever asks is in memory once, however many ask.
        self._reading = asyncio.Lock()

    def contribution(self) -> Contribution:
        """Return all operations, with their schemas."""
        return Contribution((*self._about_ports(), *self._reads(), *self._changes()), SCHEMAS)

    def _about_ports(self) -> Sequence[Operation]:
        return (
            Operation("GET", "/amqp", "The AMQP upstreams: connections, what is held and why, exchanges, queues",
                      self.listed, {200: "a list"}, "AmqpPorts"),
            Operation("GET", "/amqp/{name}/spool", "What an AMQP upstream keeps for its broker", self.state,
                      {200: "the spool", **_UNKNOWN}, "Spool"),
        )  # fmt: skip

    def _reads(self) -> Sequence[Operation]:
        of = "/amqp/{name}/dead-letters"
        listed = {200: "some, in the order they died, and after which the next are", 400: "not such a question"}
        exported = {200: "JSON lines", 400: "not such a question", 429: "others are exporting"}
        which = (_AFTER, _LIMIT, *_WHICH)
        return (
            Operation("GET", of, "Messages that cannot be delivered, without their content", _told(self.page),
                      {**listed, **_UNKNOWN, **_GUARDED}, "DeadLetters", query=which, private=True),
            Operation("GET", f"{of}/export", "All of them with everything, a line each", _told(self.export),
                      {**exported, **_UNKNOWN, **_GUARDED}, pages=(_LINES,), query=which, private=True),
            Operation("GET", f"{of}/{{number}}", "One of them, with the beginning of its body", _told(self.show),
                      {200: "the dead letter", **_UNKNOWN_LETTER, **_GUARDED}, "DeadLetter", private=True),
        )  # fmt: skip

    def _changes(self) -> Sequence[Operation]:
        of = "/amqp/{name}/dead-letters"
        some = {200: "how many, and after which the next are", 400: "not such a question", **_UNKNOWN, **_GUARDED}
        one = {**_UNKNOWN_LETTER, **_GUARDED}
        which = (_AFTER, _BEFORE, *_WHICH)
        return (
            Operation("POST", f"{of}/replay", "Try to deliver them once more", _told(self.replay_many), some, "Changed",
                      query=which),
            Operation("POST", f"{of}/drop", "Forget them", _told(self.drop_many), some, "Changed", query=which),
            Operation("POST", f"{of}/{{number}}/replay", "Try to deliver this one once more", _told(self.replay),
                      {200: "it is in the spool", 409: "it cannot be read any more", **one}, "Changed"),
            Operation("POST", f"{of}/{{number}}/drop", "Forget this one", _told(self.drop),
                      {200: "it is gone", **one}, "Changed"),
        )  # fmt: skip

    async def listed(self, call: Call) -> Answer:
        from sidecar.amqp.views import port  # for AMQP ports alone, and the list is there without one

        return Answer({"upstreams": port.ports(self._ports())})

    async def state(self, call: Call) -> Answer:
        return Answer(spool.state(self._spool(call)))

    async def page(self, call: Call) -> Answer:
        from sidecar.amqp.views import dead_letter  # with the formats of the wire: for a spool alone

        wanted = _Wanted.of(call, _AFTER, _LIMIT, *_WHICH)
        limit = wanted.limit or PAGE
        view = self._spool(call)
        now = self._clock()
        found: list[dict[str, Any]] = []
        async for step in self._steps(view, wanted, limit):
            found += [dead_letter.summary(letter, now) for letter in step]
        following = found[-1]["id"] if len(found) == limit else None
        return Answer({"dead_letters": found, "next": following})

    async def show(self, call: Call) -> Answer:
        from sidecar.amqp.views import dead_letter

        view, number = self._spool(call), _number(call)
        async with self._reading:
            letter = await view.dead_letters.get(number)
            if letter is None:
                raise _no_letter(number)
            return Answer(dead_letter.whole(letter, self._clock()))

    async def export(self, call: Call) -> Answer | Stream:
        wanted = _Wanted.of(call, _AFTER, _LIMIT, *_WHICH)
        steps = self._steps(self._spool(call), wanted, wanted.limit or _MOST)
        if self._exports >= EXPORTS:
            return Answer({"error": "busy", "message": "others are exporting; ask again later"}, 429)
        self._exports += 1
        try:
            first: list[DeadLetter] = await anext(
                steps, []
            )  # that the spool cannot be used is told before anything is sent
        except BaseException:
            self._exported()
            raise
        return Stream(self._pieces(first, steps), _LINES, self._exported)

    def _exported(self) -> None:
        self._exports -= 1

    async def _pieces(
        self, step: list[DeadLetter], steps: AsyncIterator[list[DeadLetter]]
    ) -> AsyncIterator[bytes | memoryview]:
        now = self._clock()
        try:
            while step:
                while step:
                    line = memoryview(await _line(step.pop(0), now))
                    for start in range(0, len(line), PIECE):
                        yield line[start : start + PIECE]
                step = await anext(steps, [])
        except SpoolError as error:
            raise Broken(str(error)) from error

    async def replay(self, call: Call) -> Answer:
        view, number = self._spool(call), _number(call)
        if not await view.dead_letters.replay([number]):
            async with self._reading:
                if await view.dead_letters.get(number) is None:
                    raise _no_letter(number)
            return Answer({"error": "not_readable", "message": "what is left of it cannot be sent; drop it"}, 409)
        return self._changed(call, "replayed", 1)

    async def drop(self, call: Call) -> Answer:
        view, number = self._spool(call), _number(call)
        if not await view.dead_letters.drop([number]):
            raise _no_letter(number)
        return self._changed(call, "dropped", 1)

    async def replay_many(self, call: Call) -> Answer:
        return await self._change(call, "replayed", self._spool(call).dead_letters.replay)

    async def drop_many(self, call: Call) -> Answer:
        return await self._change(call, "dropped", self._spool(call).dead_letters.drop)

    async def _change(self, call: Call, done: str, change: Callable[[Sequence[int]], Awaitable[int]]) -> Answer:
        """What is replayed may die again at once: so only those are meant that were dead when this was asked."""
        wanted = _Wanted.of(call, _AFTER, _BEFORE, *_WHICH)
        now = self._clock()
        before = now if wanted.before is None else wanted.before
        ends = time.monotonic() + CHANGE_SECONDS
        count = 0
        async for step in self._steps(self._spool(call), wanted, _MOST):
            meant = [letter.id for letter in step if letter.died <= before]
            if meant:
                count += await change(meant)
            if len(meant) < len(step):
                break
            if time.monotonic() > ends:
                return self._changed(call, done, count, before, step[-1].id)
        return self._changed(call, done, count, before)

    def _changed(
        self, call: Call, done: str, count: int, before: float | None = None, following: int | None = None
    ) -> Answer:
        if count:
            logger.info(
                "dead letters were %s by request", done,
                extra={"client": call.client, "upstream": call.parts["name"], "messages": count},
            )  # fmt: skip
        return Answer({"messages": count, "next": following, "before": before})

    async def _steps(self, view: SpoolView, wanted: _Wanted, limit: int) -> AsyncIterator[list[DeadLetter]]:
        """The letters that are wanted, a few at a time."""
        after = wanted.after
        while limit > 0:
            async with self._reading:
                found = await view.dead_letters.list(min(STEP, limit), after, wanted.reason, wanted.exchange)
                step = list(found)
            if not step:
                return
            after = step[-1].id
            limit -= len(step)
            yield step

    def _spool(self, call: Call) -> SpoolView:
        name = call.parts["name"]
        spools = {name: view for name, it in self._ports().items() if (view := it.spool) is not None}
        if name not in spools:
            raise NotKnown(
                f"no upstream with a spool is called {name[:80]!r}; there are: {', '.join(spools) or 'none'}"
            )
        return spools[name]


def _told(handler: Handler) -> Handler:
    """A handler that says it when the spool cannot be used."""

    async def tell(call: Call) -> Answer | Page | Stream:
        try:
            return await handler(call)
        except SpoolError as error:
            return Answer({"error": "spool", "message": error.text}, 503)
        except _WrongError as error:
            return Answer({"error": "bad_request", "message": str(error)}, 400)

    return tell


class _WrongError(Exception):
    """That cannot be asked; the text says what can."""


@dataclass(slots=True)
class _Wanted:
    """Which dead letters. ``limit`` 0: not said."""

    after: int = 0
    limit: int = 0
    before: float | None = None
    reason: str = ""
    exchange: str | None = None

    @classmethod
    def of(cls, call: Call, *known: Query) -> _Wanted:
        """As a request says. Raises :class:`_WrongError`, also for what is not known: dropping everything must not be
        what a mistyped filter means."""
        given: dict[str, str] = {}
        names = [query.name for query in known]
        for name, value in call.query:
            if name not in names:
                raise _WrongError(f"there is no {name[:40]!r} to ask for here; there are: {', '.join(names)}")
            if name in given:
                raise _WrongError(f"{name} is there twice")
            given[name] = value
        wanted = cls(reason=given.get("reason", ""), exchange=given.get("exchange"))
        try:
            wanted.after = int(given.get("after", "0"))
            wanted.limit = int(given.get("limit", "0"))
            wanted.before = float(given["before"]) if "before" in given else None
        except ValueError:
            raise _WrongError("after, limit and before are numbers") from None
        if not 0 <= wanted.after <= _MOST:
            raise _WrongError("after is the number of a dead letter")
        if "limit" in given and not 1 <= wanted.limit <= MAX_PAGE:
            raise _WrongError(f"limit is from 1 to {MAX_PAGE}")
        return wanted


def _number(call: Call) -> int:
    text = call.parts["number"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotKnown(f"{text[:40]!r} is not the number of a dead letter")
    return int(text)


def _no_letter(number: int) -> NotKnown:
    return NotKnown(f"there is no dead letter {number}; it may have been replayed, dropped, or kept for long enough")


async def _line(letter: DeadLetter, now: float) -> bytes:
    """One line of an export. What is large is prepared in a thread, so that traffic goes on meanwhile."""
    if len(letter.data) > PIECE:
        return await asyncio.to_thread(_encoded, letter, now)
    return _encoded(letter, now)


def _encoded(letter: DeadLetter, now: float) -> bytes:
    from sidecar.amqp.views import dead_letter

    return orjson.dumps(dead_letter.whole(letter, now, None), option=orjson.OPT_APPEND_NEWLINE, default=str)
