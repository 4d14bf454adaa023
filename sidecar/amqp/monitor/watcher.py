"""Keeps an eye on the broker: how deep the watched queues are, and whether it has raised an alarm.

Both are asked for over connections of the sidecar's own. A queue's depth is what a passive ``queue.declare`` answers
(§1.7.2.1: the number of messages that are ready), on a channel for each queue, because a queue that is missing costs
the channel. The alarm has a connection to itself: RabbitMQ says ``connection.blocked`` only to a connection that
publishes, and then reads nothing from it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from sidecar.amqp.flow.policy import Policy
from sidecar.amqp.monitor.connection import Addresses, MonitorConnection, TroubleLog, describe, end, quieten
from sidecar.amqp.monitor.management_api import ManagementApi
from sidecar.amqp.monitor.queue_watch import ANSWER_SECONDS, UNKNOWN_AFTER, Key, QueueWatch, cancelled
from sidecar.core.amqp_settings import Amqp, AmqpCredentials

if TYPE_CHECKING:
    from aio_pika import Connection

#: Questions per second that all queues of a port which are not urgent may cost together; with more queues each of them
#: is asked for less often. (A question costs the sidecar about 0.1 ms of CPU.)
MAX_QUESTIONS: Final = 200.0
#: How soon the alarm probe is tried again that may not publish, seconds.
REFUSED_AGAIN: Final = 60.0

#: Where the probe's messages go: to a queue that does not exist, so nowhere.
PROBE_KEY: Final = "sidecar.alarm-probe"
PROBE: Final = "the alarm probe"


class Watcher:
    """Watches one upstream's broker, if there are ``credentials``: feeds the policy's depth gates and, with a
    management API, its topology, and tells ``on_alarm`` when the broker raises an alarm and when it ends it.
    ``addresses`` are the broker's endpoints at present; ``clock`` is the loop's. It needs
    aio-pika (:func:`~sidecar.amqp.monitor.connection.missing_library`)."""

    def __init__(
        self, name: str, config: Amqp, policy: Policy, addresses: Addresses, clock: Callable[[], float],
        on_alarm: Callable[[bool], None],
    ) -> None:  # fmt: skip
        self._name = name
        self._config = config
        self._policy = policy
        self._addresses = addresses
        self._clock = clock
        self._on_alarm = on_alarm
        self._started = False
        self._report = TroubleLog(name, clock)
        self._links: dict[str, MonitorConnection] = {}
        self._queues: dict[Key, QueueWatch] = {}
        self._probe: AlarmProbe | None = None
        self._alarmed = False
        self._management: ManagementApi | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def interval(self) -> float:
        """How often a queue that is not urgent is asked for, seconds."""
        return max(self._config.watch_interval, len(self._queues) / MAX_QUESTIONS)

    @property
    def pause(self) -> float:
        """The configured time between two questions, seconds."""
        return self._config.watch_interval

    def start(self) -> None:
        self._started = True
        quieten()
        self._adjust()

    def update(self, config: Amqp) -> None:
        """Another configuration; the policy has it already."""
        if config.credentials != self._config.credentials:
            self._stop()
        self._config = config
        if self._started:
            self._adjust()

    async def close(self) -> None:
        self._started = False
        self._stop()
        if self._ending:
            await asyncio.wait(self._ending)

    def _adjust(self) -> None:
        """Begin what is missing, end what is not wanted any more."""
        config = self._config
        credentials = config.credentials
        if credentials is None:
            self._stop()
            return
        wanted = {(queue.vhost, queue.name) for queue in config.queues}
        for key in [key for key in self._queues if key not in wanted]:
            self._end(self._queues.pop(key).close())
        vhosts = {vhost for vhost, _ in wanted}
        for vhost in [vhost for vhost in self._links if vhost not in vhosts]:
            self._end(self._links.pop(vhost).close())
        for key in sorted(wanted):
            vhost = key[0]
            if vhost not in self._links:
                self._links[vhost] = self._link(f"watching the queues of vhost {vhost}", vhost, credentials)
            watch = self._queues.get(key)
            if watch is None:
                watch = self._queues[key] = QueueWatch(self, self._links[vhost], key)
            gate = self._policy.depth_gates.get(key)
            if gate is not None:
                gate.on_urgent = watch.hurry
        self._adjust_probe(credentials)
        self._adjust_management(credentials, tuple(sorted(vhosts)))

    def _adjust_probe(self, credentials: AmqpCredentials) -> None:
        config = self._config
        vhost = config.queues[0].vhost if config.queues else config.vhosts[0] if config.vhosts else "/"
        if self._probe is not None and self._probe.vhost != vhost:
            self._stop_probe()
        if self._probe is None:
            self._probe = AlarmProbe(self, self._link("watching for alarms", vhost, credentials))

    def _adjust_management(self, credentials: AmqpCredentials, vhosts: tuple[str, ...]) -> None:
        url = self._config.management
        if self._management is not None and (self._management.url, self._management.vhosts) != (url, vhosts):
            self._end(self._management.close())
            self._management = None
        if self._management is None and url and vhosts:
            self._management = ManagementApi(url, credentials, vhosts, self._policy.bindings, self._report)

    def _link(self, source: str, vhost: str, credentials: AmqpCredentials) -> MonitorConnection:
        return MonitorConnection(source, vhost, credentials, self._addresses, self._report, self._clock)

    def _stop(self) -> None:
        """End everything."""
        for watch in self._queues.values():
            self._end(watch.close())
        self._queues.clear()
        self._stop_probe()
        if self._management is not None:
            self._end(self._management.close())
            self._management = None
        for link in self._links.values():
            self._end(link.close())
        self._links.clear()

    def _stop_probe(self) -> None:
        probe = self._probe
        if probe is not None:
            self.alarm(probe, False)
            self._probe = None
            self._end(probe.close())

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def declared(self, vhost: str, queue: str) -> None:
        """A client has declared this queue, so it is worth asking for if it was missing."""
        watch = self._queues.get((vhost, queue))
        if watch is not None:
            watch.there()

    # -- what comes out

    def sampled(self, key: Key, depth: int, consumers: int, asked_at: float) -> bool:
        """A queue's depth; whether it should be asked for soon again."""
        gate = self._policy.depth_gates.get(key)
        if gate is None:
            return False
        gate.sampled(depth, consumers, asked_at, self._clock())
        return gate.urgent

    def unknown(self, key: Key, problem: str) -> None:
        gate = self._policy.depth_gates.get(key)
        if gate is not None:
            gate.unknown(problem, self._clock())

    def alarm(self, probe: AlarmProbe, on: bool) -> None:
        """What the probe has found; one that is being ended has no say any more."""
        if probe is self._probe and on != self._alarmed:
            self._alarmed = on
            self._on_alarm(on)

    @property
    def report(self) -> TroubleLog:
        return self._report

    def now(self) -> float:
        return self._clock()


