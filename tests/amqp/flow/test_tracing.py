"""Which trace formats are put into messages, and which are understood."""

from __future__ import annotations

import random
from itertools import product

import pytest

from sidecar.amqp.flow.tracing import MessageTracing
from sidecar.core.records import SpanRecord
from sidecar.resilience.sampling import Sampling
from support.amqp import Stage, ack, deliver, headers, nack, publish, returned
from support.clock import Clock

COMBINATIONS = [(), ("w3c",), ("b3",), ("w3c", "b3")]
TRACE, PARENT = "ab" * 16, "cd" * 8
CONTEXTS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "b3": f"{TRACE}-{PARENT}-1"}
NAMES = {"w3c": "traceparent", "b3": "b3"}


@pytest.mark.parametrize("properties", [b"\0\0", headers(), headers(a="b")])
@pytest.mark.parametrize(("propagate", "sample"), list(product(COMBINATIONS, [0.0, 1.0])))
def test_a_publish_gets_the_formats_that_are_listed(
    propagate: tuple[str, ...], sample: float, properties: bytes
) -> None:
    stage = Stage(sample=sample, spans=True, propagate=propagate)
    client, broker = stage.open(1)
    said = publish(1, "k", properties=properties)
    client.says(said)
    heard = broker.heard()
    assert (b"\x0btraceparentS" in heard) is ("w3c" in propagate)
    assert (b"\x02b3S" in heard) is ("b3" in propagate)
    assert (heard == said) is (not propagate)
    assert len(stage.spans) == sample  # a trace of its own, where nothing says so in the message
    stage.over()


@pytest.mark.parametrize(("propagate", "given"), list(product(COMBINATIONS, ["w3c", "b3"])))
def test_a_context_that_is_there_is_never_touched(propagate: tuple[str, ...], given: str) -> None:
    stage = Stage(spans=True, propagate=propagate)
    client, broker = stage.open(1)
    name = NAMES[given]
    said = publish(1, "k", properties=headers(**{name: CONTEXTS[name]}))
    client.says(said)
    heard = broker.heard()
    assert heard.count(name.encode() + b"S") == 1
    assert CONTEXTS[name].encode() in heard
    if given in propagate or not propagate:
        assert heard == said
    spans = [(span.trace_id, span.parent_id) for span in stage.spans]
    assert spans == ([(TRACE, PARENT)] if given in propagate else [])
    stage.over()


@pytest.mark.parametrize(("propagate", "given"), list(product(COMBINATIONS, ["w3c", "b3"])))
def test_a_delivery_passes_as_it_is_and_is_a_span_of_what_is_understood(propagate: tuple[str, ...], given: str) -> None:
    stage = Stage(spans=True, propagate=propagate)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    client.heard()
    name = NAMES[given]
    said = deliver(1, "c", 1, properties=headers(**{name: CONTEXTS[name]}))
    broker.says(said)
    assert client.heard() == said
    client.says(ack(1, 1))
    assert [span.trace_id for span in stage.spans] == ([TRACE] if given in propagate else [])
    stage.over()


@pytest.mark.parametrize("b3", ["", "nonsense", "0", f"{TRACE}-{PARENT}", f"{TRACE}-{PARENT}-0"])
def test_b3_without_a_sampled_trace_is_no_span(b3: str) -> None:
    stage = Stage(sample=1.0, spans=True, propagate=("b3",))
    client, broker = stage.open(1)
    said = publish(1, "k", properties=headers(b3=b3))
    client.says(said)
    assert broker.heard() == said
    assert not stage.spans
    stage.over()


# -- what spans say ----------------------------------------------------------------------------------------------------


def test_a_publish_by_the_conventions() -> None:
    stage = Stage(sample=1.0, spans=True)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "task.new", exchange="agents.topic"))
    broker.says(ack(1, 1))
    [span] = stage.spans
    assert (span.name, span.kind, span.parent_id, span.links) == ("publish agents.topic", "producer", "", ())
    assert span.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "agents.topic:task.new",
        "rabbitmq.destination.routing_key": "task.new",
        "sidecar.upstream": "rabbit",
        "server.address": "rabbit",
    }
    stage.over()


