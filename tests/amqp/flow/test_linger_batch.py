from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.batches import FULL, LingerBatch
from support.writes import Writes

LINGER: Final = 0.005


class Wire(Writes):
    """A batch, its clock, and what has left it."""

    def __init__(self) -> None:
        Writes.__init__(self)
        self.batch = LingerBatch(LINGER, self.write, self.loop, self.call_later)

    def add(self, data: bytes) -> None:
        self.batch.add(data, 1, 1000)

    def at(self, when: float, data: bytes) -> None:
        self.loop.run_until(when)
        self.add(data)


def test_what_comes_alone_leaves_at_once() -> None:
    wire = Wire()
    for when in (0.0, 1.0, 2.0):
        wire.at(when, b"a")
        assert not wire.loop.armed()
    assert wire.writes == [(0.0, b"a"), (1.0, b"a"), (2.0, b"a")]


def test_what_comes_soon_after_is_collected() -> None:
    wire = Wire()
    for data in (b"a", b"b", b"c"):
        wire.add(data)
    wire.at(0.004, b"d")
    assert wire.batch.size == 3
    wire.loop.run_until(1.0)
    assert wire.writes == [(0.0, b"a"), (LINGER, b"bcd")]
    assert wire.batch.size == 0
    # The pause is over, and there is no timer for nothing.
    assert not wire.loop.armed()
    wire.at(2.0, b"e")
    assert wire.writes[-1] == (2.0, b"e")


def test_a_stream_leaves_once_in_a_time() -> None:
    wire = Wire()
    for i in range(1000):
        wire.at(i / 10_000, b"x")
    wire.loop.run_until(1.0)
    assert sum(len(data) for _, data in wire.writes) == 1000
    assert len(wire.writes) <= 0.1 / LINGER + 2
    assert wire.loop.woken <= 0.1 / LINGER + 2


def test_a_full_batch_does_not_wait() -> None:
    wire = Wire()
    wire.add(b"first")
    wire.add(b"x" * (FULL - 2))
    wire.add(b"y")
    assert len(wire.writes) == 1
    wire.add(b"z")
    assert wire.writes[1:] == [(0.0, b"x" * (FULL - 2) + b"yz")]
    wire.add(b"w" * FULL)
    assert wire.writes[2:] == [(0.0, b"w" * FULL)]


def test_what_must_leave_takes_along_what_waits() -> None:
    wire = Wire()
    wire.add(b"a")
    wire.add(b"b")
    wire.batch.send(b"c")
    wire.batch.send(b"d")
    assert wire.writes == [(0.0, b"a"), (0.0, b"bc"), (0.0, b"d")]


def test_flushing() -> None:
    wire = Wire()
    wire.batch.flush()
    wire.add(b"a")
    wire.add(b"b")
    wire.batch.flush()
    wire.batch.flush()
    assert wire.writes == [(0.0, b"a"), (0.0, b"b")]


def test_whoever_waits_for_answers_does_not_wait_here() -> None:
    wire = Wire()
    for i in range(100):
        wire.at(i * 0.0003, b"x")
        wire.batch.answered(0)
    assert [when for when, _ in wire.writes] == [pytest.approx(i * 0.0003) for i in range(100)]
    assert not wire.loop.armed()


def test_the_last_answer_lets_out_what_waits() -> None:
    wire = Wire()
    wire.add(b"a")
    wire.add(b"b")
    wire.batch.answered(0)
    wire.add(b"c")
    wire.add(b"d")
    assert wire.writes == [(0.0, b"a"), (0.0, b"b"), (0.0, b"c")]
    wire.loop.run_until(LINGER)
    assert wire.writes[3:] == [(LINGER, b"d")]


def test_the_end() -> None:
    wire = Wire()
    wire.add(b"a")
    wire.add(b"b")
    wire.batch.drop()
    assert wire.batch.size == 0
    assert not wire.loop.armed()
    wire.batch.drop()
    wire.batch.flush()
    assert wire.writes == [(0.0, b"a")]


def test_another_linger() -> None:
    wire = Wire()
    wire.add(b"a")
    wire.batch.linger = 1.0
    wire.at(LINGER / 2, b"b")
    wire.at(LINGER * 2, b"c")
    wire.loop.run_until(2.0)
    assert wire.writes == [(0.0, b"a"), (LINGER, b"b"), (LINGER + 1.0, b"c")]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.02),
            st.sampled_from(["add", "add", "add", "add", "send", "flush", "answered"]),
            st.sampled_from([1, 10, 500, FULL // 3, FULL]),
        ),
        max_size=60,
    )
)
def test_everything_leaves_in_order_and_in_time(steps: list[tuple[float, str, int]]) -> None:
    wire = Wire()
    given_at: list[tuple[float, int]] = []
    expected = b""
    for number, (pause, what, size) in enumerate(steps):
        wire.loop.run_until(wire.loop.now + pause)
        if what in ("add", "send"):
            data = bytes((number,)) * size
            expected += data
            given_at.append((wire.loop.now, len(expected)))
            (wire.add if what == "add" else wire.batch.send)(data)
        elif what == "flush":
            wire.batch.flush()
        else:
            wire.batch.answered(0)
        left = wire.left()
        assert len(left) + wire.batch.size == len(expected)
        assert wire.batch.size < FULL
        if what != "add":
            assert left == expected
        assert len(wire.loop.armed()) <= 1
    wire.loop.run_until(wire.loop.now + 1.0)
    assert wire.left() == expected
    assert not wire.loop.armed()
    wire.in_time(given_at, LINGER)
