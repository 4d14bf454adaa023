"""A connection of the sidecar's own over which it publishes, with confirms.

    LOGIN ─ open-ok ─> OPENING ─ select-ok ─> READY ─ close ─> CLOSING ─> GONE
                          ^                     │
                          └── channel.close ────┘

It answers for every message that it was given: the broker has it, or refuses it, or the connection was lost first.

Whose turn it is, and which message is to blame when the broker closes the channel, is the matter of
:class:`~sidecar.amqp.publisher.send_queue.SendQueue`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.publisher.passive_declare import CHECK_CHANNEL
from sidecar.amqp.publisher.probe_channel import PROBE_CHANNEL
from sidecar.amqp.publisher.send_queue import SendQueue
from sidecar.amqp.publisher.unconfirmed import Sent
from sidecar.amqp.relay.connections import CLOSED, Connection
from sidecar.amqp.wire.constants import (
    BASIC_ACK,
    BASIC_NACK,
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
    EXCHANGE_DECLARE,
    METHOD,
    NOT_FOUND,
    REPLY_SUCCESS,
    AmqpError,
)
from sidecar.amqp.wire.methods import (
    Arguments,
    channel_close_ok,
    connection_close,
    connection_close_ok,
    method,
    method_of,
    settlement,
)
from sidecar.net.sockets import keep_alive

if TYPE_CHECKING:
    from sidecar.amqp.publisher.callbacks import Callbacks
    from sidecar.amqp.wire.client_handshake import ClientHandshake
    from sidecar.net.wheel import TimerWheel

#: The channel that everything is published on; frames that are given to :meth:`Publisher.send` are for it.
CHANNEL: Final = 1

LOGIN, OPENING, READY, CLOSING, GONE = range(5)

#: Seconds for the whole handshake, and for the answer to our close.
LOGIN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 3.0

_OPEN_FRAMES: Final = method(CHANNEL, CHANNEL_OPEN, b"\x00") + method(CHANNEL, CONFIRM_SELECT, b"\x00")


class Publisher(Connection):
    """One connection for one user and virtual host, which are the handshake's. It is the protocol of a transport that
    somebody else makes (see :meth:`failed`); ``endpoint`` is where to, for people. ``wary``: so many messages have to
    be answered before there may be more than one on its way, because one of them closed the connection before.
    """

    __slots__ = (
        "_callbacks", "_clock", "_handshake", "_interval", "_made", "_send_queue", "_taken", "_timer", "_untaken",
        "alarmed", "endpoint", "full", "stage", "suspects", "unanswered",
    )  # fmt: skip

    def __init__(
        self,
        handshake: ClientHandshake,
        callbacks: Callbacks,
        wheel: TimerWheel,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        endpoint: str = "",
        wary: int = 0,
        looks: bool = True,
    ) -> None:
        Connection.__init__(self)
        self.endpoint = endpoint
        self.stage = LOGIN
        #: The broker takes nothing from this connection at present.
        self.alarmed = False
        #: The transport cannot take more at present.
        self.full = False
        #: Messages given and not answered.
        self.unanswered = 0
        #: When the connection was lost because of a message, and nobody knows which: so many it can have been.
        self.suspects = 0
        self._handshake = handshake
        self._callbacks = callbacks
        self._clock = clock
        self._made = False
        self._send_queue = SendQueue(self.write, call_soon, wary, looks)
        #: Answers of one reading.
        self._taken: list[object] = []
        self._untaken: list[object] = []
        self._interval = inf
        self._timer = wheel.timer(self._on_timer)
        self._timer.set(clock() + LOGIN_SECONDS)

    @property
    def frame_max(self) -> int:
        """The largest frame that may be sent."""
        return self._handshake.frame_max

    @property
    def permanent(self) -> bool:
        """The login or the virtual host was refused."""
        return self._handshake.permanent

    @property
    def looks(self) -> bool:
        """Exchanges are looked for before anything is published to them; no longer if the broker does not allow it."""
        return self._send_queue.exchanges.looks

    @property
    def open(self) -> bool:
        """What is given now can go now, as far as anybody knows."""
        return self.stage == READY and not self.full and not self.alarmed

    # -- what its owner does -------------------------------------------------------------------------------------------

    def send(self, frames: bytes, token: object) -> None:
        """Publish a whole message (its frames, for :data:`CHANNEL`, none longer than :attr:`frame_max`). It is written
        at the end of this turn of the loop, or by :meth:`flush`. To one that is gone nothing may be sent."""
        self.unanswered += 1
        self._send_queue.send(Sent(frames, token))

    def recall(self, exchange: bytes) -> list[object]:
        """Take back what is for that exchange and waits here, because it is looked for or its messages are tried one by
        one: the tokens, in order."""
        taken: list[object] = [sent.token for sent in self._send_queue.recall(exchange)]
        self.unanswered -= len(taken)
        return taken

    def flush(self) -> None:
        """Write what has been collected."""
        self._send_queue.flush()

    def close(self, reason: str = "nothing left to publish") -> None:
        """Say goodbye; :meth:`Callbacks.lost` follows. Give it nothing any more."""
        if self.stage in (READY, OPENING):
            self.flush()
            self._send_queue.open = False
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
        self.transport.write(self._handshake.greeting())

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(
            AmqpError(CONNECTION_FORCED, f"connection lost: {exc}" if exc else "the broker closed the connection")
        )

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.stage == READY:
            self._callbacks.writable(self)

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
                elif number == CHECK_CHANNEL:
                    self._on_passive_declare(reader.data, start, end)
                elif number == PROBE_CHANNEL:
                    self._on_probe(reader.data, start, end)
                elif number == 0:
                    self._on_connection(reader.data, start, end)
            if reader.error is not None:
                raise reader.error
        except AmqpError as error:
            self._tell()
            self._end(AmqpError(CONNECTION_FORCED, f"the broker broke the protocol: {error}"))
            return
        self._tell()
        self._send_queue.look()

    # -- what the broker says ------------------------------------------------------------------------------------------

    def _log_in(self, data: bytes, start: int, end: int) -> None:
        handshake = self._handshake
        self.write(handshake.feed(data, start, end))
        if handshake.failure is not None:
            self._end(handshake.failure, True)
        elif handshake.done:
            self.reader.limit = handshake.frame_max
            if handshake.heartbeat:
                self._interval = handshake.heartbeat / 2
                self._timer.set(self._clock() + self._interval)
            else:
                self._timer.cancel()
            exchanges = self._send_queue.exchanges
            exchanges.looks = exchanges.looks and handshake.channel_max >= CHECK_CHANNEL
            exchanges.apart = exchanges.looks and handshake.channel_max >= PROBE_CHANNEL
            self.stage = OPENING
            self.write(_OPEN_FRAMES)

    def _on_channel(self, data: bytes, start: int, end: int) -> None:
        found = method_of(data, start, end)
        if found in (BASIC_ACK, BASIC_NACK):
            tag, bits = settlement(data, start, end)
            answered = self._send_queue.settle(tag, bits & 1 != 0)
            self.unanswered -= len(answered)
            (self._taken if found == BASIC_ACK else self._untaken).extend([sent.token for sent in answered])
        elif found == BASIC_RETURN:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            begin = arguments.pos
            arguments.short_bytes()
            arguments.short_bytes()
            back = self._send_queue.unconfirmed.came_back(data[begin : arguments.pos])
            if back is not None:
                self._callbacks.returned(self, back.token, code, text)
        elif found == CONFIRM_SELECT_OK:
            if self.stage == OPENING:
                self.stage = READY
                self._send_queue.opened()
                self._callbacks.ready(self)
        elif found == CHANNEL_CLOSE:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            self.write(channel_close_ok(CHANNEL))
            if self.stage != CLOSING:
                self._channel_closed(code, text, arguments.u32())
        elif found == CHANNEL_FLOW:
            self.write(method(CHANNEL, CHANNEL_FLOW_OK, bytes((Arguments(data, start, end).u8(),))))

    def _on_passive_declare(self, data: bytes, start: int, end: int) -> None:
        exchanges = self._send_queue.exchanges
        answer = exchanges.passive_declare.feed(data, start, end)
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

    def _on_probe(self, data: bytes, start: int, end: int) -> None:
        send_queue = self._send_queue
        found = method_of(data, start, end)
        if found in (BASIC_ACK, BASIC_NACK):
            sent = send_queue.tried()
            if sent is not None:
                self.unanswered -= 1
                (self._taken if found == BASIC_ACK else self._untaken).append(sent.token)
        elif found == BASIC_RETURN and send_queue.probe.sent is not None:
            arguments = Arguments(data, start, end)
            self._callbacks.returned(self, send_queue.probe.sent.token, arguments.u16(), arguments.short())
        elif found == CHANNEL_CLOSE:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            self.write(channel_close_ok(PROBE_CHANNEL))
            if self.stage != CLOSING:
                self._tell()
                guilty = send_queue.probe_closed(code, arguments.u32())
                if send_queue.hopeless:
                    self._end(AmqpError(code, text))
                elif guilty is not None:
                    self._refuse(guilty, code, text)

    def _on_connection(self, data: bytes, start: int, end: int) -> None:
        found = method_of(data, start, end)
        if found in (CONNECTION_BLOCKED, CONNECTION_UNBLOCKED):
            on = found == CONNECTION_BLOCKED
            if on != self.alarmed:
                self.alarmed = on
                self._callbacks.blocked(self, on, Arguments(data, start, end).short() if on else "")
        elif found == CONNECTION_CLOSE:
            arguments = Arguments(data, start, end)
            code, text, cause = arguments.u16(), arguments.short(), arguments.u32()
            self.stage = CLOSING
            self._tell()
            self.write(connection_close_ok())
            if cause in (CHANNEL_OPEN, EXCHANGE_DECLARE):
                self._send_queue.exchanges.looks = False  # as where a user may have one channel
            elif code not in (REPLY_SUCCESS, CONNECTION_FORCED):
                self.suspects = self._send_queue.on_way
                if self.suspects == 1:
                    self.suspects = 0
                    self._refuse(self._send_queue.take_one(), code, text)
            self._end(AmqpError(code, text), True)
        elif found == CONNECTION_CLOSE_OK:
            self._tell()
            self._end(AmqpError(REPLY_SUCCESS, "closed by us"), True)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Pass on the answers of this reading."""
        if self._taken:
            tokens, self._taken = self._taken, []
            self._callbacks.answered(self, tokens, True)
        if self._untaken:
            tokens, self._untaken = self._untaken, []
            self._callbacks.answered(self, tokens, False)

    def _refuse(self, sent: Sent, code: int, text: str) -> None:
        self.unanswered -= 1
        self._callbacks.refused(self, sent.token, code, text)

    def _channel_closed(self, code: int, text: str, cause: int) -> None:
        """Open it again."""
        self.stage = OPENING
        self._tell()
        guilty = self._send_queue.closed(code, text, cause)
        if self._send_queue.hopeless:
            self._end(AmqpError(code, text))
            return
        self.write(_OPEN_FRAMES)
        if guilty is not None:
            self._refuse(guilty, code, text)

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
        left: list[object] = [sent.token for sent in self._send_queue.take_all()]
        self._callbacks.lost(self, left, error)
