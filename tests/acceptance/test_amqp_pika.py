"""What pika's users do every day, through the sidecar's AMQP port to a real RabbitMQ."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

from support.processes import wait_for
from support.rabbitmq import RabbitMQ, parameters_to

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@contextmanager
def connected(port: int, vhost: str = "/", **parameters: Any) -> Iterator[pika.BlockingConnection]:
    connection = pika.BlockingConnection(parameters_to(port, vhost, **parameters))
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


@pytest.fixture
def connection(amqp_port: int) -> Iterator[pika.BlockingConnection]:
    with connected(amqp_port) as connection:
        yield connection


@pytest.fixture
def channel(connection: pika.BlockingConnection) -> BlockingChannel:
    return connection.channel()


@pytest.fixture
def queue(channel: BlockingChannel) -> str:
    """A server-named exclusive one."""
    name: str = channel.queue_declare("", exclusive=True).method.queue
    assert name.startswith("amq.gen-")
    return name


def everything(channel: BlockingChannel, queue: str, count: int, seconds: float = 60.0) -> list[tuple[Any, Any, bytes]]:
    """That many messages by ``basic.consume``, acknowledged as they come."""
    found: list[tuple[Any, Any, bytes]] = []
    for method, properties, body in channel.consume(queue, inactivity_timeout=seconds):
        assert method is not None, f"{len(found)} of {count} messages came"
        channel.basic_ack(method.delivery_tag)
        found.append((method, properties, body))
        if len(found) == count:
            break
    channel.cancel()
    return found


def _holds(channel: BlockingChannel, queue: str, count: int) -> bool:
    return bool(channel.queue_declare(queue, passive=True).method.message_count == count)


def same_headers(found: dict[str, Any] | None, sent: dict[str, Any] | None) -> bool:
    """But for what the trace puts there."""
    trace = ("traceparent", "tracestate", "baggage")
    assert found is None or "x-sidecar-hop" not in found
    return {k: v for k, v in (found or {}).items() if k not in trace or k in (sent or {})} == (sent or {})


def test_declare_bind_publish_consume(channel: BlockingChannel, queue: str) -> None:
    channel.exchange_declare("pika.topic", "topic", auto_delete=True)
    channel.queue_bind(queue, "pika.topic", "orders.*.new")
    channel.queue_bind(queue, "pika.topic", "alerts.#")
    for key in ("orders.eu.new", "orders.eu.old", "alerts", "alerts.disk.full", "orders.us.new"):
        channel.basic_publish("pika.topic", key, key.encode())
    assert [body for _, _, body in everything(channel, queue, 4)] == [
        b"orders.eu.new", b"alerts", b"alerts.disk.full", b"orders.us.new",
    ]  # fmt: skip
    channel.queue_unbind(queue, "pika.topic", "alerts.#")
    channel.basic_publish("pika.topic", "alerts", b"gone")
    channel.basic_publish("pika.topic", "orders.x.new", b"there")
    assert everything(channel, queue, 1)[0][2] == b"there"


def test_exchange_to_exchange_and_headers_exchange(channel: BlockingChannel, queue: str) -> None:
    channel.exchange_declare("pika.in", "fanout", auto_delete=True)
    channel.exchange_declare("pika.out", "headers", auto_delete=True)
    channel.exchange_bind("pika.out", "pika.in")
    channel.queue_bind(queue, "pika.out", arguments={"x-match": "all", "colour": "red", "size": 3})
    for colour in ("red", "green"):
        channel.basic_publish(
            "pika.in", "", colour.encode(), pika.BasicProperties(headers={"colour": colour, "size": 3})
        )
    assert everything(channel, queue, 1)[0][2] == b"red"
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


@pytest.mark.costly
def test_ten_thousand_without_confirms_in_order(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=500)
    for number in range(10_000):
        channel.basic_publish("", queue, b"%d" % number)
    assert [int(body) for _, _, body in everything(channel, queue, 10_000)] == list(range(10_000))


def test_confirms_and_mandatory_returns(channel: BlockingChannel, queue: str) -> None:
    channel.confirm_delivery()
    for number in range(300):
        channel.basic_publish("", queue, b"%d" % number, mandatory=True)
    with pytest.raises(UnroutableError) as failed:
        channel.basic_publish("", "no.such.queue", b"lost", pika.BasicProperties(message_id="m1"), mandatory=True)
    (returned,) = failed.value.messages
    assert returned.method.reply_code == 312
    assert returned.method.routing_key == "no.such.queue"
    assert (returned.properties.message_id, returned.body) == ("m1", b"lost")
    channel.basic_publish("", "no.such.queue", b"nobody wants it")  # unroutable, not mandatory: confirmed
    channel.basic_publish("", queue, b"300", mandatory=True)
    assert [int(body) for _, _, body in everything(channel, queue, 301)] == list(range(301))


def test_the_brokers_own_nack(channel: BlockingChannel) -> None:
    """A full queue with ``reject-publish``."""
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    queue = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"1")
    channel.basic_publish("", queue, b"2")
    with pytest.raises(NackError):
        channel.basic_publish("", queue, b"3")
    everything(channel, queue, 2)
    channel.basic_publish("", queue, b"4")


def test_mandatory_return_without_confirms(connection: pika.BlockingConnection, channel: BlockingChannel) -> None:
    returned: list[bytes] = []
    channel.add_on_return_callback(lambda _channel, _method, _properties, body: returned.append(body))
    for number in range(3):
        channel.basic_publish("", "no.such.queue", b"%d" % number, mandatory=True)
    for _ in range(100):
        connection.process_data_events(0.05)
        if len(returned) == 3:
            break
    assert returned == [b"0", b"1", b"2"]


def test_transactions(channel: BlockingChannel, queue: str) -> None:
    channel.tx_select()
    channel.basic_publish("", queue, b"committed")
    channel.basic_publish("", queue, b"too")
    assert channel.queue_declare(queue, passive=True).method.message_count == 0
    channel.tx_commit()
    channel.basic_publish("", queue, b"rolled back")
    channel.tx_rollback()
    assert channel.queue_declare(queue, passive=True).method.message_count == 2
    method, _, body = channel.basic_get(queue)
    assert body == b"committed"
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()  # the acknowledgement too
    channel.basic_recover(requeue=True)
    channel.tx_commit()
    assert channel.basic_get(queue)[0].redelivered


def test_get_ack_reject_nack(channel: BlockingChannel, queue: str) -> None:
    assert channel.basic_get(queue) == (None, None, None)
    for number in range(5):
        channel.basic_publish("", queue, b"%d" % number)
    got = [channel.basic_get(queue) for _ in range(5)]
    assert [method.message_count for method, _, _ in got] == [4, 3, 2, 1, 0]
    tags = [method.delivery_tag for method, _, _ in got]
    channel.basic_ack(tags[0])
    channel.basic_reject(tags[1], requeue=False)
    channel.basic_reject(tags[2], requeue=True)
    channel.basic_nack(tags[4], multiple=True, requeue=True)
    again = everything(channel, queue, 3)
    assert [(method.redelivered, body) for method, _, body in again] == [(True, b"2"), (True, b"3"), (True, b"4")]
    assert channel.basic_get(queue)[0] is None


def test_dead_letters(channel: BlockingChannel, queue: str) -> None:
    """Rejected, expired and pushed out messages come back with RabbitMQ's own ``x-death``."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-max-length": 1}
    source = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    channel.basic_publish("", source, b"pushed out")
    channel.basic_publish("", source, b"expired", pika.BasicProperties(expiration="1"))
    found = everything(channel, queue, 2)
    assert [(body, p.headers["x-first-death-reason"]) for _, p, body in found] == [
        (b"pushed out", "maxlen"), (b"expired", "expired"),
    ]  # fmt: skip


