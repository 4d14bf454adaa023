"""Who waits for an upstream, and how they are let go."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.resilience.waiting_room import FIRST_PAUSE, LONGEST_PAUSE, WaitingRoom

MANY = 1 << 30


def room_of(*names: str) -> WaitingRoom:
    room = WaitingRoom()
    for name in names:
        room.enter(name)
    return room


def test_one_goes_first_alone() -> None:
    room = room_of("a", "b", "c")
    assert room.go(0.0, MANY) == ["a"]
    assert room.go(0.0, MANY) == []
    assert (len(room), room.out) == (2, 1)


def test_twice_as_many_go_in_each_round() -> None:
    room = room_of(*map(str, range(20)))
    rounds = []
    while room:
        gone = room.go(0.0, MANY)
        rounds.append(len(gone))
        for _ in gone:
            room.back(0.0, True)
    assert rounds == [1, 2, 4, 8, 5]


def test_no_more_go_than_are_let_through() -> None:
    room = room_of("a", "b")
    assert room.go(0.0, 0) == []
    room.window = 5
    assert room.go(0.0, 1) == ["a"]


def test_a_failure_is_a_pause_that_doubles_and_begins_with_one_again() -> None:
    room = room_of(*map(str, range(20)))
    room.window = 8
    now = 0.0
    for pause in (FIRST_PAUSE, 0.2, 0.4, 0.8, LONGEST_PAUSE, LONGEST_PAUSE):
        gone = room.go(now, MANY)
        for _ in gone:
            room.back(now, False if room.out == 1 else None)
        assert room.go(now + pause - 0.001, MANY) == []
        now += pause + 0.001
        assert len(room.go(now, MANY)) == 1
        room.back(now, None)


def test_a_place_is_kept() -> None:
    room = WaitingRoom()
    first = room.enter("first")
    room.enter("second")
    assert room.go(0.0, MANY) == ["first"]
    room.back(0.0, None)
    assert room.enter("first", first) == first
    assert room.everyone() == ["first", "second"]


def test_who_leaves_is_gone_and_may_leave_twice() -> None:
    room = WaitingRoom()
    tickets = [room.enter(name) for name in "abc"]
    room.leave(tickets[1])
    room.leave(tickets[1])
    room.leave(99)
    assert room.everyone() == ["a", "c"]


class Rooms(RuleBasedStateMachine):
    """Whatever happens: nobody is lost, nobody is let go twice, and the order is that of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom()
        self.now = 0.0
        self.waiting: dict[int, None] = {}
        self.out: list[int] = []

    @rule()
    def enters(self) -> None:
        ticket = self.room.enter(0)
        self.room.leave(ticket)
        assert self.room.enter(ticket, ticket) == ticket
        self.waiting[ticket] = None

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        self.room.leave(ticket)
        del self.waiting[ticket]

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0]), most=st.integers(0, 3))
    def goes(self, seconds: float, most: int) -> None:
        self.now += seconds
        gone = self.room.go(self.now, most)
        assert gone == sorted(self.waiting)[: len(gone)]
        assert len(gone) <= most
        for ticket in gone:
            del self.waiting[ticket]
        self.out += gone
        assert len(self.out) <= self.room.window or not gone

    @precondition(lambda self: self.out)
    @rule(well=st.sampled_from([True, False, None]), stays=st.booleans())
    def comes_back(self, well: bool | None, stays: bool) -> None:
        ticket = self.out.pop(0)
        self.room.back(self.now, well)
        if stays and not well:
            self.room.enter(ticket, ticket)
            self.waiting[ticket] = None

    @invariant()
    def counts_agree(self) -> None:
        assert self.room.everyone() == sorted(self.waiting)
        assert (len(self.room), self.room.out) == (len(self.waiting), len(self.out))
        assert self.room.window >= 1


TestRooms = Rooms.TestCase
