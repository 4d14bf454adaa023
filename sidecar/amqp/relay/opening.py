"""How a session begins: from the client's first byte to the broker's open-ok.

GREETING ─ protocol header ─> DIALLING ─ start ─> HANDSHAKE ─ open-ok ─> RUNNING
                                 └ no broker ─> closed (admission.py says why nothing is said)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay import forward
from sidecar.amqp.relay.connections import CLOSED, OPEN, BrokerConnection
from sidecar.amqp.relay.session_state import DIALLING, GREETING, HANDSHAKE, RUNNING
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
from sidecar.amqp.wire.methods import connection_close_ok, method_of
from sidecar.core.replies import STATUS, Reply
from sidecar.exchange.phases import CONNECTING, ENDED, TUNNEL

if TYPE_CHECKING:
    from sidecar.amqp.relay.session import Session
    from sidecar.exchange.attempt import Attempt

logger = logging.getLogger("sidecar.amqp")

#: Answers to one client after which the next one would have no broker either.
NO_BROKER_CODES: Final = frozenset({"connect_failed", "connect_timeout", "no_endpoints", "circuit_open"})


class Opening:
    """That of one session: admission, attempts and a handshake."""

    __slots__ = ("_greeting", "_refusal", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._greeting = b""
        #: Why it was not even admitted.
        self._refusal: Reply | None = None

    def start(self) -> None:
        """Admit the client, or not; then wait for its first word."""
        session = self._session
        listener = session.listener
        listener.stats.active += 1
        self.shake_hands()
        if not listener.enter(session.client):
            self._refusal = Reply("overloaded", "too many clients are connected")

    def shake_hands(self) -> None:
        """What comes now has to be over before long."""
        session = self._session
        timer = session.lifecycle.timer
        if session.chain.timeout.head:
            timer.end_in(session.chain.timeout.head)
        else:
            timer.take_time()

    # -- the client ----------------------------------------------------------------------------------------------------

    def client_said(self, data: bytes) -> None:
        """Bytes of the client outside the ordinary flow."""
        stage = self._session.stage
        if stage == GREETING:
            self._greet(data)
        elif stage == DIALLING:
            self._too_early()  # it has not been asked anything yet
        else:
            self._client_handshake(data)

    def _greet(self, data: bytes) -> None:
        session = self._session
        greeting = self._greeting = self._greeting + data
        if not PROTOCOL_HEADER.startswith(greeting[:8]):
            # Whatever it speaks, this is what is spoken here (§4.2.2).
            session.client.write(PROTOCOL_HEADER)
            session.error = "bad_request"
            session.status = STATUS[session.error]
            session.client.transport.close()
        elif len(greeting) > 8:
            self._too_early()
        elif len(greeting) == 8:
            session.stage = DIALLING
            session.lifecycle.timer.take_time()
            if session.listener.draining:
                self._refusal = Reply("draining", "the sidecar is shutting down")
            if self._refusal is not None:
                session.reply(self._refusal)
            else:
                session.run()
                session.port.see_to_room()

    def _client_handshake(self, data: bytes) -> None:
        """The handshake, and what comes after a close."""
        session = self._session
        client = session.client
        handshake = session.handshake
        reader = client.reader
        frames = reader.feed(data)
        for kind, number, start, end in frames:
            if kind != METHOD or number:
                if client.state == OPEN and kind != HEARTBEAT:
                    self._too_early()
                    return
                continue
            found = method_of(reader.data, start, end)
            if client.state != OPEN:
                if found == CONNECTION_CLOSE:
                    client.write(connection_close_ok())
                if found in (CONNECTION_CLOSE, CONNECTION_CLOSE_OK):
                    client.transport.close()
                    return
            elif session.stage == HANDSHAKE:
                session.side.login(handshake.from_client(reader.data, start, end))
                reader.limit = handshake.frame_max
                if session.broker is not None:
                    session.broker.reader.limit = handshake.frame_max
        if reader.error is not None and client.state == OPEN:
            raise reader.error

    def _too_early(self) -> None:
        """The client sends what only belongs on an open connection, or before it is asked: bunny does, when one thread
        publishes while another one recovers. Nothing is said to it, as the broker does: it would take a close for the
        answer to its login, and what is no frame for the end of everything."""
        broker = self._session.broker
        self.hang_up("bad_request")
        if broker is not None and broker.state != CLOSED:
            broker.state = CLOSED
            broker.transport.close()

    # -- a connection to a broker --------------------------------------------------------------------------------------

    def open(self, attempt: Attempt) -> None:
        """Dial the attempt's endpoint."""
        session = self._session
        attempt.deadline = min(session.deadline, session.listener.clock() + session.chain.timeout.connect)
        session.set_timer(attempt.deadline)
        attempt.connecting = session.listener.loop.create_task(self._connect(attempt))

    async def _connect(self, attempt: Attempt) -> None:
        session = self._session
        endpoint = attempt.endpoint
        broker = BrokerConnection(session, endpoint)
        try:
            await session.cluster.dial(
                session.listener.loop, broker, endpoint, session.chain.timeout.connect, broker.chosen
            )
        except OSError as error:
            session.connect_failed(attempt, error)

    def connected(self, broker: BrokerConnection) -> None:
        """A socket stands; the attempt has succeeded once there is a ``start`` on it."""
        session = self._session
        if session.phase != CONNECTING or broker.endpoint is not session.endpoint:
            broker.transport.abort()  # the client has left, or the time was over, in this very moment
            return
        session.broker = broker
        broker.write(PROTOCOL_HEADER)

    def cut(self) -> None:
        """Let go of this attempt's connection, if it has one."""
        session = self._session
        if session.attempt is not None:
            session.attempt.stop_connecting()
        broker = session.broker
        if broker is not None:
            session.broker = None
            broker.transport.abort()

    def reply(self, reply: Reply) -> None:
        """No broker, or no admission: it ends without a word, for the few that come before the port is shut."""
        session = self._session
        if session.phase != ENDED and session.client.state == OPEN:
            session.port.turned_away(reply)
            self.hang_up(reply.code)

    def hang_up(self, code: str) -> None:
        """Close the client's connection in the middle of its handshake, for a reason that will pass. Before ``start``
        and after ``open``, all clients take that for an outage. They do not for a reset: bunny, for one, loses count of
        its tries by that."""
        session = self._session
        session.error = code
        session.status = STATUS[code]
        if session.end():
            session.lifecycle.timer.close()
            session.client.state = CLOSED
            session.client.transport.close()

    # -- the broker ----------------------------------------------------------------------------------------------------

    def broker_said(self, broker: BrokerConnection, number: int, data: bytes, start: int, end: int) -> None:
        """A method of the broker, before or behind open-ok. Raises :class:`AmqpError`."""
        session = self._session
        found = method_of(data, start, end)
        if not number:
            session.side.handshake_said(found, data, start, end)
        if session.phase == CONNECTING and found != CONNECTION_START:
            raise AmqpError(COMMAND_INVALID, "it does not begin with connection.start", found)
        if session.stage == RUNNING or found == CONNECTION_CLOSE:  # the first is pipelined behind open-ok
            forward.from_broker(session, data, [(METHOD, number, start, end)])
            return
        new = session.handshake.from_broker(data, start, end)
        if found == CONNECTION_START and session.phase == CONNECTING:
            self._started(broker)
        session.client_write(new)
        if session.handshake.done:
            session.opened()

    def _started(self, broker: BrokerConnection) -> None:
        session = self._session
        attempt = session.attempt
        if attempt is not None:
            attempt.connecting = None
        session.phase = TUNNEL
        session.status = 200
        session.stage = HANDSHAKE
        session.link(True)
        broker.collect(session.port)
        session.listener.stats.tunnels += 1
        for hook in session.chain.on_connected:
            hook(session)
        session.port.broker_found(broker.endpoint)
        self.shake_hands()

    def receive(self) -> None:
        """There is no broker, and the session's side is in its place in the handshake."""
        session = self._session
        session.phase = TUNNEL
        session.status = 200
        session.stage = HANDSHAKE
        session.listener.stats.tunnels += 1
        self.shake_hands()

    def done(self) -> None:
        """The handshake is over."""
        session = self._session
        handshake = session.handshake
        timer = session.lifecycle.timer
        session.stage = RUNNING
        timer.take_time()
        if handshake.heartbeat:
            timer.beat_every(handshake.heartbeat / 2)
        timer.arm()
        broker = session.broker
        logger.info(
            "an AMQP client has connected",
            extra={
                "upstream": session.listener.name,
                "client": session.peer,
                "product": handshake.product,
                "user": handshake.user,
                "vhost": handshake.vhost,
                "endpoint": broker.endpoint.address if broker is not None else None,
            },
        )

    def broker_lost(self, broker: BrokerConnection, error: Exception | None) -> bool:
        """A connection is gone; whether that was in the handshake, and has been seen to."""
        session = self._session
        if broker is not session.broker:
            return False
        if session.phase == CONNECTING:
            session.broker = None
            attempt = session.attempt
            assert attempt is not None
            session.connect_failed(attempt, error or ConnectionResetError())
            return True
        if not self._is_refused():
            return False
        # How brokers refuse a user, and what clients take for that.
        session.error = "upstream_reset"
        session.status = STATUS[session.error]
        session.client.transport.close()
        session.lifecycle.end_if_over()
        return True

    def _is_refused(self) -> bool:
        """Whether the end of the connection to the broker is its answer to a login."""
        session = self._session
        if session.phase == ENDED or session.client.state != OPEN:
            return False
        return session.stage == HANDSHAKE and not session.handshake.open_sent