def test_qos_holds_deliveries_back(connection: pika.BlockingConnection, channel: BlockingChannel, queue: str) -> None:
    for number in range(20):
        channel.basic_publish("", queue, b"%d" % number)
    channel.basic_qos(prefetch_count=5)
    tags: list[int] = []
    tag = channel.basic_consume(queue, lambda _channel, method, _properties, _body: tags.append(method.delivery_tag))

    def settle(count: int) -> None:
        for _ in range(100):
            connection.process_data_events(0.02)
            if len(tags) >= count:
                break
        connection.process_data_events(0.1)
        assert len(tags) == count

    settle(5)
    channel.basic_ack(tags[1], multiple=True)
    settle(7)
    channel.basic_ack(tags[-1], multiple=True)
    settle(12)
    channel.basic_cancel(tag)
    channel.basic_ack(0, multiple=True)
    connection.process_data_events(0.1)
    assert len(tags) == 12
    assert channel.queue_declare(queue, passive=True).method.message_count == 8


def test_cancelled_by_the_broker(connection: pika.BlockingConnection, channel: BlockingChannel, queue: str) -> None:
    """RabbitMQ tells clients with that capability that a consumer's queue was deleted."""
    cancelled: list[str] = []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    tag = channel.basic_consume(queue, lambda *_: None, consumer_tag="mine")
    connection.channel().queue_delete(queue)
    for _ in range(100):
        connection.process_data_events(0.05)
        if cancelled:
            break
    assert cancelled == [tag] == ["mine"]


