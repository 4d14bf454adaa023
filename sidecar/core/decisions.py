"""What was decided about finished requests, kept compactly, so that other settings can be rehearsed against it.

A request that simply went well takes 20 bytes: when it began, how long it took, who asked, and the number of its kind;
all else is the same for many. Of another one there are details, 48 bytes for each try. Both lie in segments. A segment
has the kinds, paths, endpoints and codes of its own requests, so that these go with it. Old segments go when there are
more requests, or more bytes of details and text, than there is room for, or when they are an hour old.
"""

from __future__ import annotations

from array import array
from collections import deque
from os import urandom
from struct import Struct
from typing import Any, Final

#: One try in detail. Seconds: that the try took (of the last one: the whole request), from the request's beginning to
#: the try, to that one's connection, to the head of its answer (below 0: never); then numbers of the shape, of the
#: endpoint, of our own code and of a peer's; the client's status and the try's; how the try failed; how many tries
#: there were; flags.
DETAIL: Final = Struct("<ffffIHHHHHBBB")
#: Flags: the last one of a request; it is of a try; its connection was a kept one; the body was all at hand; it asked
#: to leave HTTP; a peer sidecar said that it had given up.
LAST: Final = 1
TRIED: Final = 2
KEPT: Final = 4
REPLAYABLE: Final = 8
UPGRADE: Final = 16
GIVEN_UP: Final = 32
#: Requests of a segment.
SEGMENT: Final = 2048
#: In place of a kind: there are details.
DETAILED: Final = 0xFFFFFFFF
#: Seconds for which records are kept.
AGE: Final = 3600.0
#: Characters of a path that are kept; a longer one is marked.
MOST_PATH: Final = 256
#: Bytes of all details, kinds, shapes and names together, about; and what one of those takes beside its text.
MOST_TEXT: Final = 16 << 20
ENTRY_BYTES: Final = 320
#: Of a segment by itself: many reloads make many small ones.
_SEGMENT_BYTES: Final = 2048


class Shape:
    """What routes and limits can go by, of requests that are equal in it: ``watched`` are checksums of the fields that
    count (``None``: there is none such), by their names in ``names``; ``matched`` says which of ``conditions`` (name,
    glob) were met. ``listener`` is the upstream's name, empty: inbound. ``cut``: the path goes on. ``route`` is the
    number of the one that it got (-1: none)."""

    __slots__ = ("conditions", "cut", "listener", "matched", "method", "names", "path", "route", "watched")

    def __init__(
        self,
        listener: str,
        method: str,
        path: bytes,
        route: int,
        names: tuple[bytes, ...] = (),
        watched: tuple[int | None, ...] = (),
        conditions: tuple[tuple[bytes, str], ...] = (),
        matched: tuple[bool, ...] = (),
    ) -> None:
        self.listener = listener
        self.method = method
        self.cut = len(path) > MOST_PATH
        self.path = path[:MOST_PATH]
        self.route = route
        self.names = names
        self.watched = watched
        self.conditions = conditions
        self.matched = matched

    def taken(self) -> tuple[Any, ...]:
        """The same as plain data."""
        return (
            self.listener, self.method, self.path, self.cut, self.route, self.names, self.watched, self.conditions,
            self.matched,
        )  # fmt: skip


