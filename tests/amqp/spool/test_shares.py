from __future__ import annotations

from sidecar.amqp.spool.shares import SHARE, STILL, Shares
from sidecar.amqp.spool.store import StreamCount

A, B, C = ("/", "exchange a"), ("/", "exchange b"), ("/", "exchange c")


class Room:
    """As much of a spool as this looks at: a thousand bytes."""

    def __init__(self, **sizes: int) -> None:
        self.max_bytes = 1000
        self.streams: dict[tuple[str, str], StreamCount] = {}
        self.now = 1000.0
        self.moves = True
        for name, size in sizes.items():
            self.streams["/", f"exchange {name}"] = key = StreamCount()
            key.bytes = size
        self.shares = Shares(self, lambda: self.moves, lambda: self.now)  # type: ignore[arg-type]

    @property
    def bytes(self) -> int:
        return sum(key.bytes for key in self.streams.values())

    def refused(self, again: bool = False) -> list[str]:
        self.now += 1.0  # another look
        return [name[1][-1] for name in self.streams if self.shares.refuses(name, again)]


def test_one_that_has_never_moved_has_its_share_and_no_more() -> None:
    assert SHARE == 0.5
    assert Room(a=499).refused() == []
    assert Room(a=500).refused() == ["a"]
    assert Room(a=500, b=100).refused() == ["a", "b"]  # together
    room = Room(a=500)
    assert not room.shares.refuses(B), "it is not there yet"


def test_one_that_moves_may_have_all() -> None:
    room = Room(a=900, b=50)
    room.streams[A].moved = room.now
    assert room.refused() == []
    room.now += STILL
    assert room.refused() == ["a", "b"]
    room.streams[A].moved = room.now
    assert room.refused() == []


def test_those_that_stand_still_have_their_share_together() -> None:
    room = Room(a=240, b=250, c=400)
    room.streams[C].moved = room.now + 10
    room.now += 10
    assert room.refused() == []
    room.streams[A].bytes = 260
    room.streams[C].moved = room.now
    assert room.refused() == ["a", "b"]


def test_without_a_broker_all_of_it_is_for_whoever_comes_first() -> None:
    room = Room(a=999)
    room.moves = False
    assert room.refused() == []


def test_there_is_room_again_only_when_there_is_some() -> None:
    room = Room(a=470)
    assert room.refused() == []
    assert room.refused(again=True) == ["a"]
    room.streams[A].bytes = 449
    assert room.refused(again=True) == []
