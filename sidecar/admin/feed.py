"""``GET /events``: the last events as JSON, or, for those who ask for ``text/event-stream``, how the sidecar is and
what changes, once a second.

What is sent is worked out once for all listeners, and never because of traffic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import orjson

from sidecar.admin.commands import Commands
from sidecar.admin.pulse import Pulse
from sidecar.core.events import KINDS, Event
from sidecar.core.json_schema import COUNT, TEXT, array, record, ref
from sidecar.core.operations import REFUSED, Answer, Call, Contribution, Operation, Query, Stream
from sidecar.core.text import timestamp

#: Listeners at once, and seconds between two looks; between two signs of life where nothing changes; and that one may
#: take to read what it is sent.
MOST: Final = 20
PERIOD: Final = 1.0
ALIVE: Final = 15.0
READ_SECONDS: Final = 5.0

_EVENT: Final = {
    "type": "object",
    "properties": {
        "id": COUNT | {"description": "numbered from the start of the sidecar"},
        "at": TEXT,
        "kind": {"type": "string", "enum": list(KINDS)},
        "level": TEXT,
        "upstream": TEXT | {"description": "left out where it is about none"},
        "text": TEXT,
        "details": {"type": "object", "description": "what else is known of it, by name"},
    },
    "required": ["id", "at", "kind", "level", "text", "details"],
}


class Feed:
    """The handler. ``clock`` gives seconds, ``sleep`` waits so many."""

    def __init__(
        self,
        commands: Commands,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._commands = commands
        self._clock = clock
        self._sleep = sleep
        self._pulse = Pulse(commands, clock)
        self._listeners = 0
        #: What was worked out last: the message about what changed from one state to the next. Listeners look together,
        #: so they share it.
        self._change: tuple[Mapping[str, Any], Mapping[str, Any], bytes] = ({}, {}, b"")

    def contribution(self) -> Contribution:
        """Return the operation, with the shape of its answer."""
        operation = Operation(
            "GET", "/events", "The last events; as text/event-stream a snapshot, then what changes, once a second",
            self.events,
            {200: "the last 200, the oldest first", 400: "since is no number",
             503: f"{MOST} listen already", **REFUSED}, "Events",
            pages=("text/event-stream",), private=True,
            query=(Query("since", "only events with a higher number (or the field Last-Event-ID)", "integer"),),
        )  # fmt: skip
        return Contribution((operation,), {"Event": _EVENT, "Events": record(events=array(ref("Event")))})

    async def events(self, call: Call) -> Answer | Stream:
        """Answer ``GET /events``."""
        asked = dict(call.query).get("since", "")
        since = _number(asked or call.last_event_id)
        if asked and since is None:
            return Answer(
                {"error": "bad_since", "message": "since is the id of an event, a number of at most 15 digits"}, 400
            )
        if "text/event-stream" not in call.accept:
            return Answer({"events": [as_dict(event) for event in self._commands.events(since or 0)]})
        if self._listeners >= MOST:
            return Answer({"error": "overloaded", "message": f"{MOST} listen already"}, 503)
        self._listeners += 1
        return Stream(self._pieces(since), "text/event-stream", self._left, READ_SECONDS, live=True)

    def _left(self) -> None:
        self._listeners -= 1

    async def _pieces(self, since: int | None) -> AsyncIterator[bytes]:
        commands = self._commands
        shown = self._pulse.now()
        events = commands.events(since or 0)
        newest = events[-1].id if events else since or 0
        yield _message("snapshot", {**shown, "events": [as_dict(event) for event in events]}, newest)
        spoke = self._clock()
        while commands.snapshot().phase != "stopped":
            await self._sleep(PERIOD - self._clock() % PERIOD)  # all wake up together
            pieces: list[bytes] = []
            for event in commands.events(newest):
                newest = event.id
                pieces.append(_message("event", as_dict(event), newest))
            now = self._pulse.now()
            if change := self._changed(shown, now):
                pieces.append(change)
            shown = now
            if pieces or self._clock() - spoke >= ALIVE:
                spoke = self._clock()
                yield b"".join(pieces) or b": still here\n\n"
            else:
                yield b""

    def _changed(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> bytes:
        """The message about what is not as it was; empty when nothing is."""
        before, after, message = self._change
        if before is not old or after is not new:
            change = differs(old, new)
            message = _message("change", change) if change else b""
            self._change = (old, new, message)
        return message


def as_dict(event: Event) -> dict[str, Any]:
    """An event, as JSON can hold it."""
    about = {"upstream": event.upstream} if event.upstream else {}
    return {
        "id": event.id,
        "at": timestamp(event.at),
        "kind": event.kind,
        "level": event.level,
        **about,
        "text": event.text,
        "details": event.details,
    }


def differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``new`` is not as it was: of the sidecar by its keys, of upstreams each as a whole; those that are
    gone are ``null``."""
    change = {key: value for key, value in new.items() if key != "upstreams" and old.get(key) != value}
    before, after = old["upstreams"], new["upstreams"]
    upstreams = {name: value for name, value in after.items() if before.get(name) != value}
    upstreams |= dict.fromkeys(before.keys() - after.keys())
    return change | ({"upstreams": upstreams} if upstreams else {})


def _message(kind: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    """One event of the stream (HTML Living Standard, 9.2.6); JSON has no line breaks in it."""
    told = b"" if number is None else b"id: %d\n" % number
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), told, orjson.dumps(data, default=str))


def _number(text: str) -> int | None:
    """A number of an event; None: it is not one."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
