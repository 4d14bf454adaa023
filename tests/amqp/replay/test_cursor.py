from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.replay.cursor import BEGINNING, Cursor
from sidecar.amqp.spool.message import SpooledMessage
from support.examples import examples


def message(number: int, priority: int) -> SpooledMessage:
    made = SpooledMessage("/", "lane", "jobs", "k", b"", b"", priority=priority)
    made.id = number
    return made


def test_one_of_higher_priority_makes_it_go_back() -> None:
    cursor = Cursor()
    cursor.begin()
    cursor.done([message(1, 0), message(2, 0)])
    assert (cursor.after, cursor.urgent) == ((0, 2), False)
    cursor.added(message(3, 0).position)
    assert (cursor.after, cursor.urgent) == ((0, 2), False)
    cursor.added(message(4, 7).position)
    assert (cursor.after, cursor.urgent) == ((-7, 3), True)


def test_one_that_comes_during_an_empty_answer_is_no_end() -> None:
    cursor = Cursor()
    cursor.begin()
    cursor.added(message(1, 0).position)
    cursor.done([])
    assert not cursor.ended
    cursor.begin()
    cursor.done([])
    assert cursor.ended


def test_an_answer_to_what_was_asked_before_going_back_counts_for_nothing() -> None:
    cursor = Cursor()
    cursor.begin()
    cursor.rewind(BEGINNING)
    assert cursor.done([message(5, 0)]) == []
    assert not cursor.ended
    assert cursor.after < (0, 0)


def test_going_back_to_a_message() -> None:
    cursor = Cursor()
    cursor.begin()
    cursor.done([message(number, 0) for number in range(1, 9)])
    cursor.rewind(message(4, 0).position)
    cursor.rewind(message(6, 0).position)
    assert (cursor.after, cursor.urgent) == ((0, 3), True)


def disk_ids(disk: list[SpooledMessage], place: tuple[int, int]) -> set[int]:
    """Those from that place on."""
    return {each.id for each in disk if each.position >= place}


@settings(max_examples=examples(200), deadline=None)
@given(st.integers(0, 1 << 32))
def test_whatever_comes_in_between_everything_is_read(seed: int) -> None:
    """Messages are on the disk before anybody is told; the answer of the spool is older than what comes meanwhile."""
    rng = random.Random(seed)
    cursor = Cursor()
    disk: list[SpooledMessage] = []
    seen: set[int] = set()
    answer: list[SpooledMessage] | None = None

    def fetch(limit: int) -> list[SpooledMessage]:
        after = cursor.after
        behind = [each for each in disk if each.position > after]
        return sorted(behind, key=lambda each: each.position)[:limit]

    for number in range(1, rng.randrange(2, 60)):
        action = rng.random()
        if action < 0.5:
            disk.append(message(number, rng.choice([0, 0, 5])))
            cursor.added(disk[-1].position)
        elif action < 0.55:
            place = message(rng.randrange(1, 60), rng.choice([0, 0, 5])).position
            cursor.rewind(place)
            seen = {each for each in seen if each not in disk_ids(disk, place)}
        elif answer is not None:
            seen.update(each.id for each in cursor.done(answer))
            answer = None
        elif not cursor.ended:
            cursor.begin()
            answer = fetch(rng.choice([1, 3, 100]))
    if answer is not None:
        seen.update(each.id for each in cursor.done(answer))
    for _ in range(200):
        if cursor.ended:
            break
        cursor.begin()
        seen.update(each.id for each in cursor.done(fetch(10)))
    assert cursor.ended
    assert seen == {each.id for each in disk}
