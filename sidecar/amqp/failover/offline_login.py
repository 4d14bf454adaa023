"""Receives a client that comes while there is no broker: its handshake is ours (server_handshake.py)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.amqp.failover.server_handshake import Login, ServerHandshake, UnknownClient
from sidecar.amqp.failover.side import FailoverSide
from sidecar.amqp.relay.connections import OPEN
from sidecar.exchange.phases import ENDED

if TYPE_CHECKING:
    from sidecar.amqp.failover.session import Failover


class OfflineLogin(FailoverSide):
    """The broker's place in one client's handshake. It ends well with ``failover.received()``."""

    __slots__ = ("_handshake", "_verifying")

    def __init__(self, failover: Failover) -> None:
        FailoverSide.__init__(self, failover)
        self._handshake = ServerHandshake(failover.port.catalog)
        self._verifying: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The first word."""
        self._say(self._handshake.greeting())

    def login(self, frame: bytes) -> None:
        handshake = self._handshake
        try:
            answer = handshake.takes(frame)
        except UnknownClient as error:
            self.failover.not_known(str(error))
            return
        if answer:
            self._say(answer)
        elif handshake.login is not None and self._verifying is None:
            self._verifying = self.session.listener.loop.create_task(self._verify(handshake.login))

    def ends(self) -> None:
        if self._verifying is not None:
            self._verifying.cancel()
        FailoverSide.ends(self)

    async def _verify(self, login: Login) -> None:
        credential = await self.failover.port.credential_cache.verify(login.mechanism, login.response)
        session = self.session
        if session.phase == ENDED or session.client.state != OPEN:
            return
        self._say(self._handshake.admit(credential))

    def _say(self, frame: bytes) -> None:
        session = self.session
        session.client_write(session.handshake.from_broker(frame, 0, len(frame)))
        if session.handshake.done:
            self.failover.received()
