"""Real clients at their ordinary work while there is no broker: none of them notices.

Each does its work twice, before a server that has nothing behind it but a handshake and a stub. The first time it
learns whatever the client declares, the second time it is a server that has known that for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from struct import unpack_from
from typing import Any, cast

import aio_pika
import aiormq
import celery
import pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from sidecar.amqp.failover.broker_stub import BrokerStub
from sidecar.amqp.failover.credential_cache import Credential
from sidecar.amqp.failover.server_handshake import ServerHandshake, UnknownClient
from sidecar.amqp.topology import declarations
from sidecar.amqp.topology.broker_catalog import BrokerCatalog
from sidecar.amqp.topology.client_state import ClientState
from sidecar.amqp.wire.constants import (
    BASIC_PUBLISH,
    CHANNEL_OPEN,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    HEADER,
    HEARTBEAT,
    METHOD,
    AmqpError,
)
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.handshake import HANDSHAKE_FRAME_MAX, Handshake
from sidecar.amqp.wire.methods import basic_ack, connection_close, connection_close_ok, method_of

kombu: Any = importlib.import_module("kombu")  # its lazy module is untyped

USERS = {"guest": Credential("guest", b"", b"", any_vhost=True)}


class Client(asyncio.Protocol):
    """One connection: everything that a session does with a stub, and publishes that are taken at once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader = FrameReader(HANDSHAKE_FRAME_MAX)
        self._greeted = False
        self._handshake = Handshake()
        self._reception = ServerHandshake(server.catalog)
        self._client_state = ClientState(server.catalog, "/")
        self._standin = BrokerStub(self._client_state, server.catalog, "/", server.patience)
        self._published: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.clients.append(self._transport)

    def data_received(self, data: bytes) -> None:
        if not self._greeted:
            assert data[:8] == b"AMQP\0\0\x09\1"
            self._greeted = True
            self._say(self._reception.greeting())
            data = data[8:]
        try:
            for kind, number, start, end in self._reader.feed(data):
                self._frame(kind, number, self._reader.data, start, end)
            assert self._reader.error is None
        except UnknownClient:
            self._transport.close()
        except AmqpError as error:
            self._server.errors.append(error)
            self._transport.write(connection_close(error.code, error.text, error.method))

    def late(self) -> None:
        try:
            self._standin.late(self._server.loop.time())
        except AmqpError as error:
            self._server.errors.append(error)
            self._transport.write(connection_close(error.code, error.text))

    def _say(self, frame: bytes) -> None:
        if frame:
            self._transport.write(self._handshake.from_broker(frame, 0, len(frame)))

    def _frame(self, kind: int, number: int, data: bytes, start: int, end: int) -> None:
        if kind == HEARTBEAT:
            return
        found = method_of(data, start, end) if kind == METHOD else 0
        if found == CONNECTION_CLOSE_OK:
            self._transport.close()
        elif not self._handshake.done:
            self._say(self._reception.takes(self._handshake.from_client(data, start, end)))
            if self._reception.login is not None and not self._reception.looked_up:
                self._say(self._reception.admit(USERS.get(self._handshake.user)))
            self._reader.limit = self._handshake.frame_max
        elif found == BASIC_PUBLISH or kind != METHOD:
            if kind == HEADER:
                self._take(number)
        else:
            self._control(found, data[start:end])

    def _take(self, number: int) -> None:
        """A publish is there, its bodies at the latest with the next reading."""
        self._server.published += 1
        channel = self._client_state.channels[number]
        if channel.confirm:
            self._published[number] = tag = self._published.get(number, 0) + 1
            self._transport.write(basic_ack(number, tag, False))

    def _control(self, found: int, frame: bytes) -> None:
        server = self._server
        if found == CONNECTION_CLOSE:
            self._transport.write(connection_close_ok())
            self._transport.close()
            return
        if found == CHANNEL_OPEN:
            self._published.pop(frame[1] << 8 | frame[2], None)
        if server.learning and found in declarations.STATING:
            declaration, _ = declarations.read(found, frame, 0, len(frame))
            if declaration.name:
                server.catalog.learn("/", declaration)
        self._transport.write(self._standin.takes(frame, server.loop.time()))
        number = unpack_from(">H", frame, 1)[0]
        if self._standin.waits(number):
            server.waiting.append(found)
            server.loop.call_at(self._standin.due + 0.01, self.late)