def test_exclusive_queue_belongs_to_its_connection(amqp_port: int, rabbitmq: RabbitMQ) -> None:
    with connected(amqp_port) as owner, connected(amqp_port) as other:
        queue = owner.channel().queue_declare("", exclusive=True).method.queue
        with pytest.raises(ChannelClosedByBroker) as failed:
            other.channel().basic_get(queue)
        assert failed.value.reply_code == 405
        assert "exclusive access" in failed.value.reply_text
    wait_for(lambda: rabbitmq.depth(queue) == -1, "the exclusive queue is gone with its connection")


def test_errors_are_the_brokers_own(connection: pika.BlockingConnection) -> None:
    with pytest.raises(ChannelClosedByBroker) as failed:
        connection.channel().queue_declare("no.such.queue", passive=True)
    assert (failed.value.reply_code, failed.value.reply_text) == (
        404, "NOT_FOUND - no queue 'no.such.queue' in vhost '/'",
    )  # fmt: skip
    channel = connection.channel()
    channel.queue_declare("pika.arguments", auto_delete=True)
    with pytest.raises(ChannelClosedByBroker) as failed:
        channel.queue_declare("pika.arguments", auto_delete=True, arguments={"x-max-length": 5})
    assert failed.value.reply_code == 406
    channel = connection.channel()  # the connection and its other channels live on
    channel.basic_publish("no.such.exchange", "", b"closes the channel")
    with pytest.raises(ChannelClosedByBroker) as failed:
        channel.queue_declare("pika.arguments", passive=True)
    assert failed.value.reply_code == 404
    connection.channel().queue_delete("pika.arguments")


def test_refused_logins(amqp_port: int, rabbitmq: RabbitMQ) -> None:
    wrong = pika.PlainCredentials("guest", "wrong")
    with pytest.raises(ProbableAuthenticationError, match="ACCESS_REFUSED - Login was refused"):
        pika.BlockingConnection(parameters_to(amqp_port, credentials=wrong))
    with pytest.raises((ConnectionClosedByBroker, ProbableAccessDeniedError), match="NOT_ALLOWED - vhost /nowhere"):
        pika.BlockingConnection(parameters_to(amqp_port, "/nowhere"))
    rabbitmq.add_vhost("/agents")
    with connected(amqp_port, "/agents") as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"in another virtual host")
        assert channel.basic_get(queue)[2] == b"in another virtual host"


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 1 << 20, (16 << 20) - 1])
def test_sizes(channel: BlockingChannel, queue: str, size: int) -> None:
    """Empty, exactly one frame, a byte more, a mebibyte, and as large as is allowed."""
    body = random.Random(size).randbytes(size)
    channel.confirm_delivery()
    channel.basic_publish("", queue, body)
    channel.basic_publish("", queue, b"after it")
    (_, _, found), (_, _, after) = everything(channel, queue, 2, 20)
    assert len(found) == size
    assert hashlib.sha256(found).digest() == hashlib.sha256(body).digest()
    assert after == b"after it"


def test_small_frames(amqp_port: int) -> None:
    """A client that agrees on the smallest frame-max gets no larger frame."""
    with connected(amqp_port, frame_max=4096) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        body = random.Random(1).randbytes(100_000)
        channel.basic_publish("", queue, body)
        assert everything(channel, queue, 1)[0][2] == body


def test_two_hundred_channels(connection: pika.BlockingConnection) -> None:
    channels = [connection.channel() for _ in range(200)]
    queues = [channel.queue_declare("", exclusive=True).method.queue for channel in channels]
    for round_ in range(3):
        for number, channel in enumerate(channels):
            channel.basic_publish("", queues[(number + round_) % 200], b"%d:%d" % (round_, number))
    for channel in channels[::2]:
        channel.close()
    survivor = channels[1]
    for number, queue in enumerate(queues):
        expected = [b"%d:%d" % (round_, (number - round_) % 200) for round_ in range(3)]
        wait_for(partial(_holds, survivor, queue, 3), f"three in {queue}")
        found = [survivor.basic_get(queue, auto_ack=True)[2] for _ in range(3)]
        assert sorted(found) == sorted(expected)


