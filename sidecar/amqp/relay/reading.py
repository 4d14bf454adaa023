"""What has come of one peer at once, on its way to the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.amqp.wire import runs
from sidecar.amqp.wire.runs import PUBLISHES
from sidecar.amqp.wire.splice import Splice

if TYPE_CHECKING:
    from sidecar.amqp.relay.publishing import PublishPath


class Reading:
    """Frames, and runs of them, that are taken one after the other; the splice has what passes."""

    __slots__ = ("count", "end", "path", "splice", "start", "urgent")

    def __init__(self, data: bytes, start: int) -> None:
        self.splice = Splice(data, start)
        #: The frame or run that is being taken.
        self.start = start
        self.end = start
        #: What passes has to leave at once: there is something else in it than what may wait for more of its kind.
        self.urgent = False
        #: How many publishes there are in it that may, or that are answered by it; and the path of the last.
        self.count = 0
        self.path: PublishPath | None = None

    @property
    def backlog(self) -> int:
        """How many publishes of that path have still to be answered."""
        return 0 if self.path is None else self.path.backlog

    def take_all(self, frames: list[tuple[int, int, int, int]]) -> None:
        """Take these. Raises :class:`AmqpError`; whatever came before that frame has been taken."""
        for kind, number, start, end in frames:
            if kind < PUBLISHES:
                self.take(kind, number, start, end)
            elif not self.take_run(kind, number, start, end):
                for each in runs.frames(self.splice.data, start, end):
                    self.take(each[0], each[1], each[2], each[3])

    def take(self, kind: int, number: int, start: int, end: int) -> None:
        """Take a frame. Raises :class:`AmqpError`."""
        raise NotImplementedError

    def take_run(self, kind: int, number: int, start: int, end: int) -> bool:
        """Take a run as one, if that can be; return whether it was taken."""
        raise NotImplementedError

    def counts(self, path: PublishPath, count: int) -> None:
        """So many more publishes are in it, or are answered by it."""
        self.count += count
        self.path = path