class Server:
    """It runs in a thread of its own, as some clients block theirs."""

    def __init__(self, catalog: BrokerCatalog, learning: bool, patience: float = 60.0) -> None:
        self.catalog = catalog
        self.learning = learning
        self.patience = patience
        self.published = 0
        #: Methods that had to wait, and what connections were closed with.
        self.waiting: list[int] = []
        self.errors: list[AmqpError] = []
        self.clients: list[asyncio.Transport] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        ready = threading.Event()
        over: asyncio.Event
        port: list[int] = []
        self.loop = asyncio.new_event_loop()

        async def main() -> None:
            nonlocal over
            over = asyncio.Event()
            server = await self.loop.create_server(lambda: Client(self), "127.0.0.1", 0)
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await over.wait()
            server.close()
            for client in self.clients:
                client.abort()
            await asyncio.sleep(0)

        thread = threading.Thread(target=self.loop.run_until_complete, args=(main(),))
        thread.start()
        assert ready.wait(60)
        try:
            yield f"amqp://guest:guest@127.0.0.1:{port[0]}/"
        finally:
            self.loop.call_soon_threadsafe(over.set)
            thread.join(60)
            self.loop.close()


def twice(work: Callable[[str], int]) -> None:
    """The work of a client; how many messages it has published."""
    catalog = BrokerCatalog()
    for learning in (True, False):
        server = Server(catalog, learning)
        with server.running() as url:
            published = work(url)
        assert server.waiting == []
        assert server.errors == []
        assert server.published == published


def with_pika(url: str) -> int:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare("ai.tasks", "topic", durable=True)
    channel.queue_declare("tasks", durable=True, arguments={"x-max-length": 1000, "x-queue-type": "quorum"})
    channel.queue_bind("tasks", "ai.tasks", "ai.#")
    channel.exchange_bind("amq.topic", "ai.tasks", "ai.#")
    assert channel.queue_declare("tasks", passive=True).method.message_count == 0
    channel.queue_declare("mine", exclusive=True, auto_delete=True)
    for number in range(50):
        channel.basic_publish("ai.tasks", f"ai.{number}", b"x" * number, mandatory=True)
    plain = connection.channel()
    plain.basic_qos(prefetch_count=5)
    plain.basic_publish("", "tasks", b"")
    assert channel.basic_get("tasks") == (None, None, None)
    channel.basic_qos(prefetch_count=10)
    for _ in channel.consume("tasks", inactivity_timeout=0.05):
        break
    channel.cancel()
    tag = channel.basic_consume("tasks", lambda *_: None)
    connection.process_data_events(0.01)
    channel.basic_recover(requeue=True)
    channel.basic_cancel(tag)
    replies = channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    channel.basic_cancel(replies)
    channel.close()
    assert connection.channel(1).is_open
    connection.close()
    return 51


def with_aio_pika(url: str) -> int:
    async def take(message: AbstractIncomingMessage) -> None:
        raise AssertionError(f"there is nothing to deliver: {message}")

    async def work() -> None:
        connection = await aio_pika.connect_robust(url)
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=20)
            exchange = await channel.declare_exchange("events", aio_pika.ExchangeType.FANOUT, durable=True)
            queue = await channel.declare_queue("events.in", durable=True, arguments={"x-message-ttl": 60_000})
            await queue.bind(exchange, "k")
            messages = [aio_pika.Message(bytes([n]), message_id=str(n)) for n in range(50)]
            await asyncio.gather(*[exchange.publish(message, "k") for message in messages])
            await channel.default_exchange.publish(aio_pika.Message(b"x"), "events.in")
            assert await queue.get(fail=False) is None
            tag = await queue.consume(take)
            await queue.cancel(tag)
            async with connection.channel(publisher_confirms=False) as other:
                await (await other.get_exchange("events")).publish(aio_pika.Message(b"x"), "k")
                await (await other.get_queue("events.in")).consume(take)

    asyncio.run(work())
    return 52