def test_properties_survive(channel: BlockingChannel, queue: str) -> None:
    headers: dict[str, Any] = {
        "text": "näïve ✓", "bytes-ish": "\x00\x01", "int": 7, "negative": -7, "big": 1 << 40, "true": True,
        "none": None, "nested": {"list": [1, "two", {"three": 3}], "empty": {}}, "": "an empty name",
        "x" * 255: "a long name", "traceparent": TRACE,
    }  # fmt: skip
    sent = pika.BasicProperties(
        content_type="application/json", content_encoding="gzip", headers=headers, delivery_mode=2, priority=7,
        correlation_id="c" * 255, reply_to="reply.here", expiration="60000", message_id="m", timestamp=1_700_000_000,
        type="t", user_id="guest", app_id="a", cluster_id="",
    )  # fmt: skip
    channel.basic_publish("", queue, b"x", sent)
    channel.basic_publish("", queue, b"y", pika.BasicProperties(headers={"a": 1}, timestamp=5))
    channel.basic_publish("", queue, b"z")
    (_, full, _), (_, some, _), (_, none, _) = everything(channel, queue, 3)
    assert full == sent
    assert same_headers(some.headers, {"a": 1})
    assert some.timestamp == 5
    assert same_headers(none.headers, None)
    assert {k: v for k, v in vars(none).items() if k != "headers"} == {
        k: v for k, v in vars(pika.BasicProperties()).items() if k != "headers"
    }


def test_priority_queue(channel: BlockingChannel) -> None:
    queue = channel.queue_declare("", exclusive=True, arguments={"x-max-priority": 9}).method.queue
    for priority in (1, 9, 5, 0):
        channel.basic_publish("", queue, b"%d" % priority, pika.BasicProperties(priority=priority))
    channel.basic_qos(prefetch_count=1)
    wait_for(partial(_holds, channel, queue, 4), "all are there")
    assert [body for _, _, body in everything(channel, queue, 4)] == [b"9", b"5", b"1", b"0"]


def test_direct_reply_to(amqp_port: int) -> None:
    """RabbitMQ's pseudo-queue for answers, which only works on the channel that asked."""
    with connected(amqp_port) as client, connected(amqp_port) as server:
        serving = server.channel()
        queue = serving.queue_declare("", exclusive=False, auto_delete=True).method.queue

        asking = client.channel()
        answers: list[tuple[str, bytes]] = []
        asking.basic_consume(
            "amq.rabbitmq.reply-to",
            lambda _channel, _method, properties, body: answers.append((properties.correlation_id, body)),
            auto_ack=True,
        )
        for number in range(20):
            properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=str(number))
            asking.basic_publish("", queue, b"%d" % number, properties)
        for _, properties, body in everything(serving, queue, 20):
            assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
            reply = pika.BasicProperties(correlation_id=properties.correlation_id)
            serving.basic_publish("", properties.reply_to, b"%d" % (int(body) ** 2), reply)
        for _ in range(100):
            client.process_data_events(0.05)
            if len(answers) == 20:
                break
        assert answers == [(str(number), b"%d" % number**2) for number in range(20)]


def test_closing_right_after_publishing_loses_nothing(amqp_port: int, rabbitmq: RabbitMQ) -> None:
    rabbitmq.declare("pika.hurry")
    for _ in range(5):
        with connected(amqp_port) as connection:
            channel = connection.channel()
            for number in range(200):
                channel.basic_publish("", "pika.hurry", b"%d" % number * 50)
    for _ in range(5):
        with connected(amqp_port) as connection:
            channel = connection.channel()
            for number in range(200):
                channel.basic_publish("", "pika.hurry", b"%d" % number * 50)
            channel.close()
    wait_for(lambda: rabbitmq.depth("pika.hurry") == 2000, "every message arrived")
    rabbitmq.delete("pika.hurry")


def test_publishing_and_consuming_at_once(amqp_port: int) -> None:
    """Deliveries, acknowledgements and publishes of one connection, all under way together."""
    with connected(amqp_port) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=50)
        first = channel.queue_declare("", exclusive=True).method.queue
        second = channel.queue_declare("", exclusive=True).method.queue
        seen: list[bytes] = []

        def forward(_channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
            channel.basic_publish("", second, body, properties)
            channel.basic_ack(method.delivery_tag)

        channel.basic_consume(first, forward)
        channel.basic_consume(second, lambda _channel, _method, _properties, body: seen.append(body), auto_ack=True)
        for number in range(2000):
            channel.basic_publish("", first, b"%d" % number)
        deadline = time.monotonic() + 60
        while len(seen) < 2000 and time.monotonic() < deadline:
            connection.process_data_events(0.05)
        assert [int(body) for body in seen] == list(range(2000))
