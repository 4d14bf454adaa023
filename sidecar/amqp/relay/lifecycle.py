"""The two connections of a session, a client's and a broker's, and how they end: each for itself.

The broker's outlives the client's as long as something of the client is held, and the client's outlives the broker's
until it has been told why. How they come about is in opening.py, what passes between them in session.py.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.stats import AmqpStats
from sidecar.amqp.relay.connections import CLOSED, CLOSING, OPEN, BrokerConnection, ClientConnection
from sidecar.amqp.relay.heartbeat import SessionTimer
from sidecar.amqp.relay.write_batch import WriteBatch
from sidecar.amqp.wire.constants import CONNECTION_FORCED, REPLY_SUCCESS, AmqpError
from sidecar.amqp.wire.methods import connection_close, connection_close_ok
from sidecar.core.replies import STATUS
from sidecar.exchange.exchange import Exchange
from sidecar.exchange.phases import ENDED, TUNNEL
from sidecar.net.sockets import reset, undelivered

if TYPE_CHECKING:
    from sidecar.amqp.listener import AmqpListener

logger = logging.getLogger("sidecar.amqp")

#: How far a session has come.
GREETING, DIALLING, HANDSHAKE, RUNNING = range(4)

#: Seconds: for a peer to answer a close; and for what is not done then to be cut.
CLOSE_SECONDS: Final = 3.0


class Pair(Exchange):
    """What two connections that belong together have: a stage, deadlines, and an end."""

    __slots__ = (
        "_close_frame", "_linked", "_listener", "_reason", "amqp_stats", "broker", "client", "peer", "stage", "timer",
    )  # fmt: skip

    broker: BrokerConnection | None

    def __init__(self, listener: AmqpListener, client: ClientConnection, peer: str, client_ip: str) -> None:
        Exchange.__init__(self, listener, listener.default_route, client_ip, listener.clock())
        self.method = "AMQP"
        self._listener = listener
        self.amqp_stats: AmqpStats = listener.amqp_stats
        self.client = client
        #: The client's address and port.
        self.peer = peer
        self.broker = None
        self.stage = GREETING
        #: The client's ``connection.close``, as long as something of it is still held.
        self._close_frame = b""
        #: Why it ends, once that is so.
        self._reason = ""
        #: There is a connection to a broker that counts as one.
        self._linked = False
        self.timer = SessionTimer(listener.wheel.timer(self._on_timer), listener.clock)

    # -- writing -------------------------------------------------------------------------------------------------------

    def client_write(self, data: bytes) -> None:
        """Send to the client, if it is there; nothing may follow a close of ours (§2.2.4)."""
        state = self.client.state
        if data and (state == OPEN or (state == CLOSING and not self._reason)):
            self.count_out(len(data))
            self.client.write(data)

    def broker_write(self, data: bytes) -> None:
        """Send to the broker, if it is there."""
        broker = self.broker
        if data and broker is not None:
            broker.write(data)

    def broker_publish(self, data: bytes) -> None:
        """The same for publishes, which may leave together with later ones."""
        broker = self.broker
        if broker is not None:
            broker.write_soon(data)

    def collect(self, broker: BrokerConnection) -> None:
        """Let small publishes leave together, where that is configured."""
        settings = self._listener.config.batch
        if settings is not None:
            listener = self.listener
            broker.batch = WriteBatch(settings.linger, broker.transport.write, listener.clock, listener.loop.call_later)

    def hurry(self) -> None:
        """Nothing is unanswered: whoever publishes waits for no more."""
        broker = self.broker
        if broker is not None and broker.batch is not None:
            broker.batch.hurry()

    def _link(self, linked: bool) -> None:
        """Whether there is a connection to a broker that counts as one."""
        if linked != self._linked:
            self._linked = linked
            self.listener.stats.upstream_active += 1 if linked else -1

    # -- the client goes -----------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """Something of the client is still held."""
        return False

    def _goes(self) -> None:
        """The client does, or has gone; its connection to the broker stays for what is held."""

    def client_closes(self, frame: bytes) -> bytes:
        """``connection.close``: it passes when nothing is held for this client any more."""
        if self._busy():
            self._close_frame = frame
            self._goes()
            return b""
        self.client.state = CLOSING
        if self.broker is not None:
            self.broker.state = CLOSING
        self.timer.end_in(CLOSE_SECONDS)
        return frame

    def client_lost(self) -> None:
        """The client is gone, well or badly."""
        self.listener.left(self.client)
        if self.phase == ENDED:
            return
        broker = self.broker
        if self.stage != RUNNING or broker is None or broker.state == CLOSED:
            self.abort()
            return
        # Whatever its reading waited for, the client no longer is it.
        broker.stops = 0
        broker.resume_reading()
        if broker.state != OPEN:
            self._end_if_over()
        elif self._busy():
            # What it published goes on its way; its connection to the broker stays until then.
            self.timer.take_time()
            self._goes()
        else:
            self._close_broker("the client is gone")

    def _go_on_closing(self) -> None:
        """What the client waits for in closing, or has left behind, may be done by now."""
        if self.phase == ENDED or self._busy():
            return
        if self.client.state != OPEN:
            self._close_broker("the client is gone")
        elif self._close_frame:
            self.broker_write(self.client_closes(self._close_frame))

    def _close_broker(self, reason: str) -> None:
        broker = self.broker
        if broker is not None and broker.state == OPEN:
            broker.write(connection_close(REPLY_SUCCESS, reason))
            broker.state = CLOSING
            self.timer.end_in(CLOSE_SECONDS)

    def broker_closed(self) -> None:
        """``connection.close-ok`` from the broker."""
        self._client_has_closed()
        broker = self.broker
        if broker is not None:
            broker.transport.close()

    def _client_has_closed(self) -> None:
        """If it was the client who wanted to, it has its answer now."""
        if self.client.state == CLOSING and not self._reason:
            self.client_write(connection_close_ok())
            self._reason = "closed"
            self.client.transport.close()

    # -- the broker goes -----------------------------------------------------------------------------------------------

    def broker_closes(self, code: int, text: str, frame: bytes) -> None:
        """``connection.close`` from the broker: it has its answer at once, the client may take its time."""
        broker = self.broker
        assert broker is not None
        broker.write(connection_close_ok())
        broker.state = CLOSING
        broker.transport.close()
        if code == CONNECTION_FORCED:
            self._listener.broker_lost()
        if self.client.state == OPEN:
            self._without_broker(f"{code} {text}")
            self.client_write(frame)
            self._client_is_closing()

    def broker_lost(self, broker: BrokerConnection, error: Exception | None) -> None:
        """The connection to the broker is gone."""
        if broker is not self.broker or self.phase == ENDED:
            return  # one that came too late, or was let go
        if self.client.state == OPEN:
            self.error = "upstream_reset"
            self.status = STATUS[self.error]
            self.listener.cluster.failed(broker.endpoint, hard=False)
            self._listener.broker_lost()
            where = f"the broker at {broker.endpoint.address}"
            self._without_broker("connection lost")
            self.close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {where} closed the connection")
        else:
            self._client_has_closed()  # it waits for a close-ok that will not come
        self._end_if_over()

    def _without_broker(self, reason: str) -> None:
        """Nothing more can be passed on."""
        self._reason = reason
        extra = {"upstream": self.listener.name, "client": self.peer, "reason": reason}
        logger.warning("the broker has closed a connection", extra=extra)

    def close_client(self, code: int, text: str, cause: int = 0) -> None:
        self._reason = self._reason or text
        self.client_write(connection_close(code, text, cause))
        self._client_is_closing()

    def _client_is_closing(self) -> None:
        """It has been told; whatever its reading waited for, its answer is awaited now."""
        client = self.client
        client.state = CLOSING
        client.stops = 0
        client.resume_reading()
        self.timer.end_in(CLOSE_SECONDS)

    # -- we end it -----------------------------------------------------------------------------------------------------

    def fail(self, error: AmqpError) -> None:
        """The client broke the protocol, or may not have what it asks for."""
        if self.client.state != OPEN:
            # It knows, or is gone. What is held of it still goes.
            if not self._busy():
                self.abort()
            return
        logger.warning(
            "an AMQP client was refused",
            extra={"upstream": self.listener.name, "client": self.peer, "reason": str(error)},
        )
        self.error = "bad_request"
        self.status = STATUS[self.error]
        self.close_client(error.code, error.text, error.method)
        if self.stage == RUNNING and not self._busy():
            self._close_broker("the client broke the protocol")
        elif self.stage == RUNNING:
            self._goes()
        elif self.stage == HANDSHAKE and self.broker is not None:
            self.broker.transport.close()

    def shut_down(self, reason: str) -> None:
        """End it politely."""
        if self.stage != RUNNING or self.client.state != OPEN:
            if self.client.state == OPEN:
                self.abort()
            return
        self.close_client(CONNECTION_FORCED, f"CONNECTION_FORCED - {reason}")
        if self._busy():
            self._goes()
        else:
            self._close_broker(reason)

    # -- it is over ----------------------------------------------------------------------------------------------------

    def _end_if_over(self) -> None:
        broker = self.broker
        if self.client.state == CLOSED and (broker is None or broker.state == CLOSED):
            self.end()
            self.timer.close()

    def abort(self) -> None:
        if self.end():
            self.timer.close()
            self.client.state = CLOSED
            reset(self.client.transport)
            broker = self.broker
            if broker is not None and broker.state != CLOSED:
                broker.state = CLOSED
                if broker.transport.get_write_buffer_size():
                    broker.transport.abort()
                else:
                    broker.transport.close()  # a reset could cost what the broker has not read yet

    def end(self) -> bool:
        tunnel = self.phase == TUNNEL
        if not Exchange.end(self):
            return False
        stats = self.listener.stats
        stats.active -= 1
        if tunnel:
            stats.tunnels -= 1
        self._link(False)
        self._listener.see_to_room()
        return True

    # -- time ----------------------------------------------------------------------------------------------------------

    def set_timer(self, deadline: float) -> None:
        self.timer.timer.set(deadline)

    def _on_timer(self) -> None:
        if self.phase == ENDED:
            return
        now = self.listener.clock()
        if self.stage == DIALLING:
            self.check_timer(now)
            return
        if self.timer.is_over(now):
            self._too_late()
        if self.phase != ENDED and self.timer.beats(now):
            self._beat()
        if self.phase != ENDED:
            self.timer.arm()

    def _too_late(self) -> None:
        """What should have ended by itself has not; unless it is only read slowly."""
        left, before = self.undelivered(), self.undrained
        self.undrained = left
        if left < before or (left and not before):
            self.timer.end_in(CLOSE_SECONDS)
            return
        broker = self.broker
        if broker is not None and broker.state != CLOSED and self.stage == RUNNING:
            if broker.state == OPEN and self._busy():
                # The client did not answer its close; what is held of it still goes.
                self.timer.take_time()
                self.client.state = CLOSED
                reset(self.client.transport)
                return
            if self.amqp_stats.blocked:
                # The broker reads nothing until its alarm is over, and what was written to it must not be thrown away.
                self.timer.end_in(CLOSE_SECONDS)
                return
        self.error = self.error or "timeout"
        self.abort()

    def undelivered(self) -> int:
        broker = self.broker
        left = undelivered(self.client.transport) if self.client.state != CLOSED else 0
        if broker is not None and broker.state != CLOSED:
            left += undelivered(broker.transport)
        return left

    @property
    def client_may_be_silent(self) -> bool:
        """The client waits for an answer and sends no heartbeats meanwhile."""
        return False

    def _beat(self) -> None:
        broker = self.broker
        if self.client.state == OPEN and not self.client.beat() and not self.client_may_be_silent:
            logger.warning(
                "an AMQP client sends no heartbeats", extra={"upstream": self.listener.name, "client": self.peer}
            )
            self.client.state = CLOSED
            self.client.transport.abort()
        if broker is not None and broker.state == OPEN and not broker.beat():
            logger.warning("the broker at %s sends no heartbeats", broker.endpoint.address)
            broker.transport.abort()
