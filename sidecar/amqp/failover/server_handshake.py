"""The broker's side of a handshake, for a client that comes while there is no broker; sans-I/O (AMQP 0-9-1 §1.4.2).

It introduces itself as the broker did that was last seen, because clients look at that: aiormq refuses to make
channels with confirms without the capability ``publisher_confirms``, py-amqp asks for confirms and cancel notices only
where they are offered and picks the login mechanism from the list, kombu takes prefetch limits to mean something else
where the product is not RabbitMQ. The limits are that broker's too: what is agreed on has to be good for it later.

The handshake is in the broker's place, and the session's own :class:`Handshake` between it and the client;
offline_login.py brings them together. When start-ok has come, the client says nothing before it has an answer: there
is time to look its login up.

A client that cannot be let in gets as far as ``connection.open``, and there its connection ends without a word
(:class:`UnknownClient`): every client comes again then, whatever it takes that for. An end after start-ok is a wrong
password to most of them, and 320 after open ends bunny's recovery for good. ``handshake.login`` is what to log in with
when there is a broker.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.wire.constants import (
    COMMAND_INVALID,
    CONNECTION_OPEN,
    CONNECTION_OPEN_OK,
    CONNECTION_START,
    CONNECTION_START_OK,
    CONNECTION_TUNE,
    CONNECTION_TUNE_OK,
    NOT_ALLOWED,
    AmqpError,
)
from sidecar.amqp.wire.methods import Arguments, method, method_of
from sidecar.amqp.wire.tables import decode_table, encode_table

if TYPE_CHECKING:
    from sidecar.amqp.failover.credential_cache import Credential
    from sidecar.amqp.topology.broker_catalog import BrokerCatalog

#: RabbitMQ's own defaults: channel-max, frame-max, heartbeat in seconds.
TUNE: Final = (2047, 131_072, 60)
#: What RabbitMQ says of itself, as far as clients act upon it.
PROPERTIES: Final[dict[str, object]] = {
    "capabilities": {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": True,
    },
    "cluster_name": "sidecar",
    "information": "Licensed under the MPL 2.0. Website: https://rabbitmq.com",
    "platform": "Erlang/OTP",
    "product": "RabbitMQ",
    "version": "3.13.0",
}


class UnknownClient(Exception):
    """No broker has let this client in before, as far as is remembered; the text says what it asked for."""


class Login:
    """What a client has said of itself: ``mechanism`` and ``response`` prove who it is, ``properties`` is the table
    (with its length) that describes it."""

    __slots__ = ("mechanism", "properties", "response")

    def __init__(self, mechanism: str, response: bytes, properties: bytes) -> None:
        self.mechanism = mechanism
        self.response = response
        self.properties = properties


def login_of(data: bytes, start: int, end: int) -> Login:
    """Out of a client's start-ok. Raises :class:`AmqpError`."""
    arguments = Arguments(data, start, end)
    entries = arguments.long_bytes()
    mechanism = arguments.short()
    return Login(mechanism, arguments.long_bytes(), len(entries).to_bytes(4, "big") + entries)


def renewed(mechanism: str, response: bytes, secret: bytes) -> bytes:
    """The response that a client would log in with after it has told a new secret (connection.update-secret). Raises
    :class:`AmqpError`."""
    if mechanism == "PLAIN":
        parts = response.split(b"\x00")
        return b"\x00".join((parts[0], parts[1], secret)) if len(parts) == 3 else response
    if mechanism == "AMQPLAIN":
        entries = decode_table(_long(response), 0, len(response) + 4)
        entries["PASSWORD"] = secret.decode("utf-8", "surrogateescape")
        return encode_table(entries)[4:]
    return response


class ServerHandshake:
    """One handshake. It asks nothing that :class:`Handshake` has not made sure of: frames come in their order."""

    __slots__ = ("_catalog", "_tune", "credential", "login", "looked_up")

    def __init__(self, catalog: BrokerCatalog) -> None:
        self._catalog = catalog
        self._tune = catalog.tune or TUNE
        #: Who it is, from start-ok on; and whether that is so, once it was looked up (``None``: nobody knows).
        self.login: Login | None = None
        self.looked_up = False
        self.credential: Credential | None = None

    def greeting(self) -> bytes:
        """``connection.start``."""
        return method(0, CONNECTION_START, self._catalog.start or _introduction())

    def takes(self, data: bytes) -> bytes:
        """A frame for the broker; what a broker says to it, empty for nothing. Raises :class:`AmqpError`, and
        :class:`UnknownClient` for one that has to come again."""
        end = len(data)
        found = method_of(data, 0, end)
        if found == CONNECTION_START_OK:
            self.login = login_of(data, 0, end)
            return b""
        if not self.looked_up:
            raise AmqpError(COMMAND_INVALID, "COMMAND_INVALID - the login is still being looked at", found)
        if found == CONNECTION_TUNE_OK:
            self._agree(Arguments(data, 0, end).u16())
            return b""
        if found == CONNECTION_OPEN:
            vhost = Arguments(data, 0, end).short()
            if self.credential is None:
                raise UnknownClient("the login")
            if not self.credential.opens(vhost):
                raise UnknownClient(f"the vhost '{vhost[:80]}' for '{self.credential.user}'")
            return method(0, CONNECTION_OPEN_OK, b"\x00")
        return b""

    def admit(self, credential: Credential | None) -> bytes:
        """The login was looked up: ``connection.tune``."""
        self.looked_up = True
        self.credential = credential
        return method(0, CONNECTION_TUNE, pack(">HIH", *self._tune))

    def _agree(self, channel_max: int) -> None:
        """As RabbitMQ does: no limit is more than a limit."""
        offered = self._tune[0]
        if offered and not 0 < channel_max <= offered:
            raise AmqpError(
                NOT_ALLOWED,
                f"NOT_ALLOWED - channel_max is {channel_max}, from 1 to {offered} is possible",
                CONNECTION_TUNE_OK,
            )


def _introduction() -> bytes:
    """The arguments of a start of RabbitMQ's, when none was ever seen."""
    return b"\x00\x09" + encode_table(PROPERTIES) + _long(b"AMQPLAIN PLAIN") + _long(b"en_US")


def _long(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
