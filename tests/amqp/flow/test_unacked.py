from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.unacked import Unacked
from support.examples import examples


def test_single_and_multiple() -> None:
    unacked = Unacked()
    for tag in range(1, 8):
        unacked.delivered(tag, f"note {tag}")
    assert unacked.count == 7
    assert unacked.settled(3, False) == ["note 3"]
    assert unacked.settled(5, True) == ["note 1", "note 2", "note 4", "note 5"]
    assert unacked.settled(0, True) == ["note 6", "note 7"]
    assert unacked.count == 0


def test_a_note_need_not_be() -> None:
    unacked = Unacked()
    unacked.delivered(1)
    unacked.delivered(2)
    assert unacked.settled(2, False) == [None]
    assert unacked.settled(9, True) == [None]


def test_unknown_tags_settle_nothing() -> None:
    unacked = Unacked()
    unacked.delivered(5)
    assert unacked.settled(4, False) == []
    assert unacked.settled(4, True) == []
    assert unacked.settled(0, False) == [], "0 stands for all only with multiple"
    assert unacked.settled(1 << 64, False) == []
    assert unacked.settled(5, False) == [None]
    assert unacked.settled(5, False) == [], "settled twice"


def test_clear() -> None:
    unacked = Unacked()
    unacked.delivered(1)
    unacked.clear()
    assert unacked.count == 0
    assert unacked.settled(0, True) == []


@settings(max_examples=examples(200), deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("deliver"), st.integers(1, 5), st.booleans()),
            st.tuples(st.just("settle"), st.integers(0, 60), st.booleans()),
        ),
        max_size=80,
    )
)
def test_as_a_plain_list_of_tags(steps: list[tuple[str, int, bool]]) -> None:
    unacked = Unacked()
    model: list[int] = []
    tag = 0
    for what, number, flag in steps:
        if what == "deliver":
            # Deliveries that need no acknowledgement use numbers too.
            tag += number
            unacked.delivered(tag, tag)
            model.append(tag)
        else:
            gone = [one for one in model if (one <= number or number == 0 if flag else one == number)]
            assert unacked.settled(number, flag) == gone
            model = [one for one in model if one not in gone]
        assert unacked.count == len(model)
