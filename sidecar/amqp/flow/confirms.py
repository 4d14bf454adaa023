"""Confirm mode: a client's numbers of its publishes, and the broker's.

Both sides count publishes from 1 after confirm.select, on each channel for itself (RabbitMQ's "publisher confirms").
The client counts what it sends, the broker what reaches it; as soon as a publish is overtaken by another one or refused
on the way, the two differ, and the broker's answers have to be translated. Every number that a client has used gets
exactly one answer, and none while its publish is still held.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.amqp.flow.publish import Publish


class Confirms:
    """Both numberings of one channel."""

    __slots__ = ("_ends", "_forwarded", "_low", "_received", "_starts", "_waiting", "same")

    def __init__(self) -> None:
        #: Both numberings agree so far, and so the broker's answers may go to the client as they are.
        self.same = True
        self._received = 0
        self._forwarded = 0
        #: The broker's number → what it has not answered, in order.
        self._waiting: OrderedDict[int, Publish] = OrderedDict()
        #: The client's lowest number without an answer. Those above it that have one come in runs, of which the first
        #: and the last numbers are kept, in order: never more runs than there are numbers without an answer.
        self._low = 1
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def unanswered(self) -> int:
        """Publishes passed on that the broker has not answered."""
        return len(self._waiting)

    def received(self) -> int:
        """A whole publish has come: the client's number of it."""
        self._received = number = self._received + 1
        return number

    def forwarded(self, publish: Publish) -> None:
        """It is passed on now, and the broker will give it its next number. One with tag 0 came before confirm mode,
        but reaches the broker after it: the client does not wait for that answer."""
        self._forwarded = number = self._forwarded + 1
        self._waiting[number] = publish
        if publish.tag != number:
            self.same = False

    def settled(self, number: int, multiple: bool) -> list[Publish]:
        """What the broker's answer is for, in the order it was passed on; it is forgotten here. With ``multiple`` that
        is everything up to ``number`` (all there is for 0). Nothing for numbers never used or answered before."""
        waiting = self._waiting
        if not multiple:
            publish = waiting.pop(number, None)
            return [] if publish is None else [publish]
        if number > self._forwarded:
            return []
        found: list[Publish] = []
        if number == 0:
            if self._received != self._forwarded:
                self.same = False  # the client would take it for what is held, too
            found.extend(waiting.values())
            waiting.clear()
            return found
        while waiting and next(iter(waiting)) <= number:
            found.append(waiting.popitem(last=False)[1])
        return found

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
        waiting = self._waiting
        return waiting[next(iter(waiting))] if waiting else None

    def left(self) -> list[Publish]:
        """What was passed on and not answered, in that order."""
        return list(self._waiting.values())

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
