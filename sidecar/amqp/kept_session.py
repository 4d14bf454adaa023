"""A session that outlives its broker: what the client publishes meanwhile goes into the spool.

    attached ─ broker lost ─> detached ─ another connection, logged in as the client ─> attached
                                  └ the broker will not have this client any more ─> closed with the broker's words

While it is detached, a stand-in answers what the client asks. What died with the broker's connection and cannot be made
again (exclusive and server-named queues) ends the session with ``320``, so that the client's own recovery runs.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp import control, relay
from sidecar.amqp.channel import Channel
from sidecar.amqp.dialler import Dialler
from sidecar.amqp.frames import FrameReader
from sidecar.amqp.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.kept import KeptChannel
from sidecar.amqp.legs import CLOSED, OPEN, BrokerLeg, ClientLeg
from sidecar.amqp.methods import channel_close, connection_close_ok, method, method_of
from sidecar.amqp.reception import Login, Reception, renewed
from sidecar.amqp.redial import Redial
from sidecar.amqp.restoration import Restoration, Unrestorable
from sidecar.amqp.session import DIALLING, HANDSHAKE, RUNNING, Session
from sidecar.amqp.setup import Setup
from sidecar.amqp.spec import ACCESS_REFUSED, CONNECTION_FORCED, CONNECTION_UPDATE_SECRET_OK, METHOD, AmqpError
from sidecar.amqp.standin import Standin
from sidecar.filters.api import Retry
from sidecar.proxy.errors import Reply
from sidecar.proxy.exchange import ENDED, TUNNEL

if TYPE_CHECKING:
    from sidecar.amqp.listener import AmqpListener
    from sidecar.amqp.spool.keeper import Keeper
    from sidecar.amqp.spool.port import SpoolPort

logger = logging.getLogger("sidecar.amqp")

#: Seconds without a word of the broker, and without a confirm, after which it is given up.
STUCK: Final = 5.0
#: How often to try to set up anew what a client had.
_MOST_RESTORATIONS: Final = 10
#: Seconds for which a broker that could not be reached is not tried for the next client.
_AWAY_SECONDS: Final = 1.0
_CUT: Final = "the broker was lost in the middle of a message to the client"
#: Why a client has no broker, if others would have none either.
_NO_BROKER: Final = frozenset({"connect_failed", "connect_timeout", "no_endpoints", "circuit_open"})


class KeptSession(Session):
    """A session of a port that has a spool."""

    __slots__ = (
        "_keeper", "_late", "_port", "_quiet_since", "_reads", "_reception", "_redial", "_replies", "_restoration",
        "_restorations", "_setup", "_standin", "_verifying",
    )  # fmt: skip

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
        #: How often in a row that came to nothing.
        self._restorations = 0
        #: While a client comes in without a broker.
        self._reception: Reception | None = None
        self._verifying: asyncio.Task[None] | None = None
        #: What the broker has said so far (see :attr:`Leg.reads`), and since when it has been so much.
        self._reads = 0
        self._quiet_since = self.started
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

    def new_secret(self, secret: bytes) -> bytes | None:
        handshake = self.handshake
        handshake.response = renewed(handshake.mechanism, handshake.response, secret)
        if not self.detached:
            return None
        self.client_write(method(0, CONNECTION_UPDATE_SECRET_OK))
        return b""

    @property
    def client_may_be_silent(self) -> bool:
        # py-amqp, for one, while it blocks in a declaration.
        return self.detached and self._standin.due != inf

    def _hold_back(self, number: int) -> None:
        """What a channel has to say waits while something of it waits for a broker."""
        channel = self.channels[number]
        if channel.waiting is None and self._standin.waits(number):
            channel.waiting = []

    def wait(self, channel: Channel, frame: bytes) -> None:
        assert channel.waiting is not None
        if self.detached and frame[0] == METHOD:
            found = method_of(frame, 0, len(frame))
            assert isinstance(channel, KeptChannel)
            busy = channel.held or channel.storing
            if not busy and self._standin.gives_up(found, channel.waiting):
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
        if self._replies or self._late:
            self._answer_alone()

    def look(self, now: float) -> None:
        """Something may have waited too long for a broker; or there is one, and it says nothing."""
        if self.detached:
            if self.client.state == OPEN:
                try:
                    self._standin.late(now)
                except AmqpError as error:
                    self._close_client(error.code, error.text)
            return
        broker = self.broker
        if broker is None or self.stage != RUNNING:
            return
        deaf = broker.reading_paused or self.amqp_stats.blocked
        if broker.reads != self._reads or deaf or not self._unanswered():
            self._reads = broker.reads
            self._quiet_since = now
        elif now - self._quiet_since > STUCK:
            logger.warning("the broker at %s answers nothing any more", broker.endpoint.address)
            broker.transport.abort()

    def _unanswered(self) -> bool:
        """A publish has no confirm yet."""
        for channel in self.channels.values():
            confirms = channel.confirms
            if confirms is not None and confirms.unanswered:
                return True
        return False

    def stop_work(self) -> None:
        if not self.detached:  # else it is done when there is a broker again
            Session.stop_work(self)

    def refuse_channel(self, channel: Channel, code: int, text: str, cause: int) -> None:
        restoration = self._restoration
        if self.detached and (restoration is None or not restoration.opened):
            # No broker knows of this channel, and none is to answer.
            self.client_write(channel_close(channel.number, code, text, cause))
            self.closing[channel.number] = True
            self.channel_gone(channel)
        else:
            Session.refuse_channel(self, channel, code, text, cause)

    def withholds(self, size: int) -> bool:
        return size <= self.max_message_size and self.withheld + size <= self.partial_limit

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def broker_closes(self, code: int, text: str, frame: bytes) -> None:
        broker = self.broker
        if code == ACCESS_REFUSED and self.stage == HANDSHAKE:
            self._port.accounts.refused(self.handshake.mechanism, self.handshake.response)
        if code == CONNECTION_FORCED and broker is not None and self._outlives():
            broker.write(connection_close_ok())
            broker.transport.close()
            if self._restoration is not None:
                self._lost_again(broker)
            else:
                self._detach(broker, f"{code} {text}")
        else:
            Session.broker_closes(self, code, text, frame)

    def _broker_handshake(self, broker: BrokerLeg, number: int, data: bytes, start: int, end: int) -> None:
        if not number:
            self._port.known.hears(method_of(data, start, end), data, start, end)
        Session._broker_handshake(self, broker, number, data, start, end)

    def _opened(self) -> None:
        known = self._port.known
        self._setup = Setup(known, self.vhost)
        self._standin = Standin(self._setup, known, self.vhost)
        if self.broker is not None:
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
        reason = _CUT if self._cut() else self._setup.irretrievable()
        if reason:
            logger.info("a client cannot outlive its broker: %s", reason, extra={"client": self.peer})
        return not reason

    def _cut(self) -> bool:
        """The client has got a part of a message, and nobody has the rest of it."""
        return any(channel.passing for channel in self.channels.values())

    def _detach(self, broker: BrokerLeg, reason: str) -> None:
        self._port.seen(self.handshake)
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
            channel.spool_held()
        try:
            self._replies.append(self._standin.lost(now))
        except AmqpError as error:
            self._fail(error)
            return
        for number in self.channels:
            self._hold_back(number)
        self._answer_alone()
        self._see_to_channels()

    def _lost_again(self, broker: BrokerLeg) -> None:
        """While everything was being set up anew."""
        self._restoration = None
        self.broker = None
        broker.state = CLOSED
        self._linked = False
        self.listener.stats.upstream_active -= 1
        self.leave_endpoint()
        self.tried = ()
        now = self.listener.clock()
        if self._cut():
            self._close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {_CUT}")
            return
        self._redial = Redial(self, self._listener.rng, 1.0)
        for channel in list(self.channels.values()):
            assert isinstance(channel, KeptChannel)
            channel.detach(now)  # consumers that were there again may have got something
        # What came in the meantime, and what the stand-in had left to the broker.
        try:
            self._replies.append(self._standin.lost(now))
        except AmqpError as error:
            self._fail(error)
            return
        for number in self.channels:
            self._hold_back(number)
        self._answer_alone()

    def _stand_alone(self) -> None:
        self.detached = True
        self.amqp_stats.detached += 1
        self._end_closes()
        self.client.stops = 0
        self.client.resume_reading()
        self._redial = Redial(self, self._listener.rng)

    def _end_closes(self) -> None:
        """Nobody answers any more on channels that are being closed but we."""
        self.refused.clear()
        for number in self.closing:
            self.closing[number] = True

    def _see_to_channels(self) -> None:
        """What has waited for what was held may go on where nothing is held any more."""
        for channel in list(self.channels.values()):
            assert isinstance(channel, KeptChannel)
            if not channel.held and not channel.storing:
                self.emptied(channel)

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

    # -- a client that comes while there is none -----------------------------------------------------------------------

    def begin_try(self) -> None:
        endpoints = self.listener.cluster.endpoints
        away = self.listener.clock() - self._port.missed < _AWAY_SECONDS
        if not self.attempts and away and all(endpoint.ejected_until for endpoint in endpoints):
            self._receive()  # it was not there a moment ago
        else:
            Session.begin_try(self)

    def retry_later(self, retry: Retry) -> None:
        if retry.delay > 0:
            self._port.missed = self.listener.clock()
            self._receive()
        else:
            Session.retry_later(self, retry)

    def reply(self, reply: Reply) -> None:
        if reply.code in _NO_BROKER and self.phase != ENDED and self.client.state == OPEN and self.stage == DIALLING:
            self._port.missed = self.listener.clock()
            self._receive()
        else:
            Session.reply(self, reply)

    def _receive(self) -> None:
        """Be the broker in the handshake."""
        self.phase = TUNNEL
        self.status = 200
        self.stage = HANDSHAKE
        self.listener.stats.tunnels += 1
        self._reception = reception = Reception(self._port.known)
        self._due_in(self.chain.timeout.head or inf)
        self._say(reception.greeting())

    def broker_write(self, data: bytes) -> None:
        reception = self._reception
        if reception is None:
            Session.broker_write(self, data)
            return
        answer = reception.takes(data)
        if answer:
            self._say(answer)
        elif reception.login is not None and reception.account is None and self._verifying is None:
            self._verifying = self.listener.loop.create_task(self._verify(reception, reception.login))

    async def _verify(self, reception: Reception, login: Login) -> None:
        account = await self._port.accounts.verify(login.mechanism, login.response)
        if self.phase == ENDED or self.client.state != OPEN:
            return
        try:
            self._say(reception.admit(account))
        except AmqpError as error:
            self._fail(error)

    def _say(self, frame: bytes) -> None:
        """As the broker, in the handshake."""
        self.client_write(self.handshake.from_broker(frame, 0, len(frame)))
        if self.handshake.done:
            self._reception = None
            self.client.reader.limit = self.handshake.frame_max
            self._stand_alone()
            self._opened()

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
        self.collect(broker)
        self.listener.stats.upstream_active += 1
        self.endpoint = broker.endpoint
        broker.endpoint.active += 1
        self._end_closes()
        self._restoration = Restoration(self._setup, self.handshake.channel_max)
        try:
            broker.write(self._restoration.begin())
        except Unrestorable as error:
            self._not_again(broker, error)
            return
        self._restore(data, frames)

    def _not_again(self, broker: BrokerLeg, error: Unrestorable) -> None:
        """What the client had cannot be had again: it has to know, unless that may pass."""
        self._restorations += 1
        if not error.passing or self._restorations >= _MOST_RESTORATIONS:
            self._close_client(error.code, error.text)
        broker.transport.abort()

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
        except Unrestorable as error:
            self._not_again(broker, error)
        except AmqpError as error:
            logger.warning("the broker at %s broke the protocol: %s", broker.endpoint.address, error)
            broker.transport.abort()

    def _attached(self, broker: BrokerLeg) -> None:
        """All is as it was before."""
        self._restoration = None
        self._restorations = 0
        self.detached = False
        self.amqp_stats.detached -= 1
        self._port.broker_is_back()
        broker.write(self._standin.back())
        logger.info(
            "a client has a broker again",
            extra={"upstream": self.listener.name, "client": self.peer, "endpoint": broker.endpoint.address},
        )
        for channel in list(self.channels.values()):
            assert isinstance(channel, KeptChannel)
            channel.measure()
        if self._listener.work_is_over:
            self.stop_work()
        self._see_to_channels()

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
        for channel in self.channels.values():
            assert isinstance(channel, KeptChannel)
            if channel.held or channel.storing:
                return True
            waiting = channel.waiting
            # A client that leaves without a broker wants no more answers.
            if waiting is not None and (not self.detached or any(frame[0] != METHOD for frame in waiting)):
                return True
        return False

    def end(self) -> bool:
        if self._verifying is not None:
            self._verifying.cancel()
        redial, self._redial = self._redial, None
        if redial is not None:
            redial.cancel()
        now = self.listener.clock()
        if self._counted and self.broker is not None:
            self._port.seen(self.handshake)
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
