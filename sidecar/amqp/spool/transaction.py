"""What a transaction does beside storing messages, and what that does to the counts."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable
from typing import Final

from sidecar.amqp.spool.codec import pack
from sidecar.amqp.spool.message import SpooledMessage

logger = logging.getLogger("sidecar.amqp.spool")

#: How many bytes of messages :meth:`Transaction.piece` has, unless it is a single one.
_BYTES: Final = 512 << 10

#: Virtual host and lane.
StreamName = tuple[str, str]
#: Of one stream, how many messages and bytes.
Count = list[int]
Counts = dict[StreamName, Count]


class NewDeadLetter:
    """A message on its way to the dead letters. ``text`` is what the broker said; ``stored``: out of the spool, which
    it need not have been in."""

    __slots__ = ("code", "died", "message", "reason", "stored", "text")

    def __init__(self, message: SpooledMessage, reason: str, code: int, died: float, text: str = "") -> None:
        self.message = message
        self.reason = reason
        self.code = code
        self.died = died
        self.text = text
        self.stored = message.id != 0


def writable(letter: NewDeadLetter) -> bool:
    """Whether it can be written down. One that cannot must not keep back the rest; it is lost only if it was never in
    the spool."""
    try:
        if not letter.stored:
            pack(letter.message)
    except (ValueError, struct.error) as error:
        logger.error("a message is lost: it cannot be written down as a dead letter: %s", error)
        return False
    return True


class BadRow:
    """A message that is not what was written; ``size`` is what it counted as."""

    __slots__ = ("id", "size", "stream")

    def __init__(self, number: int, stream: StreamName, size: int) -> None:
        self.id = number
        self.stream = stream
        self.size = size


class Transaction:
    """What one transaction does beside storing messages."""

    __slots__ = ("bad", "dead", "removed", "tried")

    def __init__(self) -> None:
        self.removed: list[SpooledMessage] = []
        self.tried: list[SpooledMessage] = []
        self.dead: list[NewDeadLetter] = []
        self.bad: list[BadRow] = []

    def __bool__(self) -> bool:
        return bool(self.removed or self.tried or self.dead or self.bad)

    def piece(self, rows: int) -> Transaction:
        """The first ones, at most so many, which need little room."""
        piece = Transaction()
        size = _BYTES
        if self.tried:
            piece.tried = self.tried[:rows]
        elif self.dead:
            for death in self.dead[:rows]:
                size -= death.message.size
                if size < 0 and piece.dead:
                    break
                piece.dead.append(death)
        elif self.bad:
            for bad in self.bad[:rows]:
                size -= bad.size
                if size < 0 and piece.bad:
                    break
                piece.bad.append(bad)
        else:
            piece.removed = self.removed[:rows]
        return piece

    def drop(self, piece: Transaction) -> None:
        """A piece of it, or all of it, is done."""
        del self.tried[: len(piece.tried)]
        del self.dead[: len(piece.dead)]
        del self.bad[: len(piece.bad)]
        del self.removed[: len(piece.removed)]


def count_changes(counts: Counts, puts: Iterable[SpooledMessage], changes: Transaction) -> int:
    """Let ``counts`` follow a transaction. About how many bytes it has written."""
    written = 0
    for message in puts:
        written += message.size
        count = counts.get((message.vhost, message.lane))
        if count is None:
            count = counts[(message.vhost, message.lane)] = [0, 0]
        count[0] += 1
        count[1] += message.size
    for message in changes.removed:
        written += message.size
        _less(counts, (message.vhost, message.lane), message.size)
    for death in changes.dead:
        written += 2 * death.message.size
        if death.stored:
            _less(counts, death.message.stream, death.message.size)
    for bad in changes.bad:
        _less(counts, bad.stream, bad.size)
    return written


def _less(counts: Counts, stream: StreamName, size: int) -> None:
    """What goes and was not there makes it less than nothing, until that is set right."""
    count = counts.setdefault(stream, [0, 0])
    count[0] -= 1
    count[1] -= size
    if not count[0]:
        del counts[stream]


def removal(messages: list[SpooledMessage]) -> Transaction:
    """That these have gone."""
    changes = Transaction()
    changes.removed = messages
    return changes


def copied(counts: Counts) -> Counts:
    """As they are now."""
    return {name: [count, size] for name, (count, size) in counts.items()}


def add_differences(before: Counts, after: Counts, missing: Counts) -> None:
    """Add to ``missing`` what is no longer there."""
    for name in {**before, **after}:
        count, size = before.get(name, (0, 0))
        now, size_now = after.get(name, (0, 0))
        if count != now:
            sum_of = missing.setdefault(name, [0, 0])
            sum_of[0] += count - now
            sum_of[1] += size - size_now
