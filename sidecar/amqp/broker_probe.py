"""Finds out whether there is a broker, instead of waiting for a client to find out.

While none could be had, all endpoints are asked again and again, at most a second or so apart; and once, when a broker
has gone under a client. Asked is by the protocol header, and a broker is what answers with ``connection.start``
(AMQP 0-9-1 §4.2.2): ports that take connections and do no more (a load balancer's, those of a broker that stands still)
are none.

As long as no client is connected, nobody would notice that the broker goes. So now and then a connection is made, and
closed at once: of that, RabbitMQ takes no notice in its log.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final, cast

from sidecar.amqp.wire.constants import CONNECTION_START, METHOD, PROTOCOL_HEADER
from sidecar.amqp.wire.methods import method_of
from sidecar.net.causes import CAUSES, cause_of, words_for
from sidecar.net.dial import dial
from sidecar.net.shortage import SHORTAGE, is_local

if TYPE_CHECKING:
    from sidecar.amqp.relay.session_state import Port
    from sidecar.endpoints.endpoint import Endpoint

#: Seconds between two rounds: the first pause, and the longest. Each is stretched or shortened by up to half, so that
#: the sidecars that lost a broker together do not all come back to it together.
FIRST: Final = 0.1
LONGEST: Final = 0.8
#: Seconds between two glances while no client is connected, about, and before the first.
IDLE: Final = 3.0
SOON: Final = 0.1
#: The most endpoints that are asked at once.
MOST: Final = 8
#: Bytes of an answer that are enough to know it: up to the method's number, and one more.
_ENOUGH: Final = 12


class BrokerProbe:
    """One port's. That is told by ``broker_found(endpoint)`` or, after each round without an answer,
    ``broker_missing()``; then there is another round."""

    __slots__ = ("_calls", "_idle", "_pause", "_port", "_silent", "_timer", "_unsure")

    def __init__(self, port: Port) -> None:
        self._port = port
        #: Those of this round whose answer is not there yet.
        self._calls: set[ProbeConnection] = set()
        #: They are a glance.
        self._silent = False
        #: This host lacked something to ask with.
        self._unsure = False
        self._pause = FIRST
        self._timer = port.wheel.timer(self._on_timer)
        self._idle = port.wheel.timer(self._glance)

    def watch(self) -> None:
        """From now on, find out that there is none even when no client is connected."""
        self._idle.set(self._port.clock() + SOON)

    def _glance(self) -> None:
        port = self._port
        resting = not self._calls and self._timer.deadline == inf
        if resting and not port.stats.upstream_active and port.cluster.endpoints:
            self._ask(silent=True)
        self._idle.set(port.clock() + IDLE * port.rng.uniform(0.5, 1.5))

    def look(self) -> None:
        """Begin, unless that has been done. A glance is not enough: it would end well without a broker."""
        if self._calls and self._silent:
            self._hang_up()
        elif self._calls or self._timer.deadline != inf:
            return
        self._ask()

    def rest(self) -> None:
        """There is a broker."""
        self._timer.cancel()
        self._pause = FIRST
        self._hang_up()

    def close(self) -> None:
        """Never look again."""
        self.rest()
        self._timer.close()
        self._idle.close()

    def _ask(self, silent: bool = False) -> None:
        port = self._port
        endpoints = port.cluster.endpoints
        if len(endpoints) > MOST:
            endpoints = tuple(port.rng.sample(endpoints, MOST))
        self._unsure = False
        self._silent = silent
        self._calls = {ProbeConnection(self, endpoint, silent) for endpoint in endpoints}
        if not self._calls:
            self._in_vain()
            return
        self._timer.set(port.clock() + port.chain.timeout.connect)
        for call in list(self._calls):
            call.begin(port.loop)

    def _on_timer(self) -> None:
        if self._calls:
            for call in self._calls:
                cause = "no_answer" if call.connected else "timeout"
                self._port.cluster.remember(call.endpoint, cause, CAUSES[cause])
            self._hang_up()
            self._in_vain()
        else:
            self._ask()

    def answered(self, call: ProbeConnection) -> None:
        """It is a broker; or silent, and takes connections."""
        if call not in self._calls:
            return
        if call.silent:
            self.rest()
        elif not self._port.broker_found(call.endpoint):
            self._hang_up()
            self._wait()

    def failed(self, call: ProbeConnection, error: OSError | None = None) -> None:
        """It is none, or cannot be reached."""
        if call not in self._calls:
            return
        self._calls.remove(call)
        call.end()
        if error is not None:
            self._port.cluster.remember(call.endpoint, cause_of(error), words_for(error))
        elif not call.silent:
            self._port.cluster.remember(call.endpoint, "malformed", "it takes connections, and speaks no AMQP")
        if error is not None and is_local(error):
            SHORTAGE.met(error)
            self._unsure = True
        if not self._calls:
            self._in_vain()

    def _in_vain(self) -> None:
        if not self._unsure:
            self._port.broker_missing()
        self._wait()

    def _wait(self) -> None:
        port = self._port
        self._timer.set(port.clock() + self._pause * port.rng.uniform(0.5, 1.5))
        self._pause = min(2 * self._pause, LONGEST)

    def _hang_up(self) -> None:
        calls, self._calls = self._calls, set()
        self._silent = False
        for call in calls:
            call.end()


class ProbeConnection(asyncio.Protocol):
    """A connection to an endpoint, to hear whether a broker is there; a ``silent`` one, to see whether anybody is."""

    def __init__(self, probe: BrokerProbe, endpoint: Endpoint, silent: bool) -> None:
        self._probe = probe
        self.endpoint = endpoint
        self.silent = silent
        self._connecting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._said = b""

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._connecting = loop.create_task(self._connect(loop))

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await dial(loop, self, self.endpoint)
        except OSError as error:
            self._connecting = None
            self._probe.failed(self, error)

    @property
    def connected(self) -> bool:
        """Somebody has taken the connection."""
        return self._transport is not None

    def end(self) -> None:
        if self._transport is not None:
            self._transport.close()
        elif self._connecting is not None:
            self._connecting.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.silent:
            self._probe.answered(self)
        else:
            self._transport.write(PROTOCOL_HEADER)

    def data_received(self, data: bytes) -> None:
        self._said = said = self._said + data
        if len(said) < _ENOUGH:
            return
        if said[0] == METHOD and method_of(said, 0, _ENOUGH) == CONNECTION_START:
            self._probe.answered(self)
        else:
            self._probe.failed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._probe.failed(self)
