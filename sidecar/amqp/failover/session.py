"""A session that outlives its broker: what the client publishes meanwhile goes into the spool.

    attached ─ broker lost ─> detached ─ another connection, logged in as the client ─> attached
                                  └ the broker will not have this client any more ─> closed with the broker's words

While it is detached, a stub answers what the client asks (offline.py), and a way back is looked for (recovery.py).
What died with the connection and cannot be made again (server-named queues) ends the session with ``320``, so that the
client's own recovery runs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.admission import NO_BROKER_CODES
from sidecar.amqp.failover.buffered_path import Buffered
from sidecar.amqp.failover.offline import Offline
from sidecar.amqp.failover.offline_login import OfflineLogin
from sidecar.amqp.failover.recovery import Recovering
from sidecar.amqp.failover.server_handshake import renewed
from sidecar.amqp.failover.watchdog import Watchdog
from sidecar.amqp.relay.channel import Channel
from sidecar.amqp.relay.connections import CLOSED, CLOSING, OPEN, OTHER_FULL, BrokerConnection, ClientConnection
from sidecar.amqp.relay.lifecycle import CLOSE_SECONDS, DIALLING, HANDSHAKE, RUNNING
from sidecar.amqp.relay.session import Session
from sidecar.amqp.topology.client_state import ClientState
from sidecar.amqp.wire.client_handshake import ClientHandshake
from sidecar.amqp.wire.constants import (
    ACCESS_REFUSED,
    CHANNEL_CLOSE,
    CONNECTION_FORCED,
    CONNECTION_UPDATE_SECRET_OK,
    METHOD,
)
from sidecar.amqp.wire.methods import channel_close, connection_close_ok, method, method_of
from sidecar.core.replies import Reply
from sidecar.exchange.attempt import Attempt
from sidecar.exchange.filter import Again
from sidecar.exchange.phases import ENDED, TUNNEL

if TYPE_CHECKING:
    from sidecar.amqp.listener import AmqpListener
    from sidecar.amqp.spool.intake import Intake
    from sidecar.amqp.store_and_forward import StoreAndForward

logger = logging.getLogger("sidecar.amqp")

#: Seconds for which a broker that could not be reached is not tried for the next client.
_AWAY_SECONDS: Final = 1.0
#: Seconds to wait, about, before a broker is looked for that was lost before everything was set up there.
_AGAIN_SECONDS: Final = 1.0
_CUT: Final = "the broker was lost in the middle of a message to the client"
_UNANSWERED: Final = "the answer to a request of direct reply-to was lost with it"
#: Why a client has no broker, if others would have none either.
_NO_BROKER: Final = NO_BROKER_CODES | {"local_shortage"}


class BufferedSession(Session):
    """A session of a port that has a spool."""

    __slots__ = ("_intake", "_offline", "_offline_login", "_port", "_recovering", "_watchdog")

    def __init__(
        self, listener: AmqpListener, client: ClientConnection, peer: str, client_ip: str, port: StoreAndForward
    ) -> None:
        Session.__init__(self, listener, client, peer, client_ip)
        self.buffers = True
        self.handshake.keeps_login = True
        self._port = port
        self._intake: Intake = port.intake
        self._offline = Offline(self, port.catalog, "")
        self._recovering = Recovering(self, listener.rng)
        #: While a client comes in without a broker.
        self._offline_login: OfflineLogin | None = None
        self._watchdog = Watchdog(self)

    @property
    def client_state(self) -> ClientState:
        """What the client has set up."""
        return self._offline.client_state

    # -- what passes ---------------------------------------------------------------------------------------------------

    def new_channel(self, number: int) -> Channel:
        channel = Channel(self, number)
        channel.path = path = Buffered(self, channel, self._intake)
        path.origin = f"{self.handshake.user} ({self.handshake.product})"
        path.user = self.handshake.identity
        return channel

    def _path(self, channel: Channel) -> Buffered:
        path = channel.path
        assert isinstance(path, Buffered)
        return path

    def control(self, frames: bytes) -> bytes:
        if not self.detached:
            if self._leaves_channel(frames):
                return b""
            self._offline.client_state.asks(frames)
            return frames
        self._offline.takes(frames)
        return b""

    def _leaves_channel(self, frames: bytes) -> bool:
        """A channel is to be closed, and waits with that for the broker's word on what was published there."""
        if len(frames) < 12 or method_of(frames, 0, len(frames)) != CHANNEL_CLOSE:
            return False
        channel = self.channels.get(frames[1] << 8 | frames[2])
        if channel is None:
            return False
        path = self._path(channel)
        if not path.unconfirmed:
            return False
        path.leaving = min(path.leaving, self.listener.clock())
        channel.pending = []
        self.pending_frames.add(channel, frames)
        return True

    def answers(self, number: int, found: int, data: bytes, start: int, end: int) -> None:
        self._offline.client_state.answers(number, found, data, start, end)

    def new_secret(self, secret: bytes) -> bytes | None:
        handshake = self.handshake
        handshake.response = renewed(handshake.mechanism, handshake.response, secret)
        self._port.vouched(handshake)
        if not self.detached:
            return None
        self.client_write(method(0, CONNECTION_UPDATE_SECRET_OK))
        return b""

    def withholds(self, size: int) -> bool:
        return size <= self.max_message_size and self.withheld + size <= self.partial_limit

    def wait(self, channel: Channel, frame: bytes) -> None:
        path = self._path(channel)
        busy = path.held or path.storing
        if not self.detached or busy or not self._offline.overtakes(channel, frame):
            Session.wait(self, channel, frame)

    def emptied(self, channel: Channel) -> None:
        if self.detached and self._offline.waits(channel.number):
            return  # the broker is missing, not only what was held
        Session.emptied(self, channel)
        if self.detached:
            self._offline.answer()

    def channel_gone(self, channel: Channel) -> None:
        self._offline.client_state.channel_gone(channel.number)
        Session.channel_gone(self, channel)
        if channel.ending:
            self._path(channel).close_up(self.listener.clock())

    def client_said(self, data: bytes) -> None:
        Session.client_said(self, data)
        if self.detached:
            self._offline.answer()

    @property
    def client_may_be_silent(self) -> bool:
        # py-amqp, for one, while it blocks in a declaration.
        return self.detached and self._offline.is_waiting

    def look(self, now: float) -> None:
        """Something may have waited too long for a broker; or there is one, and it says nothing."""
        broker = self.broker
        if self.detached:
            if self.client.state == OPEN:
                self._offline.look(now)
        elif broker is not None and self.stage == RUNNING and self._watchdog.look(broker, now):
            logger.warning("the broker at %s answers nothing any more", broker.endpoint.address)
            broker.transport.abort()
        elif not self.amqp_stats.blocked:
            for channel in list(self.channels.values()):
                path = self._path(channel)
                if path.look(now) and not path.held and not path.storing:
                    self.emptied(channel)

    # -- what the connections to brokers hear --------------------------------------------------------------------------

    def connected(self, broker: BrokerConnection) -> None:
        if not self._recovering.connected(broker):
            Session.connected(self, broker)

    def broker_said(self, broker: BrokerConnection, data: bytes) -> None:
        if not self.detached or not self._recovering.said(broker, data):
            Session.broker_said(self, broker, data)

    def broker_lost(self, broker: BrokerConnection, error: Exception | None) -> None:
        mine = broker is self.broker
        if mine and self._recovering.is_restoring and self.client.state == OPEN:
            self._lost_again(broker)
        elif self._recovering.lost(broker):
            pass
        elif mine and self._outlives():
            self._detach(broker, "connection lost")
        else:
            Session.broker_lost(self, broker, error)

    def broker_closes(self, code: int, text: str, frame: bytes) -> None:
        broker = self.broker
        if code == ACCESS_REFUSED and self.stage == HANDSHAKE:
            self._port.credential_cache.refused(self.handshake.mechanism, self.handshake.response)
        if code == CONNECTION_FORCED and broker is not None and self._outlives():
            broker.write(connection_close_ok())
            broker.transport.close()
            if self.detached:
                self._lost_again(broker)
            else:
                self._detach(broker, f"{code} {text}")
        else:
            Session.broker_closes(self, code, text, frame)

    def _broker_handshake(self, broker: BrokerConnection, number: int, data: bytes, start: int, end: int) -> None:
        if not number:
            self._port.catalog.hears(method_of(data, start, end), data, start, end)
        Session._broker_handshake(self, broker, number, data, start, end)

    def _opened(self) -> None:
        self._offline = Offline(self, self._port.catalog, self.vhost)
        if self.broker is not None:
            self._port.met(self.handshake)
        Session._opened(self)

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def _outlives(self) -> bool:
        """The client need not know that its broker is gone."""
        if self.stage != RUNNING or self.phase == ENDED or self.client.state != OPEN:
            return False
        reason = _CUT if self._cut() else _UNANSWERED if self._asks() else self.client_state.irretrievable()
        if reason:
            logger.info("a client cannot outlive its broker: %s", reason, extra={"client": self.peer})
        return not reason

    def _asks(self) -> bool:
        """The client waits for the answer to a request, which was for this connection."""
        return any(channel.asked > 0 for channel in self.channels.values())

    def _cut(self) -> bool:
        """The client has got a part of a message, and nobody has the rest of it."""
        return any(channel.passing for channel in self.channels.values())

    def _detach(self, broker: BrokerConnection, reason: str) -> None:
        self._port.seen(self.handshake)
        self._leave(broker)
        self.listener.cluster.failed(broker.endpoint, hard=False)
        logger.warning(
            "the broker is gone; its client stays, and what it publishes is spooled",
            extra={"upstream": self.listener.name, "client": self.peer, "reason": reason},
        )
        self._stand_alone()
        now = self.listener.clock()
        for channel in list(self.channels.values()):
            channel.detach()
            path = self._path(channel)
            path.broker_lost(now)
            path.spool_held()
        self._offline.lost(now)
        self._see_to_channels()

    def _lost_again(self, broker: BrokerConnection) -> None:
        """While everything was being set up anew."""
        self._leave(broker)
        if self._cut():
            self.close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {_CUT}")
            return
        self._recovering.search(_AGAIN_SECONDS)
        now = self.listener.clock()
        for channel in list(self.channels.values()):
            channel.detach()  # consumers that were there again may have got something
            self._path(channel).broker_lost(now)
        # What came in the meantime, and what the stub had left to the broker.
        self._offline.lost(now)

    def _leave(self, broker: BrokerConnection) -> None:
        self.broker = None
        broker.state = CLOSED
        self._link(False)
        self.leave_endpoint()
        self.tried = ()
        if self.alarmed:
            self.broker_unblocked()

    def _stand_alone(self) -> None:
        self.detached = True
        self.amqp_stats.detached += 1
        self._port.searches(self)
        self._end_closes()
        self.client.stops = 0
        self.client.resume_reading()
        self._recovering.search()

    # -- and comes back ------------------------------------------------------------------------------------------------

    def dialler(self) -> ClientHandshake:
        """A login as the client's own was."""
        handshake = self.handshake
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
        self._recovering.hurry()

    def rejoin(self, broker: BrokerConnection) -> None:
        """This is the broker from now on, though nothing is set up there."""
        self._port.reached(self)
        self._listener.broker_found(broker.endpoint)
        self.broker = broker
        broker.reader.limit = self.handshake.frame_max
        self._link(True)
        self.collect(broker)
        self.attempt = Attempt(broker.endpoint)
        broker.endpoint.active += 1
        self._end_closes()

    def _end_closes(self) -> None:
        """Nobody but us answers on channels that are being closed."""
        self.refused.clear()
        for number in self.closing:
            self.closing[number] = True

    def attached(self, broker: BrokerConnection) -> None:
        """All is as it was before."""
        self.detached = False
        self.amqp_stats.detached -= 1
        self._port.left(self)
        if self.client.full:
            broker.stop(OTHER_FULL)
        self._port.broker_is_back()
        self.consumer_pause.begin_again()
        broker.write(self._offline.back())
        logger.info(
            "a client has a broker again",
            extra={"upstream": self.listener.name, "client": self.peer, "endpoint": broker.endpoint.address},
        )
        for channel in list(self.channels.values()):
            self._path(channel).measure()
        if self._listener.work_is_over:
            self.consumer_pause.returning = False
            self.consumer_pause.give_back()
        for channel in list(self.channels.values()):
            if channel.freed and channel.path.held:
                self.departure.free(channel)
        if self.departure.begun:
            self.departure.begin()
        self._see_to_channels()

    def _see_to_channels(self) -> None:
        """What waits for what is held may go on where nothing is."""
        for channel in list(self.channels.values()):
            path = self._path(channel)
            if not path.held and not path.storing:
                self.emptied(channel)

    def stop_work(self) -> None:
        if not self.detached:  # else it is done when there is a broker again
            Session.stop_work(self)

    def refuse_channel(self, channel: Channel, code: int, text: str, cause: int) -> None:
        if self.detached and not self._recovering.has_opened:
            # No broker knows of this channel, and none is to answer.
            self.client_write(channel_close(channel.number, code, text, cause))
            self.closing[channel.number] = True
            self.channel_gone(channel)
        else:
            Session.refuse_channel(self, channel, code, text, cause)

    # -- a client that comes while there is none -----------------------------------------------------------------------

    def begin_try(self) -> None:
        endpoints = self.listener.cluster.endpoints
        away = self.listener.clock() - self._port.missed < _AWAY_SECONDS
        if not self.attempts and away and all(endpoint.ejected_until for endpoint in endpoints):
            self._receive()  # it was not there a moment ago
        else:
            Session.begin_try(self)

    def retry_later(self, again: Again) -> None:
        if again.delay > 0:
            self._port.missed = self.listener.clock()
            self._receive()
        else:
            Session.retry_later(self, again)

    def reply(self, reply: Reply) -> None:
        if reply.code in _NO_BROKER and self.phase != ENDED and self.client.state == OPEN and self.stage == DIALLING:
            self._port.missed = self.listener.clock()
            self._listener.turned_away(reply)
            self._receive()
        else:
            Session.reply(self, reply)

    def _receive(self) -> None:
        """Be the broker in the handshake."""
        self.phase = TUNNEL
        self.status = 200
        self.stage = HANDSHAKE
        self.listener.stats.tunnels += 1
        self._shake_hands()
        self._offline_login = OfflineLogin(self, self._port)
        self._offline_login.begin()

    def not_known(self, what: str) -> None:
        """No broker has said yet that this client may have that. It has to come again."""
        self._port.not_known(self.handshake.user, what)
        self.hang_up("connect_failed")

    def broker_write(self, data: bytes) -> None:
        if self._offline_login is None:
            Session.broker_write(self, data)
        else:
            self._offline_login.takes(data)

    def received(self) -> None:
        """The handshake is over, without a broker."""
        self._offline_login = None
        self._port.vouched(self.handshake)
        self.client.reader.limit = self.handshake.frame_max
        self._opened()
        self._stand_alone()

    # -- the end -------------------------------------------------------------------------------------------------------

    def client_lost(self) -> None:
        self._leaves()
        Session.client_lost(self)
        broker = self.broker
        if self.alarmed and broker is not None and self.phase != ENDED and self.departure.matters:
            # The broker does not read from this connection. What it has not confirmed, and what is held, is spooled.
            broker.transport.abort()

    def _client_is_closing(self) -> None:
        self._leaves()
        Session._client_is_closing(self)

    def _leaves(self) -> None:
        now = self.listener.clock()
        for channel in self.channels.values():
            path = self._path(channel)
            path.leaving = min(path.leaving, now)

    def client_closes(self, frame: bytes) -> bytes:
        self._leaves()
        if self.detached and not self._busy():
            self.client_write(connection_close_ok())
            self._reason = "closed"
            self.client.state = CLOSING
            self.client.transport.close()
            self.timer.end_in(CLOSE_SECONDS)
            return b""
        return Session.client_closes(self, frame)

    def _busy(self) -> bool:
        for channel in self.channels.values():
            if channel.path.busy:
                return True
            waiting = channel.pending
            # A client that leaves without a broker wants no more answers.
            if waiting is not None and (not self.detached or any(frame[0] != METHOD for frame in waiting)):
                return True
        return False

    def _without_broker(self, reason: str) -> None:
        self._spool_unconfirmed()
        Session._without_broker(self, reason)

    def _spool_unconfirmed(self) -> None:
        now = self.listener.clock()
        for channel in list(self.channels.values()):
            self._path(channel).broker_lost(now)

    def _drop_held(self, channel: Channel) -> None:
        """What was held when its channel or connection went is spooled as well."""
        path = self._path(channel)
        for publish in self.scheduler.forget(path):
            path.give_up(publish)

    def end(self) -> bool:
        if self._offline_login is not None:
            self._offline_login.cancel()
        self._recovering.cancel()
        if self._counted and self.broker is not None:
            self._port.seen(self.handshake)
        if self.phase != ENDED:
            self._spool_unconfirmed()
        if not Session.end(self):
            return False
        self.client_state.end()
        if self.detached:
            self.detached = False
            self.amqp_stats.detached -= 1
            self._port.left(self)
        return True
