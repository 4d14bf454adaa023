"""A session that outlives its broker: what the client publishes meanwhile goes into the spool.

    attached ─ broker lost ─> detached ─ another connection, logged in as the client ─> attached
                                  └ the broker will not have this client any more ─> closed with the broker's words

While it is detached, a stand-in answers what the client asks. What died with the broker's connection and cannot be made
again (exclusive and server-named queues) ends the session with ``320``, so that the client's own recovery runs.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sidecar.amqp import control, relay
from sidecar.amqp.channel import Channel
from sidecar.amqp.dialler import Dialler
from sidecar.amqp.frames import FrameReader
from sidecar.amqp.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.kept import KeptChannel
from sidecar.amqp.legs import CLOSED, OPEN, BrokerLeg, ClientLeg
from sidecar.amqp.methods import connection_close_ok, method_of
from sidecar.amqp.redial import Redial
from sidecar.amqp.restoration import Restoration
from sidecar.amqp.session import RUNNING, Session
from sidecar.amqp.setup import Setup
from sidecar.amqp.spec import CONNECTION_FORCED, METHOD, AmqpError
from sidecar.amqp.standin import Standin
from sidecar.proxy.exchange import ENDED

if TYPE_CHECKING:
    from sidecar.amqp.listener import AmqpListener
    from sidecar.amqp.spool.keeper import Keeper
    from sidecar.amqp.spool.port import SpoolPort

logger = logging.getLogger("sidecar.amqp")


class KeptSession(Session):
    """A session of a port that has a spool."""

    __slots__ = ("_keeper", "_late", "_port", "_redial", "_replies", "_restoration", "_setup", "_standin")

    def __init__(self, listener: AmqpListener, client: ClientLeg, peer: str, client_ip: str, port: SpoolPort) -> None:
        Session.__init__(self, listener, client, peer, client_ip)
        self.keeps = True
        self.handshake.keeps_login = True
        self._port = port
        self._keeper: Keeper = port.keeper
        self._redial: Redial | None = None
        self._setup = Setup(port.known, "")
        self._standin = Standin(self._setup, port.known, "")
        self._restoration: Restoration | None = None
        #: What the stand-in has said and the client has not heard; and frames that overtake those that wait.
        self._replies: list[bytes] = []
        self._late: list[tuple[Channel, bytes]] = []

    # -- what passes ---------------------------------------------------------------------------------------------------

    def mark(self) -> bytes:
        return self._keeper.mark()

    def new_channel(self, number: int) -> Channel:
        channel = KeptChannel(self, number, self._keeper)
        channel.origin = f"{self.handshake.user} ({self.handshake.product})"
        return channel

    def control(self, frames: bytes) -> bytes:
        if not self.detached:
            self._setup.asks(frames)
            return frames
        self._replies.append(self._standin.takes(frames, self.listener.clock()))
        for number in self.channels:
            self._hold_back(number)
        return b""

    def _hold_back(self, number: int) -> None:
        """What a channel has to say waits while something of it waits for a broker."""
        channel = self.channels[number]
        if channel.waiting is None and self._standin.waits(number):
            channel.waiting = []

    def wait(self, channel: Channel, frame: bytes) -> None:
        assert channel.waiting is not None
        if self.detached and frame[0] == METHOD:
            found = method_of(frame, 0, len(frame))
            if self._standin.gives_up(found, channel.waiting):
                self._forget_waiting(channel)
                self._late.append((channel, frame))
                return
        Session.wait(self, channel, frame)

    def answers(self, number: int, found: int, data: bytes, start: int, end: int) -> None:
        self._setup.answers(number, found, data, start, end)

    def client_said(self, data: bytes) -> None:
        Session.client_said(self, data)
        if self._replies or self._late:
            self._answer_alone()

    def _answer_alone(self) -> None:
        """The client hears what the stand-in has said."""
        try:
            while self._late or self._replies:
                late, self._late = self._late, []
                for channel, frame in late:
                    found = method_of(frame, 0, len(frame))
                    control.from_client(self, channel, found, frame, 0, len(frame))
                    self.control(frame)
                data = b"".join(self._replies)
                self._replies = []
                if data:
                    relay.from_broker(self, data, FrameReader(HANDSHAKE_FRAME_MAX).feed(data))
        except AmqpError as error:
            self._fail(error)

    def channel_gone(self, channel: Channel) -> None:
        self._setup.channel_gone(channel.number)
        Session.channel_gone(self, channel)

    def emptied(self, channel: Channel) -> None:
        if self.detached and self._standin.waits(channel.number):
            return  # the broker is missing, not only what was held
        Session.emptied(self, channel)

    def look(self, now: float) -> None:
        """Something may have waited too long for a broker."""
        if self.detached:
            try:
                self._standin.late(now)
            except AmqpError as error:
                self._close_client(error.code, error.text)

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def broker_closes(self, code: int, text: str, frame: bytes) -> None:
        broker = self.broker
        if code == CONNECTION_FORCED and broker is not None and self._outlives():
            broker.write(connection_close_ok())
            broker.transport.close()
            self._detach(broker, f"{code} {text}")
        else:
            Session.broker_closes(self, code, text, frame)

    def _opened(self) -> None:
        known = self._port.known
        self._setup = Setup(known, self.vhost)
        self._standin = Standin(self._setup, known, self.vhost)
        self._port.met(self.handshake)
        Session._opened(self)

    def broker_lost(self, broker: BrokerLeg, error: Exception | None) -> None:
        if broker is self.broker and self._restoration is not None and self.client.state == OPEN:
            self._lost_again(broker)
        elif self._redial is not None and self._redial.mine(broker):
            self._redial.lost()
        elif broker is self.broker and self._outlives():
            self._detach(broker, "connection lost")
        else:
            Session.broker_lost(self, broker, error)

    def _outlives(self) -> bool:
        """The client need not know that its broker is gone."""
        if self.stage != RUNNING or self.phase == ENDED or self.client.state != OPEN:
            return False
        reason = self._setup.irretrievable()
        if reason:
            logger.info("a client cannot outlive its broker: %s", reason, extra={"client": self.peer})
        return not reason

    def _detach(self, broker: BrokerLeg, reason: str) -> None:
        self.broker = None
        broker.state = CLOSED
        self._linked = False
        self.listener.stats.upstream_active -= 1
        self.listener.cluster.failed(broker.endpoint, hard=False)
        self.leave_endpoint()
        self.tried = ()
        logger.warning(
            "the broker is gone; its client stays, and what it publishes is spooled",
            extra={"upstream": self.listener.name, "client": self.peer, "reason": reason},
        )
        if self.alarmed:
            self.broker_unblocked()
        self._stand_alone()
        now = self.listener.clock()
        for channel in list(self.channels.values()):
            assert isinstance(channel, KeptChannel)
            channel.detach(now)
        try:
            self._replies.append(self._standin.lost(now))
        except AmqpError as error:
            self._fail(error)
            return
        for number in self.channels:
            self._hold_back(number)
        self._answer_alone()

    def _lost_again(self, broker: BrokerLeg) -> None:
        """While everything was being set up anew."""
        self._restoration = None
        self.broker = None
        broker.state = CLOSED
        self._linked = False
        self.listener.stats.upstream_active -= 1
        self.leave_endpoint()
        self.tried = ()
        self._redial = Redial(self, self._listener.rng)

    def _stand_alone(self) -> None:
        self.detached = True
        self.amqp_stats.detached += 1
        self.client.stops = 0
        self.client.resume_reading()
        self._redial = Redial(self, self._listener.rng)

    def _without_broker(self, reason: str) -> None:
        now = self.listener.clock()
        for channel in list(self.channels.values()):
            assert isinstance(channel, KeptChannel)
            channel.broker_lost(now)
        Session._without_broker(self, reason)

    def _drop_held(self, channel: Channel) -> None:
        """What was held when its channel or connection went is spooled as well."""
        assert isinstance(channel, KeptChannel)
        for publish in self.hold.forget(channel):
            channel.give_up(publish)

    # -- and comes back ------------------------------------------------------------------------------------------------

    def dialler(self) -> Dialler:
        """A login as the client's own was."""
        handshake = self.handshake
        return Dialler(
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

    def connected(self, broker: BrokerLeg) -> None:
        if self.detached and self._redial is not None:
            self._redial.connected(broker)
        else:
            Session.connected(self, broker)

    def broker_said(self, broker: BrokerLeg, data: bytes) -> None:
        if self._redial is not None and self._redial.mine(broker):
            self._redial.said(broker, data)
        elif self._restoration is not None and broker is self.broker:
            frames = broker.reader.feed(data)
            self._restore(broker.reader.data, frames)
        else:
            Session.broker_said(self, broker, data)

    def reattach(self, broker: BrokerLeg, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """There is a broker again; ``frames`` is what it has said since. Everything that the client had set up is set
        up once more before anything else."""
        self._redial = None
        if self.phase == ENDED or self.client.state != OPEN:
            broker.transport.close()
            return
        self.broker = broker
        broker.reader.limit = self.handshake.frame_max
        self._linked = True
        self.listener.stats.upstream_active += 1
        self.endpoint = broker.endpoint
        broker.endpoint.active += 1
        self.refused.clear()
        for number in self.closing:
            self.closing[number] = True
        self._restoration = Restoration(self._setup, self.handshake.channel_max)
        broker.write(self._restoration.begin())
        self._restore(data, frames)

    def _restore(self, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """What the broker says while things are set up."""
        broker = self.broker
        assert broker is not None
        try:
            for index, (kind, number, start, end) in enumerate(frames):
                restoration = self._restoration
                if restoration is None:
                    relay.from_broker(self, data, frames[index:])
                    return
                answer: bytes | None = None
                if kind == METHOD:
                    answer = restoration.said(number, method_of(data, start, end), data, start, end)
                if answer is None:
                    relay.from_broker(self, data, [(kind, number, start, end)])
                else:
                    broker.write(answer)
                if restoration.done:
                    self._attached(broker)
            if broker.reader.error is not None:
                raise broker.reader.error
            if self._restoration is not None and self._restoration.done:
                self._attached(broker)
        except AmqpError as error:
            logger.warning("the broker at %s broke the protocol: %s", broker.endpoint.address, error)
            broker.transport.abort()

    def _attached(self, broker: BrokerLeg) -> None:
        """All is as it was before."""
        self._restoration = None
        self.detached = False
        self.amqp_stats.detached -= 1
        broker.write(self._standin.back())
        logger.info(
            "a client has a broker again",
            extra={"upstream": self.listener.name, "client": self.peer, "endpoint": broker.endpoint.address},
        )
        for channel in list(self.channels.values()):
            assert isinstance(channel, KeptChannel)
            channel.measure()
            if not channel.held and not channel.storing:
                self.emptied(channel)

    def give_up(self, error: AmqpError) -> None:
        """The broker will not have this client any more."""
        self._redial = None
        if self.client.state == OPEN:
            self._close_client(error.code, error.text)

    # -- the end -------------------------------------------------------------------------------------------------------

    def client_closes(self, frame: bytes) -> bytes:
        if self.detached and not self._busy():
            self.client_write(connection_close_ok())
            self.client.transport.close()
            return b""
        return Session.client_closes(self, frame)

    def _busy(self) -> bool:
        if Session._busy(self):
            return True
        for channel in self.channels.values():
            assert isinstance(channel, KeptChannel)
            if channel.storing:
                return True
        return False

    def end(self) -> bool:
        redial, self._redial = self._redial, None
        if redial is not None:
            redial.cancel()
        now = self.listener.clock()
        if self.phase != ENDED:
            for channel in list(self.channels.values()):
                assert isinstance(channel, KeptChannel)
                channel.broker_lost(now)
        if not Session.end(self):
            return False
        if self.detached:
            self.detached = False
            self.amqp_stats.detached -= 1
        return True
