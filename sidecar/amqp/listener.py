"""An AMQP port: its sessions, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.admission import DRAINING, NO_BROKER, OVERLOADED, Admission
from sidecar.amqp.broker_probe import BrokerProbe
from sidecar.amqp.flow.batches import Looks
from sidecar.amqp.flow.policy import Policy
from sidecar.amqp.flow.scheduler import Scheduler
from sidecar.amqp.flow.stats import AmqpStats
from sidecar.amqp.relay.connections import HOLD_FULL, ClientConnection
from sidecar.amqp.relay.opening import NO_BROKER_CODES
from sidecar.amqp.relay.session import Session
from sidecar.amqp.relay.session_state import DIALLING, GREETING, Port, SessionState
from sidecar.amqp.topology.ephemeral import EphemeralQueues
from sidecar.core.amqp_settings import Amqp
from sidecar.exchange.listener import Connection, Listener
from sidecar.resilience.breaker import OPEN as BREAKER_OPEN

if TYPE_CHECKING:
    from random import Random

    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.monitor.watcher import Watcher
    from sidecar.amqp.store_and_forward import StoreAndForward
    from sidecar.amqp.views.protocols import SessionView
    from sidecar.core.replies import Reply
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.net.wheel import Timer
    from sidecar.resilience.breaker import CircuitBreaker
    from sidecar.resilience.limiter import Limiter
    from sidecar.storage.files import Files

#: Seconds between two looks at what has no event of its own: breakers that deliveries wait for, clients that were not
#: read from for long.
TICK: Final = 0.25
#: Seconds without being read from after which a client is told.
PATIENCE: Final = 1.0
#: Seconds for which a client has said nothing, before it is sent away: one that still publishes would lose messages.
QUIET: Final = 0.5


class AmqpListener(Port):
    """A port that speaks AMQP. The assembly sets ``tracing`` and calls :meth:`configure`."""

    def set_up(self, config: Amqp, tracing: MessageTracing, rng: Random) -> None:
        """Once, before anything else. Raises :class:`sidecar.storage.errors.SpoolError` when the spool cannot be
        used."""
        self.config = config
        self.tracing = tracing
        self.rng = rng
        self.amqp_stats = AmqpStats()
        self.policy = Policy(config, self.amqp_stats, self.clock)
        self.looks = Looks(self.loop.call_later)
        self.scheduler = Scheduler(config.hold, self.amqp_stats, self.clock, self.loop.call_at)
        self.scheduler.on_room = self._on_room
        #: Those that have come through their handshake.
        self.sessions: dict[Session, None] = {}
        self.ephemeral = EphemeralQueues()
        self.stopped = {}
        #: Who knows of an alarm of the broker: sessions, the watcher, the replay.
        self._alarmed: dict[SessionState | str, None] = {}
        self.paused = self.work_is_over = False
        self._app_is_well = True
        #: The breakers whose being open pauses deliveries; set by the agent.
        self.pause_on: Callable[[], Sequence[CircuitBreaker]] = _nobody
        self._watcher: Watcher | None = None
        #: With a spool: that, and all that belongs to it.
        self.port: StoreAndForward | None = self._spool_port(config)
        self._timer: Timer = self.wheel.timer(self._tick)
        self.admission = Admission(self.name, self._acceptor, self.clock)
        self.probe = BrokerProbe(self)
        #: Of the bulkhead; ``None``: there is none.
        self._limiter: Limiter | None = None

    def _spool_port(self, config: Amqp) -> StoreAndForward | None:
        if config.spool is None:
            return None
        from sidecar.amqp.store_and_forward import StoreAndForward

        return StoreAndForward(
            self.name,
            config,
            config.spool,
            stats=self.amqp_stats,
            scheduler=self.scheduler,
            policy=self.policy,
            addresses=self._addresses,
            loop=self.loop,
            wheel=self.wheel,
            clock=self.clock,
            on_alarm=self._alarm_of_dispatcher,
            tracing=self.tracing,
        )

    def configure(self, config: Amqp, limiter: Limiter | None) -> None:
        """Another configuration, for what comes from now on. ``limiter`` bounds the connections, if anything does."""
        self._limiter = limiter
        self.see_to_room()
        if config == self.config:
            return
        self.config = config
        self.policy.update(config)
        self.scheduler.configure(config.hold)
        self.scheduler.wake()
        if self.port is not None:
            self.port.configure(config)
        if self._watcher is not None:
            self._watcher.update(config)
        self._look_after_watcher()

    def protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, ClientConnection(self))

    def accept(self, client: ClientConnection, peer: str, client_ip: str) -> None:
        client.session = self._session(client, peer, client_ip)
        client.session.opening.start()
        if self._timer.deadline == float("inf"):
            self._timer.set(self.clock() + TICK)

    def _session(self, client: ClientConnection, peer: str, client_ip: str) -> Session:
        session = Session(self, client, peer, client_ip)
        if self.port is not None:
            from sidecar.amqp.failover.session import Failover

            session.side = Failover(session, self.port, self.rng).attached
        return session

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Connections to it stay: the broker ends them when it goes."""

    def _make_room(self, rest: float = 0.0) -> bool:
        return False  # a consumer that has nothing to do is not idle in the sense meant there

    def opened(self, session: SessionState) -> None:
        assert isinstance(session, Session)
        self.sessions[session] = None

    def forget(self, session: SessionState) -> None:
        if isinstance(session, Session):
            self.sessions.pop(session, None)
        self.stopped.pop(session, None)
        if session in self._alarmed:
            self.alarm(session, False)

    @property
    def files(self) -> Sequence[Files]:
        return () if self.port is None else (self.port.spool.files,)

    async def start(self) -> None:
        if self.port is not None:
            self.port.start()
        await Listener.start(self)
        if self.port is None:
            self.probe.watch()
        self._look_after_watcher()
        self._timer.set(self.clock() + TICK)

    def _look_after_watcher(self) -> None:
        if self._watcher is None and self.config.credentials is not None and self._acceptor.sockets:
            from sidecar.amqp.monitor.watcher import Watcher

            self._watcher = Watcher(
                self.name, self.config, self.policy, self._addresses, self.clock, self._alarm_of_watcher
            )
            self._watcher.start()

    def queue_declared(self, vhost: str, queue: str) -> None:
        if self._watcher is not None:
            self._watcher.declared(vhost, queue)

    def _addresses(self) -> Sequence[tuple[str, int]]:
        return [(endpoint.host, endpoint.port) for endpoint in self.cluster.eligible]

    # -- who comes in --------------------------------------------------------------------------------------------------

    def enter(self, connection: Connection) -> bool:
        entered = Listener.enter(self, connection)
        self.see_to_room()
        return entered

    def left(self, connection: Connection) -> None:
        Listener.left(self, connection)
        self.see_to_room()

    def see_to_room(self) -> None:
        limiter = self._limiter
        if limiter is not None and limiter.full:
            self.admission.shut(OVERLOADED, f"all {limiter.active} places are taken: bulkhead.max_connections")
        elif self.limits.connections and len(self._connections) >= self.limits.connections:
            self.admission.shut(OVERLOADED, f"all {len(self._connections)} places are taken: limits.connections")
        else:
            self.admission.open(OVERLOADED)

    def turned_away(self, reply: Reply) -> None:
        if self.draining or reply.code not in NO_BROKER_CODES:
            return
        if reply.code != "circuit_open":
            if self.port is not None:
                return  # whoever comes next tries again, or a client that looks for its broker has found it
            if any(not (endpoint.ejected_until or endpoint.down) for endpoint in self.cluster.endpoints):
                return  # there are others
        if self.port is None:
            self.admission.shut(NO_BROKER, reply.message)
        self.probe.look()

    def broker_lost(self) -> None:
        if self.port is None and not self.draining:
            self.probe.look()

    def broker_missing(self) -> None:
        if self.port is None:
            self.admission.shut(NO_BROKER, f"no broker of {self.name} can be reached")

    def broker_found(self, endpoint: Endpoint) -> bool:
        """A connection to a broker stands: nobody need wait for the breaker's time, or an ejection's, to be over.
        ``False``: an operator wants it to be refused all the same."""
        self.cluster.succeeded(endpoint)
        for breaker in self.breakers:
            if breaker.forced == "open":
                return False
            breaker.recovered()
        self.probe.rest()
        self.admission.open(NO_BROKER)
        return True

    # -- holding -------------------------------------------------------------------------------------------------------

    def alarm(self, source: SessionState | str, on: bool) -> None:
        """Somebody has learnt that the broker takes no publishes (or does again). As long as one says so, nothing is
        published: a connection that the broker has not blocked yet lets its consumers' acknowledgements flow."""
        if on:
            self._alarmed[source] = None
        else:
            self._alarmed.pop(source, None)
        self.scheduler.alarm(bool(self._alarmed), self.clock())
        if not self._alarmed:
            for session in self.sessions:
                if session not in self.stopped:
                    session.tell_unblocked()

    def _alarm_of_watcher(self, on: bool) -> None:
        self.alarm("watcher", on)

    def _alarm_of_dispatcher(self, on: bool) -> None:
        self.alarm("replay", on)

    def _on_room(self) -> None:
        for session in list(self.stopped):
            self._let_go(session)

    def _let_go(self, session: SessionState) -> None:
        """There is room for what it publishes."""
        self.stopped.pop(session, None)
        session.client.go(HOLD_FULL)
        if not self._alarmed:
            session.tell_unblocked()

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def app_health(self, well: bool) -> None:
        self._app_is_well = well
        self._see_to_deliveries()

    def follow_breakers(self, breakers: Callable[[], Sequence[CircuitBreaker]]) -> None:
        self.pause_on = breakers

    def _see_to_deliveries(self) -> None:
        stall = not self._app_is_well or any(breaker.state == BREAKER_OPEN for breaker in self.pause_on())
        if stall != self.paused:
            self.paused = stall
            for session in list(self.sessions):
                session.consumer_pause.switch(stall)

    def stop_work(self) -> None:
        self.work_is_over = True
        for session in list(self.sessions):
            session.stop_work()

    # -- time and the end ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._see_to_deliveries()
        now = self.clock()
        if self.paused:
            for session in list(self.sessions):
                session.consumer_pause.look(now, self.config.pause_keep)
        for waiting, (since, gate) in list(self.stopped.items()):
            if not self.scheduler.crowded(gate):  # there may be no room for others for long
                self._let_go(waiting)
            elif now - since >= PATIENCE:
                waiting.tell_blocked("held back by the sidecar: too much is waiting")
        if self.port is not None:
            self.port.look()
            for session in list(self.sessions):
                session.side.look(now)
        if self.stats.active or self.port is not None:
            self._timer.set(now + TICK)

    def drain(self) -> None:
        self.draining = True
        self.probe.close()
        self.admission.shut(DRAINING, "the sidecar is shutting down")
        for connection in list(self._connections):
            if isinstance(connection, ClientConnection) and connection.session.stage in (GREETING, DIALLING):
                # Later in its handshake, it would take that for an answer to it.
                connection.session.hang_up("draining")

    async def drained(self) -> None:
        """Returns when every client is gone; each one is sent away as soon as that loses nothing."""
        while self.stats.active:  # as in the base class: no event is worth its price here
            latest = self.clock() - QUIET
            for session in list(self.sessions):
                if session.idle and session.touched <= latest:
                    session.shut_down("the sidecar is shutting down")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await watcher.close()
        await Listener.stop(self)
        self.probe.close()
        self._timer.close()
        if self.port is not None:
            await self.port.close()

    # -- what the admin API sees ---------------------------------------------------------------------------------------

    @property
    def amqp_view(self) -> View:
        return View(self)


