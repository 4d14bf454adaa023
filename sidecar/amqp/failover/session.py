"""A session that outlives its broker: what the client publishes meanwhile goes into the spool.

    Recorded ─ broker lost ─> Offline ─ another connection, logged in as the client ─> Recovering ─> Recorded
                                 └ the broker will not have this client any more ─> closed with the broker's words

While it is offline, a stub answers what the client asks (offline.py), and another broker is looked for (reconnect.py).
Then everything is set up there again (recovery.py). What died with the connection and cannot be made again
(server-named queues) ends the session with ``320``, so that the client's own recovery runs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.failover.buffered_path import Buffered
from sidecar.amqp.failover.offline import Offline, StubConversation
from sidecar.amqp.failover.offline_login import OfflineLogin
from sidecar.amqp.failover.reconnect import FIRST
from sidecar.amqp.failover.recovery import Recovering
from sidecar.amqp.failover.side import Recorded
from sidecar.amqp.failover.watchdog import Watchdog
from sidecar.amqp.relay.connections import CLOSED, OPEN, OTHER_FULL
from sidecar.amqp.relay.session_state import RUNNING
from sidecar.amqp.wire.client_handshake import ClientHandshake
from sidecar.amqp.wire.constants import CONNECTION_FORCED
from sidecar.exchange.attempt import Attempt
from sidecar.exchange.phases import ENDED
from sidecar.net.causes import CAUSES

if TYPE_CHECKING:
    from random import Random

    from sidecar.amqp.failover.port import FailoverPort
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session import Session
    from sidecar.amqp.topology.client_state import ClientState

logger = logging.getLogger("sidecar.amqp")

#: Seconds to wait, about, before a broker is looked for that was lost before everything was set up there.
_AGAIN_SECONDS: Final = 1.0
_CUT: Final = "the broker was lost in the middle of a message to the client"
_UNANSWERED: Final = "the answer to a request of direct reply-to was lost with it"


class Failover:
    """That of one session: what the broker sides that it has one after the other share, and the ways between them."""

    __slots__ = ("attached", "port", "rng", "session", "stub", "tries", "watchdog")

    def __init__(self, session: Session, port: FailoverPort, rng: Random) -> None:
        self.session = session
        self.port = port
        self.rng = rng
        self.stub = StubConversation(session, port.catalog, "")
        self.watchdog = Watchdog(session)
        #: How often in a row it came to nothing to set up anew what the client had.
        self.tries = 0
        #: The side that has a broker.
        self.attached = Recorded(self)
        session.buffers = True
        session.handshake.keeps_login = True

    @property
    def client_state(self) -> ClientState:
        """What the client has set up."""
        return self.stub.client_state

    def paths(self) -> list[Buffered]:
        """The publish paths of all channels."""
        return [channel.path for channel in self.session.channels.values() if isinstance(channel.path, Buffered)]

    def opened(self) -> None:
        """The handshake is over."""
        session = self.session
        self.stub = StubConversation(session, self.port.catalog, session.vhost)
        if session.broker is not None:
            self.port.met(session.handshake)

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def outlives(self) -> bool:
        """The client need not know that its broker is gone."""
        session = self.session
        if session.stage != RUNNING or session.phase == ENDED or session.client.state != OPEN:
            return False
        if self._is_cut:
            reason = _CUT
        elif any(channel.asked > 0 for channel in session.channels.values()):
            reason = _UNANSWERED
        else:
            reason = self.client_state.irretrievable()
        if reason:
            logger.info("a client cannot outlive its broker: %s", reason, extra={"client": session.peer})
        return not reason

    @property
    def _is_cut(self) -> bool:
        """The client has got a part of a message, and nobody has the rest of it."""
        return any(channel.passing for channel in self.session.channels.values())

    def detach(self, broker: BrokerConnection, reason: str) -> None:
        """The broker is gone, and the client stays."""
        session = self.session
        self.port.seen(session.handshake)
        self._leave(broker)
        session.cluster.failed(broker.endpoint, False, "reset", CAUSES["reset"])
        logger.warning(
            "the broker is gone; its client stays, and what it publishes is spooled",
            extra={"upstream": session.listener.name, "client": session.peer, "reason": reason},
        )
        self._go_offline()
        now = session.listener.clock()
        for path in self.paths():
            path.channel.detach()
            path.broker_lost(now)
            path.spool_held()
        self.stub.lost(now)
        self._see_to_channels()

    def lost_again(self, broker: BrokerConnection) -> None:
        """It is gone while everything was being set up anew."""
        session = self.session
        self._leave(broker)
        if self._is_cut:
            session.lifecycle.close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {_CUT}")
            return
        self._end_closes()
        session.side = Offline(self, _AGAIN_SECONDS)
        now = session.listener.clock()
        for path in self.paths():
            path.channel.detach()  # consumers that were there again may have got something
            path.broker_lost(now)
        # What came in the meantime, and what the stub had left to the broker.
        self.stub.lost(now)

    def _leave(self, broker: BrokerConnection) -> None:
        session = self.session
        session.broker = None
        broker.state = CLOSED
        session.link(False)
        session.leave_endpoint()
        session.tried = ()
        if session.alarmed:
            session.broker_unblocked()

    def _go_offline(self) -> None:
        session = self.session
        session.detached = True
        session.amqp_stats.detached += 1
        self.port.searches(self.hurry_back)
        self._end_closes()
        session.client.stops = 0
        session.client.resume_reading()
        session.side = Offline(self, FIRST)

    def _end_closes(self) -> None:
        """Nobody but us answers on channels that are being closed."""
        session = self.session
        session.refused.clear()
        for number in session.closing:
            session.closing[number] = True

    # -- and comes back ------------------------------------------------------------------------------------------------

    def client_handshake(self) -> ClientHandshake:
        """A login as the client's own was."""
        handshake = self.session.handshake
        return ClientHandshake(
            handshake.mechanism,
            handshake.response,
            handshake.vhost,
            handshake.properties,
            heartbeat=handshake.heartbeat,
            frame_max=handshake.frame_max,
            channel_max=handshake.channel_max,
            exact=True,
            locale=handshake.locale or "en_US",
        )

    def hurry_back(self) -> None:
        """There is a broker: others have found it."""
        side = self.session.side
        if isinstance(side, Offline):
            side.hurry()

    def rejoin(self, broker: BrokerConnection, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """This is the broker from now on, though nothing is set up there; ``frames`` is what it has said since it has
        let the client in."""
        session = self.session
        self.port.reached(self.hurry_back)
        session.port.broker_found(broker.endpoint)
        session.broker = broker
        broker.reader.limit = session.handshake.frame_max
        session.link(True)
        broker.collect(session.port)
        session.attempt = Attempt(broker.endpoint, session.listener.clock())
        broker.endpoint.begin()
        broker.endpoint.tries += 1
        self._end_closes()
        session.side = side = Recovering(self)
        side.begin(broker, data, frames)

    def reattach(self, broker: BrokerConnection) -> None:
        """All is as it was before."""
        session = self.session
        session.side = self.attached
        session.detached = False
        session.amqp_stats.detached -= 1
        self.tries = 0
        self.port.left(self.hurry_back)
        if session.client.full:
            broker.stop(OTHER_FULL)
        self.port.broker_is_back()
        session.consumer_pause.begin_again()
        broker.write(self.stub.back())
        logger.info(
            "a client has a broker again",
            extra={"upstream": session.listener.name, "client": session.peer, "endpoint": broker.endpoint.address},
        )
        for path in self.paths():
            path.measure()
        if session.port.work_is_over:
            session.consumer_pause.returning = False
            session.consumer_pause.give_back()
        departure = session.departure
        for path in self.paths():
            if path.channel.freed and path.held:
                departure.free(path.channel)
        if departure.begun:
            departure.begin()
        self._see_to_channels()

    def _see_to_channels(self) -> None:
        """What waits for what is held may go on where nothing is."""
        for path in self.paths():
            if not path.held and not path.storing:
                path.emptied()

    # -- a client that comes while there is none -----------------------------------------------------------------------

    def receive(self) -> None:
        """Be the broker in the handshake."""
        self.session.opening.receive()
        self.session.side = side = OfflineLogin(self)
        side.begin()

    def not_known(self, what: str) -> None:
        """No broker has said yet that this client may have that. It has to come again."""
        session = self.session
        self.port.not_known(session.handshake.user, what)
        session.opening.hang_up("connect_failed")

    def received(self) -> None:
        """The handshake is over, without a broker."""
        session = self.session
        self.port.vouched(session.handshake)
        session.client.reader.limit = session.handshake.frame_max
        session.opened()
        self._go_offline()
