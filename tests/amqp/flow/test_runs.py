from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.runs import Runs
from support.examples import examples


def test_what_is_side_by_side_is_one() -> None:
    runs = Runs()
    assert [runs.put(number, number) for number in (1, 2, 3)] == [1, 1, 1]
    assert runs.put(4, 9) == 6
    assert runs.all() == [(1, 9, None)]
    assert runs.take(1, 4) == [(1, 4, None)]
    assert (runs.count, runs.first(), runs.last()) == (5, (5, None), 9)


def test_a_place_and_its_note_stay_for_what_comes_next() -> None:
    runs = Runs()
    runs.put(1, 3, "a")
    assert runs.take_front(3) == 3
    assert (runs.count, runs.first(), runs.last(), runs.all()) == (0, None, 0, [])
    assert not runs.at_front(1, 4)
    assert runs.note_at(3) == "a"
    runs.extend(2)
    assert runs.all() == [(4, 5, "a")]
    assert runs.take_front(5) == 2
    assert runs.put(2, 6) == 5
    assert runs.all() == [(2, 6, None)]


def test_notes_are_kept_apart() -> None:
    runs = Runs()
    runs.put(1, 3, "a")
    runs.put(4, 4, "a")
    runs.put(5, 6)
    assert runs.take(2, 5) == [(2, 3, "a"), (4, 4, "a"), (5, 5, None)]
    assert runs.all() == [(1, 1, "a"), (6, 6, None)]


def test_one_out_of_the_middle_leaves_both_sides() -> None:
    runs = Runs()
    runs.put(1, 9, "a")
    assert runs.take(5, 5) == [(5, 5, "a")]
    assert runs.take(5, 5) == []
    assert runs.all() == [(1, 4, "a"), (6, 9, "a")]
    assert runs.take(0, 100) == [(1, 4, "a"), (6, 9, "a")]
    assert (runs.count, runs.first(), runs.last()) == (0, None, 0)


def test_what_is_there_already_is_no_more() -> None:
    runs = Runs()
    runs.put(5, 9, "a")
    assert runs.put(7, 8, "b") == 0
    assert runs.put(1, 5, "c") == 4
    assert runs.all() == [(1, 5, "c"), (6, 6, "a"), (7, 8, "b"), (9, 9, "a")]


def test_what_was_taken_is_not_kept() -> None:
    runs = Runs()
    for number in range(1, 10_001):
        runs.put(number, number, number)
    for number in range(2, 10_001):
        runs.take(number, number)
    assert runs.count == 1
    assert len(runs._firsts) < 200
    for number in range(10_001, 20_001):
        runs.put(number, number, number)
        runs.take(number - 5000, number - 5000)
    assert len(runs._firsts) < 2 * runs.count + 200


@settings(max_examples=examples(300), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "back", "take", "front", "more"]), st.integers(0, 12), st.integers(0, 9)
        ),
        max_size=150,
    )
)
def test_as_a_plain_dictionary(steps: list[tuple[str, int, int]]) -> None:
    runs = Runs()
    model: dict[int, object] = {}
    highest = 0
    for what, at, more in steps:
        if what == "take":
            first = min(model, default=0) + at - 1
            found = runs.take(first, first + more)
            assert all(begin <= end for begin, end, _ in found)
            wanted = [(one, model.pop(one)) for one in sorted(model) if first <= one <= first + more]
            assert [(one, note) for begin, end, note in found for one in range(begin, end + 1)] == wanted
        elif what == "front":
            first = min(model, default=0) + at % 2 - 1
            last = first + more
            of_all = [one for one in sorted(model) if first <= one <= last]
            (lowest, *_) = [*runs.all(), (0, -1, None)]
            assert runs.at_front(first, last) == (first <= lowest[0] <= last <= lowest[1])
            if runs.at_front(first, last):
                assert runs.front() == lowest[2]
                assert runs.take_front(last) == len(of_all)
                assert {model.pop(one) for one in of_all} == {lowest[2]}
        elif what == "more":
            note = runs.note_at(highest)
            if note is not None:
                assert note == model.get(highest, note if not model else None)
                runs.extend(more + 1)
                model.update(dict.fromkeys(range(highest + 1, highest + more + 2), note))
                highest += more + 1
        else:
            first = max(highest + 1 + at // 4, 1) if what == "put" else max(highest - at, 1)
            note = None if at % 3 else f"{first}"
            numbers = range(first, first + more + 1)
            assert runs.put(first, first + more, note) == len([one for one in numbers if one not in model])
            model.update(dict.fromkeys(numbers, note))
            highest = max(highest, first + more)
        assert runs.count == len(model)
        assert runs.last() == max(model, default=0)
        assert runs.first() == ((min(model), model[min(model)]) if model else None)
        assert [(one, note) for first, last, note in runs.all() for one in range(first, last + 1)] == [
            (one, model[one]) for one in sorted(model)
        ]
