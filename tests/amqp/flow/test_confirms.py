from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.confirms import Confirms
from sidecar.amqp.flow.lanes import Sender
from sidecar.amqp.flow.policy import PublishRoute
from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.flow.stats import ExchangeStats
from support.examples import examples

SENDER = Sender()
ROUTE = PublishRoute("/", "exchange", "key", (), ExchangeStats("/", "exchange"))


def publish(tag: int) -> Publish:
    return Publish(SENDER, ROUTE, tag, b"", 0, 0.0)


def passed(confirms: Confirms, count: int) -> list[Publish]:
    """So many publishes come and are passed on at once."""
    publishes = []
    for _ in range(count):
        one = publish(confirms.received())
        confirms.forwarded(one)
        publishes.append(one)
    return publishes


def answer(confirms: Confirms, number: int, multiple: bool) -> list[tuple[int, bool]]:
    """What the client is sent for the broker's answer."""
    return confirms.answers([one.tag for one in confirms.settled(number, multiple)])


def same(confirms: Confirms) -> bool:
    return confirms.same


def test_in_order() -> None:
    confirms = Confirms()
    publishes = passed(confirms, 5)
    assert [one.tag for one in publishes] == [1, 2, 3, 4, 5]
    assert confirms.unanswered == 5
    assert answer(confirms, 1, False) == [(1, False)]
    assert answer(confirms, 4, True) == [(4, True)]
    assert confirms.left() == publishes[4:]
    assert answer(confirms, 5, True) == [(5, False)], "multiple for one is no multiple"
    assert same(confirms)
    assert confirms.unanswered == 0


def test_all_at_once() -> None:
    confirms = Confirms()
    passed(confirms, 3)
    assert answer(confirms, 0, True) == [(3, True)]
    assert answer(confirms, 0, True) == []
    assert same(confirms)


def test_an_answer_to_all_is_not_for_what_is_held() -> None:
    confirms = Confirms()
    passed(confirms, 3)
    held = publish(confirms.received())
    assert answer(confirms, 0, True) == [(3, True)]
    assert not same(confirms), "as it came, it would answer the fourth"
    confirms.forwarded(held)
    assert answer(confirms, 0, True) == [(4, False)]


def test_overtaken() -> None:
    confirms = Confirms()
    passed(confirms, 2)
    held = publish(confirms.received())
    assert same(confirms), "so far nobody has overtaken it"
    passed(confirms, 2)  # the broker's 3 and 4 are the client's 4 and 5
    assert not same(confirms)
    assert answer(confirms, 4, True) == [(2, True), (4, False), (5, False)], "the third is still held"
    confirms.forwarded(held)
    assert answer(confirms, 5, False) == [(3, False)]


def test_the_gap_is_closed_by_one_frame() -> None:
    confirms = Confirms()
    held = publish(confirms.received())
    passed(confirms, 3)
    confirms.forwarded(held)
    passed(confirms, 1)
    assert answer(confirms, 2, False) == [(3, False)]
    assert answer(confirms, 5, True) == [(5, True)], "3 was answered before, all others now"


def test_refused() -> None:
    confirms = Confirms()
    passed(confirms, 1)
    number = confirms.received()
    assert confirms.answers([number]) == [(2, False)]
    assert same(confirms), "nobody has got a wrong number yet"
    assert answer(confirms, 1, True) == [(1, False)]
    passed(confirms, 2)
    assert not same(confirms)
    assert answer(confirms, 3, True) == [(4, True)]


def test_from_before_confirm_mode() -> None:
    confirms = Confirms()
    confirms.forwarded(publish(0))
    assert not same(confirms)
    passed(confirms, 2)
    assert [one.tag for one in confirms.settled(1, False)] == [0]
    assert confirms.answers([0]) == []
    assert answer(confirms, 3, True) == [(2, True)]


def test_the_oldest_is_the_first_that_was_passed_on() -> None:
    confirms = Confirms()
    assert confirms.oldest() is None
    first, second = passed(confirms, 2)
    assert confirms.oldest() is first
    confirms.settled(1, False)
    assert confirms.oldest() is second


def test_another_channel_of_a_broker_counts_from_1_again() -> None:
    confirms = Confirms()
    passed(confirms, 3)
    assert answer(confirms, 1, False) == [(1, False)]
    confirms.restart()
    assert not same(confirms)
    assert confirms.left() == []
    assert confirms.settled(1, True) == []
    passed(confirms, 1)
    assert answer(confirms, 1, False) == [(4, False)], "2 and 3 have no answer yet"
    assert confirms.answers([2, 3]) == [(3, True)]


@pytest.mark.parametrize("multiple", [False, True])
def test_numbers_nobody_used(multiple: bool) -> None:
    confirms = Confirms()
    assert confirms.settled(1, multiple) == []
    assert confirms.answers([1]) == []
    assert confirms.answers([1, 2]) == []
    passed(confirms, 2)
    assert confirms.settled(3, multiple) == []
    assert confirms.settled(1 << 63, multiple) == []
    assert confirms.answers([3, 7, 1 << 63]) == []
    assert answer(confirms, 1, multiple) == [(1, False)]
    assert answer(confirms, 1, multiple) == [], "answered before"
    assert confirms.answers([1]) == []
    assert confirms.answers([2, 2]) == [(2, False)]


