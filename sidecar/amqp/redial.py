"""Finds a new broker for a session that has lost its own, and logs in there as the client did."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.legs import BrokerLeg
from sidecar.amqp.spec import AmqpError

if TYPE_CHECKING:
    from random import Random

    from sidecar.amqp.dialler import Dialler
    from sidecar.amqp.kept_session import KeptSession

#: Seconds before the first try, and the longest between two; each is stretched or shortened by up to half, so that the
#: sidecars that lost a broker together do not all come back to it together.
FIRST: Final = 0.1
LONGEST: Final = 3.0
#: What a broker has for a connection and a handshake, seconds, beside ``timeout.connect``.
LOGIN_SECONDS: Final = 5.0


class Redial:
    """One search. Tells the session by ``reattach(leg)``, once, or ``give_up(error)`` when the broker will not have
    this client any more."""

    __slots__ = ("_dialler", "_leg", "_outcome", "_pause", "_rng", "_session", "_task")

    def __init__(self, session: KeptSession, rng: Random, pause: float = FIRST) -> None:
        self._session = session
        self._pause = pause
        self._rng = rng
        self._leg: BrokerLeg | None = None
        self._dialler: Dialler | None = None
        self._outcome: asyncio.Future[bool] | None = None
        self._task = session.listener.loop.create_task(self._run())

    def cancel(self) -> None:
        """The session needs no broker any more."""
        self._task.cancel()
        self._let_go()

    def mine(self, leg: BrokerLeg) -> bool:
        """Whether this connection is the one that is being made."""
        return leg is self._leg

    def connected(self, leg: BrokerLeg) -> None:
        """A socket stands."""
        dialler = self._dialler
        if leg is not self._leg or dialler is None:
            leg.transport.abort()
            return
        leg.write(dialler.greeting())

    def said(self, leg: BrokerLeg, data: bytes) -> None:
        """Bytes came."""
        dialler = self._dialler
        if dialler is None:
            return
        reader = leg.reader
        frames = reader.feed(data)
        for index, (_, _, start, end) in enumerate(frames):
            leg.write(dialler.feed(reader.data, start, end))
            if dialler.failure is not None:
                self._finish(False)
                return
            if dialler.done:
                self._leg = None
                self._finish(True)
                self._session.reattach(leg, reader.data, frames[index + 1 :])
                return
        if reader.error is not None:
            self._finish(False)

    def lost(self) -> None:
        """The connection is gone before it was one."""
        self._finish(False)

    def _finish(self, good: bool) -> None:
        outcome = self._outcome
        if outcome is not None and not outcome.done():
            outcome.set_result(good)

    def _let_go(self) -> None:
        leg, self._leg = self._leg, None
        if leg is not None and hasattr(leg, "transport"):
            leg.transport.close()

    async def _run(self) -> None:
        session = self._session
        pause = self._pause
        while True:
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST)
            endpoint = session.listener.cluster.pick(session.client_ip)
            if endpoint is None:
                continue
            loop = session.listener.loop
            self._outcome = loop.create_future()
            self._dialler = session.dialler()
            self._leg = leg = BrokerLeg(session, endpoint)
            try:
                async with asyncio.timeout(session.chain.timeout.connect + LOGIN_SECONDS):
                    await loop.create_connection(lambda: cast(asyncio.Protocol, leg), endpoint.host, endpoint.port)  # noqa: B023
                    good = await self._outcome
            except (OSError, TimeoutError):
                good = False
            if good:
                session.listener.cluster.succeeded(endpoint)
                return
            self._let_go()
            failure = self._dialler.failure
            if failure is not None and self._dialler.permanent:
                session.give_up(AmqpError(failure.code, failure.text))
                return
            session.listener.cluster.failed(endpoint, hard=True)
