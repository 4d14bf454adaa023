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

    __slots__ = ("_paths", "count", "end", "splice", "start", "urgent")

    def __init__(self, data: bytes, start: int) -> None:
        self.splice = Splice(data, start)
        #: The frame or run that is being taken.
        self.start = start
        self.end = start
        #: What passes has to leave at once: there is something else in it than what may wait for more of its kind.
        self.urgent = False
        #: How many publishes there are in it that may, or that are answered by it; and their paths.
        self.count = 0
        self._paths: list[PublishPath] = []

    @property
    def backlog(self) -> int:
        """How many publishes have still to be answered, on the channel of these where they are fewest: it must not wait
        behind another one."""
        return min([path.backlog for path in self._paths], default=0)

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

    def note(self, path: PublishPath, count: int) -> None:
        """So many more publishes of this path are in it, or are answered by it."""
        self.count += count
        paths = self._paths
        if not paths or paths[-1] is not path:
            paths.append(path)
