"""Finds a new broker for a session that has lost its own, and logs in there as the client did."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.connections import BrokerConnection
from sidecar.amqp.wire.constants import AmqpError
from sidecar.net.shortage import SHORTAGE, is_local

if TYPE_CHECKING:
    from sidecar.amqp.failover.offline import Offline
    from sidecar.amqp.wire.client_handshake import ClientHandshake

#: Seconds before the first try, and the longest between two; each is stretched or shortened by up to half, so that the
#: sidecars that lost a broker together do not all come back to it together.
FIRST: Final = 0.1
LONGEST: Final = 3.0
#: Seconds within which those try again that hear that there is a broker.
HURRY: Final = 0.2
#: What a broker has for a connection and a handshake, seconds, beside ``timeout.connect``.
LOGIN_SECONDS: Final = 5.0


class Reconnect:
    """One search, for a session that is ``offline``: that side is told by ``found(connection, …)``, once, or
    ``refused(error)`` when the broker will not have this client any more. ``pause``: about how many seconds to wait
    first."""

    __slots__ = ("_connecting", "_connection", "_handshake", "_offline", "_pause", "_rng", "_session", "_timer")

    def __init__(self, offline: Offline, pause: float) -> None:
        self._offline = offline
        self._session = session = offline.session
        self._pause = pause
        self._rng = offline.failover.rng
        #: The try that is being made: its connection, and the login over it.
        self._connection: BrokerConnection | None = None
        self._handshake: ClientHandshake | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer = session.listener.wheel.timer(self._on_timer)
        self._wait()

    def cancel(self) -> None:
        """The session needs no broker any more."""
        self._timer.close()
        self._let_go()

    def hurry(self) -> None:
        """There is a broker: try again soon, though not all of a sidecar's clients at the very same time."""
        soon = self._session.listener.clock() + HURRY * self._rng.random()
        if self._connection is None and soon < self._timer.deadline:
            self._timer.set(soon)

    def mine(self, connection: BrokerConnection) -> bool:
        """Whether this connection is the one that is being made."""
        return connection is self._connection

    def connected(self, connection: BrokerConnection) -> None:
        """A socket stands."""
        handshake = self._handshake
        if connection is not self._connection or handshake is None:
            connection.transport.abort()
            return
        connection.write(handshake.greeting())

    def said(self, connection: BrokerConnection, data: bytes) -> None:
        """Bytes came."""
        handshake = self._handshake
        if handshake is None:
            return
        reader = connection.reader
        frames = reader.feed(data)
        for index, (_, _, start, end) in enumerate(frames):
            connection.write(handshake.feed(reader.data, start, end))
            if handshake.failure is not None:
                self._failed()
                return
            if handshake.done:
                self._connection = None
                self._timer.close()
                self._session.cluster.succeeded(connection.endpoint)
                self._offline.found(connection, reader.data, frames[index + 1 :])
                return
        if reader.error is not None:
            self._failed()

    def lost(self) -> None:
        """The connection is gone before it was one."""
        self._failed(ConnectionResetError())

    def _wait(self) -> None:
        """Until the next try."""
        self._timer.set(self._session.listener.clock() + self._pause * self._rng.uniform(0.5, 1.5))
        self._pause = min(2 * self._pause, LONGEST)

    def _on_timer(self) -> None:
        if self._connection is None:
            self._try()
        else:
            self._failed()  # it takes too long

    def _try(self) -> None:
        session = self._session
        listener = session.listener
        endpoint = listener.cluster.pick(session.client_ip)
        if endpoint is None:
            self._wait()
            return
        self._handshake = self._offline.failover.client_handshake()
        self._connection = connection = BrokerConnection(session, endpoint)
        self._timer.set(listener.clock() + session.chain.timeout.connect + LOGIN_SECONDS)
        self._connecting = listener.loop.create_task(self._connect(connection))

    async def _connect(self, connection: BrokerConnection) -> None:
        session = self._session
        try:
            await session.cluster.dial(
                session.listener.loop, connection, connection.endpoint,
                session.chain.timeout.connect, connection.chosen,
            )  # fmt: skip
        except OSError as error:
            if connection is self._connection:
                self._connecting = None
                self._failed(error)

    def _failed(self, error: OSError | None = None) -> None:
        session = self._session
        connection, handshake = self._connection, self._handshake
        if connection is None or handshake is None:
            return
        self._let_go()
        failure = handshake.failure
        if failure is not None and handshake.permanent:
            self._timer.close()
            self._offline.refused(AmqpError(failure.code, failure.text))
            return
        if failure is not None:
            session.cluster.failed(connection.endpoint, True, "other", f"it refused the login: {failure.code}")
        elif connection.reader.error is not None:
            session.cluster.failed(connection.endpoint, True, "malformed", "it speaks no AMQP")
        else:
            if error is not None and is_local(error):
                SHORTAGE.met(error)
            session.cluster.attempt_failed(connection.endpoint, error)
        self._wait()

    def _let_go(self) -> None:
        """Of the try that is being made, if there is one."""
        connection, self._connection = self._connection, None
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        if connection is not None and hasattr(connection, "transport"):
            connection.transport.close()
