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

    __slots__ = ("_empty", "_firsts", "_head", "_lasts", "_notes", "count")

    def __init__(self) -> None:
        #: How many numbers there are.
        self.count = 0
        #: First and last number of each range, in order, and its note. A range whose last number is below its first is
        #: empty. There is none before the one at ``_head`` that is not; ``_empty`` of those behind it are. Where there
        #: are no numbers, there may be one range for those that come next, which is not counted as empty.
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._notes: list[object] = []
        self._head = 0
        self._empty = 0

    def put(self, first: int, last: int, note: object = None) -> int:
        """Put in the numbers from ``first`` to ``last``; how many of them were not there. ``None`` is a note that
        runs side by side share; each other one begins a range."""
        lasts = self._lasts
        more = last - first + 1
        if lasts and not self.count:
            self._firsts[0] = first
            lasts[0] = last
            self._notes[0] = note
            self.count = more
            return more
        if lasts and first <= lasts[-1]:
            return self._put_between(first, last, note)
        self.count += more
        if note is None and lasts and self._firsts[-1] < first == lasts[-1] + 1 and self._notes[-1] is None:
            lasts[-1] = last
            return more
        self._firsts.append(first)
        lasts.append(last)
        self._notes.append(note)
        return more

    def note_at(self, last: int) -> object:
        """The note of the newest range, if ``last`` is its last number (which may have been taken from the front
        meanwhile); ``None``: it is not, or there is none."""
        lasts = self._lasts
        return self._notes[-1] if lasts and lasts[-1] == last else None

    def extend(self, count: int) -> None:
        """Put in so many more numbers behind those of the newest range, which share its note (:meth:`note_at`)."""
        self._lasts[-1] += count
        self.count += count

    def at_front(self, first: int, last: int) -> bool:
        """Whether what there is of the numbers from ``first`` to ``last`` is the beginning of the lowest range, or all
        of it."""
        head = self._head
        return head < len(self._firsts) and first <= self._firsts[head] <= last <= self._lasts[head]

    def front(self) -> object:
        """The note of the lowest range; there is one."""
        return self._notes[self._head]

    def take_front(self, last: int) -> int:
        """Take those out up to ``last``, of which that is so (:meth:`at_front`); return how many they are."""
        head = self._head
        firsts = self._firsts
        taken = last + 1 - firsts[head]
        self.count -= taken
        firsts[head] = last + 1
        if last == self._lasts[head] and len(firsts) > 1:  # else it is there for those that come next, and its note
            self._notes[head] = None
            self._empty += 1
            self._clear_up()
        return taken

    def take(self, first: int, last: int) -> list[tuple[int, int, object]]:
        """Take out what there is of the numbers from ``first`` to ``last``, in order: (first, last, note)."""
        head = self._head
        firsts = self._firsts
        if head == len(firsts) or first > last:
            return []
        lasts = self._lasts
        if first <= lasts[head]:
            at = head
        else:
            at = bisect_right(firsts, first, head) - 1
        found: list[tuple[int, int, object]] = []
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
        return found

    def all(self) -> list[tuple[int, int, object]]:
        """What there is, in order: (first, last, note)."""
        return [
            (first, last, note)
            for first, last, note in zip(self._firsts, self._lasts, self._notes, strict=True)
            if first <= last
        ]

    def first(self) -> tuple[int, object] | None:
        """The lowest number and its note; ``None``: there is none."""
        head = self._head
        return (self._firsts[head], self._notes[head]) if self.count else None

    def last(self) -> int:
        """The highest number; 0: there is none."""
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

    def _put_between(self, first: int, last: int, note: object) -> int:
        before = self.count
        self.take(first, last)
        at = bisect_left(self._firsts, first, self._head)
        end = bisect_right(self._firsts, last, at)
        self._empty -= end - at  # whatever was there
        self._firsts[at:end] = [first]
        self._lasts[at:end] = [last]
        self._notes[at:end] = [note]
        self.count += last - first + 1
        return self.count - before

    def _clear_up(self) -> None:
        """Pass over empty runs at the head; if those are many that lie about, do without them."""
        if not self.count:
            self.clear()
            return
        firsts = self._firsts
        lasts = self._lasts
        head = self._head
        while lasts[head] < firsts[head]:
            head += 1
            self._empty -= 1
        self._head = head
        litter = head + self._empty
        if litter > _LITTER and litter * 2 > len(firsts):
            kept = self.all()
            self._firsts = [each[0] for each in kept]
            self._lasts = [each[1] for each in kept]
            self._notes = [each[2] for each in kept]
            self._head = self._empty = 0
