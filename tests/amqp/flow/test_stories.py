"""What is remembered of a message that did not simply pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.amqp.flow.lanes import Sender
from sidecar.amqp.flow.policy import PublishRoute
from sidecar.amqp.flow.publish import ID_HEADER, Publish
from sidecar.amqp.flow.stats import AmqpStats
from sidecar.amqp.flow.stories import BURST, MessageStories
from sidecar.amqp.flow.tracing import MessageTrace
from sidecar.core.records import Stories
from support.amqp import header, headers, publish, short

MESSAGE_ID = b"\x00\x80"


class Memory:
    """The stories of a port, and its clocks: the loop's is at 100, and it began at Unix time 1000."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timeout = 0.0
        self.put: list[dict[str, Any]] = []
        self.stories = Stories(self.put.append)
        self.it = MessageStories(
            "rabbitmq", self.stories, lambda: self.now, lambda: 900.0 + self.now, lambda: self.timeout
        )

    def publish(self, frames: bytes, since: float = 98.0) -> Publish:
        sender = Sender()
        sender.origin = "10.0.0.9:4711"
        route = PublishRoute("/", "tasks", "k" * 300, (), AmqpStats().exchange("/", "tasks"))
        found = Publish(sender, route, 1, frames, 0, since)
        found.waits_for = "rate of tasks"
        return found


@pytest.fixture
def memory() -> Memory:
    return Memory()


def content(properties: bytes = b"\x00\x00") -> bytes:
    """All the frames of a publish."""
    return publish(1, "k", properties=properties)


def test_a_held_one_says_for_how_long_and_whose_it_was(memory: Memory) -> None:
    memory.it.held(memory.publish(content()), 100.0)
    (told,) = memory.put
    assert (told["error"], told["duration_ms"], told["began"]) == ("held", 2000.0, 998.0)
    assert (told["client"], told["exchange"], len(told["routing_key"])) == ("10.0.0.9:4711", "tasks", 255)
    assert told["events"] == [{"at_ms": 2000.0, "what": "held", "after_ms": 2000.0, "waited_for": "rate of tasks"}]
    assert len(told["request_id"]) == 16, "one of its own, as the message has none"


def test_its_own_id_is_what_it_is_found_by(memory: Memory) -> None:
    memory.it.spooled(memory.publish(content(MESSAGE_ID + short("order-7"))))
    memory.it.spooled(memory.publish(content(headers(**{ID_HEADER: "0123"}))))
    assert [it["request_id"] for it in memory.put] == ["order-7", "0123"]
    assert [it.get("sidecar_id") for it in memory.put] == [None, "0123"]


def test_of_one_that_has_passed_the_trace_knows_the_id(memory: Memory) -> None:
    passed = memory.publish(b"")
    passed.trace = MessageTrace("a" * 32, "b" * 16, "", 1, True)
    passed.trace.message_id = "order-8"
    memory.it.refused(passed)
    (told,) = memory.put
    assert (told["request_id"], told["error"], told["events"][0]["by"]) == ("order-8", "nacked", "broker")


@pytest.mark.parametrize(
    ("timeout", "arrival", "told"), [(1.0, 3, 1000), (1.0, 0, None), (0.0, 3, None), (5.0, 3, None)]
)
def test_one_that_waited_too_long_says_how_long_it_may(
    memory: Memory, timeout: float, arrival: int, told: int | None
) -> None:
    memory.timeout = timeout
    late = memory.publish(content())
    late.arrival = arrival
    memory.it.nacked(late)
    assert memory.put[0]["events"][0].get("timeout_ms") == told


@pytest.mark.parametrize("code", [0, 403])
def test_a_dead_letter_has_its_reason(memory: Memory, code: int) -> None:
    message = SimpleNamespace(
        attempts=3, header=header(1, 4, MESSAGE_ID + short("order-9"))[7:-1], vhost="/", exchange="tasks",
        routing_key="k", origin="10.0.0.9:4711", at=1940.0,
    )  # fmt: skip
    memory.now = 1100.0
    memory.it.dead(message, "refused", code, "x" * 500)
    (told,) = memory.put
    event = told["events"][0]
    assert (told["request_id"], told["error"], told["duration_ms"]) == ("order-9", "dead_lettered", 60_000.0)
    assert (event["reason"], event["attempts"], event.get("code", 0)) == ("refused", 3, code)
    assert len(event.get("text", "")) == (300 if code else 0)


def test_a_header_that_makes_no_sense_has_no_id(memory: Memory) -> None:
    memory.it.spooled(memory.publish(content(MESSAGE_ID + b"\xff")))
    assert len(memory.put[0]["request_id"]) == 16


def test_an_outage_does_not_fill_all_there_is(memory: Memory) -> None:
    message = SimpleNamespace(attempts=1, header=b"", vhost="/", exchange="", routing_key="k", origin="", at=0.0)
    for _ in range(BURST + 100):
        memory.it.spooled(memory.publish(content()))
        memory.it.dead(message, "refused", 0, "")
    assert len(memory.put) == 2 * BURST
    memory.it.held(memory.publish(content()), 100.0)
    assert memory.put[-1]["error"] == "held", "another kind has room of its own"
    memory.stories.use(False, 0.0, 1.0)
    memory.it.held(memory.publish(content()), 100.0)
    assert len(memory.put) == 2 * BURST + 1
