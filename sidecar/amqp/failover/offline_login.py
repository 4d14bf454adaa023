"""Receives a client that comes while there is no broker: its handshake is ours (server_handshake.py)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.amqp.failover.server_handshake import Login, ServerHandshake, UnknownClient
from sidecar.amqp.relay.connections import OPEN
from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.amqp.failover.session import BufferedSession
    from sidecar.amqp.store_and_forward import StoreAndForward


class OfflineLogin:
    """One client's handshake, in the broker's place. The session is told by ``received()``, or fails."""

    __slots__ = ("_handshake", "_port", "_session", "_verifying")

    def __init__(self, session: BufferedSession, port: StoreAndForward) -> None:
        self._session = session
        self._port = port
        self._handshake = ServerHandshake(port.catalog)
        self._verifying: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The first word."""
        self._say(self._handshake.greeting())

    def takes(self, data: bytes) -> None:
        """A frame of the client for the broker. Raises :class:`AmqpError`."""
        handshake = self._handshake
        try:
            answer = handshake.takes(data)
        except UnknownClient as error:
            self._session.not_known(str(error))
            return
        if answer:
            self._say(answer)
        elif handshake.login is not None and self._verifying is None:
            self._verifying = self._session.listener.loop.create_task(self._verify(handshake.login))

    def cancel(self) -> None:
        """The client has gone."""
        if self._verifying is not None:
            self._verifying.cancel()

    async def _verify(self, login: Login) -> None:
        account = await self._port.credential_cache.verify(login.mechanism, login.response)
        session = self._session
        if session.phase == ENDED or session.client.state != OPEN:
            return
        self._say(self._handshake.admit(account))

    def _say(self, frame: bytes) -> None:
        session = self._session
        session.client_write(session.handshake.from_broker(frame, 0, len(frame)))
        if session.handshake.done:
            session.received()
