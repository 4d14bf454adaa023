"""The load generator's frames and its counting of confirms."""

from __future__ import annotations

import random

import pytest

from bench.amqp import wire
from bench.amqp.wire import Confirms, WireError


def test_frames_cut_anywhere() -> None:
    data = wire.publish("ai.tasks", "ai.inference.bench", b"x" * 256) + wire.ack(7)
    whole = list(wire.frames(data))
    assert [kind for kind, _, _ in whole] == [1, 2, 3, 1]
    for cut in range(len(data)):
        found = list(wire.frames(data[:cut]))
        assert found == [frame for frame in whole if frame[2] < cut]


def test_a_frame_without_its_end() -> None:
    with pytest.raises(WireError, match="without its end"):
        list(wire.frames(wire.open_channel()[:-1] + b"\0"))


def test_an_independent_decoder_reads_the_same() -> None:
    frame = pytest.importorskip("pamqp.frame")
    data = wire.publish("ai.tasks", "ai.inference.bench", b"{}")
    found = []
    while data:
        size, channel, value = frame.unmarshal(data)
        assert channel == wire.CHANNEL
        found.append(value)
        data = data[size:]
    method, header, body = found
    assert (method.exchange, method.routing_key) == ("ai.tasks", "ai.inference.bench")
    assert header.properties.headers == {"lang": "py", "task": "bench.publish"}
    assert (header.properties.content_type, header.properties.delivery_mode) == ("application/json", 1)
    assert header.body_size == len(body.value)
    _, _, queue = frame.unmarshal(wire.declare_queue("bench.q", 1000))
    assert (queue.queue, queue.arguments) == ("bench.q", {"x-max-length": 1000})


def test_every_confirm_counts_once_in_any_order() -> None:
    rng = random.Random(1)
    for _ in range(200):
        confirms = Confirms()
        confirms.sent = sent = rng.randrange(1, 40)
        open_tags = set(range(1, sent + 1))
        while open_tags:
            tag = rng.choice(sorted(open_tags))
            multiple = rng.random() < 0.3
            answered = {other for other in open_tags if other <= tag} if multiple else {tag}
            assert confirms.confirmed(tag, multiple) == len(answered)
            open_tags -= answered
            assert confirms.outstanding == len(open_tags)
            assert confirms.low == min(open_tags, default=sent + 1) - 1


def test_confirms_of_what_was_not_sent_or_is_confirmed_already() -> None:
    confirms = Confirms()
    confirms.sent = 3
    confirms.confirmed(1, False)
    confirms.confirmed(3, False)
    for tag, multiple in ((1, False), (3, False), (4, True), (1, True)):
        with pytest.raises(WireError, match="confirm of"):
            confirms.confirmed(tag, multiple)