class AlarmProbe:
    """Finds out about the broker's alarms: publishes an empty message that leads nowhere, now and then, and sees
    whether the broker blocks that."""

    def __init__(self, watcher: Watcher, link: MonitorConnection) -> None:
        self._watcher = watcher
        self._link = link
        self._task = asyncio.create_task(self._run(), name="amqp alarm probe")

    @property
    def vhost(self) -> str:
        return self._link.vhost

    async def close(self) -> None:
        await end(self._task)
        self._watcher.report.gone(PROBE)
        await self._link.close()

    async def _run(self) -> None:
        from aiormq.exceptions import ChannelAccessRefused

        while True:
            connection = await self._connection()
            try:
                await self._probe(connection)
            except asyncio.CancelledError:
                if cancelled():
                    raise
                self._link.drop(connection, ConnectionError("it was closed"))
            except ChannelAccessRefused as error:
                self._watcher.alarm(self, False)
                self._watcher.report.bad(
                    PROBE, "refused", f"may not publish to the default exchange, so alarms are seen only by "
                    f"the connections of clients: {describe(error)}",
                )  # fmt: skip
                await asyncio.sleep(REFUSED_AGAIN)
            except Exception as error:
                self._link.drop(connection, error)

    async def _connection(self) -> Connection:
        """Wait for one. Without, nobody would tell the end of an alarm, so it does not last."""
        try:
            async with asyncio.timeout(UNKNOWN_AFTER):
                return await self._link.connection()
        except TimeoutError:
            self._watcher.alarm(self, False)
            return await self._link.connection()

    async def _probe(self, connection: Connection) -> None:
        from aio_pika import DeliveryMode, Message

        message = Message(b"", delivery_mode=DeliveryMode.NOT_PERSISTENT)
        async with asyncio.timeout(ANSWER_SECONDS):
            channel = await connection.channel(publisher_confirms=True)
        while True:
            try:
                # The confirm comes after connection.blocked. Without a body it comes all the same: RabbitMQ stops
                # reading behind the content header that it blocks.
                await channel.default_exchange.publish(message, PROBE_KEY, mandatory=False, timeout=ANSWER_SECONDS)
            except TimeoutError:
                if not self._link.blocked(connection):
                    raise
            self._watcher.report.good(PROBE)
            if self._link.blocked(connection):
                self._watcher.alarm(self, True)
                await self._link.unblocked(connection)
                if self._link.blocked(connection):
                    return
            self._watcher.alarm(self, False)
            await asyncio.sleep(self._watcher.pause)
