"""The client's side of a handshake, sans-I/O (AMQP 0-9-1 §2.2.4, §4.2.2): how the sidecar itself logs in at a broker,
as somebody of its own or on behalf of a client whose login it has seen accepted.

    us                              broker
    ─ protocol header ────────────────>
    <─────────────────────────── start ─
    ─ start-ok ───────────────────────>
    <──────────────────────────── tune ─
    ─ tune-ok, open ──────────────────>
    <───────────────────────── open-ok ─
"""

from __future__ import annotations

from struct import pack
from typing import Final

from sidecar import __version__
from sidecar.amqp.wire.constants import (
    ACCESS_REFUSED,
    COMMAND_INVALID,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_FORCED,
    CONNECTION_OPEN,
    CONNECTION_OPEN_OK,
    CONNECTION_SECURE,
    CONNECTION_START,
    CONNECTION_START_OK,
    CONNECTION_TUNE,
    CONNECTION_TUNE_OK,
    FRAME_MIN_SIZE,
    HEARTBEAT,
    METHOD,
    NOT_ALLOWED,
    PROTOCOL_HEADER,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.handshake import FRAME_MAX
from sidecar.amqp.wire.methods import Arguments, connection_close, connection_close_ok, frame, method, method_of, short
from sidecar.amqp.wire.tables import encode_table, with_entry

#: As a limit, 0 means this many channels.
_CHANNELS: Final = 65_535


def plain(username: str, password: str) -> bytes:
    """The response of the mechanism ``PLAIN`` (RFC 4616)."""
    return f"\0{username}\0{password}".encode("utf-8", "surrogateescape")


def own_properties(name: str) -> bytes:
    """What the sidecar says of itself in ``start-ok``, as a table; ``name`` is how brokers show the connection."""
    return encode_table(
        {
            "product": "sidecar",
            "version": __version__,
            "connection_name": name,
            "capabilities": {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True},
        }
    )


class ClientHandshake:
    """One handshake. ``mechanism`` and ``response`` are the login (SASL), ``properties`` the client's properties as an
    encoded table; to those it adds that it wants to be told of alarms and of a refused login.

    ``heartbeat`` (seconds, 0: none), ``frame_max`` and ``channel_max`` (0: 65535) are what is wanted, and after the
    handshake what was agreed on. With ``exact`` they are not up for negotiation, because a client has been promised
    them: a broker that allows less is a :attr:`failure`.

    Write :meth:`greeting`, give every frame to :meth:`feed` and write what it returns, until :attr:`done` or
    :attr:`failure`.
    """

    __slots__ = (
        "_exact", "_last", "_less", "_locale", "_mechanism", "_properties", "_response", "channel_max", "failure",
        "frame_max", "heartbeat", "vhost",
    )  # fmt: skip

    def __init__(
        self,
        mechanism: str,
        response: bytes,
        vhost: str,
        properties: bytes,
        heartbeat: int = 10,
        frame_max: int = FRAME_MAX,
        channel_max: int = 0,
        exact: bool = False,
        locale: str = "en_US",
    ) -> None:
        self._mechanism = mechanism
        self._response = response
        end = len(properties)
        properties = with_entry(properties, 0, end, ["capabilities", "connection.blocked"], True, True)
        path = ["capabilities", "authentication_failure_close"]
        self._properties = with_entry(properties, 0, len(properties), path, True, True)
        self._exact = exact
        #: The broker allows less than what is not up for negotiation.
        self._less = False
        self._locale = locale
        self.vhost = vhost
        self.heartbeat = heartbeat
        self.frame_max = frame_max
        self.channel_max = channel_max
        #: Why it has come to nothing, with the broker's code and text where it gave any. What :meth:`feed` returned
        #: then is still to be written, and the connection to be closed.
        self.failure: AmqpError | None = None
        #: The last method of the broker.
        self._last = 0

    @property
    def done(self) -> bool:
        """The connection is open."""
        return self._last == CONNECTION_OPEN_OK

    @property
    def accepted(self) -> bool:
        """The login has been accepted; whether the virtual host is, is another question."""
        return self._last in (CONNECTION_TUNE, CONNECTION_OPEN_OK)

    @property
    def permanent(self) -> bool:
        """It failed for a reason that trying again will not change, unless somebody changes something at the broker:
        the login or the virtual host is refused, or less is allowed than is needed."""
        failure = self.failure
        if self._less:
            return True
        if failure is None or failure.code not in (ACCESS_REFUSED, NOT_ALLOWED):
            return False
        return " limit" not in failure.text  # too many connections at once, RabbitMQ says 530 to that, too

    def greeting(self) -> bytes:
        """What is said first."""
        return PROTOCOL_HEADER

    def feed(self, data: bytes, start: int, end: int) -> bytes:
        """What to tell the broker for this frame of it. Never raises; nothing after :attr:`done` or a
        :attr:`failure`."""
        if self.failure is not None or self.done or data[start] == HEARTBEAT:
            return b""
        try:
            return self._answer(data, start, end)
        except AmqpError as error:
            self.failure = error
            # Before the broker has heard of tune-ok, a close of ours would be one method too early for it.
            return connection_close(error.code, error.text, error.method) if self._last == CONNECTION_TUNE else b""

    def _answer(self, data: bytes, start: int, end: int) -> bytes:
        if data[start] != METHOD or data[start + 1] or data[start + 2]:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - the handshake is not over")
        found = method_of(data, start, end)
        last = self._last
        if found == CONNECTION_START and last == 0:
            self._last = found
            return self._start_ok(Arguments(data, start, end))
        if found == CONNECTION_TUNE and last == CONNECTION_START:
            answer = self._tune_ok(Arguments(data, start, end))
            self._last = found
            return answer
        if found == CONNECTION_OPEN_OK and last == CONNECTION_TUNE:
            self._last = found
            return b""
        if found == CONNECTION_CLOSE:
            arguments = Arguments(data, start, end)
            code, text = arguments.u16(), arguments.short()
            self.failure = AmqpError(code, text, arguments.u32())
            return connection_close_ok()
        if found == CONNECTION_SECURE:
            text = f"ACCESS_REFUSED - the broker asks for more than one response with {self._mechanism[:40]}"
            raise AmqpError(ACCESS_REFUSED, text, found)
        if found == CONNECTION_CLOSE_OK:
            return b""
        raise AmqpError(
            COMMAND_INVALID, f"COMMAND_INVALID - method {found >> 16}.{found & 0xFFFF} is out of place", found
        )

    def _start_ok(self, arguments: Arguments) -> bytes:
        arguments.skip(2)
        arguments.long_bytes()
        offered = arguments.long_bytes().decode("utf-8", "replace").split(" ")
        if self._mechanism not in offered:
            text = f"ACCESS_REFUSED - the broker does not offer the mechanism {self._mechanism[:40]}"
            raise AmqpError(ACCESS_REFUSED, text, CONNECTION_START)
        response = self._response
        answer = (
            pack(">I", CONNECTION_START_OK)
            + self._properties
            + short(self._mechanism)
            + pack(">I", len(response))
            + response
            + short(self._locale)
        )
        return frame(METHOD, 0, answer)

    def _tune_ok(self, arguments: Arguments) -> bytes:
        channel_max, frame_max, heartbeat = arguments.u16(), arguments.u32(), arguments.u16()
        channels = channel_max or _CHANNELS
        largest = frame_max or FRAME_MAX
        if self._exact:
            if channels < (self.channel_max or _CHANNELS) or (frame_max and frame_max < self.frame_max):
                promised = f"{self.channel_max or _CHANNELS} and {self.frame_max}"
                text = f"CONNECTION_FORCED - the broker allows {channels} channels and frames of {largest} bytes now, "
                self._less = True
                raise AmqpError(CONNECTION_FORCED, f"{text}the client has been promised {promised}", CONNECTION_TUNE)
        else:
            self.channel_max = min(channels, self.channel_max or _CHANNELS)
            self.frame_max = max(FRAME_MIN_SIZE, min(largest, self.frame_max or FRAME_MAX))
            if heartbeat:
                self.heartbeat = min(heartbeat, self.heartbeat) if self.heartbeat else 0
        return method(0, CONNECTION_TUNE_OK, pack(">HIH", self.channel_max, self.frame_max, self.heartbeat)) + method(
            0, CONNECTION_OPEN, short(self.vhost) + b"\x00\x00"
        )
