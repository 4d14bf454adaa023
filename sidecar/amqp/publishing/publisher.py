"""A connection of the sidecar's own over which it publishes, with confirms.

    LOGIN ─ open-ok ─> OPENING ─ select-ok ─> READY ─ close ─> CLOSING ─> GONE
                          ^                     │
                          └── channel.close ────┘

It answers for every message that it was given: the broker has it, or refuses it, or the connection was lost first.

When the broker closes the channel because of one of the messages on their way, it does not say which (AMQP
0-9-1, ``channel.close``: a code, a text, the method). The text names the exchange, as a rule; then the messages to that
exchange are sent again one by one, in order, and the one that does it again is the one. Where a text says nothing, that
is done with all of them. Whatever the broker had taken of them without saying so is there twice then, but never more
than was on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.legs import CLOSED, Leg, keep_alive
from sidecar.amqp.methods import (
    Arguments,
    channel_close_ok,
    connection_close,
    connection_close_ok,
    method,
    method_of,
    settlement,
)
from sidecar.amqp.publishing.audience import Audience
from sidecar.amqp.publishing.unconfirmed import Sent, Unconfirmed
from sidecar.amqp.spec import (
    ACCESS_REFUSED,
    BASIC_ACK,
    BASIC_NACK,
    BASIC_PUBLISH,
    BASIC_RETURN,
    CHANNEL_CLOSE,
    CHANNEL_FLOW,
    CHANNEL_FLOW_OK,
    CHANNEL_OPEN,
    CONFIRM_SELECT,
    CONFIRM_SELECT_OK,
    CONNECTION_BLOCKED,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_FORCED,
    CONNECTION_UNBLOCKED,
    METHOD,
    NOT_FOUND,
    REPLY_SUCCESS,
    AmqpError,
)

if TYPE_CHECKING:
    from sidecar.amqp.dialler import Dialler
    from sidecar.resilience.wheel import TimerWheel

#: The channel that everything is published on; frames that are given to :meth:`Publisher.send` are for it.
CHANNEL: Final = 1

LOGIN, OPENING, READY, CLOSING, GONE = range(5)

#: Seconds for the whole handshake, and for the answer to our close.
LOGIN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0
#: So much is collected before it is written, when more may come in the same turn of the loop.
_AT_ONCE: Final = 65_536
#: So often in a row the channel may be closed without anything having been answered on it, or for no reason that has to
#: do with what was sent.
_MOST_CLOSES: Final = 3
#: The most answers that an exchange has to earn before it is trusted again, and how many exchanges are remembered.
_LONGEST_DOUBT: Final = 256
_MOST_DOUBTS: Final = 256

#: Closes of the channel that are about an exchange, which their text names.
_NAMING: Final = (ACCESS_REFUSED, NOT_FOUND)

_OPEN_FRAMES: Final = method(CHANNEL, CHANNEL_OPEN, b"\x00") + method(CHANNEL, CONFIRM_SELECT, b"\x00")


class Doubt:
    """An exchange whose messages are sent one by one: one of them closed the channel. ``needed`` is how many answers it
    takes until it is trusted again."""

    __slots__ = ("alone", "needed", "strikes", "waiting")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        #: How many were refused since it was last trusted.
        self.strikes = 0
        self.alone: Sent | None = None
        self.waiting: deque[Sent] = deque()


class Publisher(Leg):
    """One connection for one user and virtual host, which are the dialler's. It is the protocol of a transport that
    somebody else makes (see :meth:`failed`); ``endpoint`` is where to, for people. ``wary``: so many messages have to
    be answered before there may be more than one on its way, because one of them closed the connection before.
    """

    __slots__ = (
        "_audience", "_call_soon", "_clock", "_closes", "_dialler", "_doubts", "_flushing", "_interval", "_made",
        "_out", "_queue", "_size", "_strikes", "_taken", "_timer", "_unconfirmed", "_untaken", "alarmed", "endpoint",
        "full", "stage", "suspects", "unanswered", "wary",
    )  # fmt: skip

    def __init__(
        self,
        dialler: Dialler,
        audience: Audience,
        wheel: TimerWheel,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        endpoint: str = "",
        wary: int = 0,
    ) -> None:
        Leg.__init__(self)
        self.endpoint = endpoint
        self.stage = LOGIN
        #: The broker takes nothing from this connection at present.
        self.alarmed = False
        #: The transport cannot take more at present.
        self.full = False
        #: Messages given and not answered.
        self.unanswered = 0
        self.wary = wary
        #: When the connection was lost because of a message, and nobody knows which: so many it can have been.
        self.suspects = 0
        self._dialler = dialler
        self._audience = audience
        self._clock = clock
        self._call_soon = call_soon
        self._made = False
        self._unconfirmed = Unconfirmed()
        #: What waits for the channel, or, while we are wary, for its turn.
        self._queue: deque[Sent] = deque()
        self._doubts: dict[bytes, Doubt] = {}
        self._strikes = 0
        #: How often in a row the channel was closed to no purpose.
        self._closes = 0
        #: Answers of one reading.
        self._taken: list[object] = []
        self._untaken: list[object] = []
        #: What is to be written.
        self._out: list[bytes] = []
        self._size = 0
        self._flushing = False
        self._interval = inf
        self._timer = wheel.timer(self._on_timer)
        self._timer.set(clock() + LOGIN_SECONDS)

    @property
    def frame_max(self) -> int:
        """The largest frame that may be sent."""
        return self._dialler.frame_max

    @property
    def permanent(self) -> bool:
        """The login or the virtual host was refused."""
        return self._dialler.permanent

    @property
    def open(self) -> bool:
        """What is given now can go now, as far as anybody knows."""
        return self.stage == READY and not self.full and not self.alarmed

    # -- what the audience does ----------------------------------------------------------------------------------------

    def send(self, frames: bytes, token: object) -> None:
        """Publish a whole message (its frames, for :data:`CHANNEL`, none longer than :attr:`frame_max`). It is written
        at the end of this turn of the loop, or by :meth:`flush`. To one that is gone nothing may be sent."""
        self.unanswered += 1
        sent = Sent(frames, token)
        if self.stage != READY or self.wary or self._queue:
            self._queue.append(sent)
            if self.stage == READY:
                self._go_on()
        else:
            self._offer(sent)

    def recall(self, exchange: bytes) -> list[object]:
        """Take back what is for that exchange and waits here, because it is tried one by one: the tokens, in order."""
        taken: list[object] = []
        doubt = self._doubts.get(exchange)
        if doubt is not None:
            taken.extend([sent.token for sent in doubt.waiting])
            doubt.waiting.clear()
        if self._queue:
            taken.extend([sent.token for sent in self._queue if sent.exchange() == exchange])
            self._queue = deque([sent for sent in self._queue if sent.exchange() != exchange])
        self.unanswered -= len(taken)
        return taken

    def flush(self) -> None:
        """Write what has been collected."""
        self._flushing = False
        out = self._out
        if out:
            self._out = []
            self._size = 0
            self.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self, reason: str = "nothing left to publish") -> None:
        """Say goodbye; :meth:`Audience.lost` follows. Give it nothing any more."""
        if self.stage in (READY, OPENING):
            self.flush()
            self.write(connection_close(REPLY_SUCCESS, reason))
            self.stage = CLOSING
            self._timer.set(self._clock() + CLOSE_SECONDS)
        elif self.stage == LOGIN:
            self.failed(reason)

    def failed(self, reason: str) -> None:
        """There is no connection, and will be none: it could not be made, or is to be cut."""
        self._end(AmqpError(CONNECTION_FORCED, reason))

    # -- the transport -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._made = True
        if self.stage == GONE:
            self.transport.abort()
            return
        keep_alive(self.transport)
        self.transport.write(self._dialler.greeting())

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(
            AmqpError(CONNECTION_FORCED, f"connection lost: {exc}" if exc else "the broker closed the connection")
        )

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.stage == READY:
            self._audience.writable(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        reader = self.reader
        frames = reader.feed(data)
        try:
            for kind, number, start, end in frames:
                if self.stage == LOGIN:
                    self._log_in(reader.data, start, end)
                elif self.stage == GONE:
                    return
                elif kind != METHOD:
                    continue  # heartbeats, and the content of what is returned
                elif number == CHANNEL:
                    self._on_channel(reader.data, start, end)
                elif number == 0:
                    self._on_connection(reader.data, start, end)
            if reader.error is not None:
                raise reader.error
        except AmqpError as error:
            self._tell()
            self._end(AmqpError(CONNECTION_FORCED, f"the broker broke the protocol: {error}"))
            return
        self._tell()
        if self._queue and self.stage == READY:
            self._go_on()

    # -- what the broker says ------------------------------------------------------------------------------------------

    def _log_in(self, data: bytes, start: int, end: int) -> None:
        dialler = self._dialler
        self.write(dialler.feed(data, start, end))
        if dialler.failure is not None:
            self._end(dialler.failure, True)
        elif dialler.done:
            self.reader.limit = dialler.frame_max
            if dialler.heartbeat:
                self._interval = dialler.heartbeat / 2
                self._timer.set(self._clock() + self._interval)
            else:
                self._timer.cancel()
            self.stage = OPENING
            self.write(_OPEN_FRAMES)

    def _on_channel(self, data: bytes, start: int, end: int) -> None:
        found = method_of(data, start, end)
        if found in (BASIC_ACK, BASIC_NACK):
            tag, bits = settlement(data, start, end)
            taken = found == BASIC_ACK
            for sent in self._unconfirmed.settle(tag, bits & 1 != 0):
                self._answer(sent, taken)
        elif found == BASIC_RETURN:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            begin = arguments.pos
            arguments.short_bytes()
            arguments.short_bytes()
            back = self._unconfirmed.came_back(data[begin : arguments.pos])
            if back is not None:
                self._audience.returned(self, back.token, code, text)
        elif found == CONFIRM_SELECT_OK:
            if self.stage == OPENING:
                self.stage = READY
                self._go_on()
                self._audience.ready(self)
        elif found == CHANNEL_CLOSE:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            self.write(channel_close_ok(CHANNEL))
            if self.stage != CLOSING:
                self._channel_closed(code, text, arguments.u32())
        elif found == CHANNEL_FLOW:
            self.write(method(CHANNEL, CHANNEL_FLOW_OK, bytes((Arguments(data, start, end).u8(),))))

    def _on_connection(self, data: bytes, start: int, end: int) -> None:
        found = method_of(data, start, end)
        if found in (CONNECTION_BLOCKED, CONNECTION_UNBLOCKED):
            on = found == CONNECTION_BLOCKED
            if on != self.alarmed:
                self.alarmed = on
                self._audience.blocked(self, on, Arguments(data, start, end).short() if on else "")
        elif found == CONNECTION_CLOSE:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            self.stage = CLOSING
            self._tell()
            self.write(connection_close_ok())
            if code not in (REPLY_SUCCESS, CONNECTION_FORCED):
                if self._unconfirmed.count == 1:
                    self._refuse(self._unconfirmed.take_all()[0], code, text)
                else:
                    self.suspects = self._unconfirmed.count
            self._end(AmqpError(code, text), True)
        elif found == CONNECTION_CLOSE_OK:
            self._tell()
            self._end(AmqpError(REPLY_SUCCESS, "closed by us"), True)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _offer(self, sent: Sent) -> None:
        """Its turn has come, but for doubts about its exchange."""
        if self._doubts:
            doubt = self._doubts.get(sent.exchange())
            if doubt is not None:
                if doubt.alone is not None:
                    doubt.waiting.append(sent)
                    return
                doubt.alone = sent
        self._put(sent)

    def _put(self, sent: Sent) -> None:
        self._unconfirmed.add(sent)
        frames = sent.frames
        self._out.append(frames)
        self._size += len(frames)
        if self._size >= _AT_ONCE:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._call_soon(self.flush)

    def _go_on(self) -> None:
        """Send of what waits what may go."""
        queue = self._queue
        for doubt in self._doubts.values():
            self._next(doubt)
        while queue and not (self.wary and self._unconfirmed.count):
            self._offer(queue.popleft())
        self.flush()

    def _answer(self, sent: Sent, taken: bool) -> None:
        self.unanswered -= 1
        self._closes = 0
        if taken:
            self._taken.append(sent.token)
        else:
            self._untaken.append(sent.token)
        if self.wary:
            self.wary -= 1
            if not self.wary:
                self._strikes = 0
        if self._doubts:
            self._trust(sent)

    def _tell(self) -> None:
        """Pass on the answers of this reading."""
        if self._taken:
            tokens, self._taken = self._taken, []
            self._audience.answered(self, tokens, True)
        if self._untaken:
            tokens, self._untaken = self._untaken, []
            self._audience.answered(self, tokens, False)

    # -- when one of them is no good -----------------------------------------------------------------------------------

    def _refuse(self, sent: Sent, code: int, text: str) -> None:
        self.unanswered -= 1
        self._closes = 0
        self._audience.refused(self, sent.token, code, text)

    def _channel_closed(self, code: int, text: str, cause: int) -> None:
        """Open it again; find out whose fault it was."""
        self.stage = OPENING
        self._tell()
        left = self._unconfirmed.take_all()
        self._out.clear()
        self._size = 0
        self._closes += 1
        if self._closes > _MOST_CLOSES:
            self._queue.extendleft(reversed(left))
            self._end(AmqpError(code, text))
            return
        self.write(_OPEN_FRAMES)
        guilty: Sent | None = None
        if cause == BASIC_PUBLISH and left:
            suspects = left
            named = _exchange_in(text) if code in _NAMING else None
            if named is not None:
                suspects = [sent for sent in left if sent.exchange() == named] or left
            if len(suspects) == 1:
                guilty = suspects[0]
                self._strike(guilty, named is not None)
            elif suspects is not left:
                self._doubt(suspects[0].exchange(), len(suspects))
            else:
                self.wary = max(self.wary, len(left))
        self._put_back(left, guilty)
        if guilty is not None:
            self._refuse(guilty, code, text)

    def _strike(self, guilty: Sent, named: bool) -> None:
        """One was no good. If there are many of them, trying one by one at once costs less than finding out anew each
        time; so each one makes for twice as many answers until there is trust again."""
        if named and not self.wary:
            doubt = self._doubt(guilty.exchange(), 1)
            doubt.needed = max(doubt.needed, min(1 << doubt.strikes, _LONGEST_DOUBT))
            doubt.strikes = min(doubt.strikes + 1, 16)
        else:
            self.wary = max(self.wary, min(1 << self._strikes, _LONGEST_DOUBT))
            self._strikes = min(self._strikes + 1, 16)

    def _doubt(self, exchange: bytes, needed: int) -> Doubt:
        doubt = self._doubts.get(exchange)
        if doubt is None:
            if len(self._doubts) >= _MOST_DOUBTS:
                for idle in [name for name, old in self._doubts.items() if old.alone is None and not old.waiting]:
                    del self._doubts[idle]
            doubt = self._doubts[exchange] = Doubt(needed)
        doubt.needed = max(doubt.needed, needed)
        return doubt

    def _put_back(self, left: list[Sent], guilty: Sent | None) -> None:
        """What was on its way is to be sent again, before all that came later."""
        again: list[Sent] = []
        for doubt in self._doubts.values():
            doubt.alone = None
        for sent in reversed(left):
            if sent is guilty:
                continue
            found = None if self.wary else self._doubts.get(sent.exchange())
            if found is None:
                again.append(sent)
            else:
                found.waiting.appendleft(sent)
        if self.wary:
            # All are tried one by one now.
            for doubt in self._doubts.values():
                self._queue.extendleft(reversed(doubt.waiting))
            self._doubts.clear()
        self._queue.extendleft(again)

    def _trust(self, sent: Sent) -> None:
        """One of an exchange in doubt was answered: the next one, or all of them."""
        exchange = sent.exchange()
        doubt = self._doubts.get(exchange)
        if doubt is None or doubt.alone is not sent:
            return
        doubt.alone = None
        doubt.needed -= 1
        if doubt.needed <= 0:
            del self._doubts[exchange]
            for trusted in doubt.waiting:
                self._put(trusted)
        else:
            self._next(doubt)

    def _next(self, doubt: Doubt) -> None:
        if doubt.alone is None and doubt.waiting:
            doubt.alone = sent = doubt.waiting.popleft()
            self._put(sent)

    # -- time and the end ----------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        if self.stage == LOGIN:
            self.failed("the broker does not answer")
        elif self.stage == CLOSING:
            self.failed("the broker does not answer our goodbye")
        elif not self.beat():
            self.failed("the broker sends no heartbeats")
        else:
            self._timer.set(self._clock() + self._interval)

    def _end(self, error: AmqpError, politely: bool = False) -> None:
        if self.stage == GONE:
            return
        self.stage = GONE
        self.state = CLOSED
        self._timer.close()
        if self._made:
            if politely:
                self.transport.close()
            else:
                self.transport.abort()
        left = [sent.token for sent in self._unconfirmed.take_all()]
        for doubt in self._doubts.values():
            left.extend([sent.token for sent in doubt.waiting])
        left.extend([sent.token for sent in self._queue])
        self._queue.clear()
        self._doubts.clear()
        self._out.clear()
        self._audience.lost(self, left, error)


def _exchange_in(text: str) -> bytes | None:
    """The exchange that a broker says is missing or may not be used. What stands before it may be a routing key."""
    name, found, _ = text.rpartition("exchange '")[2].partition("' in vhost '")
    if not found:
        return None
    return b"" if name == "amq.default" else name.encode("utf-8", "surrogateescape")
