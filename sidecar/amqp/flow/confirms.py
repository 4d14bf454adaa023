"""Confirm mode: a client's numbers of its publishes, and the broker's.

Both sides count publishes from 1 after confirm.select, on each channel for itself (RabbitMQ's "publisher confirms").
The client counts what it sends, the broker what reaches it; as soon as a publish is overtaken by another one or refused
on the way, the two differ, and the broker's answers have to be translated. Every number that a client has used gets
exactly one answer, and none while its publish is still held.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.flow.runs import Runs

if TYPE_CHECKING:
    from sidecar.amqp.flow.lanes import Sender
    from sidecar.amqp.flow.policy import PublishRoute

#: Runs that come within so many seconds share what is remembered of them, and with it the time at which they came.
_TOGETHER: Final = 0.25


class Confirms:
    """Both numberings of one channel."""

    __slots__ = ("_ends", "_forwarded", "_low", "_received", "_starts", "_waiting", "same")

    def __init__(self) -> None:
        #: Both numberings agree so far, and so the broker's answers may go to the client as they are.
        self.same = True
        self._received = 0
        self._forwarded = 0
        #: The broker's number → what it has not answered, in order.
        self._waiting = Runs()
        #: The client's lowest number without an answer. Those above it that have one come in runs, of which the first
        #: and the last numbers are kept, in order: never more runs than there are numbers without an answer.
        self._low = 1
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def unanswered(self) -> int:
        """Publishes passed on that the broker has not answered."""
        return self._waiting.count

    @property
    def in_step(self) -> bool:
        """Both numberings agree, and what comes next gets the same number from both, too."""
        return self.same and self._received == self._forwarded

    def knows(self, number: int) -> bool:
        """The broker has got so many publishes, at least."""
        return number <= self._forwarded

    def received(self) -> int:
        """A whole publish has come: the client's number of it."""
        self._received += 1
        return self._received

    def forwarded(self, publish: Publish) -> None:
        """It is passed on now, and the broker will give it its next number. One with tag 0 came before confirm mode,
        but reaches the broker after it: the client does not wait for that answer."""
        number = self._forwarded + 1
        self._forwarded = number
        self._waiting.put(number, number, publish)
        if publish.tag != number:
            self.same = False

    def run_passed(self, sender: Sender, route: PublishRoute, count: int, now: float) -> None:
        """So many whole publishes of one route have come, and pass on at once; both numberings are :attr:`in_step`. One
        shared publish stands for them, and for others of its moment."""
        before = self._forwarded
        self._received = self._forwarded = before + count
        waiting = self._waiting
        shared = waiting.note_at(before)
        if isinstance(shared, Publish) and shared.shared and shared.route is route and now < shared.since + _TOGETHER:
            waiting.extend(count)
            return
        publish = Publish(sender, route, before + 1, b"", 0, now)
        publish.shared = True
        waiting.put(before + 1, before + count, publish)

    def settled(self, number: int, multiple: bool) -> list[Publish]:
        """What the broker's answer is for, in the order it was passed on; it is forgotten here. With ``multiple`` that
        is everything up to ``number`` (all there is for 0). Nothing for numbers never used or answered before."""
        return each(self.take(number, multiple))

    def take(self, number: int, multiple: bool) -> list[tuple[int, int, object]]:
        """The same, in runs: the broker's first and last number, and the publish, which may be a shared one."""
        if not multiple:
            return self._waiting.take(number, number)
        if number > self._forwarded:
            return []
        if number == 0:
            if self._received != self._forwarded:
                self.same = False  # the client would take it for what is held, too
            number = self._forwarded
        return self._waiting.take(1, number)

    def take_run(self, first: int, last: int) -> list[tuple[int, int, object]]:
        """The same for answers to each of the numbers from ``first`` to ``last``."""
        return self._waiting.take(first, last)

    def front(self, first: int, last: int) -> Publish | None:
        """What the answers to the numbers from ``first`` to ``last`` are for, if that is the oldest of all without an
        answer, and a shared one; ``None`` otherwise, and for numbers never used."""
        waiting = self._waiting
        found = waiting.front() if waiting.at_front(first, last) else None
        return found if isinstance(found, Publish) and found.shared else None

    def answer_front(self, last: int) -> int:
        """Those up to ``last``, of which that is so, are answered, and the client hears it in the broker's words: how
        many they are."""
        taken = self._waiting.take_front(last)
        self.answered(last - taken + 1, last)
        return taken

    def answered(self, first: int, last: int) -> None:
        """The client hears of these numbers by what the broker has said, as that goes to it as it is."""
        if first == self._low and last <= self._received and not self._starts:
            self._low = last + 1
        else:
            self.answers(list(range(first, last + 1)))

    def answers(self, tags: list[int]) -> list[tuple[int, bool]]:
        """The (number, multiple) of the frames that answer exactly these numbers of the client, as few as can be, and
        count them as answered. Zeros, and numbers never used or answered before, are left out."""
        if len(tags) > 1:
            tags = sorted(tags)
        elif tags and tags[0] == self._low <= self._received and not self._starts:
            self._low += 1  # nearly always, when each is answered by itself
            return [(tags[0], False)]
        result: list[tuple[int, bool]] = []
        low = first = last = self._low
        for tag in tags:
            if tag > self._received:
                break
            if tag == low:
                low = tag + 1
                if self._starts and self._starts[0] == low:
                    del self._starts[0]
                    low = self._ends.pop(0) + 1
                last = tag
            elif tag > low and self._mark(tag):
                result.append((tag, False))
        if low != first:
            # Everything below the last of them has an answer, or gets it by this one.
            self._low = low
            result.insert(0, (last, last != first))
        return result

    def oldest(self) -> Publish | None:
        """What was passed on first of all that has no answer."""
        found = self._waiting.first()
        if found is None:
            return None
        publish = found[1]
        assert isinstance(publish, Publish)
        return publish

    def left(self) -> list[Publish]:
        """What was passed on and not answered, in that order."""
        return each(self._waiting.all())

    def forget(self) -> None:
        """The channel is gone: nothing is kept of its publishes, which refer to what keeps them."""
        self._waiting.clear()

    def restart(self) -> None:
        """The broker's channel is another one: what it has not answered it never will, and it counts from 1 again."""
        self._waiting.clear()
        self._forwarded = 0
        self.same = False

    def _mark(self, tag: int) -> bool:
        """Note that a number above the lowest was answered. False: it was before."""
        starts = self._starts
        ends = self._ends
        place = bisect_right(starts, tag)
        if place and tag <= ends[place - 1]:
            return False
        follows = place > 0 and ends[place - 1] == tag - 1
        if place < len(starts) and starts[place] == tag + 1:
            if follows:
                ends[place - 1] = ends[place]
                del starts[place], ends[place]
            else:
                starts[place] = tag
        elif follows:
            ends[place - 1] = tag
        else:
            starts.insert(place, tag)
            ends.insert(place, tag)
        return True


def each(runs: list[tuple[int, int, object]]) -> list[Publish]:
    """Every single publish of what :meth:`Confirms.take` has found."""
    found: list[Publish] = []
    for first, last, publish in runs:
        assert isinstance(publish, Publish)
        if publish.shared:
            found.extend([publish.one(tag) for tag in range(first, last + 1)])
        else:
            found.append(publish)
    return found
