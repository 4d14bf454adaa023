"""How far a stream has been read from the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sidecar.amqp.spool.message import SpooledMessage

#: A message's place in its stream: −priority and id.
Position = tuple[int, int]

#: Before the first message of any stream.
BEGINNING: Final = (-1000, 0)


class Cursor:
    """How far one stream has been read. Messages may come, go and be forgotten while the spool is being asked: what it
    answers then is put right by :meth:`done`."""

    __slots__ = ("_back", "_void", "after", "busy", "ended", "gone", "urgent")

    def __init__(self) -> None:
        #: The place of the last one fetched, and whether there was nothing behind it.
        self.after: Position = BEGINNING
        self.ended = False
        #: The spool is being asked; ids that were done with meanwhile (a dict takes less than a set, while empty).
        self.busy = False
        self.gone: dict[int, None] = {}
        #: There is something that belongs before what has been read.
        self.urgent = False
        #: Where to go back to when it has answered, and whether the answer counts for nothing.
        self._back: Position | None = None
        self._void = False

    def begin(self) -> None:
        """The spool is asked for what comes after :attr:`after`."""
        self.busy = True
        self.urgent = False

    def done(self, messages: list[SpooledMessage]) -> list[SpooledMessage]:
        """The spool has answered: what of it counts."""
        self.busy = False
        back = self._back
        self._back = None
        self.ended = not messages and back is None
        if self._void:
            self._void = False
            messages = []
        elif messages:
            self.after = messages[-1].position
        if back is not None and back < self.after:
            self.after = back
            self.urgent = True
        return messages

    def added(self, position: Position) -> None:
        """There is a new message."""
        before = position[0], position[1] - 1
        self.ended = False
        if self.busy:
            if self._back is None or before < self._back:
                self._back = before
        elif before < self.after:
            self.after = before
            self.urgent = True

    def rewind(self, position: Position) -> None:
        """Everything from that place on is to be read, whether it was before or not."""
        self._void = self.busy
        self.added(position)