def test_a_consumer_links_to_the_context_in_the_message() -> None:
    stage = Stage(spans=True)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    broker.says(deliver(1, "c", 1, properties=headers(traceparent=CONTEXTS["traceparent"])))
    client.says(nack(1, 1))
    [span] = stage.spans
    assert (span.name, span.kind, span.ok) == ("process amq.default", "consumer", False)
    assert (span.trace_id, span.parent_id, span.links) == (TRACE, PARENT, ((TRACE, PARENT),))
    assert span.attributes["messaging.destination.name"] == "q"
    assert span.attributes["sidecar.consumer"] == "c"
    assert span.attributes["error.type"] == "rejected"
    stage.over()


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_publish_that_the_broker_does_not_take_is_a_span_sampled_or_not(flags: str) -> None:
    stage = Stage(spans=True)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "k", properties=headers(traceparent=f"00-{TRACE}-{PARENT}-{flags}")))
    client.says(publish(1, "k"))
    broker.says(nack(1, 1), nack(1, 2))
    first, second = stage.spans
    assert (first.kind, first.trace_id, first.parent_id) == ("client", TRACE, PARENT)
    assert second.kind == "producer"
    heard = broker.heard()
    assert f"00-{second.trace_id}-{second.span_id}-00".encode() in heard  # the flag stays what it is
    assert [span.attributes["error.type"] for span in stage.spans] == ["nacked", "nacked"]
    stage.over()


def test_what_goes_well_and_is_not_sampled_is_no_span() -> None:
    stage = Stage(spans=True)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "k"), publish(1, "k", properties=headers(traceparent=f"00-{TRACE}-{PARENT}-00")))
    broker.says(ack(1, 2, True))
    assert stage.spans == []
    stage.over()


def test_a_message_that_comes_back_is_a_span_below_its_context() -> None:
    stage = Stage(spans=True)
    client, broker = stage.open(1)
    said = returned(1, "nobody", properties=headers(traceparent=f"00-{TRACE}-{PARENT}-00"))
    broker.says(said)
    assert client.heard() == said
    [span] = stage.spans
    assert (span.name, span.trace_id, span.parent_id, span.ok) == ("return amq.default", TRACE, PARENT, False)
    assert span.attributes["sidecar.reply_code"] == 312
    assert span.attributes["error.type"] == "returned"
    stage.over()


@pytest.mark.parametrize(("name", "propagate"), [("traceparent", ("w3c",)), ("b3", ("b3",))])
def test_what_leaves_the_spool(name: str, propagate: tuple[str, ...]) -> None:
    spans: list[SpanRecord] = []
    sampling = Sampling(0.0, True, 1.0, Clock())
    tracing = MessageTracing("rabbit", propagate, random.Random(1), sampling, spans.append, Clock())
    sampled = publish(1, "k", properties=headers(**{name: CONTEXTS[name]}))
    payload = sampled[sampled.index(b"\x02\0\x01", 1) + 7 :].partition(b"\xce\x03")[0]
    tracing.replayed(payload, "jobs", "k", 1000.0, 1)
    tracing.replayed(payload.replace(b"-01", b"-00").replace(b"-1", b"-0"), "jobs", "k", 1000.0, 1)
    tracing.replayed(payload.replace(b"-01", b"-00").replace(b"-1", b"-0"), "jobs", "k", 1000.0, 5, "nacked")
    tracing.replayed(b"\x00\x3c" + b"\xff" * 30, "jobs", "k", 1000.0, 5, "nacked")  # nothing that can be read
    good, dead = spans
    assert {(span.trace_id, span.parent_id, span.kind) for span in spans} == {(TRACE, PARENT, "client")}
    assert (good.ok, good.start_ns) == (True, 10**12)
    assert good.attributes["sidecar.spooled"] is True
    assert (dead.ok, dead.attributes["error.type"], dead.attributes["sidecar.attempts"]) == (False, "nacked", 5)
