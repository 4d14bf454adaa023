"""How a session begins: from the client's first byte to the broker's open-ok.

GREETING ─ protocol header ─> DIALLING ─ start ─> HANDSHAKE ─ open-ok ─> RUNNING
                                 └ no broker ─> closed (admission.py says why nothing is said)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from sidecar.amqp.relay.connections import CLOSED, OPEN, BrokerConnection, ClientConnection
from sidecar.amqp.relay.lifecycle import DIALLING, GREETING, HANDSHAKE, RUNNING, Pair
from sidecar.amqp.wire.constants import (
    COMMAND_INVALID,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_START,
    HEARTBEAT,
    METHOD,
    PROTOCOL_HEADER,
    AmqpError,
)
from sidecar.amqp.wire.handshake import Handshake
from sidecar.amqp.wire.methods import connection_close_ok, method_of
from sidecar.core.replies import STATUS, Reply
from sidecar.exchange.phases import CONNECTING, ENDED, TUNNEL

if TYPE_CHECKING:
    from sidecar.amqp.listener import AmqpListener
    from sidecar.amqp.relay.session import Session
    from sidecar.exchange.attempt import Attempt

logger = logging.getLogger("sidecar.amqp")


class Opening(Pair):
    """Admission, tries and a handshake; then it is :meth:`_opened`."""

    __slots__ = ("_greeting", "_refusal", "handshake")

    def __init__(self, listener: AmqpListener, client: ClientConnection, peer: str, client_ip: str) -> None:
        Pair.__init__(self, listener, client, peer, client_ip)
        self._greeting = b""
        #: Why it was not even admitted.
        self._refusal: Reply | None = None
        self.handshake = Handshake(listener.config.vhosts)

    def start(self) -> None:
        """Admit it, or not; then wait for the client's first word."""
        listener = self.listener
        listener.stats.active += 1
        self._shake_hands()
        if not listener.enter(self.client):
            self._refusal = Reply("overloaded", "too many clients are connected")

    def _shake_hands(self) -> None:
        """What comes now has to be over before long."""
        if self.chain.timeout.head:
            self.timer.end_in(self.chain.timeout.head)
        else:
            self.timer.take_time()

    # -- the client ----------------------------------------------------------------------------------------------------

    def _client_opens(self, data: bytes) -> None:
        """Bytes of the client outside the ordinary flow."""
        if self.stage == GREETING:
            self._greet(data)
        elif self.stage == DIALLING:
            self._too_early()  # it has not been asked anything yet
        else:
            self._client_handshake(data)

    def _greet(self, data: bytes) -> None:
        greeting = self._greeting = self._greeting + data
        if not PROTOCOL_HEADER.startswith(greeting[:8]):
            # Whatever it speaks, this is what is spoken here (§4.2.2).
            self.client.write(PROTOCOL_HEADER)
            self.error = "bad_request"
            self.status = STATUS[self.error]
            self.client.transport.close()
        elif len(greeting) > 8:
            self._too_early()
        elif len(greeting) == 8:
            self.stage = DIALLING
            self.timer.take_time()
            if self._listener.draining:
                self._refusal = Reply("draining", "the sidecar is shutting down")
            if self._refusal is not None:
                self.reply(self._refusal)
            else:
                self.run()
                self._listener.see_to_room()

    def _client_handshake(self, data: bytes) -> None:
        """The handshake, and what comes after a close."""
        reader = self.client.reader
        frames = reader.feed(data)
        for kind, number, start, end in frames:
            if kind != METHOD or number:
                if self.client.state == OPEN and kind != HEARTBEAT:
                    self._too_early()
                    return
                continue
            found = method_of(reader.data, start, end)
            if self.client.state != OPEN:
                if found == CONNECTION_CLOSE:
                    self.client.write(connection_close_ok())
                if found in (CONNECTION_CLOSE, CONNECTION_CLOSE_OK):
                    self.client.transport.close()
                    return
            elif self.stage == HANDSHAKE:
                self.broker_write(self.handshake.from_client(reader.data, start, end))
                reader.limit = self.handshake.frame_max
                if self.broker is not None:
                    self.broker.reader.limit = self.handshake.frame_max
        if reader.error is not None and self.client.state == OPEN:
            raise reader.error

    def _too_early(self) -> None:
        """The client sends what only belongs on an open connection, or before it is asked: bunny does, when one thread
        publishes while another one recovers. Nothing is said to it, as the broker does: it would take a close for the
        answer to its login, and what is no frame for the end of everything."""
        broker = self.broker
        self.hang_up("bad_request")
        if broker is not None and broker.state != CLOSED:
            broker.state = CLOSED
            broker.transport.close()

    # -- a connection to a broker --------------------------------------------------------------------------------------

    def open(self, attempt: Attempt) -> None:
        attempt.deadline = min(self.deadline, self.listener.clock() + self.chain.timeout.connect)
        self.set_timer(attempt.deadline)
        attempt.connecting = self.listener.loop.create_task(self._connect(attempt))

    async def _connect(self, attempt: Attempt) -> None:
        endpoint = attempt.endpoint
        broker = BrokerConnection(cast("Session", self), endpoint)
        try:
            await self.cluster.dial(self.listener.loop, broker, endpoint, self.chain.timeout.connect, broker.chosen)
        except OSError as error:
            self.connect_failed(attempt, error)

    def connected(self, broker: BrokerConnection) -> None:
        """A socket stands; the try has succeeded once there is a ``start`` on it."""
        if self.phase != CONNECTING or broker.endpoint is not self.endpoint:
            broker.transport.abort()  # the client has left, or the time was over, in this very moment
            return
        self.broker = broker
        broker.write(PROTOCOL_HEADER)

    def cut(self) -> None:
        if self.attempt is not None:
            self.attempt.stop_connecting()
        broker = self.broker
        if broker is not None:
            self.broker = None
            broker.transport.abort()

    def reply(self, reply: Reply) -> None:
        """No broker, or no admission: it ends without a word, for those few that come before the door is shut."""
        if self.phase != ENDED and self.client.state == OPEN:
            self._listener.turned_away(reply)
            self.hang_up(reply.code)

    def hang_up(self, code: str) -> None:
        """Close the client's connection in the middle of its handshake, for a reason that will pass. Before ``start``
        and after ``open``, all clients take that for an outage. They do not for a reset: bunny, for one, loses count of
        its tries by that."""
        self.error = code
        self.status = STATUS[code]
        if self.end():
            self.timer.close()
            self.client.state = CLOSED
            self.client.transport.close()

    # -- the broker ----------------------------------------------------------------------------------------------------

    def _broker_passes(self, data: bytes, frames: list[tuple[int, int, int, int]]) -> None:
        """Frames of the broker that belong to the ordinary flow."""
        raise NotImplementedError

    def _broker_handshake(self, broker: BrokerConnection, number: int, data: bytes, start: int, end: int) -> None:
        found = method_of(data, start, end)
        if self.stage == RUNNING:  # pipelined behind open-ok
            self._broker_passes(data, [(METHOD, number, start, end)])
            return
        if self.phase == CONNECTING and found != CONNECTION_START:
            raise AmqpError(COMMAND_INVALID, "it does not begin with connection.start", found)
        if found == CONNECTION_CLOSE:
            self._broker_passes(data, [(METHOD, number, start, end)])
            return
        new = self.handshake.from_broker(data, start, end)
        if found == CONNECTION_START and self.phase == CONNECTING:
            self._started(broker)
        self.client_write(new)
        if self.handshake.done:
            self._opened()

    def _started(self, broker: BrokerConnection) -> None:
        attempt = self.attempt
        if attempt is not None:
            attempt.connecting = None
        self.phase = TUNNEL
        self.status = 200
        self.stage = HANDSHAKE
        self._link(True)
        self.collect(broker)
        self.listener.stats.tunnels += 1
        for hook in self.chain.on_connected:
            hook(self)
        self._listener.broker_found(broker.endpoint)
        self._shake_hands()

    def _opened(self) -> None:
        """The handshake is over."""
        handshake = self.handshake
        self.stage = RUNNING
        self.timer.take_time()
        if handshake.heartbeat:
            self.timer.beat_every(handshake.heartbeat / 2)
        self.timer.arm()
        logger.info(
            "an AMQP client has connected",
            extra={
                "upstream": self.listener.name,
                "client": self.peer,
                "product": handshake.product,
                "user": handshake.user,
                "vhost": handshake.vhost,
                "endpoint": self.broker.endpoint.address if self.broker is not None else None,
            },
        )

    def broker_lost(self, broker: BrokerConnection, error: Exception | None) -> None:
        if broker is self.broker and self.phase == CONNECTING:
            self.broker = None
            attempt = self.attempt
            assert attempt is not None
            self.connect_failed(attempt, error or ConnectionResetError())
        elif self._is_refused(broker):
            # How brokers refuse a user, and what clients take for that.
            self.error = "upstream_reset"
            self.status = STATUS[self.error]
            self.client.transport.close()
            self._end_if_over()
        else:
            Pair.broker_lost(self, broker, error)

    def _is_refused(self, broker: BrokerConnection) -> bool:
        """Whether the end of this connection is the broker's answer to a login."""
        if broker is not self.broker or self.phase == ENDED or self.client.state != OPEN:
            return False
        return self.stage == HANDSHAKE and not self.handshake.open_sent
