from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.batches import FULL, LOOK_SECONDS, SHARE, BacklogBatch, Looks
from support.writes import Writes


class Wire(Writes):
    """A batch, its clock, and what has left it."""

    def __init__(self) -> None:
        Writes.__init__(self)
        self.looks = Looks(self.call_later)
        self.batch = self.another()

    def another(self) -> BacklogBatch:
        return BacklogBatch(self.write, self.looks)


def test_what_has_no_backlog_before_it_leaves_at_once() -> None:
    wire = Wire()
    for backlog in (0, 1, SHARE - 1):
        wire.batch.add(b"a", 1, backlog)
    assert wire.writes == [(0.0, b"a")] * 3
    assert not wire.loop.armed()


def test_publishes_wait_until_they_are_a_sixteenth_of_the_backlog() -> None:
    wire = Wire()
    for number in range(3):
        wire.batch.add(b"abc"[number : number + 1], 1, 3 * SHARE)
    assert wire.writes == []
    assert wire.batch.size == 3
    wire.batch.add(b"d", 1, 3 * SHARE + 1)
    assert wire.writes == [(0.0, b"abcd")]
    assert wire.batch.size == 0
    # It begins anew.
    wire.batch.add(b"e", 3, 3 * SHARE)
    assert len(wire.writes) == 1
    wire.batch.add(b"f", 1, 3 * SHARE)
    assert wire.writes[1:] == [(0.0, b"ef")]


def test_a_run_counts_as_all_that_is_in_it() -> None:
    wire = Wire()
    wire.batch.add(b"abcde", 5, 5 * SHARE - 1)
    assert wire.writes == [(0.0, b"abcde")]


def test_they_leave_before_the_broker_has_done_what_is_before_them() -> None:
    wire = Wire()
    wire.batch.add(b"a", 1, 100)
    wire.batch.add(b"b", 1, 101)
    for backlog in range(100, 2 * SHARE - 1, -1):
        wire.batch.answered(backlog)
        assert wire.writes == []
    wire.batch.answered(2 * SHARE - 1)
    assert wire.writes == [(0.0, b"ab")]
    wire.batch.answered(0)
    assert len(wire.writes) == 1


def test_what_is_no_publish_waits_for_nothing_and_overtakes_nothing() -> None:
    wire = Wire()
    wire.batch.add(b"a", 1, 1000)
    wire.batch.add(b"ack", 0, 0)
    wire.batch.add(b"b", 1, 1000)
    wire.batch.send(b"close")
    assert wire.writes == [(0.0, b"aack"), (0.0, b"bclose")]


def test_a_broker_that_answers_nothing_gets_everything_all_the_same() -> None:
    wire = Wire()
    wire.batch.add(b"a", 1, 1000)
    wire.batch.add(b"b", 1, 1000)
    wire.loop.run_until(1.0)
    assert wire.writes == [(2 * LOOK_SECONDS, b"ab")]
    assert not wire.loop.armed()


def test_what_came_since_the_last_look_may_wait_for_one_more() -> None:
    wire = Wire()
    wire.batch.add(b"a", 1, 1000)
    wire.loop.run_until(LOOK_SECONDS)
    wire.batch.flush()
    wire.batch.add(b"b", 1, 1000)
    wire.loop.run_until(2 * LOOK_SECONDS)
    assert wire.writes == [(LOOK_SECONDS, b"a")]
    wire.loop.run_until(1.0)
    assert wire.writes == [(LOOK_SECONDS, b"a"), (3 * LOOK_SECONDS, b"b")]
    assert not wire.loop.armed()


def test_all_of_a_port_are_looked_at_together() -> None:
    wire = Wire()
    batches = [wire.batch, wire.another(), wire.another()]
    for number, batch in enumerate(batches):
        wire.loop.run_until(number * LOOK_SECONDS / 4)
        batch.add(b"abc"[number : number + 1], 1, 1000)
    assert len(wire.loop.armed()) == 1
    wire.loop.run_until(1.5 * LOOK_SECONDS)
    batches[0].flush()
    batches[1].add(b"B", 1, 1000)
    assert wire.writes == [(1.5 * LOOK_SECONDS, b"a")]
    wire.loop.run_until(1.0)
    assert wire.writes[1:] == [(2 * LOOK_SECONDS, b"bB"), (2 * LOOK_SECONDS, b"c")]
    assert not wire.loop.armed()
    assert wire.loop.woken == 2


def test_an_error_of_one_leaves_nobody_waiting() -> None:
    wire = Wire()

    def fail(data: bytes) -> None:
        raise OSError(data)

    failing = BacklogBatch(fail, wire.looks)
    batches = [wire.batch, failing, wire.another()]
    for batch in batches:
        batch.add(b"a", 1, 1000)
    wire.loop.run_until(LOOK_SECONDS)
    with pytest.raises(OSError, match="a"):
        wire.loop.run_until(2 * LOOK_SECONDS)
    wire.loop.run_until(1.0)
    assert wire.writes == [(2 * LOOK_SECONDS, b"a"), (3 * LOOK_SECONDS, b"a")]
    assert not wire.loop.armed()
    # Nor does it wait itself, should there be more.
    failing.add(b"b", 1, 1000)
    assert wire.loop.armed()
    with pytest.raises(OSError, match="b"):
        wire.loop.run_until(2.0)


def test_many_bytes_do_not_wait() -> None:
    wire = Wire()
    wire.batch.add(b"x" * (FULL - 1), 1, 1000)
    assert wire.writes == []
    wire.batch.add(b"y", 1, 1000)
    assert [len(data) for _, data in wire.writes] == [FULL]
    assert wire.batch.size == 0


def test_the_end() -> None:
    wire = Wire()
    wire.batch.add(b"a", 1, 1000)
    wire.batch.add(b"b", 1, 1000)
    wire.batch.drop()
    assert wire.batch.size == 0
    wire.batch.drop()
    wire.batch.flush()
    wire.batch.answered(0)
    wire.loop.run_until(LOOK_SECONDS)
    assert not wire.loop.armed()
    assert wire.writes == []


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.02),
            st.sampled_from(["add", "add", "add", "add", "send", "answer", "flush"]),
            st.integers(0, 40),
            st.sampled_from([1, 300, FULL // 3, FULL]),
        ),
        max_size=80,
    )
)
def test_everything_leaves_in_order_in_time_and_in_reason(steps: list[tuple[float, str, int, int]]) -> None:
    wire = Wire()
    given_at: list[tuple[float, int]] = []
    expected = b""
    backlog = 0
    for number, (pause, what, count, size) in enumerate(steps):
        wire.loop.run_until(wire.loop.now + pause)
        if what in ("add", "send"):
            data = bytes((number,)) * size
            expected += data
            given_at.append((wire.loop.now, len(expected)))
            if what == "add":
                backlog += count
                wire.batch.add(data, count, backlog)
            else:
                wire.batch.send(data)
        elif what == "answer":
            backlog = max(backlog - count, 0)
            wire.batch.answered(backlog)
        else:
            wire.batch.flush()
        left = wire.left()
        assert len(left) + wire.batch.size == len(expected)
        assert wire.batch.size < FULL
        if what in ("send", "flush") or backlog < SHARE:
            assert left == expected
        assert len(wire.loop.armed()) <= 1
    wire.loop.run_until(wire.loop.now + 1.0)
    assert wire.left() == expected
    assert not wire.loop.armed()
    wire.in_time(given_at, 2 * LOOK_SECONDS)
