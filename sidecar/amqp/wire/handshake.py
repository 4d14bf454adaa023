"""The handshake that a client and a broker have through us, sans-I/O (AMQP 0-9-1 §2.2.4, §4.2.2).

    broker                                    client
       │ <────────── protocol header ────────── │
       │ ─ start ─────────────────────────────> │
       │ <───────────────────────────── start-ok │   + the capability connection.blocked, so that we hear of alarms
       │ ─ secure ─> … <─ secure-ok ─ (any number of times)
       │ ─ tune ──────────────────────────────> │   frame-max at most ours
       │ <────────────────────── tune-ok, open ─ │   the virtual host must be allowed
       │ ─ open-ok ───────────────────────────> │

It all passes through, so any mechanism and any client property does. What the parties agree on is noted on the way.
"""

from __future__ import annotations

from collections.abc import Collection
from struct import pack
from typing import Final

from sidecar.amqp.wire.constants import (
    COMMAND_INVALID,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_OPEN,
    CONNECTION_OPEN_OK,
    CONNECTION_SECURE,
    CONNECTION_SECURE_OK,
    CONNECTION_START,
    CONNECTION_START_OK,
    CONNECTION_TUNE,
    CONNECTION_TUNE_OK,
    FRAME_MIN_SIZE,
    METHOD,
    NOT_ALLOWED,
    SYNTAX_ERROR,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.wire.methods import Arguments, frame, method_of
from sidecar.amqp.wire.tables import decode_table, with_entry

#: The largest frame that we agree to; RabbitMQ's own default. One that proposes no limit gets this one.
FRAME_MAX: Final = 131_072
#: The largest frame before that is agreed on: tokens make start-ok longer than the specification's 4096.
HANDSHAKE_FRAME_MAX: Final = 65_536

#: Who says what next, by what was said last.
_FROM_CLIENT: Final[dict[int, tuple[int, ...]]] = {
    CONNECTION_START: (CONNECTION_START_OK,),
    CONNECTION_SECURE: (CONNECTION_SECURE_OK,),
    CONNECTION_TUNE: (CONNECTION_TUNE_OK,),
    CONNECTION_TUNE_OK: (CONNECTION_OPEN,),
}
_FROM_BROKER: Final[dict[int, tuple[int, ...]]] = {
    0: (CONNECTION_START,),
    CONNECTION_START_OK: (CONNECTION_SECURE, CONNECTION_TUNE),
    CONNECTION_SECURE_OK: (CONNECTION_SECURE, CONNECTION_TUNE),
    CONNECTION_OPEN: (CONNECTION_OPEN_OK,),
}


class Handshake:
    """One handshake. ``vhosts`` are those that may be opened; empty: any.

    After it: ``vhost``, ``identity`` (the user; empty when the mechanism does not say it in clear), ``user`` (the
    same for people to read, cut short), ``product`` (client and version), ``hears_blocked`` (whether the client wants
    to be told of alarms), ``heartbeat`` (seconds, 0: none), ``frame_max`` and ``channel_max`` as agreed
    (``channel_max`` 0: 65535). With ``keeps_login`` also what it takes to log in as this client again: ``mechanism``,
    ``response``, ``properties`` (a table) and ``locale``.
    """

    __slots__ = (
        "_last", "_offered", "_vhosts", "channel_max", "frame_max", "hears_blocked", "heartbeat", "identity",
        "keeps_login", "locale", "mechanism", "product", "properties", "response", "user", "vhost",
    )  # fmt: skip

    def __init__(self, vhosts: Collection[str] = ()) -> None:
        self._vhosts = vhosts
        #: The last method that was said.
        self._last = 0
        #: The frame-max that was proposed to the client.
        self._offered = FRAME_MAX
        self.keeps_login = False
        self.mechanism = ""
        self.response = b""
        self.properties = b""
        self.locale = ""
        self.vhost = ""
        self.identity = ""
        self.user = ""
        self.product = ""
        self.hears_blocked = False
        self.heartbeat = 0
        self.frame_max = HANDSHAKE_FRAME_MAX
        self.channel_max = 0

    @property
    def done(self) -> bool:
        """The connection is open."""
        return self._last == CONNECTION_OPEN_OK

    @property
    def open_sent(self) -> bool:
        """Only ``open-ok`` is missing: the user has been accepted."""
        return self._last == CONNECTION_OPEN

    def from_broker(self, data: bytes, start: int, end: int) -> bytes:
        """What to tell the client for this frame of the broker. A close passes at any time; the rest is for the caller.
        Raises :class:`AmqpError`."""
        method = self._expect(data, start, end, _FROM_BROKER, also=CONNECTION_CLOSE)
        if method == CONNECTION_TUNE:
            arguments = Arguments(data, start, end)
            channel_max, frame_max, heartbeat = arguments.u16(), arguments.u32(), arguments.u16()
            self._offered = min(frame_max or FRAME_MAX, FRAME_MAX)
            return frame(METHOD, 0, pack(">IHIH", method, channel_max, self._offered, heartbeat))
        return data[start:end]

    def from_client(self, data: bytes, start: int, end: int) -> bytes:
        """What to tell the broker for this frame of the client. Raises :class:`AmqpError` for what it must not say or
        may not have."""
        method = self._expect(data, start, end, _FROM_CLIENT, also=CONNECTION_CLOSE_OK)
        if method == CONNECTION_START_OK:
            return self._start_ok(data, start, end)
        if method == CONNECTION_TUNE_OK:
            return self._tune_ok(data, start, end)
        if method == CONNECTION_OPEN:
            self.vhost = Arguments(data, start, end).short()
            if self._vhosts and self.vhost not in self._vhosts:
                allowed = ", ".join(self._vhosts)
                text = f"NOT_ALLOWED - the sidecar lets nobody into the vhost '{self.vhost[:80]}'; allowed: {allowed}"
                raise AmqpError(NOT_ALLOWED, text, method)
        return data[start:end]

    def _expect(self, data: bytes, start: int, end: int, order: dict[int, tuple[int, ...]], also: int) -> int:
        if data[start] != METHOD or data[start + 1] or data[start + 2]:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - the handshake is not over")
        method = method_of(data, start, end)
        if method in order.get(self._last, ()):
            self._last = method
        elif method != also:
            raise AmqpError(
                COMMAND_INVALID, f"COMMAND_INVALID - method {method >> 16}.{method & 0xFFFF} is out of place", method
            )
        return method

    def _start_ok(self, data: bytes, start: int, end: int) -> bytes:
        """Note who it is, and make sure that the broker tells us of its alarms."""
        arguments = Arguments(data, start, end)
        table = arguments.pos
        arguments.long_bytes()
        rest = arguments.pos
        mechanism = arguments.short()
        response = arguments.long_bytes()
        if self.keeps_login:
            self.mechanism = mechanism
            self.response = response
            self.properties = data[table:rest]
            self.locale = arguments.short()
        properties = decode_table(data, table, end - 1)
        self.product = _product(properties)
        self.identity = _identity(mechanism, response)
        self.user = "".join(letter if letter.isprintable() else "?" for letter in self.identity)[:80]
        capabilities = properties.get("capabilities")
        if isinstance(capabilities, dict):
            self.hears_blocked = capabilities.get("connection.blocked") is True
            if "connection.blocked" in capabilities:
                if self.hears_blocked:
                    return data[start:end]
                path = ["capabilities", "connection.blocked"]
                changed = with_entry(data, table, end - 1, path, True, replace=True)
            else:
                changed = with_entry(data, table, end - 1, ["capabilities", "connection.blocked"], True)
        elif capabilities is None:
            changed = with_entry(data, table, end - 1, ["capabilities"], {"connection.blocked": True})
        else:
            raise AmqpError(SYNTAX_ERROR, "SYNTAX_ERROR - capabilities are not a table", CONNECTION_START_OK)
        return frame(METHOD, 0, pack(">I", CONNECTION_START_OK) + changed + data[rest : end - 1])

    def _tune_ok(self, data: bytes, start: int, end: int) -> bytes:
        arguments = Arguments(data, start, end)
        self.channel_max, frame_max, self.heartbeat = arguments.u16(), arguments.u32(), arguments.u16()
        self.frame_max = frame_max or self._offered
        if not FRAME_MIN_SIZE <= self.frame_max <= self._offered:
            raise AmqpError(
                NOT_ALLOWED,
                f"NOT_ALLOWED - frame_max is {frame_max}, from {FRAME_MIN_SIZE} to {self._offered} is possible",
                CONNECTION_TUNE_OK,
            )
        return frame(METHOD, 0, pack(">IHIH", CONNECTION_TUNE_OK, self.channel_max, self.frame_max, self.heartbeat))


def _product(properties: dict[str, object]) -> str:
    """The client's name and version, as text of at most 120 printable characters."""
    words = [properties.get(name) for name in ("product", "version")]
    text = " ".join(word for word in words if isinstance(word, str))
    connection = properties.get("connection_name")
    if isinstance(connection, str) and connection:
        text += f" ({connection})"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]


def _identity(mechanism: str, response: bytes) -> str:
    """The user of the two mechanisms that say it in clear (RFC 4616, and RabbitMQ's AMQPLAIN); never the password."""
    if mechanism == "PLAIN":
        parts = response.split(b"\x00")
        return parts[1].decode("utf-8", "surrogateescape") if len(parts) == 3 else ""
    if mechanism == "AMQPLAIN":
        table = len(response).to_bytes(4, "big") + response
        try:
            found = decode_table(table, 0, len(table)).get("LOGIN")
        except AmqpError:
            found = None
        return found if isinstance(found, str) else ""
    return ""
