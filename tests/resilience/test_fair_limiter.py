"""The fair limiter: every key has its turn, no slot is lost, and a full queue makes room for who has fewer there."""

from __future__ import annotations

import heapq
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.resilience.fair_limiter import Candidate, FairLimiter
from support.examples import examples


class Asking(Candidate):
    """What asks, and what has become of it."""

    def __init__(self, limiter: FairLimiter, key: str, back_at_once: bool = False) -> None:
        super().__init__(key)
        self.limiter = limiter
        self.back_at_once = back_at_once
        self.holds = self.away = False

    def ask(self) -> int:
        """Its place in the queue; 0: it has a slot, or there is no room."""
        self.holds = self.limiter.acquire(self.key)
        place = 0 if self.holds else self.limiter.join(self)
        self.away = not self.holds and not place
        return place

    def granted(self) -> None:
        self.holds = not self.back_at_once
        if self.back_at_once:
            self.away = True
            self.limiter.release(self.key)

    def displaced(self) -> None:
        self.away = True


def asking(limiter: FairLimiter, keys: str) -> list[Asking]:
    found = [Asking(limiter, key) for key in keys]
    for it in found:
        it.ask()
    return found


def test_slots_go_round_among_the_keys() -> None:
    limiter = FairLimiter(1, 10)
    first, *queue = asking(limiter, "aaaabbc")
    order = []
    held = first
    for _ in queue:
        held.holds = False
        limiter.release(held.key)
        held = next(it for it in queue if it.holds)
        order.append(held.key)
    assert "".join(order) == "bcabaa"
    limiter.release(held.key)
    assert (limiter.active, limiter.pending, limiter.keys) == (0, 0, 0)


def test_who_holds_fewer_slots_goes_first() -> None:
    limiter = FairLimiter(2, 10)
    first, second, third, fourth = asking(limiter, "aaab")
    assert (first.holds, second.holds) == (True, True)
    limiter.release("a")
    assert (third.holds, fourth.holds) == (False, True)


def test_places_are_those_of_the_turns() -> None:
    limiter = FairLimiter(1, 10)
    assert [Asking(limiter, key).ask() for key in "xaaabba"] == [0, 1, 2, 3, 2, 4, 6]
    assert limiter.estimate(4) == 0.0
    limiter.release("x", 8.0)
    assert limiter.estimate(4) == 32.0
    limiter.release("a", 24.0)
    assert limiter.held == 9.0


def test_a_full_queue_makes_room_for_who_has_fewer_there() -> None:
    limiter = FairLimiter(1, 3)
    _, first, second, third = asking(limiter, "xaaa")
    own = Asking(limiter, "a")
    assert own.ask() == 0
    assert own.away
    other = Asking(limiter, "b")
    assert other.ask() == 2
    assert [it.away for it in (first, second, third)] == [False, False, True], "the newest one"
    assert Asking(limiter, "b").ask() == 0, "that would not be fairer"
    assert limiter.pending == 3
    assert FairLimiter(1, 0)._displace("a") is False


def test_nobody_is_let_in_while_it_is_shut() -> None:
    limiter = FairLimiter(1, 10)
    limiter.shut = True
    (one,) = asking(limiter, "a")
    assert not one.holds
    limiter.open()
    assert one.holds


def test_a_wait_is_estimated_from_how_long_slots_were_held() -> None:
    limiter = FairLimiter(4, 10)
    assert limiter.estimate(8) == 0.0, "nothing is known yet"
    for seconds in (2.0, 0.0, 2.0):  # 0: that says nothing
        assert limiter.acquire("a")
        limiter.release("a", seconds)
    assert limiter.estimate(8) == 4.0
    assert limiter.acquire("a")
    limiter.release("a", 0.5)
    assert 0.5 < limiter.held < 2.0


def test_other_room_counts_at_once() -> None:
    limiter = FairLimiter(1, 0)
    assert limiter.acquire("a")
    assert limiter.join(Asking(limiter, "a")) == 0
    limiter.resize(1, 1)
    assert limiter.join(Asking(limiter, "a")) == 1
    assert limiter.join(Asking(limiter, "a")) == 0


def test_more_slots_are_used_at_once() -> None:
    limiter = FairLimiter(1, 10)
    found = asking(limiter, "abcd")
    limiter.resize(3, 10)
    assert [it.holds for it in found] == [True, True, True, False]


@pytest.mark.parametrize("seed", range(3))
def test_no_agent_starves_another(seed: int) -> None:
    """24 agents at 4 slots: one asks for as much as there is room for, and the others for one or two at a time."""
    rng = Random(seed)
    limiter = FairLimiter(4, 100)
    keys = [f"agent-{n}" for n in range(24)]
    served: Counter[str] = Counter()
    ends: list[tuple[float, int, Asking]] = []
    now, number = 0.0, 0

    class Agent(Asking):
        def granted(self) -> None:
            nonlocal number
            number += 1
            heapq.heappush(ends, (now + rng.uniform(1.0, 5.0), number, self))

        def ask(self) -> int:
            if limiter.acquire(self.key):
                self.granted()
                return 0
            return limiter.join(self)

    for _ in range(200):
        Agent(limiter, keys[0]).ask()
    for n, key in enumerate(keys[1:]):
        for _ in range(1 + n % 2):
            Agent(limiter, key).ask()
    for _ in range(2400):
        now, _, one = heapq.heappop(ends)
        served[one.key] += 1
        limiter.release(one.key, 1.0)
        for _ in range(5 if one.key == keys[0] else 1):
            Agent(limiter, one.key).ask()
    assert len(served) == 24
    assert max(served.values()) <= 1.3 * min(served.values()), served


STEPS = st.lists(st.tuples(st.sampled_from("aaabcd"), st.integers(0, 5), st.booleans()), max_size=60)


@given(STEPS, st.integers(1, 3), st.integers(0, 4))
@settings(max_examples=examples(100))
def test_no_slot_is_lost_whatever_the_order(steps: list[tuple[str, int, bool]], limit: int, room: int) -> None:
    limiter = FairLimiter(limit, room)
    all_of_them: list[Asking] = []
    for key, what, odd in steps:
        if what <= 2:
            it = Asking(limiter, key, back_at_once=odd and what == 2)
            it.ask()
            all_of_them.append(it)
        elif what == 3 and (held := [it for it in all_of_them if it.holds]):
            held[0].holds, held[0].away = False, True
            limiter.release(held[0].key)
        elif what == 4 and (waiting := [it for it in all_of_them if not it.holds and not it.away]):
            waiting[-1].away = True
            limiter.leave(waiting[-1])
        elif what == 5:
            limiter.shut = odd
            if not odd:
                limiter.open()
        assert limiter.active == sum(it.holds for it in all_of_them) <= limit
        assert limiter.pending == sum(not it.holds and not it.away for it in all_of_them) <= room
        assert limiter.shut or not limiter.pending or limiter.active == limit
    limiter.open()
    while held := [it for it in all_of_them if it.holds]:
        held[0].holds = False
        held[0].away = True
        limiter.release(held[0].key)
    assert (limiter.active, limiter.pending, limiter.keys) == (0, 0, 0)