def with_kombu(url: str) -> int:
    exchange = kombu.Exchange("orders", "direct", durable=True)
    queue = kombu.Queue("orders", exchange, routing_key="orders", queue_arguments={"x-max-priority": 5})
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer()
        for number in range(20):
            producer.publish({"n": number}, exchange=exchange, routing_key="orders", declare=[queue], retry=True)
        with connection.SimpleQueue("simple") as simple:
            simple.put("x")
            with pytest.raises(simple.Empty):
                simple.get_nowait()
        consumer = connection.Consumer(queue, callbacks=[lambda *_: None], prefetch_count=7)
        with consumer, pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.05)
    return 21


def with_celery(url: str) -> int:
    app = celery.Celery(broker=url)
    for number in range(20):
        app.send_task("work", (number,))
    app.send_task("work", (1,), queue="other", priority=3)
    app.control.broadcast("ping", reply=False)
    app.close()
    return 22


@pytest.mark.parametrize("work", [with_pika, with_aio_pika, with_kombu, with_celery])
def test_a_client_at_work_does_not_notice(work: Callable[[str], int]) -> None:
    twice(work)


def test_with_pika_what_waits_for_too_long_ends_as_when_a_broker_shuts_down() -> None:
    server = Server(BrokerCatalog(), False, 0.1)
    with server.running() as url:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match=r"320.*queue\.declare of 'new'"):
            channel.queue_declare("new")


def test_with_kombu_what_waits_for_too_long_is_recoverable() -> None:
    server = Server(BrokerCatalog(), False, 0.1)
    with server.running() as url, kombu.Connection(url) as connection:
        queue = kombu.Queue("new", channel=connection.default_channel)
        with pytest.raises(connection.recoverable_connection_errors):
            queue.declare()


def test_aio_pika_comes_again_after_waiting_for_too_long() -> None:
    server = Server(BrokerCatalog(), False, 0.1)

    async def work(url: str) -> None:
        connection = await aio_pika.connect_robust(url, reconnect_interval=0.01)
        again = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: again.set())
        channel = await connection.channel()
        with pytest.raises(aiormq.exceptions.ConnectionClosed):
            await channel.declare_queue("new")
        await asyncio.wait_for(again.wait(), 180)
        await channel.set_qos(5)
        await connection.close()

    with server.running() as url:
        asyncio.run(work(url))
    assert [error.code for error in server.errors] == [320]


def test_an_aio_pika_client_that_loses_patience_goes_on_with_another_channel() -> None:
    server = Server(BrokerCatalog(), False)

    async def work(url: str) -> None:
        connection = await aio_pika.connect(url)
        channel = await connection.channel()
        with pytest.raises(asyncio.TimeoutError):
            await channel.declare_queue("new", timeout=0.05)
        other = await connection.channel()
        await other.set_qos(5)
        await connection.close()

    with server.running() as url:
        asyncio.run(work(url))
    assert server.errors == []


def test_strangers_are_told_to_come_again() -> None:
    server = Server(BrokerCatalog(), False)

    async def work(url: str) -> None:
        with pytest.raises(aiormq.exceptions.AMQPConnectionError) as caught:
            await aio_pika.connect(url)
        assert not isinstance(caught.value, aiormq.exceptions.AuthenticationError)

    with server.running() as url:
        stranger = url.replace("guest:guest", "stranger:secret")
        asyncio.run(work(stranger))
        with pytest.raises(pika.exceptions.AMQPConnectionError) as caught:
            pika.BlockingConnection(pika.URLParameters(stranger))
        assert not isinstance(caught.value, pika.exceptions.AuthenticationError)
