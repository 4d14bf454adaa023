"""The trace of a message over a real RabbitMQ, straight through and by way of the spool, as a collector sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import NackError

from support.collector import Collector, attributes
from support.processes import Sidecar, ending, get, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar, parameters_to
from support.wire import Wire

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
QUEUE = "traced.q"


def _named(collector: Collector, name: str, count: int, **wanted: Any) -> list[Any]:
    """So many spans of that name and with those attributes, as soon as they are there."""

    def found() -> list[Any]:
        spans = [
            span
            for span in collector.spans
            if span.name == name and all(attributes(span).get(key) == value for key, value in wanted.items())
        ]
        return spans if len(spans) >= count else []

    spans: list[Any] = wait_for(found, f"{count} × {name}")
    assert len(spans) == count
    return spans


def _consume(channel: Any) -> Any:
    """One message, which is acknowledged; its properties."""
    for method, properties, _ in channel.consume(QUEUE, inactivity_timeout=60):
        channel.basic_ack(method.delivery_tag)
        channel.cancel()
        return properties
    raise AssertionError("no message")


def test_a_message_makes_one_trace_with_and_without_a_spool(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    rabbitmq.declare(QUEUE, durable=True)
    with Collector() as collector, Wire(rabbitmq.port) as wire:
        config = behind_sidecar(wire.port, credentials=GUEST, spool={"path": str(tmp_path / "spool")})
        config["tracing"] = {"otlp": collector.url, "sample": 1}
        with ending(Sidecar(tmp_path, config)) as (sidecar,):
            assert isinstance(sidecar, Sidecar)
            port = sidecar.ready().port("rabbitmq")
            with pika.BlockingConnection(parameters_to(port)) as connection:
                channel = connection.channel()
                channel.confirm_delivery()

                # Straight through: the publish's context is in the message, and its consumer links to it.
                about = pika.BasicProperties(message_id="m-1", correlation_id="c-1", delivery_mode=2)
                channel.basic_publish("", QUEUE, b"one", about)
                context = _consume(channel).headers["traceparent"]
                (published,) = _named(collector, "publish amq.default", 1)
                (processed,) = _named(collector, "process amq.default", 1)
                assert context == f"00-{published.trace_id.hex()}-{published.span_id.hex()}-01"
                assert published.kind == published.SPAN_KIND_PRODUCER
                assert processed.kind == processed.SPAN_KIND_CONSUMER
                assert processed.trace_id == published.trace_id
                assert [(link.trace_id, link.span_id) for link in processed.links] == [
                    (published.trace_id, published.span_id)
                ]
                for span in (published, processed):
                    found = attributes(span)
                    assert found["messaging.system"] == "rabbitmq"
                    assert found["messaging.destination.name"] == QUEUE
                    assert found["messaging.message.id"] == "m-1"
                    assert found["messaging.message.conversation_id"] == "c-1"

                # By way of the spool: its send is one more span below the publish.
                wire.cut()
                view = f"{sidecar.admin}/amqp"
                wait_for(lambda: get(view)[1]["upstreams"][0]["detached"] == 1, "the client has no broker")
                channel.basic_publish("", QUEUE, b"two", pika.BasicProperties(message_id="m-2", delivery_mode=2))
                wire.mend()
                wait_for(lambda: get(view)[1]["upstreams"][0]["spool"]["messages"] == 0, "the spool is empty")
                wait_for(lambda: get(view)[1]["upstreams"][0]["detached"] == 0, "the client has a broker")
                context = _consume(channel).headers["traceparent"]
                published, spooled = _named(collector, "publish amq.default", 2, **{"messaging.message.id": "m-2"})
                (processed,) = _named(collector, "process amq.default", 1, **{"messaging.message.id": "m-2"})
                assert context == f"00-{published.trace_id.hex()}-{published.span_id.hex()}-01"
                assert attributes(spooled)["sidecar.spooled"] is True
                assert spooled.kind == spooled.SPAN_KIND_CLIENT
                assert {spooled.trace_id, processed.trace_id} == {published.trace_id}
                assert {spooled.parent_span_id, processed.parent_span_id} == {published.span_id}

                # One that the broker does not take arrives though its trace is not sampled.
                full = {"x-max-length": 1, "x-overflow": "reject-publish"}
                channel.queue_declare("traced.full", exclusive=True, arguments=full)
                headers = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
                channel.basic_publish("", "traced.full", b"x", pika.BasicProperties(headers=headers))
                with pytest.raises(NackError):
                    channel.basic_publish("", "traced.full", b"x", pika.BasicProperties(headers=headers))
                (nacked,) = _named(collector, "publish amq.default", 1, **{"error.type": "nacked"})
                assert (nacked.trace_id.hex(), nacked.parent_span_id.hex()) == (TRACE, CALLER)
                assert nacked.status.code == nacked.status.STATUS_CODE_ERROR
                assert [span.trace_id.hex() for span in collector.spans].count(TRACE) == 1
            assert sidecar.terminate() == 0
    rabbitmq.delete(QUEUE)
