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
from sidecar.amqp.publishing.exchanges import LONGEST_DOUBT, Exchanges, exchange_in
from sidecar.amqp.publishing.lookup import LOOKUP
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

#: Closes of the channel that are about an exchange, which their text names.
_NAMING: Final = (ACCESS_REFUSED, NOT_FOUND)

_OPEN_FRAMES: Final = method(CHANNEL, CHANNEL_OPEN, b"\x00") + method(CHANNEL, CONFIRM_SELECT, b"\x00")


class Publisher(Leg):
    """One connection for one user and virtual host, which are the dialler's. It is the protocol of a transport that
    somebody else makes (see :meth:`failed`); ``endpoint`` is where to, for people. ``wary``: so many messages have to
    be answered before there may be more than one on its way, because one of them closed the connection before.
    """

    __slots__ = (
        "_audience", "_call_soon", "_clock", "_closes", "_dialler", "_exchanges", "_flushing", "_interval", "_made",
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
        looks: bool = True,
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
        self._exchanges = Exchanges(looks)
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
    def looks(self) -> bool:
        """Exchanges are looked for before anything is published to them; no longer if the broker allows no second
        channel."""
        return self._exchanges.looks

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
        """Take back what is for that exchange and waits here, because it is looked for or its messages are tried one by
        one: the tokens, in order."""
        taken: list[object] = [sent.token for sent in self._exchanges.recall(exchange)]
        if self._queue:
            taken.extend([sent.token for sent in self._queue if sent.exchange() == exchange])
            self._queue = deque([sent for sent in self._queue if sent.exchange() != exchange])
        self.unanswered -= len(taken)
        return taken

    def flush(self) -> None:
        """Write what has been collected."""
        self._flushing = False
        exchanges = self._exchanges
        if exchanges.busy and self.stage == READY:
            self.write(exchanges.lookup.frames())
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
                elif number == LOOKUP:
                    self._on_lookup(reader.data, start, end)
                elif number == 0:
                    self._on_connection(reader.data, start, end)
            if reader.error is not None:
                raise reader.error
        except AmqpError as error:
            self._tell()
            self._end(AmqpError(CONNECTION_FORCED, f"the broker broke the protocol: {error}"))
            return
        self._tell()
        if self.stage == READY and (self._queue or self._exchanges.busy):
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
            if dialler.channel_max < LOOKUP:
                self._exchanges.looks = False
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

    def _on_lookup(self, data: bytes, start: int, end: int) -> None:
        exchanges = self._exchanges
        answer = exchanges.lookup.feed(data, start, end)
        if answer is None:
            return
        exchange, code, text = answer
        if code != NOT_FOUND:
            # Whether it may be published to is another question, even where we may not look.
            exchanges.found(exchange)
            return
        for _ in range(exchanges.count(exchange)):
            sent = exchanges.take(exchange)
            if sent is None:
                break  # recalled
            self._refuse(sent, code, text)
        exchanges.missed(exchange)

    def _on_connection(self, data: bytes, start: int, end: int) -> None:
        found = method_of(data, start, end)
        if found in (CONNECTION_BLOCKED, CONNECTION_UNBLOCKED):
            on = found == CONNECTION_BLOCKED
            if on != self.alarmed:
                self.alarmed = on
                self._audience.blocked(self, on, Arguments(data, start, end).short() if on else "")
        elif found == CONNECTION_CLOSE:
            arguments = Arguments(data, start, end)
            code, text, cause = arguments.u16(), arguments.short(), arguments.u32()
            self.stage = CLOSING
            self._tell()
            self.write(connection_close_ok())
            if cause == CHANNEL_OPEN:
                self._exchanges.looks = False  # one channel is all that this user may have
            elif code not in (REPLY_SUCCESS, CONNECTION_FORCED):
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
        exchanges = self._exchanges
        if sent.exchange() in exchanges.trusted or not exchanges.holds(sent):
            self._put(sent)
        elif not self._flushing:
            self._flushing = True
            self._call_soon(self.flush)

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
        if self._exchanges.busy:
            free = self._exchanges.free(self.wary > 0)
            if self.wary:
                queue.extendleft(reversed(free))
            else:
                for sent in free:
                    self._put(sent)
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
        if self._exchanges.doubts:
            self._exchanges.answered(sent)

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
            guilty = self._blame(left, code, text)
        self._queue.extendleft(reversed(self._exchanges.put_back(left, guilty, self.wary > 0)))
        if guilty is not None:
            self._refuse(guilty, code, text)

    def _blame(self, left: list[Sent], code: int, text: str) -> Sent | None:
        """One of those on their way is no good. Which one, if that is clear; else they are sent one by one from now on:
        those to the exchange that the text names, or all."""
        exchanges = self._exchanges
        named = exchange_in(text) if code in _NAMING else None
        suspects = [sent for sent in left if sent.exchange() == named] if named is not None else []
        if not suspects:
            named = None
            suspects = left
        guilty = suspects[0] if len(suspects) == 1 else None
        if named is not None:
            self._closes = 0  # we know more than before
        if named is not None and not self.wary:
            if guilty is not None:
                exchanges.strike(named)
            else:
                exchanges.suspect(named, len(suspects))
        elif guilty is not None:
            # As with exchanges: each one makes for twice as many answers until there may be many on their way again.
            self.wary = max(self.wary, min(1 << self._strikes, LONGEST_DOUBT))
            self._strikes = min(self._strikes + 1, 16)
        else:
            self.wary = max(self.wary, len(left))
        if named is not None and code == NOT_FOUND:
            exchanges.vanished(named)
        return guilty

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
        left.extend([sent.token for sent in self._exchanges.take_all()])
        left.extend([sent.token for sent in self._queue])
        self._queue.clear()
        self._out.clear()
        self._audience.lost(self, left, error)
