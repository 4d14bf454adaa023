"""The newest stories, by request id: bounded in number and in bytes, the oldest go first.

A story is kept as JSON. So its size is known, and thousands of them cost the garbage collector nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import orjson

#: Bytes of one story, and on average of all: with more, the oldest go.
MOST_BYTES: Final = 16384
BYTES_EACH: Final = 2048
#: Characters of one text, once a story is too large; and the events at either end that are kept of it then.
MOST_TEXT: Final = 200
MOST_EVENTS: Final = 10
#: Stories of one id that are found by it: a client that tries again uses it again. Others are among the recent ones.
MOST_OF_ONE: Final = 16
#: What an entry costs beside its bytes, about.
OVERHEAD: Final = 300


class Entry(NamedTuple):
    """One story, with what is asked for most: see :meth:`Ring.recent`."""

    request_id: str
    upstream: str
    error: str
    data: bytes

    @property
    def story(self) -> dict[str, Any]:
        """As it was put in."""
        found: dict[str, Any] = orjson.loads(self.data)
        return found


class Ring:
    """At most ``records`` stories; 0: none. What they take is bounded, too: see :attr:`size`."""

    def __init__(self, records: int) -> None:
        self.records = records
        #: Bytes of all stories.
        self.size = 0
        #: Stories that had to go for others, so far.
        self.dropped = 0
        self._entries: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def resize(self, records: int) -> None:
        """Remember so many from now on."""
        self.records = records
        self._make_room()

    def put(self, story: dict[str, Any]) -> None:
        """Remember a story: plain JSON with a ``request_id``, an ``upstream`` and an ``error``."""
        if not self.records:
            return
        # orjson writes into 8 KiB and gives back what is left over, where nothing of that size fits again: 2000 stories
        # would take 16.3 MiB. A copy is as large as it is: 1.7 MiB.
        data = bytes(memoryview(_encode(story)))
        entry = Entry(story["request_id"][:128], story["upstream"], story["error"], data)
        self._entries.append(entry)
        self.size += len(entry.data) + OVERHEAD
        self._make_room()

    def find(self, request_id: str) -> list[dict[str, Any]]:
        """The newest stories of that id, the oldest of them first. Questions are rare, and looking at all stories takes
        less than a millisecond; an index would cost each one 200 bytes."""
        same = islice((entry for entry in reversed(self._entries) if entry.request_id == request_id), MOST_OF_ONE)
        return [entry.story for entry in same][::-1]

    def recent(self, upstream: str = "", error: str = "") -> Iterator[Entry]:
        """The stories of that upstream and with that error (empty: any), the newest first."""
        for entry in reversed(self._entries):
            if upstream in ("", entry.upstream) and error in ("", entry.error):
                yield entry

    def _make_room(self) -> None:
        while self._entries and (len(self._entries) > self.records or self.size > self.records * BYTES_EACH):
            self.size -= len(self._entries.popleft().data) + OVERHEAD
            self.dropped += 1


def _encode(story: dict[str, Any]) -> bytes:
    data = _json(story)
    if len(data) <= MOST_BYTES:
        return data
    events = story.get("events", [])
    if len(events) > 2 * MOST_EVENTS:
        left_out = len(events) - 2 * MOST_EVENTS
        events = [*events[:MOST_EVENTS], *events[-MOST_EVENTS:]]
        story = {**story, "events": events, "events_left_out": left_out}
        data = _json(story)
    if len(data) > MOST_BYTES:
        data = _json(_cut(story))
    return data if len(data) <= MOST_BYTES else _json({**_cut(story), "events": _cut(events[-1:])})


def _json(story: Any) -> bytes:
    try:
        return orjson.dumps(story, default=str)
    except TypeError:  # a text that is no Unicode: half of a surrogate pair
        return orjson.dumps(_cut(story), default=str)


def _cut(value: Any) -> Any:
    """The same with short texts and lists."""
    if isinstance(value, str):
        return value[:MOST_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_cut(item) for item in value[: 2 * MOST_EVENTS]]
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return value
