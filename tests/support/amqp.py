"""An AMQP port without sockets, for tests that read like a dialogue.

    stage = Stage()
    client, broker = stage.open()
    client.says(channel_open(1))
    broker.gets(channel_open(1))
    broker.says(channel_open_ok(1))
    client.gets(channel_open_ok(1))
    stage.over()

Both peers are played by the test; the listener, its sessions and its legs are the real ones, on transports, a loop and
a clock of the test's own. Nothing happens but what a test does, and all of it at once. :meth:`Stage.over` sends
everybody away and finds that nothing is left. What is built and read here is written anew from the specification: it
shares no code with what it tests.
"""

from __future__ import annotations

import asyncio
import logging
import random
from struct import pack, unpack_from
from typing import Any, cast

from sidecar.agent.assembly import Context, create_listener
from sidecar.amqp.broker_probe import ProbeConnection
from sidecar.amqp.listener import AmqpListener
from sidecar.config.agent import Tracing
from sidecar.core.address import Address
from sidecar.core.amqp_settings import Amqp, AmqpPrefetch
from sidecar.core.instance import Instance
from sidecar.core.records import AccessLog
from sidecar.net.wheel import TimerWheel
from support import loop
from support.loop import FakeLoop, FakeTransport
from support.ports import upstream_of

GREETING = b"AMQP\x00\x00\x09\x01"


# -- frames ------------------------------------------------------------------------------------------------------------


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    return frame(1, channel, pack(">HH", class_id, method_id) + arguments)