class View:
    """Implements :class:`sidecar.amqp.views.protocols.AmqpView`."""

    def __init__(self, listener: AmqpListener) -> None:
        self._listener = listener

    @property
    def stats(self) -> AmqpStats:
        return self._listener.amqp_stats

    @property
    def spool(self) -> StoreAndForward | None:
        return self._listener.port

    @property
    def held_bytes(self) -> int:
        return self._listener.scheduler.bytes

    @property
    def unkeyed(self) -> Mapping[str, int]:
        exchanges = self._listener.policy.partitions.exchanges
        return {name: partition.without for name, partition in exchanges.items()}

    @property
    def refusing(self) -> Mapping[str, str]:
        return self._listener.admission.reasons

    @property
    def stalled(self) -> bool:
        return self._listener.paused

    def holding(self) -> list[tuple[str, int]]:
        return self._listener.scheduler.waiting()

    def sessions(self) -> list[SessionView]:
        from sidecar.amqp.views.protocols import SessionView

        now = self._listener.clock()
        return [
            SessionView(
                client=session.peer,
                product=session.handshake.product,
                user=session.handshake.user,
                vhost=session.vhost,
                endpoint=session.broker.endpoint.address if session.broker is not None else "",
                since=round(now - session.started, 3),
                channels=len(session.channels),
                consumers=sum(len(channel.consumers) for channel in session.channels.values()),
                unacked=sum(channel.unacked.count for channel in session.channels.values()),
                held=sum(channel.path.held for channel in session.channels.values()),
                blocked=session.told_blocked,
                stalled=sum(len(channel.paused) for channel in session.channels.values()),
            )
            for session in self._listener.sessions
        ]


def _nobody() -> Sequence[CircuitBreaker]:
    return ()
