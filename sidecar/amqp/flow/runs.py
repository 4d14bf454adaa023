"""Numbers that wait for an answer, and what is remembered of each: those side by side that share it are one range.

A thousand messages that came at once and are answered at once cost what one does. Numbers are taken out in any order,
but nearly always in the one in which they were put in.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

#: Runs that are empty, and still there, before the lists are cleared of them: they are as many as the others then.
_LITTER: Final = 64


class Runs:
    """Numbers with their notes, in order. Whoever puts in knows that numbers mostly grow."""

    __slots__ = ("_empty", "_first", "_firsts", "_head", "_last", "_lasts", "_note", "_notes", "count")

    def __init__(self) -> None:
        #: How many numbers there are.
        self.count = 0
        #: First and last number of the newest range, and its note: kept apart from the others, as it is nearly always
        #: the only one. With nothing left of it, its last number is below its first; it is a place for those that come
        #: next then.
        self._first = 1
        self._last = 0
        self._note: object = None
        #: The same of all others, in order, below that. There is none before the one at ``_head`` that is not empty;
        #: ``_empty`` of those behind it are.
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._notes: list[object] = []
        self._head = 0
        self._empty = 0

    def put(self, first: int, last: int, note: object = None) -> int:
        """Put in the numbers from ``first`` to ``last``; how many of them were not there. ``None`` is a note that
        runs side by side share; each other one begins a range."""
        more = last - first + 1
        if first <= self._last and self.count:
            return self._put_between(first, last, note)
        self.count += more
        if note is None and first == self._last + 1 and self._note is None:
            self._last = last
            return more
        self._set_aside()
        self._first = first
        self._last = last
        self._note = note
        return more

    def note_at(self, last: int) -> object:
        """The note of the newest range, if ``last`` is its last number (which may have been taken from the front
        meanwhile); ``None``: it is not, or there is none."""
        return self._note if self._last == last else None

    def extend(self, count: int) -> None:
        """Put in so many more numbers behind those of the newest range, which share its note (:meth:`note_at`)."""
        self._last += count
        self.count += count

    def at_front(self, first: int, last: int) -> bool:
        """Whether what there is of the numbers from ``first`` to ``last`` is the beginning of the lowest range, or all
        of it."""
        head = self._head
        if head < len(self._firsts):
            return first <= self._firsts[head] <= last <= self._lasts[head]
        return first <= self._first <= last <= self._last

    def front(self) -> object:
        """The note of the lowest range; there is one."""
        head = self._head
        return self._notes[head] if head < len(self._notes) else self._note

    def take_front(self, last: int) -> int:
        """Take those out up to ``last``, of which that is so (:meth:`at_front`); return how many they are."""
        head = self._head
        firsts = self._firsts
        if head == len(firsts):
            taken = last + 1 - self._first
            self._first = last + 1
            self.count -= taken
            return taken
        taken = last + 1 - firsts[head]
        self.count -= taken
        firsts[head] = last + 1
        if last == self._lasts[head]:
            self._notes[head] = None
            self._empty += 1
            self._clear_up()
        return taken

    def take(self, first: int, last: int) -> list[tuple[int, int, object]]:
        """Take out what there is of the numbers from ``first`` to ``last``, in order: (first, last, note)."""
        found: list[tuple[int, int, object]] = []
        if self._head < len(self._firsts) and first <= last:
            self._take_older(first, last, found)
        begin, end = self._first, self._last
        low = first if first > begin else begin
        high = last if last < end else end
        if low <= high:
            found.append((low, high, self._note))
            self.count -= high - low + 1
            if low == begin:
                self._first = high + 1
                if high == end:
                    self._note = None
            elif high == end:
                self._last = low - 1
            else:
                self._last = low - 1
                note = self._note
                self._set_aside()
                self._first, self._last, self._note = high + 1, end, note
        return found

    def all(self) -> list[tuple[int, int, object]]:
        """What there is, in order: (first, last, note)."""
        ranges = [*zip(self._firsts, self._lasts, self._notes, strict=True), (self._first, self._last, self._note)]
        return [(first, last, note) for first, last, note in ranges if first <= last]

    def first(self) -> tuple[int, object] | None:
        """The lowest number and its note; ``None``: there is none."""
        if not self.count:
            return None
        head = self._head
        return (self._first if head == len(self._firsts) else self._firsts[head]), self.front()

    def last(self) -> int:
        """The highest number; 0: there is none."""
        if self._first <= self._last:
            return self._last
        for first, last in zip(reversed(self._firsts), reversed(self._lasts), strict=True):
            if first <= last:
                return last
        return 0

    def clear(self) -> None:
        """Forget all."""
        self._firsts.clear()
        self._lasts.clear()
        self._notes.clear()
        self._head = self._empty = self.count = 0
        self._first, self._last, self._note = 1, 0, None

    def _set_aside(self) -> None:
        """The newest range becomes one of the others, if there is anything of it."""
        if self._first <= self._last:
            self._firsts.append(self._first)
            self._lasts.append(self._last)
            self._notes.append(self._note)
        self._first = self._last + 1
        self._note = None

    def _put_between(self, first: int, last: int, note: object) -> int:
        before = self.count
        self._set_aside()
        self.take(first, last)
        at = bisect_left(self._firsts, first, self._head)
        end = bisect_right(self._firsts, last, at)
        self._empty -= end - at  # whatever was there
        self._firsts[at:end] = [first]
        self._lasts[at:end] = [last]
        self._notes[at:end] = [note]
        self.count += last - first + 1
        if last > self._last:
            self._last = last
            self._first = last + 1
        return self.count - before

    def _take_older(self, first: int, last: int, found: list[tuple[int, int, object]]) -> None:
        head = self._head
        firsts = self._firsts
        lasts = self._lasts
        if first <= lasts[head]:
            at = head
        else:
            at = bisect_right(firsts, first, head) - 1
        while at < len(firsts) and firsts[at] <= last:
            begin, end, note = firsts[at], lasts[at], self._notes[at]
            low = first if first > begin else begin
            high = last if last < end else end
            if low <= high:
                found.append((low, high, note))
                self.count -= high - low + 1
                if high < end:
                    firsts[at] = high + 1
                    if low > begin:
                        firsts.insert(at, begin)
                        lasts.insert(at, low - 1)
                        self._notes.insert(at, note)
                        at += 1
                else:
                    lasts[at] = low - 1
                    if low == begin:
                        self._notes[at] = None
                        self._empty += 1
            at += 1
        if self._empty:
            self._clear_up()

    def _clear_up(self) -> None:
        """Pass over empty ranges at the head; if those are many that lie about, do without them."""
        firsts = self._firsts
        lasts = self._lasts
        head = self._head
        while head < len(firsts) and lasts[head] < firsts[head]:
            head += 1
            self._empty -= 1
        self._head = head
        litter = head + self._empty
        if head == len(firsts) or (litter > _LITTER and litter * 2 > len(firsts)):
            kept = [*zip(firsts[head:], lasts[head:], self._notes[head:], strict=True)]
            self._firsts = [first for first, last, _ in kept if first <= last]
            self._lasts = [last for first, last, _ in kept if first <= last]
            self._notes = [note for first, last, note in kept if first <= last]
            self._head = self._empty = 0
