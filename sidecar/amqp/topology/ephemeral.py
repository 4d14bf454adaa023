"""Remembers which queues end when nobody consumes from them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

#: The most that are remembered; then the oldest are forgotten.
MOST: Final = 10_000

#: Among the bits of ``queue.declare``.
_AUTO_DELETE: Final = 8
#: RabbitMQ's argument for a queue that ends when it was not used for so long, as it stands in a table.
_EXPIRES: Final = b"\x09x-expires"


class EphemeralQueues:
    """The queues of one port that end with their last consumer, as far as they were declared through it."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: OrderedDict[tuple[str, str], None] = OrderedDict()

    def declared(self, vhost: str, name: str, bits: int, arguments: bytes) -> None:
        """A queue was declared so: ``bits`` and the encoded table of its ``queue.declare``."""
        key = (vhost, name)
        if bits & _AUTO_DELETE or _EXPIRES in arguments:
            self._queues[key] = None
            self._queues.move_to_end(key)
            if len(self._queues) > MOST:
                self._queues.popitem(last=False)
        else:
            self._queues.pop(key, None)

    def __contains__(self, queue: tuple[str, str]) -> bool:
        """Whether the queue (vhost and name) ends with its last consumer, or some time after it."""
        return queue in self._queues