def short(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return bytes((len(data),)) + data


def long(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return pack(">I", len(data)) + data


def table(**entries: Any) -> bytes:
    """A field table of texts, truth values, numbers and tables; ``__`` in a name stands for a dot."""
    return long(b"".join(short(name.replace("__", ".")) + _value(value) for name, value in entries.items()))


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"t" + bytes((value,))
    if isinstance(value, int):
        return b"I" + pack(">i", value)
    if isinstance(value, dict):
        return b"F" + table(**value)
    if isinstance(value, bytes):
        return value  # an encoded value
    return b"S" + long(value)


HEARTBEAT = frame(8, 0, b"")


def start(mechanisms: str = "PLAIN AMQPLAIN") -> bytes:
    return method(0, 10, 10, b"\x00\x09" + table(product="RabbitMQ") + long(mechanisms) + long("en_US"))


#: What a client says of itself by default: it hears of alarms.
PROPERTIES = {"product": "test", "version": "1.0", "capabilities": {"connection__blocked": True}}
DEAF = {"product": "deaf", "version": "2", "capabilities": {"basic__nack": True}}


def start_ok(
    properties: dict[str, Any] | bytes = PROPERTIES, mechanism: str = "PLAIN", response: str = "\0guest\0secret"
) -> bytes:
    encoded = properties if isinstance(properties, bytes) else table(**properties)
    return method(0, 10, 11, encoded + short(mechanism) + long(response) + short("en_US"))


def secure(challenge: str) -> bytes:
    return method(0, 10, 20, long(challenge))


def secure_ok(response: str) -> bytes:
    return method(0, 10, 21, long(response))


def tune(channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 0) -> bytes:
    return method(0, 10, 30, pack(">HIH", channel_max, frame_max, heartbeat))


def tune_ok(channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 0) -> bytes:
    return method(0, 10, 31, pack(">HIH", channel_max, frame_max, heartbeat))


def connection_open(vhost: str = "/") -> bytes:
    return method(0, 10, 40, short(vhost) + b"\x00\x00")


def connection_open_ok() -> bytes:
    return method(0, 10, 41, b"\x00")


def close(code: int = 200, text: str = "", cause: int = 0) -> bytes:
    return method(0, 10, 50, pack(">H", code) + short(text) + pack(">I", cause))


CLOSE_OK = method(0, 10, 51)


def blocked(reason: str) -> bytes:
    return method(0, 10, 60, short(reason))


UNBLOCKED = method(0, 10, 61)


def channel_open(channel: int) -> bytes:
    return method(channel, 20, 10, b"\x00")


def channel_open_ok(channel: int) -> bytes:
    return method(channel, 20, 11, b"\x00\x00\x00\x00")


def channel_close(channel: int, code: int = 200, text: str = "", cause: int = 0) -> bytes:
    return method(channel, 20, 40, pack(">H", code) + short(text) + pack(">I", cause))


def channel_close_ok(channel: int) -> bytes:
    return method(channel, 20, 41)


def exchange_declare(channel: int, name: str, kind: str = "direct") -> bytes:
    return method(channel, 40, 10, b"\x00\x00" + short(name) + short(kind) + b"\x00" + table())


def queue_declare(channel: int, name: str) -> bytes:
    return method(channel, 50, 10, b"\x00\x00" + short(name) + b"\x00" + table())


def queue_declare_ok(channel: int, name: str, messages: int = 0, consumers: int = 0) -> bytes:
    return method(channel, 50, 11, short(name) + pack(">II", messages, consumers))


def queue_bind(channel: int, queue: str, exchange: str, key: str) -> bytes:
    return method(channel, 50, 20, b"\x00\x00" + short(queue) + short(exchange) + short(key) + b"\x00" + table())


def queue_delete(channel: int, queue: str) -> bytes:
    return method(channel, 50, 40, b"\x00\x00" + short(queue) + b"\x00")


def queue_purge(channel: int, queue: str) -> bytes:
    return method(channel, 50, 30, b"\x00\x00" + short(queue) + b"\x00")


def queue_unbind(channel: int, queue: str, exchange: str, key: str) -> bytes:
    return method(channel, 50, 50, b"\x00\x00" + short(queue) + short(exchange) + short(key) + table())


def qos(channel: int, count: int, size: int = 0, everywhere: bool = False) -> bytes:
    return method(channel, 60, 10, pack(">IHB", size, count, everywhere))


def qos_ok(channel: int) -> bytes:
    return method(channel, 60, 11)


def consume(channel: int, queue: str, tag: str, no_ack: bool = False, no_wait: bool = False) -> bytes:
    bits = bytes((no_ack << 1 | no_wait << 3,))
    return method(channel, 60, 20, b"\x00\x00" + short(queue) + short(tag) + bits + table())


def consume_ok(channel: int, tag: str) -> bytes:
    return method(channel, 60, 21, short(tag))


def cancel(channel: int, tag: str, no_wait: bool = False) -> bytes:
    return method(channel, 60, 30, short(tag) + bytes((no_wait,)))


def cancel_ok(channel: int, tag: str) -> bytes:
    return method(channel, 60, 31, short(tag))


def header(channel: int, size: int, properties: bytes = b"\x00\x00") -> bytes:
    """A content header; ``properties`` begin with their flags."""
    return frame(2, channel, pack(">HHQ", 60, 0, size) + properties)


def headers(**entries: Any) -> bytes:
    """Properties that are nothing but a table of headers."""
    return b"\x20\x00" + table(**entries)


def priority(number: int) -> bytes:
    """Properties that are nothing but a priority."""
    return b"\x08\x00" + bytes((number,))


def content(channel: int, body: bytes, properties: bytes = b"\x00\x00", cut: int = 131064) -> bytes:
    """A header and as many body frames as it takes."""
    bodies = [frame(3, channel, body[at : at + cut]) for at in range(0, len(body), cut)]
    return header(channel, len(body), properties) + b"".join(bodies)


def publish(
    channel: int,
    key: str,
    body: bytes = b"hello",
    *,
    exchange: str = "",
    properties: bytes = b"\x00\x00",
    cut: int = 131064,
    bits: int = 0,
) -> bytes:
    """A whole publish: method, header and bodies."""
    begin = method(channel, 60, 40, b"\x00\x00" + short(exchange) + short(key) + bytes((bits,)))
    return begin + content(channel, body, properties, cut)


def deliver(channel: int, consumer: str, tag: int, body: bytes = b"work", properties: bytes = b"\x00\x00") -> bytes:
    """A whole delivery."""
    begin = method(channel, 60, 60, short(consumer) + pack(">QB", tag, 0) + short("") + short("q"))
    return begin + content(channel, body, properties)


def returned(
    channel: int,
    key: str,
    body: bytes = b"hello",
    exchange: str = "",
    cut: int = 131064,
    properties: bytes = b"\x00\x00",
) -> bytes:
    begin = method(channel, 60, 50, pack(">H", 312) + short("NO_ROUTE") + short(exchange) + short(key))
    return begin + content(channel, body, properties, cut=cut)


def get(channel: int, queue: str, no_ack: bool = False) -> bytes:
    return method(channel, 60, 70, b"\x00\x00" + short(queue) + bytes((no_ack,)))


def get_ok(channel: int, tag: int, body: bytes = b"work") -> bytes:
    return method(channel, 60, 71, pack(">QB", tag, 0) + short("") + short("q") + pack(">I", 0)) + content(
        channel, body
    )


def get_empty(channel: int) -> bytes:
    return method(channel, 60, 72, b"\x00")


def ack(channel: int, tag: int, multiple: bool = False) -> bytes:
    return method(channel, 60, 80, pack(">QB", tag, multiple))


def reject(channel: int, tag: int, requeue: bool = True) -> bytes:
    return method(channel, 60, 90, pack(">QB", tag, requeue))


def nack(channel: int, tag: int, multiple: bool = False, requeue: bool = False) -> bytes:
    return method(channel, 60, 120, pack(">QB", tag, multiple | requeue << 1))


def recover(channel: int) -> bytes:
    return method(channel, 60, 110, b"\x01")


def recover_ok(channel: int) -> bytes:
    return method(channel, 60, 111)


def confirm_select(channel: int) -> bytes:
    return method(channel, 85, 10, b"\x00")


def confirm_select_ok(channel: int) -> bytes:
    return method(channel, 85, 11)


def tx_select(channel: int) -> bytes:
    return method(channel, 90, 10)


def tx_select_ok(channel: int) -> bytes:
    return method(channel, 90, 11)


def tx_commit(channel: int) -> bytes:
    return method(channel, 90, 20)


def tx_commit_ok(channel: int) -> bytes:
    return method(channel, 90, 21)


def cut(data: bytes) -> list[bytes]:
    """The frames in ``data``, which must be whole ones; a protocol header counts as one, and so does a rest."""
    frames = []
    at = 0
    while at < len(data):
        if data.startswith(b"AMQP", at):
            end = at + 8
        elif len(data) - at >= 8:
            end = at + 8 + int(unpack_from(">I", data, at + 3)[0])
        else:
            end = len(data)
        frames.append(data[at:end])
        at = end
    return frames


_TRACE = b"\x0btraceparentS\x00\x00\x00\x37"


def plain(data: bytes) -> bytes:
    """A content header without the trace context that the port has put at the end of its headers; any other frame as it
    is."""
    at = data.find(_TRACE)
    if data[:1] != b"\x02" or at < 0:
        return data
    after = at + len(_TRACE) + 55
    begin = data.rindex(pack(">I", _table_size(data, after)), 0, at)
    rest = data[begin + 4 : at]
    flags = int(unpack_from(">H", data, 19)[0])
    properties = data[21:begin] + (long(rest) if rest else b"") + data[after:-1]
    payload = data[7:19] + pack(">H", flags if rest else flags & ~0x2000) + properties
    return frame(2, int(unpack_from(">H", data, 1)[0]), payload)


def _table_size(data: bytes, after: int) -> int:
    """The length of the headers, which are over at ``after``."""
    flags = data[19]
    at = 21
    for flag in (0x80, 0x40):
        if flags & flag:
            at += 1 + data[at]
    return after - at - 4


def name(data: bytes) -> str:
    """A frame in a few words, for whoever reads a failed test."""
    if len(data) < 12 or data[:4] == b"AMQP":
        return repr(data)
    kind, channel = unpack_from(">BH", data)
    if kind != 1:
        return f"{channel}: {('', '', 'header', 'body')[kind] if kind < 4 else kind} {data[7:-1][:60]!r}"
    class_id, method_id = unpack_from(">HH", data, 7)
    return f"{channel}: {_METHODS.get((class_id, method_id), (class_id, method_id))} {data[11:-1][:120]!r}"


_METHODS = {
    (10, 10): "start", (10, 11): "start-ok", (10, 20): "secure", (10, 21): "secure-ok", (10, 30): "tune",
    (10, 31): "tune-ok", (10, 40): "open", (10, 41): "open-ok", (10, 50): "close", (10, 51): "close-ok",
    (10, 60): "blocked", (10, 61): "unblocked", (20, 10): "channel.open", (20, 11): "channel.open-ok",
    (20, 40): "channel.close", (20, 41): "channel.close-ok", (50, 10): "queue.declare", (50, 20): "queue.bind",
    (50, 40): "queue.delete", (60, 10): "qos", (60, 11): "qos-ok", (60, 20): "consume", (60, 21): "consume-ok",
    (60, 30): "cancel", (60, 31): "cancel-ok", (60, 40): "publish", (60, 50): "return", (60, 60): "deliver",
    (60, 70): "get", (60, 71): "get-ok", (60, 72): "get-empty", (60, 80): "ack", (60, 90): "reject",
    (60, 110): "recover", (60, 120): "nack", (85, 10): "confirm.select", (85, 11): "confirm.select-ok",
    (90, 10): "tx.select", (90, 20): "tx.commit",
}  # fmt: skip


def close_of(data: bytes) -> tuple[int, str]:
    """Code and text of a ``connection.close`` or ``channel.close``."""
    assert data[0] == 1, name(data)
    assert unpack_from(">HH", data, 7) in ((10, 50), (20, 40)), name(data)
    size = data[13]
    return int(unpack_from(">H", data, 11)[0]), data[14 : 14 + size].decode()


# -- the port and everybody who has to do with it ----------------------------------------------------------------------


class Peer(loop.Peer):
    """A client or a broker, in the hands of a test."""

    def frames(self) -> list[bytes]:
        """The same, in frames, without trace contexts."""
        return [plain(frame) for frame in cut(self.heard())]

    def gets(self, *expected: bytes) -> None:
        """Exactly this has come, but for trace contexts."""
        found = self.frames()
        wanted = [plain(frame) for frame in cut(b"".join(expected))]
        assert found == wanted, "\n".join(["got", *map(name, found), "instead of", *map(name, wanted)])

    def gets_nothing(self) -> None:
        self.gets()

    def gets_close(self, code: int, *words: str) -> str:
        """A ``connection.close`` or ``channel.close`` has come, and nothing else: with these words in its text."""
        found = self.frames()
        assert len(found) == 1, [name(frame) for frame in found]
        told, text = close_of(found[0])
        assert told == code, (told, text)
        for word in words:
            assert word in text, text
        return text


class _Lines:
    def __init__(self) -> None:
        self.records: list[Any] = []

    def put(self, record: Any) -> None:
        self.records.append(record)


class _Errors(logging.Handler):
    """Errors in the log: nothing that a peer does may lead to one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.getMessage()} {record.exc_info}")


class Stage:
    """An AMQP port with everybody who has to do with it. ``amqp`` are its settings; ``upstream`` other policies of the
    upstream. By default consumers keep the prefetch limits that they ask for, and nothing is tried twice."""

    def __init__(
        self,
        *,
        brokers: int = 1,
        sample: float = 0.0,
        spans: bool = False,
        propagate: tuple[str, ...] = ("w3c",),
        upstream: dict[str, Any] | None = None,
        shared: Any = None,
        **amqp: Any,
    ) -> None:
        self.loop = FakeLoop()
        self.loop.on_connection = self._accepted
        self.wheel = TimerWheel(self.loop.call_at, self.loop)
        self.clients: list[Peer] = []
        #: The brokers' ends of connections, as they were accepted.
        self.accepted: list[Peer] = []
        self._taken = 0
        #: The brokers' ends of connections by which the port asks whether there is one. They answer, if they are to.
        self.calls: list[Peer] = []
        self.answering = True
        self.lines = _Lines()
        self.spans: list[Any] = []
        self._errors = _Errors()
        logging.getLogger("sidecar").addHandler(self._errors)
        amqp.setdefault("prefetch", AmqpPrefetch(default=0, max=0))
        self.config = Amqp(**amqp)
        policies: dict[str, Any] = {"retry": None, "circuit_breaker": None, "bulkhead": None, **(upstream or {})}
        context = Context(
            loop=cast(asyncio.AbstractEventLoop, self.loop),
            wheel=self.wheel,
            clock=self.loop,
            rng=random.Random(1),
            access_log=AccessLog("all", self.lines.put),
            record_span=self.spans.append if spans else None,
            tracing=Tracing(sample=sample, propagate=propagate),
            breaker_changed=lambda name, breaker: None,
            shared=shared,
        )
        listener = create_listener(
            context,
            "rabbit",
            upstream_of(name="rabbit", bind=Address("127.0.0.1", 0), protocol="amqp", amqp=self.config, **policies),
        )
        assert isinstance(listener, AmqpListener)
        self.listener = listener
        self.stats = listener.amqp_stats
        listener.cluster.update(Instance(host="10.0.0.1", port=5672 + number) for number in range(brokers))

    def _accepted(self, protocol: Any, transport: FakeTransport) -> None:
        if isinstance(protocol, ProbeConnection):
            self.calls.append(Peer(self.loop, transport))
            if self.answering:
                self.loop.call_soon(transport.feed, start())
        else:
            self.accepted.append(self._peer(transport))

    def _peer(self, transport: FakeTransport) -> Peer:
        return Peer(self.loop, transport)

    def connect(self) -> Peer:
        """A new client, which has said nothing yet."""
        protocol = self.listener.protocol()
        transport = FakeTransport(self.loop, protocol)
        client = Peer(self.loop, transport)
        self.clients.append(client)
        protocol.connection_made(cast(asyncio.Transport, transport))
        self.loop.settle()
        return client

    def broker(self) -> Peer:
        """The broker's end of the next connection that was made to one."""
        self.loop.settle()
        assert len(self.accepted) > self._taken, "no connection to a broker"
        self._taken += 1
        return self.accepted[self._taken - 1]

    def open(
        self,
        *channels: int,
        vhost: str = "/",
        properties: dict[str, Any] = PROPERTIES,
        heartbeat: int = 0,
        frame_max: int = 131072,
        confirms: bool = False,
    ) -> tuple[Peer, Peer]:
        """A client and its broker after the handshake, with these channels open (in confirm mode)."""
        client = self.connect()
        client.says(GREETING)
        broker = self.broker()
        broker.gets(GREETING)
        broker.says(start())
        client.says(start_ok(properties))
        broker.says(tune(2047, frame_max, heartbeat))
        client.says(tune_ok(2047, frame_max, heartbeat), connection_open(vhost))
        broker.says(connection_open_ok())
        client.heard()
        broker.heard()
        for channel in channels:
            client.says(channel_open(channel))
            broker.says(channel_open_ok(channel))
            if confirms:
                client.says(confirm_select(channel))
                broker.says(confirm_select_ok(channel))
        client.heard()
        broker.heard()
        return client, broker

    def consumer(self, client: Peer, broker: Peer, channel: int, tag: str, no_ack: bool = False) -> None:
        """A consumer is begun."""
        client.says(consume(channel, "q", tag, no_ack))
        broker.says(consume_ok(channel, tag))
        client.heard()
        broker.heard()

    def advance(self, seconds: float) -> None:
        """Let time pass, timers included."""
        self.loop.run_until(self.loop.now + seconds)

    def counts(self) -> dict[str, int]:
        """Everything that must be zero when nobody is there."""
        listener, stats, hold = self.listener, self.stats, self.listener.scheduler
        exchanges = stats.exchanges.values()
        return {
            "connections": stats.connections,
            "channels": stats.channels,
            "consumers": stats.consumers,
            "unacked": stats.unacked,
            "stalled": stats.stalled,
            "held": hold.messages,
            "held bytes": hold.bytes,
            "held of exchanges": sum(exchange.held_messages for exchange in exchanges),
            "held bytes of exchanges": sum(exchange.held_bytes for exchange in exchanges),
            "waiting": sum(number for _, number in hold.waiting()),
            "full": int(hold.full),
            "blocked": int(stats.blocked),
            "active": listener.stats.active,
            "tunnels": listener.stats.tunnels,
            "upstream": listener.stats.upstream_active,
            "pending": listener.stats.pending,
            "clients": listener.stats.client_connections,
            "sessions": len(listener.sessions),
            "stopped": len(listener.stopped),
            "tasks": len(self.loop.tasks),
            "endpoints": sum(endpoint.active for endpoint in listener.cluster.endpoints),
            "timers": sum(len(bucket) for bucket in self.wheel._buckets.values())
            - (listener._timer._bucket is not None),
        }

    def over(self, errors: bool = False) -> None:
        """Everybody leaves, if they have not; a minute later nothing may be left."""
        for peer in (*self.clients, *self.accepted, *self.calls):
            if not peer.transport.gone:
                peer.transport.lose(ConnectionResetError())
                self.loop.settle()
        self.finished()

    def finished(self) -> None:
        """Everybody has gone by now: nothing is left of them."""
        self.listener.probe.close()
        self.advance(60)
        logging.getLogger("sidecar").removeHandler(self._errors)
        assert not self._errors.records, self._errors.records
        for peer in (*self.clients, *self.accepted, *self.calls):
            assert peer.transport.gone
        left = {what: number for what, number in self.counts().items() if number}
        assert not left, left
