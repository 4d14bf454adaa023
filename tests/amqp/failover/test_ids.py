"""What a port with a spool adds to messages: an id of its own, and a trace context where there is none."""

from __future__ import annotations

from struct import unpack_from
from typing import Any

import pytest

from support.amqp import (
    Peer,
    ack,
    channel_open_ok,
    confirm_select_ok,
    cut,
    headers,
    nack,
    publish,
    table,
)
from support.kept import SELECT, KeptStage

CONTEXT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ID = "x-sidecar-id"

Entries = list[tuple[str, bytes]]


def heard(peer: Peer) -> list[Entries]:
    """The headers of all messages that have come, which must have no other properties: names, and values as they are on
    the wire. All of them are texts or tables."""
    found = []
    for frame in cut(peer.heard()):
        if frame[0] == 2:
            flags, size = unpack_from(">HI", frame, 19)
            assert flags == 0x2000
            assert len(frame) == 25 + size + 1
            entries = []
            at = 25
            while at < len(frame) - 1:
                value = at + 1 + frame[at]
                end = value + 5 + int(unpack_from(">I", frame, value + 1)[0])
                entries.append((frame[at + 1 : value].decode(), frame[value:end]))
                at = end
            found.append(entries)
    return found


def names(entries: Entries) -> list[str]:
    return [name for name, _ in entries]


def id_of(entries: Entries) -> bytes:
    """The one that it has."""
    [found] = [value[5:] for name, value in entries if name == ID]
    assert found
    return found


# -- traces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ok", [True, False])
@pytest.mark.parametrize("sample", [0.0, 1.0])
def test_a_message_with_a_trace_keeps_it_gets_an_id_and_has_its_span(sample: float, ok: bool) -> None:
    """Its own trace says that it is sampled, and that is what counts."""
    stage = KeptStage(sample=sample, spans=True)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", properties=headers(x="1", traceparent=CONTEXT)))
    [found] = heard(broker)
    assert names(found) == ["x", "traceparent", ID]
    assert found[1][1][5:] == CONTEXT.encode()
    assert id_of(found)
    assert not stage.spans
    broker.says(ack(1, 1) if ok else nack(1, 1))
    client.gets(ack(1, 1) if ok else nack(1, 1))
    [span] = stage.spans
    assert f"{span.trace_id}-{span.parent_id}" == CONTEXT[3:52]
    assert (span.kind, span.ok) == ("client", ok)
    stage.over()


def test_a_message_whose_trace_is_not_sampled_has_no_span() -> None:
    stage = KeptStage(sample=1.0, spans=True)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", properties=headers(traceparent=CONTEXT[:-1] + "0")))
    assert names(heard(broker)[0]) == ["traceparent", ID]
    broker.says(ack(1, 1))
    assert not stage.spans
    stage.over()


@pytest.mark.parametrize("sampled", [True, False])
def test_a_message_without_a_trace_gets_one_and_an_id(sampled: bool) -> None:
    stage = KeptStage(sample=float(sampled), spans=True)
    client, broker = stage.open(1)
    client.says(publish(1, "q", properties=headers(x="1")), publish(1, "q"))
    first, second = heard(broker)
    assert (names(first), names(second)) == (["x", "traceparent", ID], ["traceparent", ID])
    assert id_of(first) != id_of(second)
    broker.says(ack(1, 2, True))
    traces = [dict(each)["traceparent"][5:].decode() for each in (first, second)]
    assert [each[-2:] for each in traces] == ["01" if sampled else "00"] * 2
    spans = [f"{span.trace_id}-{span.span_id}" for span in stage.spans]
    assert spans == ([each[3:52] for each in traces] if sampled else [])
    stage.over()


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({ID: "old"}, ["traceparent", ID]),
        ({ID: "old", "a": "1"}, ["a", "traceparent", ID]),
        ({"a": "1", ID: "old", "b": "2"}, ["a", "b", "traceparent", ID]),
        ({"a": "1", ID: {"x": "a table"}}, ["a", "traceparent", ID]),
        ({ID: "old", "traceparent": CONTEXT}, ["traceparent", ID]),
        ({"traceparent": CONTEXT, ID: "", "a": "1"}, ["traceparent", "a", ID]),
    ],
)
def test_an_id_that_is_there_is_replaced(before: dict[str, Any], after: list[str]) -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", properties=headers(**before)))
    [found] = heard(broker)
    assert names(found) == after
    assert id_of(found) != b"old"
    rest = [(name, value) for name, value in found if name in before and name != ID]
    assert [value[5:].decode() for _, value in rest] == [before[name] for name, _ in rest]
    stage.over()


def test_what_only_looks_like_an_id_stays() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    inner = table(**{ID: "inner"})
    client.says(publish(1, "q", properties=headers(a={ID: "inner"}, b=f"\x0c{ID}S\0\0\0\x01x")))
    [found] = heard(broker)
    assert names(found) == ["a", "b", "traceparent", ID]
    assert found[0][1] == b"F" + inner
    assert found[1][1][5:] == b"\x0cx-sidecar-idS\0\0\0\x01x"
    stage.over()


def test_an_id_is_the_same_every_time_a_message_is_sent() -> None:
    """Over the client's connection; out of the spool, twice; and the other one's is another."""
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a"))
    [first] = heard(broker)
    stage.away()
    broker.breaks()
    client.says(publish(1, "q", b"b", properties=headers(traceparent=CONTEXT)))
    stage.there()
    stage.back(channel_open_ok(1), confirm_select_ok(1))
    replay = stage.replay()
    again, other = heard(replay)
    assert again == first
    assert names(other) == ["traceparent", ID]
    assert id_of(other) != id_of(first)
    replay.breaks()
    assert heard(stage.replay()) == [first, other]
    stage.over()


def test_messages_that_come_to_the_spool_of_a_later_port_have_its_ids() -> None:
    one, two = KeptStage(), KeptStage()
    client, broker = one.open(1)
    client.says(publish(1, "q", b"a"))
    first = broker.heard().partition(SELECT)[2]
    client, broker = two.open(1)
    client.says(first)
    [found] = heard(broker)
    assert names(found) == ["traceparent", ID]
    assert id_of(found) not in first
    one.over()
    two.over()


def test_an_id_is_left_out_where_it_would_be_too_much_for_a_frame() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, frame_max=4096)
    large = publish(1, "q", properties=headers(x="y" * 4050))
    client.says(large)
    assert broker.heard() == SELECT + large
    stage.over()