def test_zero_is_nobodys_number() -> None:
    confirms = Confirms()
    passed(confirms, 1)
    assert confirms.settled(0, False) == []


def test_answers_above_a_gap_are_given_once() -> None:
    confirms = Confirms()
    for _ in range(9):
        confirms.received()
    assert confirms.answers([5]) == [(5, False)]
    assert confirms.answers([7, 3]) == [(3, False), (7, False)]
    assert confirms.answers([3, 4, 5, 6, 7, 8]) == [(4, False), (6, False), (8, False)]
    assert confirms.answers([1]) == [(1, False)]
    assert confirms.answers([2, 9]) == [(9, True)]


def test_one_that_is_never_answered_costs_nothing() -> None:
    """What comes after it is kept as one run, not number by number, and none of it is walked through."""
    confirms = Confirms()
    for _ in range(100_000):
        one = publish(confirms.received())
        confirms.forwarded(one)
    confirms.settled(1, False)
    for number in range(2, 100_001):
        assert answer(confirms, number, False) == [(number, False)]
    assert confirms._starts == [2]
    assert confirms._ends == [100_000]
    assert confirms.answers([1]) == [(1, False)]
    assert confirms._starts == []
    passed(confirms, 1)
    assert answer(confirms, 100_001, True) == [(100_001, False)]


class Client:
    """What a client keeps of its publishes: the numbers without an answer."""

    def __init__(self) -> None:
        self.unanswered: set[int] = set()
        self.answered: set[int] = set()

    def hears(self, number: int, multiple: bool) -> None:
        if multiple:
            tags = {tag for tag in self.unanswered if tag <= number or number == 0}
        else:
            assert number in self.unanswered, "an answer to nothing"
            tags = {number}
        self.unanswered -= tags
        self.answered |= tags


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["pass", "hold", "refuse", "early"]), st.just(0), st.just(False)),
        st.tuples(st.sampled_from(["release", "expire"]), st.integers(0, 5), st.just(False)),
        st.tuples(st.just("broker"), st.integers(0, 50), st.booleans()),
    ),
    max_size=100,
)


@settings(max_examples=examples(600), deadline=None)
@given(steps=STEPS)
def test_any_mix(steps: list[tuple[str, int, bool]]) -> None:
    """Any mix of publishes, holds, refusals and answers: each number has one answer, when it is due and not before."""
    confirms = Confirms()
    client = Client()
    untranslated = Client()
    held: list[Publish] = []
    on_their_way: dict[int, Publish] = {}
    forwarded = 0

    def forward(one: Publish) -> None:
        nonlocal forwarded
        forwarded += 1
        confirms.forwarded(one)
        on_their_way[forwarded] = one

    def frames(tags: list[int]) -> list[tuple[int, bool]]:
        """Answer them, and see that it is just them, by as few frames as possible."""
        before = set(client.unanswered)
        result = confirms.answers(tags)
        for number, multiple in result:
            client.hears(number, multiple)
        assert before - client.unanswered == set(tags)
        wanted = sorted(tags)
        kept = sorted(before - set(tags))
        together = [tag for tag in wanted if not kept or tag < kept[0]]
        assert len(result) == len(wanted) - max(0, len(together) - 1)
        assert all(multiple == (position == 0 and len(together) > 1) for position, (_, multiple) in enumerate(result))
        return result

    def broker(number: int, multiple: bool) -> None:
        due = [one for one in on_their_way if (one <= number or number == 0 if multiple else one == number)]
        if number > forwarded:
            due = []
        publishes = [on_their_way.pop(one) for one in due]
        found = confirms.settled(number, multiple)
        assert found == publishes
        as_it_is = same(confirms)
        frames([one.tag for one in found if one.tag])
        if as_it_is and due:
            untranslated.hears(number, multiple)
            assert untranslated.unanswered == client.unanswered, "the broker's frame would have done"
        else:
            untranslated.unanswered = set(client.unanswered)

    for what, number, multiple in steps:
        if what in ("pass", "hold", "refuse"):
            one = publish(confirms.received())
            client.unanswered.add(one.tag)
            untranslated.unanswered.add(one.tag)
            if what == "pass":
                forward(one)
            elif what == "hold":
                held.append(one)
            else:
                frames([one.tag])
                untranslated.unanswered.discard(one.tag)
        elif what == "early":
            forward(publish(0))
        elif what == "release" and number < len(held):
            forward(held.pop(number))
        elif what == "expire" and number < len(held):
            tag = held.pop(number).tag
            frames([tag])
            untranslated.unanswered.discard(tag)
        elif what == "broker":
            broker(number, multiple)
        assert not client.answered & {one.tag for one in held}, "answered while it was held"
        assert confirms.unanswered == len(on_their_way)
        assert confirms.left() == list(on_their_way.values())
        runs = list(zip(confirms._starts, confirms._ends, strict=True))
        assert len(runs) <= len(client.unanswered), "the bookkeeping grows with what is open, not with what was"
    event(f"same: {same(confirms)}")
    while held:
        forward(held.pop())
    broker(forwarded, True)
    assert not client.unanswered
    assert confirms.unanswered == 0
    assert confirms._starts == []
