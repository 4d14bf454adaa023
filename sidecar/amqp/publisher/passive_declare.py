"""Looks whether exchanges are there, before anything is published to them.

A publish to an exchange that is missing closes the channel it is on, and with it all that is on its way to others. So
each one is declared *passively* first (AMQP 0-9-1, ``exchange.declare``: nothing is changed; RabbitMQ asks for no
permission), on a channel that carries nothing else and may be closed by the answer.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from sidecar.amqp.wire.constants import CHANNEL_CLOSE, CHANNEL_OPEN, EXCHANGE_DECLARE
from sidecar.amqp.wire.methods import Arguments, channel_close_ok, method, method_of

#: The channel.
CHECK_CHANNEL: Final = 2

_EXCHANGE_DECLARE_OK: Final = EXCHANGE_DECLARE + 1
#: Questions under way at once: all behind one whose answer closes the channel have to be asked again.
_AT_ONCE: Final = 32
#: The type, which does not matter; the bits: passive; no arguments.
_PASSIVE: Final = b"\x06direct\x01\x00\x00\x00\x00"


class PassiveDeclare:
    """The questions of one connection, in order."""

    __slots__ = ("_asked", "_asking", "_closed", "_open")

    def __init__(self) -> None:
        #: To be asked; asked, and not answered.
        self._asking: deque[bytes] = deque()
        self._asked: deque[bytes] = deque()
        self._open = False
        #: The broker has closed the channel and has not heard our answer.
        self._closed = False

    def ask(self, exchange: bytes) -> None:
        """Look for it."""
        self._asking.append(exchange)

    @property
    def due(self) -> bool:
        """There is something to be written."""
        return self._closed or (len(self._asking) > 0 and len(self._asked) < _AT_ONCE)

    def frames(self) -> bytes:
        """What is to be written now."""
        parts: list[bytes] = []
        if self._closed:
            self._closed = False
            parts.append(channel_close_ok(CHECK_CHANNEL))
        while self._asking and len(self._asked) < _AT_ONCE:
            if not self._open:
                self._open = True
                parts.append(method(CHECK_CHANNEL, CHANNEL_OPEN, b"\x00"))
            exchange = self._asking.popleft()
            self._asked.append(exchange)
            parts.append(
                method(CHECK_CHANNEL, EXCHANGE_DECLARE, b"\x00\x00" + bytes((len(exchange),)) + exchange + _PASSIVE)
            )
        return b"".join(parts)

    def feed(self, data: bytes, start: int, end: int) -> tuple[bytes, int, str] | None:
        """A method of the broker on this channel. The exchange that it is the answer for, with the code and the text of
        the close (0: it is there); ``None``: it answers nothing. Raises :class:`AmqpError`."""
        found = method_of(data, start, end)
        if found == _EXCHANGE_DECLARE_OK and self._asked:
            return self._asked.popleft(), 0, ""
        if found == CHANNEL_CLOSE:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            self._open = False
            self._closed = True
            if self._asked:
                exchange = self._asked.popleft()
                self._asking.extendleft(reversed(self._asked))
                self._asked.clear()
                return exchange, code, text
        return None
