from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.replay.cursor import BEGINNING, Reading
from sidecar.amqp.spool.message import SpooledMessage


def message(number: int, priority: int) -> SpooledMessage:
    made = SpooledMessage("/", "lane", "jobs", "k", b"", b"", priority=priority)
    made.id = number
    return made


def test_one_of_higher_priority_makes_it_go_back() -> None:
    reading = Reading()
    reading.begin()
    reading.done([message(1, 0), message(2, 0)])
    assert (reading.after, reading.urgent) == ((0, 2), False)
    reading.added(message(3, 0).cursor)
    assert (reading.after, reading.urgent) == ((0, 2), False)
    reading.added(message(4, 7).cursor)
    assert (reading.after, reading.urgent) == ((-7, 3), True)


def test_one_that_comes_during_an_empty_answer_is_no_end() -> None:
    reading = Reading()
    reading.begin()
    reading.added(message(1, 0).cursor)
    reading.done([])
    assert not reading.ended
    reading.begin()
    reading.done([])
    assert reading.ended


def test_an_answer_to_what_was_asked_before_going_back_counts_for_nothing() -> None:
    reading = Reading()
    reading.begin()
    reading.rewind(BEGINNING)
    assert reading.done([message(5, 0)]) == []
    assert not reading.ended
    assert reading.after < (0, 0)


def test_going_back_to_a_message() -> None:
    reading = Reading()
    reading.begin()
    reading.done([message(number, 0) for number in range(1, 9)])
    reading.rewind(message(4, 0).cursor)
    reading.rewind(message(6, 0).cursor)
    assert (reading.after, reading.urgent) == ((0, 3), True)


def disk_ids(disk: list[SpooledMessage], place: tuple[int, int]) -> set[int]:
    """Those from that place on."""
    return {each.id for each in disk if each.cursor >= place}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32))
def test_whatever_comes_in_between_everything_is_read(seed: int) -> None:
    """Messages are on the disk before anybody is told; the answer of the spool is older than what comes meanwhile."""
    rng = random.Random(seed)
    reading = Reading()
    disk: list[SpooledMessage] = []
    seen: set[int] = set()
    answer: list[SpooledMessage] | None = None

    def fetch(limit: int) -> list[SpooledMessage]:
        after = reading.after
        behind = [each for each in disk if each.cursor > after]
        return sorted(behind, key=lambda each: each.cursor)[:limit]

    for number in range(1, rng.randrange(2, 60)):
        action = rng.random()
        if action < 0.5:
            disk.append(message(number, rng.choice([0, 0, 5])))
            reading.added(disk[-1].cursor)
        elif action < 0.55:
            place = message(rng.randrange(1, 60), rng.choice([0, 0, 5])).cursor
            reading.rewind(place)
            seen = {each for each in seen if each not in disk_ids(disk, place)}
        elif answer is not None:
            seen.update(each.id for each in reading.done(answer))
            answer = None
        elif not reading.ended:
            reading.begin()
            answer = fetch(rng.choice([1, 3, 100]))
    if answer is not None:
        seen.update(each.id for each in reading.done(answer))
    for _ in range(200):
        if reading.ended:
            break
        reading.begin()
        seen.update(each.id for each in reading.done(fetch(10)))
    assert reading.ended
    assert seen == {each.id for each in disk}
