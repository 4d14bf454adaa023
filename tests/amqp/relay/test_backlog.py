"""Publishes and confirms that nobody misses leave together; found as runs, and frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sidecar.amqp.flow.batches import LOOK_SECONDS
from sidecar.core.amqp_settings import AmqpBatch
from support.amqp import (
    Peer,
    Stage,
    ack,
    channel_close,
    close,
    consume,
    consume_ok,
    cut,
    deliver,
    nack,
    publish,
    queue_declare,
    returned,
)
from support.kept import KeptStage
from support.scanner.build import AMQP, extension
from support.scanner.runs_by import found_by


@pytest.fixture(params=["runs", "frames"], autouse=True)
def _found(request: pytest.FixtureRequest) -> Iterator[None]:
    with found_by(extension(folder=AMQP, name="runs") if request.param == "runs" else None):
        yield


def begun(*channels: int) -> tuple[Stage, Peer, Peer]:
    """A client with forty publishes under way on the first of these channels."""
    stage = Stage()
    client, broker = stage.open(*channels, confirms=True)
    client.says(publish(channels[0], "k") * 40)
    broker.gets(publish(channels[0], "k") * 40)
    return stage, client, broker


def test_publishes_wait_until_they_are_a_sixteenth_of_the_backlog() -> None:
    stage, client, broker = begun(1)
    client.says(publish(1, "a"))
    client.says(publish(1, "b"))
    assert broker.heard() == b""
    client.says(publish(1, "c"))
    broker.gets(publish(1, "a") + publish(1, "b") + publish(1, "c"))
    stage.over()


def test_publishes_leave_when_what_is_before_them_is_answered() -> None:
    stage, client, broker = begun(1)
    client.says(publish(1, "a"))
    broker.says(ack(1, 25, True))
    assert broker.heard() == b""
    broker.says(ack(1, 26))
    broker.gets(publish(1, "a"))
    stage.over()


def test_answers_wait_until_they_are_a_sixteenth_of_what_is_to_come() -> None:
    stage, client, broker = begun(1)
    broker.says(ack(1, 1))
    broker.says(ack(1, 2))
    client.gets_nothing()
    broker.says(ack(1, 3))
    client.gets(ack(1, 1), ack(1, 2), ack(1, 3))
    broker.says(ack(1, 40, True))
    client.gets(ack(1, 40, True))
    stage.over()


def test_nothing_waits_for_long() -> None:
    stage, client, broker = begun(1)
    client.says(publish(1, "a"))
    broker.says(ack(1, 1))
    stage.advance(2 * LOOK_SECONDS)
    broker.gets(publish(1, "a"))
    client.gets(ack(1, 1))
    stage.over()


def test_few_publishes_do_not_wait() -> None:
    stage = Stage()
    client, broker = stage.open(1, confirms=True)
    for _ in range(15):
        client.says(publish(1, "k"))
        broker.gets(publish(1, "k"))
    for number in range(15):
        broker.says(ack(1, number + 1))
        client.gets(ack(1, number + 1))
    client.says(*[publish(1, "k")] * 15)
    assert broker.heard()
    client.says(publish(1, "k"))  # it is the sixteenth
    broker.gets_nothing()
    stage.over()


def test_publishes_without_confirms_do_not_wait() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    for _ in range(100):
        client.says(publish(1, "k"))
        broker.gets(publish(1, "k"))
    stage.over()


def test_what_else_goes_to_the_broker_takes_them_along() -> None:
    stage, client, broker = begun(1)
    client.says(publish(1, "a"))
    client.says(queue_declare(1, "q"))
    broker.gets(publish(1, "a") + queue_declare(1, "q"))
    broker.says(deliver(1, "c", 1))
    client.says(publish(1, "b"))
    client.says(ack(1, 1))
    broker.gets(publish(1, "b") + ack(1, 1))
    stage.over()


@pytest.mark.parametrize(
    "last", [nack(1, 2), returned(1, "k"), deliver(1, "c", 1), channel_close(2, 404, "NOT_FOUND")], ids=str
)
def test_what_else_goes_to_the_client_takes_answers_along(last: bytes) -> None:
    stage, client, broker = begun(1, 2)
    client.says(consume(1, "q", "c"))
    broker.says(consume_ok(1, "c"))
    client.heard()
    broker.says(ack(1, 1))
    client.gets_nothing()
    broker.says(last)
    assert client.heard() == ack(1, 1) + last
    stage.over()


def test_a_channel_without_a_backlog_does_not_wait_for_another_one() -> None:
    stage, client, broker = begun(1, 2)
    client.says(publish(1, "a"))
    client.says(publish(2, "b"))
    broker.gets(publish(1, "a") + publish(2, "b"))
    broker.says(ack(1, 1))
    broker.says(ack(2, 1))
    client.gets(ack(1, 1), ack(2, 1))
    stage.over()


@pytest.mark.parametrize("said", [(1, 2), (2, 1), (1, 2, 1)], ids=str)
def test_nor_if_both_are_in_one_reading(said: tuple[int, ...]) -> None:
    stage, client, broker = begun(1, 2)
    client.says(b"".join(publish(channel, "k") for channel in said))
    broker.gets(*[publish(channel, "k") for channel in said])
    broker.says(b"".join(ack(channel, 1) for channel in said[:2]))
    client.gets(*[ack(channel, 1) for channel in said[:2]])
    stage.over()


@pytest.mark.parametrize("many", [1, 2])
@pytest.mark.parametrize("channel", [1, 2])
@pytest.mark.parametrize("settle", [ack, nack])
@pytest.mark.parametrize("first", [True, False])
def test_what_settles_deliveries_does_not_wait_with_a_publish(
    first: bool, settle: Callable[[int, int], bytes], channel: int, many: int
) -> None:
    stage, client, broker = begun(1, 2)
    client.says(consume(channel, "q", "c"))
    broker.says(consume_ok(channel, "c"))
    broker.says(*[deliver(channel, "c", tag + 1) for tag in range(many)])
    broker.heard()
    settling = b"".join(settle(channel, tag + 1) for tag in range(many))
    said = settling + publish(1, "a") if first else publish(1, "a") + settling
    client.says(said)
    broker.gets(said)
    stage.over()


def test_a_client_that_closes_has_published_before() -> None:
    stage, client, broker = begun(1)
    client.says(publish(1, "a"))
    client.says(close())
    broker.gets(publish(1, "a") + close())
    stage.over()


def test_a_client_that_vanishes_has_published_before() -> None:
    stage, client, broker = begun(1)
    client.says(publish(1, "a"))
    client.leaves()
    assert broker.frames()[:3] == cut(publish(1, "a"))
    stage.over()


def test_a_broker_that_closes_has_answered_before() -> None:
    stage, client, broker = begun(1)
    broker.says(ack(1, 1))
    broker.says(close(320, "CONNECTION_FORCED - shutdown"))
    assert client.heard().startswith(ack(1, 1))
    stage.over()


def test_a_broker_that_vanishes_has_answered_before() -> None:
    stage, client, broker = begun(1)
    broker.says(ack(1, 1))
    client.says(publish(1, "lost"))
    broker.leaves()
    assert client.heard().startswith(ack(1, 1))
    stage.advance(1.0)
    stage.over()


def test_a_chosen_time_is_for_publishes_alone() -> None:
    stage = Stage(batch=AmqpBatch(linger=0.1))
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "k") * 40)
    assert broker.heard()
    client.says(*[publish(1, "a")] * 20)
    assert broker.heard() == b""
    broker.says(ack(1, 1))
    client.gets_nothing()
    stage.advance(2 * LOOK_SECONDS)
    client.gets(ack(1, 1))
    assert broker.heard() == b""
    stage.advance(0.1)
    broker.gets(publish(1, "a") * 20)
    stage.over()


def test_who_is_aborted_has_heard_and_published_before() -> None:
    stage, client, broker = begun(1)
    broker.says(ack(1, 1))
    client.says(publish(1, "a"))
    (session,) = stage.listener.sessions
    session.abort()
    client.gets(ack(1, 1))
    broker.gets(publish(1, "a"))
    stage.over()


def test_with_a_spool_publishes_wait_though_the_client_wants_no_confirms() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(*[publish(1, "k")] * 40)
    assert broker.heard()
    client.says(publish(1, "a"))
    broker.gets_nothing()
    stage.advance(2 * LOOK_SECONDS)
    broker.gets(publish(1, "a"))
    stage.over()


def test_a_broker_that_is_lost_with_a_spool_has_answered_before() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(*[publish(1, "k")] * 40)
    broker.heard()
    broker.says(ack(1, 1))
    client.says(publish(1, "a"))
    broker.breaks()
    stage.advance(1.0)
    assert broker.heard() == b""
    answered = client.frames()
    assert answered[0] == ack(1, 1), "once, and then what is safe on the disk"
    assert answered.count(ack(1, 1)) == 1
    assert stage.port.spool.messages == 40
    stage.over()


def test_with_a_spool_it_is_the_same() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(*[publish(1, "k")] * 40)
    broker.gets(*[publish(1, "k")] * 40)
    client.says(publish(1, "a"))
    broker.gets_nothing()
    client.says(publish(1, "b"))
    client.says(publish(1, "c"))
    broker.gets(publish(1, "a"), publish(1, "b"), publish(1, "c"))
    broker.says(ack(1, 1))
    client.gets_nothing()
    broker.says(ack(1, 2), ack(1, 3))
    client.gets(ack(1, 1), ack(1, 2), ack(1, 3))
    stage.over()
