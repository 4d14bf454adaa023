"""What one message costs in Python alone, without sockets: :mod:`bench.hotpath`'s AMQP half.

A session of the real listener, past its handshake; the load comes in portions as a busy socket hands them out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import pack
from typing import NamedTuple

from bench.amqp import wire
from bench.amqp.cases import BODY_BYTES, EXCHANGE, PREFETCH, ROUTING_KEY
from bench.contenders import RATE
from bench.hotpath import Loop, Sink, make_listener, time_runs
from sidecar.amqp.listener import AmqpListener
from sidecar.amqp.relay.connections import BrokerConnection, ClientConnection
from sidecar.amqp.wire import constants
from sidecar.config.traffic import StaticEndpoint, Upstream
from sidecar.core.address import Address
from sidecar.core.amqp_settings import Amqp, AmqpPublish

#: Messages in what one reading of a socket gives.
PORTIONS = (1, 40)
#: What one connection reads, and what the other then does.
Portions = list[tuple[bytes, bytes]]


class Kind(NamedTuple):
    """``prepare(n)`` makes what is read of n messages that come ``portion`` at a time, and ``run`` reads it."""

    name: str
    portion: int
    prepare: Callable[[int], Portions]
    run: Callable[[Portions], None]


async def measure_amqp(messages: int, profile: bool, telemetry: bool = False) -> None:
    count = messages // 5 // max(PORTIONS) * max(PORTIONS) * 5
    kinds, check = await session(telemetry)
    for name, portion, prepare, run in kinds:
        time_runs(name, prepare, run, count, profile and portion == PORTIONS[-1])
    check()


async def session(telemetry: bool = False) -> tuple[list[Kind], Callable[[], None]]:
    """The kinds of messages that are measured, over one session; and what fails unless all were relayed."""
    loop = Loop()
    upstream = Upstream(
        name="rabbitmq",
        bind=Address("127.0.0.1", 0),
        protocol="amqp",
        endpoints=(StaticEndpoint(address=Address("127.0.0.1", 1)),),
        amqp=Amqp(publish=(AmqpPublish(exchange=EXCHANGE, rate=RATE, burst=RATE),)),
    )
    listener = make_listener(loop, upstream, telemetry)
    assert isinstance(listener, AmqpListener)
    client = ClientConnection(listener)
    client.connection_made(Sink())
    client.data_received(constants.PROTOCOL_HEADER)
    broker: BrokerConnection = await loop.upstream
    _shake_hands(client, broker)
    body = b"x" * BODY_BYTES
    sent = delivered = 0

    def publishes(said: bytes, portion: int, n: int) -> Portions:
        """Publishes, each with its confirm."""
        nonlocal sent
        first, sent = sent + 1, sent + n
        return [(said, acks(tag, tag + portion)) for tag in range(first, sent + 1, portion)]

    def publishes_with_one_confirm(said: bytes, portion: int, n: int) -> Portions:
        """The same; one confirm is for a whole portion."""
        nonlocal sent
        first, sent = sent + 1, sent + n
        return [(said, wire.ack(tag + portion - 1, multiple=True)) for tag in range(first, sent + 1, portion)]

    def deliveries(portion: int, n: int) -> Portions:
        """Deliveries, each with its ack."""
        nonlocal delivered
        first, delivered = delivered + 1, delivered + n
        return [(deliver(tag, tag + portion), acks(tag, tag + portion)) for tag in range(first, delivered + 1, portion)]

    def acks(first: int, end: int) -> bytes:
        return b"".join([wire.ack(tag) for tag in range(first, end)])

    def deliver(first: int, end: int) -> bytes:
        return b"".join([wire.deliver("bench", tag, body) for tag in range(first, end)])

    def from_client(portions: Portions) -> None:
        for said, answered in portions:
            client.data_received(said)
            broker.data_received(answered)

    def from_broker(portions: Portions) -> None:
        for said, answered in portions:
            broker.data_received(said)
            client.data_received(answered)

    def check() -> None:
        stats = listener.amqp_stats
        exchange = stats.exchange("/", EXCHANGE)
        assert exchange.published == exchange.forwarded == exchange.confirmed == sent, "not every publish was confirmed"
        assert stats.delivered == delivered, "not every delivery was counted"
        assert stats.unacked == 0, "not every ack was counted"

    kinds = []
    for portion in PORTIONS:
        said = wire.publish(EXCHANGE, ROUTING_KEY, body) * portion
        kinds += [
            Kind(f"{name}, {portion} at a time", portion, partial(prepare, portion), run)
            for name, prepare, run in (
                ("publish and confirm", partial(publishes, said), from_client),
                ("publish, one confirm for all", partial(publishes_with_one_confirm, said), from_client),
                ("delivery and ack", deliveries, from_broker),
            )
        ]
    return kinds, check


def _shake_hands(client: ClientConnection, broker: BrokerConnection) -> None:
    """To an open channel in confirm mode with a consumer."""
    mechanisms = pack(">BB", 0, 9) + wire.long(b"") + wire.long(b"PLAIN") + wire.long(b"en_US")
    broker.data_received(wire.method(constants.CONNECTION_START, 0, mechanisms))
    client.data_received(wire.start_ok("guest", "guest"))
    broker.data_received(wire.method(constants.CONNECTION_TUNE, 0, pack(">HIH", 2047, 131_072, 60)))
    client.data_received(wire.tune_ok(2047, 131_072) + wire.open_vhost("/"))
    broker.data_received(wire.method(constants.CONNECTION_OPEN_OK, 0, wire.short("")))
    client.data_received(wire.open_channel())
    broker.data_received(wire.method(constants.CHANNEL_OPEN_OK, wire.CHANNEL, wire.long(b"")))
    client.data_received(wire.confirm_select())
    broker.data_received(wire.method(constants.CONFIRM_SELECT_OK, wire.CHANNEL))
    client.data_received(wire.qos(PREFETCH))
    broker.data_received(wire.method(constants.BASIC_QOS_OK, wire.CHANNEL))
    client.data_received(wire.consume("bench", "bench"))
    broker.data_received(wire.method(constants.BASIC_CONSUME_OK, wire.CHANNEL, wire.short("bench")))
