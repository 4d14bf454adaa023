"""Holding endpoints after an outage, and only then."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.instance import Instance
from sidecar.registry.outage_grace import Hold
from support.clock import Clock


def some(*ids: str) -> tuple[Instance, ...]:
    return tuple(Instance(host="10.0.0.1", port=1000 + ord(id[0]), id=id) for id in ids)


def ids(instances: tuple[Instance, ...]) -> str:
    return "".join(instance.id for instance in instances)


def held(*answers: str) -> tuple[Hold, Clock]:
    clock = Clock()
    hold = Hold(clock, grace=60)
    for answer in answers:
        hold.apply(some(*answer))
    return hold, clock


def test_without_an_outage_every_answer_counts_at_once() -> None:
    hold, _ = held("abc")
    assert ids(hold.apply(some("a"))) == "a"
    assert ids(hold.apply(())) == ""
    assert hold.remaining == 0


def test_after_an_outage_an_answer_with_instances_counts_at_once() -> None:
    hold, _ = held("abc")
    hold.outage()
    assert ids(hold.apply(some("a"))) == "a"


def test_after_an_outage_an_empty_answer_is_doubted_until_the_grace_is_over() -> None:
    hold, clock = held("abc")
    hold.outage()
    assert ids(hold.apply(())) == "abc"
    assert hold.remaining == 60
    clock.now += 30
    assert ids(hold.apply(some("b"))) == "abc"
    # b is back and no longer held: what is said of it counts at once
    assert ids(hold.apply(())) == "ac"
    clock.now += 30
    assert ids(hold.apply(())) == ""
    assert hold.remaining == 0


def test_an_index_that_went_back_means_lost_data_too() -> None:
    hold, _ = held("abc")
    assert ids(hold.apply(some("a"), went_back=True)) == "abc"


def test_release_ends_it_without_an_answer() -> None:
    hold, clock = held("abc")
    hold.outage()
    hold.apply(())
    hold.apply(some("a"))
    clock.now += 60
    assert ids(hold.release()) == "a"
    assert ids(hold.apply(some("a"))) == "a"


def test_a_second_outage_during_the_grace_prolongs_it() -> None:
    hold, clock = held("abc")
    hold.outage()
    hold.apply(())
    hold.apply(some("a"))
    hold.outage()
    clock.now += 100
    assert ids(hold.release()) == "abc"  # away: everything stays
    assert ids(hold.apply(some("a"))) == "abc"
    assert hold.remaining == 60


def test_an_index_that_goes_back_for_ever_does_not_hold_for_ever() -> None:
    hold, clock = held("abc")
    for _ in range(7):
        hold.apply((), went_back=True)
        clock.now += 10
    assert ids(hold.apply(())) == ""


def test_an_instance_that_comes_back_elsewhere_is_not_held_at_its_old_address() -> None:
    hold, _ = held("a")
    hold.outage()
    hold.apply(())
    moved = Instance(host="10.0.0.9", port=1, id="a")
    assert hold.apply((moved,)) == (moved,)


_steps = st.lists(st.tuples(st.sets(st.sampled_from("abc")), st.booleans(), st.booleans(), st.floats(0, 100)))


@given(_steps)
def test_what_the_registry_says_is_always_in_the_set_and_nothing_unknown_ever_is(
    steps: list[tuple[set[str], bool, bool, float]],
) -> None:
    hold, clock = held()
    known: set[str] = set()
    for found, outage, went_back, seconds in steps:
        clock.now += seconds
        if outage:
            hold.outage()
        result = set(ids(hold.apply(some(*sorted(found)), went_back=went_back)))
        assert found <= result <= known | found
        if not outage and not went_back and hold.remaining == 0:
            assert result == found
        known = result
