"""A spool for tests of what looks at one: in memory, every answer is an attribute that a test sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sidecar.amqp.spool.codec import pack
from sidecar.amqp.spool.dead_letters import DeadLetter
from sidecar.amqp.spool.message import SpooledMessage
from sidecar.amqp.wire.constants import (
    BASIC,
    CONTENT_TYPE,
    CORRELATION_ID,
    HEADERS,
    MESSAGE_ID,
)
from sidecar.amqp.wire.tables import encode_table
from sidecar.storage.errors import SpoolError

#: 2026-01-01T00:00:00Z, when what these helpers make was published.
TAKEN = 1767225600.0


def header(size: int, **headers: object) -> bytes:
    """The payload of a content header with a few properties."""
    flags = CONTENT_TYPE | CORRELATION_ID | MESSAGE_ID | (HEADERS if headers else 0)
    fixed = BASIC.to_bytes(2, "big") + bytes(2) + size.to_bytes(8, "big") + flags.to_bytes(2, "big")
    table = encode_table(headers) if headers else b""
    return fixed + _short("application/json") + table + _short("c-1") + _short("m-1")


def message(body: bytes = b'{"task": 1}', **more: Any) -> SpooledMessage:
    """A message to ai.tasks; ``headers`` go into its header."""
    values: dict[str, Any] = {
        "vhost": "/", "lane": "exchange ai.tasks", "exchange": "ai.tasks", "routing_key": "ai.inference.go",
        "at": TAKEN, "origin": "pika/guest",
    } | more  # fmt: skip
    headers = values.pop("headers", {})
    return SpooledMessage(header=values.pop("header", header(len(body), **headers)), body=body, **values)


def letter(
    number: int,
    of: SpooledMessage | None = None,
    reason: str = "nacked",
    code: int = 0,
    died: float = TAKEN + 60,
    text: str = "",
) -> DeadLetter:
    """A dead letter."""
    it = of if of is not None else message()
    it.id = number
    return DeadLetter(number, died, reason, code, it.size, it.attempts, pack(it), text)


def damaged(number: int, died: float = TAKEN + 60) -> DeadLetter:
    """One that cannot be read any more."""
    return DeadLetter(number, died, "corrupt", 0, 17, 0, b"\xff not a record")


class FakeKey:
    """Implements :class:`sidecar.amqp.views.protocols.SpoolKey`."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.bytes = size


class FakeLetters:
    """Implements :class:`sidecar.amqp.views.protocols.DeadLettersView`. ``broken`` is why the file cannot be used."""

    def __init__(self) -> None:
        self.letters: dict[int, DeadLetter] = {}
        self.dropped = 0
        self.broken = ""
        #: Numbers that were replayed, in order; with ``immortal``, what is replayed dies anew at that time.
        self.replayed: list[int] = []
        self.immortal: float | None = None
        self.lists = 0

    def add(self, *letters: DeadLetter) -> None:
        self.letters |= {letter.id: letter for letter in letters}

    @property
    def count(self) -> int:
        return len(self.letters)

    @property
    def bytes(self) -> int:
        return sum(letter.size for letter in self.letters.values())

    @property
    def reasons(self) -> dict[str, int]:
        reasons = [letter.reason for letter in self.letters.values()]
        return {reason: reasons.count(reason) for reason in reasons}

    async def list(
        self, limit: int, after: int = 0, reason: str = "", exchange: str | None = None
    ) -> Sequence[DeadLetter]:
        self._check()
        self.lists += 1
        found = [
            letter
            for number, letter in sorted(self.letters.items())
            if number > after
            and (not reason or letter.reason == reason)
            and (exchange is None or (letter.message is not None and letter.message.exchange == exchange))
        ]
        return found[:limit]

    async def get(self, number: int) -> DeadLetter | None:
        self._check()
        return self.letters.get(number)

    async def replay(self, numbers: Sequence[int]) -> int:
        self._check()
        found = [number for number in numbers if number in self.letters and self.letters[number].message is not None]
        self.replayed += found
        for number in found:
            old = self.letters.pop(number)
            if self.immortal is not None:
                new = max([0, *self.letters]) + 1
                self.letters[new] = letter(new, old.message, old.reason, died=self.immortal)
        return len(found)

    async def drop(self, numbers: Sequence[int]) -> int:
        self._check()
        return len([self.letters.pop(number) for number in numbers if number in self.letters])

    def _check(self) -> None:
        if self.broken:
            raise SpoolError(self.broken)


class FakeSpool:
    """Implements :class:`sidecar.amqp.views.protocols.SpoolView`."""

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.max_bytes = 1 << 30
        self.full = False
        self.problem = ""
        self.keys: dict[tuple[str, str], FakeKey] = {}
        self.parked = 0
        self.still = 0.0
        self.obstacles: list[tuple[str, str, str]] = []
        self.spooled = self.replayed = self.expired = self.corrupt = 0
        self.acks = {"broker": 0, "spool": 0}
        self.dead_letters = FakeLetters()

    def key(self, lane: str, count: int, size: int, vhost: str = "/") -> None:
        """Messages that wait."""
        self.keys[vhost, lane] = FakeKey(count, size)
        self.messages += count
        self.bytes += size


def _short(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()
