"""How the two connections of a session, a client's and a broker's, end: each for itself.

The broker's outlives the client's as long as something of the client is held, and the client's outlives the broker's
until it has been told why. How they come about is in opening.py, what passes between them in forward.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.connections import CLOSED, CLOSING, OPEN
from sidecar.amqp.relay.session_state import DIALLING, HANDSHAKE, RUNNING
from sidecar.amqp.wire.constants import CONNECTION_FORCED, REPLY_SUCCESS, AmqpError
from sidecar.amqp.wire.methods import connection_close, connection_close_ok
from sidecar.core.replies import STATUS
from sidecar.exchange.phases import ENDED
from sidecar.net.causes import CAUSES
from sidecar.net.sockets import reset, undelivered

if TYPE_CHECKING:
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session import Session
    from sidecar.net.wheel import Timer

logger = logging.getLogger("sidecar.amqp")

#: Seconds: for a peer to answer a close; and for what is not done then to be cut.
CLOSE_SECONDS: Final = 3.0


class SessionTimer:
    """When a session has to be looked at next: for a heartbeat, or because something should have happened by then. Over
    the session's one timer: what is called by that asks :meth:`is_over` and :meth:`beats`, and then for the next time
    (:meth:`arm`)."""

    __slots__ = ("_clock", "_interval", "_next_beat", "_over", "timer")

    def __init__(self, timer: Timer, clock: Callable[[], float]) -> None:
        self.timer = timer
        self._clock = clock
        self._over = inf
        #: Seconds between two heartbeats, and when the next one is due.
        self._interval = inf
        self._next_beat = inf

    def end_in(self, seconds: float) -> None:
        """What is going on has to be over so many seconds from now."""
        self._over = self._clock() + seconds
        self.arm()

    def take_time(self) -> None:
        """It may last."""
        self._over = inf

    def beat_every(self, seconds: float) -> None:
        """Say something that often."""
        self._interval = seconds
        self._next_beat = self._clock() + seconds

    def is_over(self, now: float) -> bool:
        """What had to be over is due."""
        return now >= self._over

    def beats(self, now: float) -> bool:
        """A heartbeat is due; the next one is counted from here on."""
        if now < self._next_beat:
            return False
        self._next_beat = now + self._interval
        return True

    def arm(self) -> None:
        """Set the timer to what comes next."""
        due = min(self._over, self._next_beat)
        if due != inf:
            self.timer.set(due)

    def close(self) -> None:
        """Nothing is due any more, ever."""
        self.timer.close()


class Lifecycle:
    """That of one session."""

    __slots__ = ("_session", "close_frame", "timer")

    def __init__(self, session: Session) -> None:
        self._session = session
        #: The client's ``connection.close``, as long as something of it is still held.
        self.close_frame = b""
        self.timer = SessionTimer(session.listener.wheel.timer(self._on_timer), session.listener.clock)

    # -- the client goes -----------------------------------------------------------------------------------------------

    def client_closes(self, frame: bytes) -> bytes:
        """``connection.close``: it passes when nothing is held for this client any more."""
        session = self._session
        session.side.client_leaves()
        if session.busy:
            self.close_frame = frame
            session.departure.begin()
            return b""
        client, broker = session.client, session.broker
        if session.detached:
            session.client_write(connection_close_ok())
            session.reason = "closed"
            client.transport.close()
            frame = b""
        elif broker is not None:
            broker.state = CLOSING
        client.state = CLOSING
        self.timer.end_in(CLOSE_SECONDS)
        return frame

    def client_lost(self) -> None:
        """The client is gone, well or badly."""
        session = self._session
        session.listener.left(session.client)
        if session.phase == ENDED:
            return
        broker = session.broker
        if session.stage != RUNNING or broker is None or broker.state == CLOSED:
            session.abort()
            return
        # Whatever its reading waited for, the client no longer is it.
        broker.stops = 0
        broker.resume_reading()
        if broker.state != OPEN:
            self.end_if_over()
        elif session.busy:
            # What it published goes on its way; its connection to the broker stays until then.
            self.timer.take_time()
            session.departure.begin()
        else:
            self._close_broker("the client is gone")

    def go_on_closing(self) -> None:
        """What the client waits for in closing, or has left behind, may be done by now."""
        session = self._session
        client_open = session.client.state == OPEN
        if (client_open and not self.close_frame) or session.phase == ENDED or session.busy:
            return
        if client_open:
            session.broker_write(self.client_closes(self.close_frame))
        else:
            self._close_broker("the client is gone")

    def _close_broker(self, reason: str) -> None:
        broker = self._session.broker
        if broker is not None and broker.state == OPEN:
            broker.write(connection_close(REPLY_SUCCESS, reason))
            broker.state = CLOSING
            self.timer.end_in(CLOSE_SECONDS)

    def broker_closed(self) -> None:
        """``connection.close-ok`` from the broker."""
        self._client_has_closed()
        broker = self._session.broker
        if broker is not None:
            broker.transport.close()

    def _client_has_closed(self) -> None:
        """If it was the client who wanted to, it has its answer now."""
        session = self._session
        if session.client.state == CLOSING and not session.reason:
            session.client_write(connection_close_ok())
            session.reason = "closed"
            session.client.transport.close()

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def broker_closes(self, code: int, text: str, frame: bytes) -> None:
        """``connection.close`` from the broker: it has its answer at once, the client may take its time."""
        session = self._session
        if session.side.closed(code, text):
            return
        broker = session.broker
        assert broker is not None
        broker.write(connection_close_ok())
        broker.state = CLOSING
        broker.transport.close()
        if code == CONNECTION_FORCED:
            session.port.broker_lost()
        if session.client.state == OPEN:
            self._without_broker(f"{code} {text}")
            session.client_write(frame)
            self._client_is_closing()

    def broker_lost(self, broker: BrokerConnection) -> None:
        """The connection to the broker is gone."""
        session = self._session
        if broker is not session.broker or session.phase == ENDED:
            return  # one that came too late, or was let go
        if session.client.state == OPEN:
            session.error = "upstream_reset"
            session.status = STATUS[session.error]
            session.cluster.failed(broker.endpoint, False, "reset", CAUSES["reset"])
            session.port.broker_lost()
            where = f"the broker at {broker.endpoint.address}"
            self._without_broker("connection lost")
            self.close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {where} closed the connection")
        else:
            self._client_has_closed()  # it waits for a close-ok that will not come
        self.end_if_over()

    def _without_broker(self, reason: str) -> None:
        """Nothing more can be passed on."""
        session = self._session
        paths = [channel.path for channel in session.channels.values()]
        now = session.listener.clock()
        for path in paths:
            path.broker_lost(now)
        session.reason = reason
        extra = {"upstream": session.listener.name, "client": session.peer, "reason": reason}
        logger.warning("the broker has closed a connection", extra=extra)
        for path in paths:
            path.drop_held()

    def close_client(self, code: int, text: str, cause: int = 0) -> None:
        """Send the client a ``connection.close``, for this reason."""
        session = self._session
        session.reason = session.reason or text
        session.client_write(connection_close(code, text, cause))
        self._client_is_closing()

    def _client_is_closing(self) -> None:
        """It has been told; whatever its reading waited for, its answer is awaited now."""
        session = self._session
        session.side.client_leaves()
        client = session.client
        client.state = CLOSING
        client.stops = 0
        client.resume_reading()
        self.timer.end_in(CLOSE_SECONDS)
        session.port.stopped.pop(session, None)

    # -- we end it -----------------------------------------------------------------------------------------------------

    def fail(self, error: AmqpError) -> None:
        """The client broke the protocol, or may not have what it asks for."""
        session = self._session
        if session.client.state != OPEN:
            # It knows, or is gone. What is held of it still goes.
            if not session.busy:
                session.abort()
            return
        logger.warning(
            "an AMQP client was refused",
            extra={"upstream": session.listener.name, "client": session.peer, "reason": str(error)},
        )
        session.error = "bad_request"
        session.status = STATUS[session.error]
        self.close_client(error.code, error.text, error.method)
        if session.stage == RUNNING:
            self._leave_broker("the client broke the protocol")
        elif session.stage == HANDSHAKE and session.broker is not None:
            session.broker.transport.close()

    def shut_down(self, reason: str) -> None:
        """End it politely."""
        session = self._session
        if session.client.state != OPEN:
            return
        if session.stage != RUNNING:
            session.abort()
            return
        self.close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {reason}")
        self._leave_broker(reason)

    def _leave_broker(self, reason: str) -> None:
        """The client goes; its connection to the broker stays for what is held."""
        session = self._session
        if session.busy:
            session.departure.begin()
        else:
            self._close_broker(reason)

    # -- it is over ----------------------------------------------------------------------------------------------------

    def end_if_over(self) -> None:
        """Both connections may be gone by now."""
        session = self._session
        broker = session.broker
        if session.client.state == CLOSED and (broker is None or broker.state == CLOSED):
            session.end()
            self.timer.close()

    def abort(self) -> None:
        """End it so that both sides notice."""
        session = self._session
        if session.end():
            self.timer.close()
            client, broker = session.client, session.broker
            client.flush()  # it would publish again what it does not know to be confirmed
            client.state = CLOSED
            reset(client.transport)
            if broker is not None and broker.state != CLOSED:
                # With a spool it is in there by now, and may come twice; but not all that waits may be spooled.
                broker.flush()
                broker.state = CLOSED
                if broker.transport.get_write_buffer_size():
                    broker.transport.abort()
                else:
                    broker.transport.close()  # a reset could cost what the broker has not read yet

    def log_end(self) -> None:
        """Say that a client has gone that was let in."""
        session = self._session
        handshake = session.handshake
        logger.info(
            "an AMQP client has gone",
            extra={
                "upstream": session.listener.name,
                "client": session.peer,
                "product": handshake.product,
                "user": handshake.user,
                "vhost": handshake.vhost,
                "seconds": round(session.listener.clock() - session.started, 3),
            },
        )

    # -- time ----------------------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        session = self._session
        if session.phase == ENDED:
            return
        now = session.listener.clock()
        if session.stage == DIALLING:
            session.check_timer(now)
            return
        timer = self.timer
        if timer.is_over(now):
            self._too_late()
        if session.phase != ENDED and timer.beats(now):
            self._beat()
        if session.phase != ENDED:
            timer.arm()

    def _too_late(self) -> None:
        """What should have ended by itself has not; unless it is only read slowly."""
        session = self._session
        left, before = session.undelivered(), session.undrained
        session.undrained = left
        if left < before or (left and not before):
            self.timer.end_in(CLOSE_SECONDS)
            return
        broker = session.broker
        if broker is not None and broker.state != CLOSED and session.stage == RUNNING:
            if broker.state == OPEN and session.busy:
                # The client did not answer its close; what is held of it still goes.
                self.timer.take_time()
                session.client.state = CLOSED
                reset(session.client.transport)
                return
            if session.amqp_stats.blocked:
                # The broker reads nothing until its alarm is over, and what was written to it must not be thrown away.
                self.timer.end_in(CLOSE_SECONDS)
                return
        session.error = session.error or "timeout"
        session.abort()

    def undelivered(self) -> int:
        """Bytes that were written to either side and that it has not read."""
        client, broker = self._session.client, self._session.broker
        left = undelivered(client.transport) if client.state != CLOSED else 0
        if broker is not None and broker.state != CLOSED:
            left += undelivered(broker.transport)
        return left

    def _beat(self) -> None:
        session = self._session
        client, broker = session.client, session.broker
        if client.state == OPEN and not client.beat() and not session.side.client_may_be_silent:
            logger.warning(
                "an AMQP client sends no heartbeats", extra={"upstream": session.listener.name, "client": session.peer}
            )
            client.state = CLOSED
            client.transport.abort()
        if broker is not None and broker.state == OPEN and not broker.beat():
            logger.warning("the broker at %s sends no heartbeats", broker.endpoint.address)
            broker.transport.abort()
