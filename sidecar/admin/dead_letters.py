"""The admin API's routes about spools and dead letters.

What they read may be large, and whoever asks may be slow: so they read a few letters at a time, and few at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web

from sidecar.admin.routes import Handler, NotKnown, Query, Route, answer
from sidecar.amqp.views import dead_letter as dead_letter_view
from sidecar.amqp.views import spool

if TYPE_CHECKING:
    from sidecar.admin.view import Running
    from sidecar.amqp.spool.dead_letters import DeadLetter
    from sidecar.amqp.views.protocols import SpoolView

logger = logging.getLogger("sidecar.admin")

#: Letters in a page of the list, unless asked otherwise, and at most.
PAGE: Final = 100
MAX_PAGE: Final = 1000
#: Letters that are read at a time; each may be as large as a message may be.
STEP: Final = 16
#: How long one request may go on changing letters, seconds. Whoever asked may ask again.
CHANGE_SECONDS: Final = 5.0
#: Exports at once, and how long they wait for someone to read on, seconds.
EXPORTS: Final = 2
EXPORT_SECONDS: Final = 60.0
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
_TOKEN: Final = {401: "the admin token is missing or wrong", 403: "asked by a page of another site"}
_UNKNOWN: Final = {404: "no such upstream, or it has no spool"}
_UNKNOWN_LETTER: Final = {404: "no such upstream or dead letter"}
_BROKEN: Final = {503: "the spool cannot be used now"}


class Api:
    """The handlers. ``clock`` is Unix time."""

    def __init__(self, running: Running, clock: Callable[[], float] = time.time) -> None:
        self._running = running
        self._clock = clock
        self._exports = 0
        # What is read for whoever asks is in memory once, however many ask.
        self._reading = asyncio.Lock()

    def routes(self) -> Sequence[Route]:
        """All of them."""
        one, of = "/amqp/{name}", "/amqp/{name}/dead-letters"
        listed = {200: "some, in the order they died, and after which the next are", 400: "not such a question"}
        changed = {200: "how many, and after which the next are", 400: "not such a question"}
        return (
            Route("GET", f"{one}/spool", "What an AMQP upstream keeps for its broker", self.state,
                  {200: "the spool"} | _UNKNOWN, "Spool"),
            Route("GET", of, "Messages that cannot be delivered, without their content", self._told(self.page),
                  listed | _UNKNOWN | _TOKEN | _BROKEN, "DeadLetters", query=(_AFTER, _LIMIT, *_WHICH), private=True),
            Route("GET", f"{of}/export", "All of them with everything, a line each", self._told(self.export),
                  {200: "JSON lines", 400: "not such a question", 429: "others are exporting"} | _UNKNOWN | _TOKEN
                  | _BROKEN, "", pages=("application/x-ndjson",), query=(_AFTER, _LIMIT, *_WHICH), private=True),
            Route("GET", f"{of}/{{number}}", "One of them, with the beginning of its body", self._told(self.show),
                  {200: "the dead letter"} | _UNKNOWN_LETTER | _TOKEN | _BROKEN, "DeadLetter", private=True),
            Route("POST", f"{of}/replay", "Try to deliver them once more", self._told(self.replay_many),
                  changed | _UNKNOWN | _TOKEN | _BROKEN, "Changed", query=(_AFTER, _BEFORE, *_WHICH)),
            Route("POST", f"{of}/drop", "Forget them", self._told(self.drop_many),
                  changed | _UNKNOWN | _TOKEN | _BROKEN, "Changed", query=(_AFTER, _BEFORE, *_WHICH)),
            Route("POST", f"{of}/{{number}}/replay", "Try to deliver this one once more", self._told(self.replay),
                  {200: "it is in the spool", 409: "it cannot be read any more"} | _UNKNOWN_LETTER | _TOKEN | _BROKEN,
                  "Changed"),
            Route("POST", f"{of}/{{number}}/drop", "Forget this one", self._told(self.drop),
                  {200: "it is gone"} | _UNKNOWN_LETTER | _TOKEN | _BROKEN, "Changed"),
        )  # fmt: skip

    async def state(self, request: web.Request) -> web.Response:
        return answer(spool.state(self._spool(request)))

    async def page(self, request: web.Request) -> web.Response:
        wanted = _Wanted.of(request, _AFTER, _LIMIT, *_WHICH)
        limit = wanted.limit or PAGE
        view = self._spool(request)
        now = self._clock()
        found: list[dict[str, Any]] = []
        async for step in self._steps(view, wanted, limit):
            found += [dead_letter_view.summary(letter, now) for letter in step]
        following = found[-1]["id"] if len(found) == limit else None
        return answer({"dead_letters": found, "next": following})

    async def show(self, request: web.Request) -> web.Response:
        view, number = self._spool(request), _number(request)
        async with self._reading:
            letter = await view.dead_letters.get(number)
            if letter is None:
                raise _no_letter(number)
            return answer(dead_letter_view.whole(letter, self._clock()))

    async def export(self, request: web.Request) -> web.StreamResponse:
        wanted = _Wanted.of(request, _AFTER, _LIMIT, *_WHICH)
        view = self._spool(request)
        if self._exports >= EXPORTS:
            return answer({"error": "busy", "message": "others are exporting; ask again later"}, 429)
        self._exports += 1
        try:
            return await self._export(request, view, wanted)
        finally:
            self._exports -= 1

    async def _export(self, request: web.Request, view: SpoolView, wanted: _Wanted) -> web.StreamResponse:
        from sidecar.storage.errors import SpoolError

        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        now = self._clock()
        try:
            async for step in self._steps(view, wanted, wanted.limit or _MOST):
                if not response.prepared:
                    await response.prepare(request)
                while step:
                    await _write(response, step.pop(0), now)
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            pass  # whoever asked has seen enough
        except (SpoolError, TimeoutError) as error:
            if not response.prepared:
                raise
            # Cut off before its end, so that nobody takes it for everything.
            logger.warning("an export was cut off", extra={"client": request.remote, "error": str(error)})
            if request.transport is not None:
                request.transport.abort()
        return response

    async def replay(self, request: web.Request) -> web.Response:
        view, number = self._spool(request), _number(request)
        if not await view.dead_letters.replay([number]):
            async with self._reading:
                if await view.dead_letters.get(number) is None:
                    raise _no_letter(number)
            return answer({"error": "not_readable", "message": "what is left of it cannot be sent; drop it"}, 409)
        return self._changed(request, "replayed", 1)

    async def drop(self, request: web.Request) -> web.Response:
        view, number = self._spool(request), _number(request)
        if not await view.dead_letters.drop([number]):
            raise _no_letter(number)
        return self._changed(request, "dropped", 1)

    async def replay_many(self, request: web.Request) -> web.Response:
        return await self._change(request, "replayed", self._spool(request).dead_letters.replay)

    async def drop_many(self, request: web.Request) -> web.Response:
        return await self._change(request, "dropped", self._spool(request).dead_letters.drop)

    async def _change(
        self, request: web.Request, done: str, change: Callable[[Sequence[int]], Awaitable[int]]
    ) -> web.Response:
        """What is replayed may die again at once: so only those are meant that were dead when this was asked."""
        wanted = _Wanted.of(request, _AFTER, _BEFORE, *_WHICH)
        now = self._clock()
        before = now if wanted.before is None else wanted.before
        ends = time.monotonic() + CHANGE_SECONDS
        count = 0
        async for step in self._steps(self._spool(request), wanted, _MOST):
            meant = [letter.id for letter in step if letter.died <= before]
            if meant:
                count += await change(meant)
            if len(meant) < len(step):
                break
            if time.monotonic() > ends:
                return self._changed(request, done, count, before, step[-1].id)
        return self._changed(request, done, count, before)

    def _changed(
        self, request: web.Request, done: str, count: int, before: float | None = None, following: int | None = None
    ) -> web.Response:
        if count:
            logger.info(
                "dead letters were %s by request", done,
                extra={"client": request.remote, "upstream": request.match_info["name"], "messages": count},
            )  # fmt: skip
        return answer({"messages": count, "next": following, "before": before})

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

    def _spool(self, request: web.Request) -> SpoolView:
        name = request.match_info["name"]
        spools = {
            name: view
            for name, it in self._running.upstreams.items()
            if it.amqp is not None and (view := it.amqp.spool) is not None
        }
        if name not in spools:
            raise NotKnown(
                f"no upstream with a spool is called {name[:80]!r}; there are: {', '.join(spools) or 'none'}"
            )
        return spools[name]

    def _told(self, handler: Handler) -> Handler:
        """A handler that says it when the spool cannot be used."""

        async def tell(request: web.Request) -> web.StreamResponse:
            from sidecar.storage.errors import SpoolError

            try:
                return await handler(request)
            except SpoolError as error:
                return answer({"error": "spool", "message": error.text}, 503)
            except _WrongError as error:
                return answer({"error": "bad_request", "message": str(error)}, 400)

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
    def of(cls, request: web.Request, *known: Query) -> _Wanted:
        """As a request says. Raises :class:`_WrongError`, also for what is not known: dropping everything must not be
        what a mistyped filter means."""
        given = request.query
        names = [query.name for query in known]
        for name in given:
            if name not in names:
                raise _WrongError(f"there is no {name[:40]!r} to ask for here; there are: {', '.join(names)}")
            if len(given.getall(name)) > 1:
                raise _WrongError(f"{name} is there twice")
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


def _number(request: web.Request) -> int:
    text = request.match_info["number"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotKnown(f"{text[:40]!r} is not the number of a dead letter")
    return int(text)


def _no_letter(number: int) -> NotKnown:
    return NotKnown(f"there is no dead letter {number}; it may have been replayed, dropped, or kept for long enough")


async def _write(response: web.StreamResponse, letter: DeadLetter, now: float) -> None:
    """One line. What is large is prepared in a thread, so that traffic goes on meanwhile."""
    if len(letter.data) > PIECE:
        line = memoryview(await asyncio.to_thread(_line, letter, now))
    else:
        line = memoryview(_line(letter, now))
    for start in range(0, len(line), PIECE):
        async with asyncio.timeout(EXPORT_SECONDS):
            await response.write(line[start : start + PIECE])


def _line(letter: DeadLetter, now: float) -> bytes:
    return orjson.dumps(dead_letter_view.whole(letter, now, None), option=orjson.OPT_APPEND_NEWLINE, default=str)
