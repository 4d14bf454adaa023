"""Which trace formats are put into messages, and which are understood."""

from __future__ import annotations

from itertools import product

import pytest

from support.amqp import Stage, ack, deliver, headers, publish

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