class Segment:
    """So many requests, and what their numbers stand for. ``generation``: how often settings had changed by then."""

    __slots__ = (
        "began", "clients", "columns", "details", "generation", "kind_of", "kinds", "named", "names", "newest",
        "numbered", "numbers", "seconds", "shapes", "text", "until", "used",
    )  # fmt: skip

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.used = 0
        #: Columns: when a request began (the clock's time), the seconds that it took, its kind, its client. Lists, as
        #: these take a fifth of an array's time to write to; and three times its room, so they become arrays later.
        self.began: list[float] = [0.0] * SEGMENT
        self.seconds: list[float] = [0.0] * SEGMENT
        self.kind_of: list[int] = [0] * SEGMENT
        self.clients: list[str] = [""] * SEGMENT
        #: The same of one that is full; clients as checksums.
        self.columns: tuple[array[float], array[float], array[int], array[int]] | None = None
        self.details = bytearray()
        #: When the last one was added; and when another segment is due, full or not.
        self.newest = 0.0
        self.until = 0.0
        #: What a kind is found by → its number; and of each: shape, endpoint, status.
        self.kinds: dict[Any, int] = {}
        self.numbered: list[tuple[int, int, int]] = []
        #: The same of shapes; and of codes, and objects that stand for endpoints. 0: nothing.
        self.numbers: dict[Any, int] = {}
        self.shapes: list[Shape] = []
        self.named: dict[Any, int] = {"": 0}
        self.names: list[str] = [""]
        self.text = 0

    def kind(self, key: Any, shape: int, endpoint: int, status: int) -> int:
        """Number a kind that is new."""
        number = len(self.numbered)
        self.kinds[key] = number
        self.numbered.append((shape, endpoint, status))
        self.text += ENTRY_BYTES
        return number

    def shape(self, key: Any, shape: Shape) -> int:
        """Number a shape that is new."""
        number = len(self.shapes)
        self.numbers[key] = number
        self.shapes.append(shape)
        self.text += ENTRY_BYTES + 2 * len(shape.path)
        return number

    def seal(self) -> None:
        """Let go of what is needed only while it is being filled: room for more requests, and what things are found
        by, which holds on to chains and endpoints that a reload may have taken out."""
        self.columns = self._columns()
        self.began, self.seconds, self.kind_of, self.clients = [], [], [], []
        self.kinds, self.numbers, self.named = {}, {}, {}

    def _columns(self) -> tuple[array[float], array[float], array[int], array[int]]:
        used = self.used
        return (
            array("d", self.began[:used]),
            array("f", self.seconds[:used]),
            array("I", self.kind_of[:used]),
            array("I", [hash(client) & 0xFFFFFFFF for client in self.clients[:used]]),
        )

    def name(self, key: Any, name: str) -> int:
        """The number of a name."""
        number = self.named.get(key, -1)
        if number < 0:
            number = len(self.names)
            self.named[key] = number
            self.names.append(name)
            self.text += ENTRY_BYTES
        return number

    def taken(self) -> dict[str, Any]:
        """A copy, as plain data."""
        began, seconds, kinds, clients = self.columns or self._columns()
        return {
            "generation": self.generation,
            "began": began.tobytes(),
            "seconds": seconds.tobytes(),
            "kinds": kinds.tobytes(),
            "clients": clients.tobytes(),
            "details": bytes(self.details),
            "numbered": list(self.numbered),
            "shapes": [it.taken() for it in self.shapes],
            "names": list(self.names),
        }


class Decisions:
    """The record: of the last ``records`` requests, 0: of none."""

    __slots__ = ("_bytes", "_requests", "generation", "records", "salt", "segment", "segments")

    def __init__(self, records: int = 0) -> None:
        #: Mixed into checksums of fields, so that nobody can look values up by them.
        self.salt = int.from_bytes(urandom(4), "big")
        self.generation = 0
        self.records = records
        self.segments: deque[Segment] = deque()
        #: Of the segments that are full.
        self._bytes = self._requests = 0
        #: The one that is being filled; ``None``: nothing is recorded.
        self.segment: Segment | None = None
        if records:
            self._begin()

    def _begin(self) -> Segment:
        self.segment = segment = Segment(self.generation)
        self.segments.append(segment)
        return segment

    def turn(self, now: float) -> Segment:
        """Begin another segment, unless this one is still empty, and let go of what there is no room for any more."""
        segments, full = self.segments, self.segment
        if full is not None and not full.used:
            full.until = now + AGE
            return full
        if full is not None:
            full.seal()
            self._bytes += _size(full)
            self._requests += full.used
        found = self._begin()
        found.until = now + AGE
        room = -(-self.records // SEGMENT) * SEGMENT
        while len(segments) > 1 and (
            self._requests + SEGMENT > room or self._bytes > MOST_TEXT or segments[0].newest < now - AGE
        ):
            gone = segments.popleft()
            self._bytes -= _size(gone)
            self._requests -= gone.used
        return found

    def forget(self, now: float) -> None:
        """Let go of what is too old."""
        if self.segment is not None and self.segments[0].newest < now - AGE:
            self.turn(now)

    def resize(self, records: int) -> None:
        """Remember so many from now on."""
        if records == self.records:
            return
        self.records = records
        if not records:
            self.segments.clear()
            self.segment, self._bytes, self._requests = None, 0, 0
        elif self.segment is None:
            self._begin()
        else:
            self.turn(self.segment.newest)

    def changed(self) -> None:
        """Settings have changed: what comes from now on was decided by others."""
        self.generation += 1
        segment = self.segment
        if segment is None:
            return
        if segment.used:
            self.turn(segment.newest)
        else:
            segment.generation = self.generation

    def __len__(self) -> int:
        """How many requests are remembered."""
        return sum([segment.used for segment in self.segments])


def _size(segment: Segment) -> int:
    return segment.text + len(segment.details) + _SEGMENT_BYTES
