"""Clients that go while publishes of them are held: those stay, and nothing else of the client does."""

from __future__ import annotations

import pytest

from sidecar.amqp.relay.departure import MAX_QUEUES
from sidecar.core.amqp_settings import AmqpPublish
from support.amqp import (
    CLOSE_OK,
    UNBLOCKED,
    Peer,
    Stage,
    ack,
    blocked,
    cancel,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    consume,
    consume_ok,
    deliver,
    get,
    get_ok,
    method,
    nack,
    name,
    publish,
    queue_declare_ok,
    queue_delete,
    queue_purge,
    recover,
    recover_ok,
    returned,
    short,
    table,
    tx_commit,
    tx_commit_ok,
    tx_select,
    tx_select_ok,
)
from support.kept import KeptStage

SLOW = (AmqpPublish(exchange="slow", rate=1.0, burst=1),)
#: The highest channel that is agreed on, where nothing else is: ours.
OWN = 2047


def slow(channel: int, body: bytes = b"hello") -> bytes:
    return publish(channel, "k", body, exchange="slow")


def declare(channel: int, queue: str, bits: int = 4) -> bytes:
    """``bits``: passive 1, durable 2, exclusive 4, auto-delete 8, no-wait 16."""
    return method(channel, 50, 10, b"\x00\x00" + short(queue) + bytes((bits,)) + table(x=1))


def delete(channel: int, queue: str) -> bytes:
    return method(channel, 50, 40, b"\x00\x00" + short(queue) + b"\x04")


def rollback(channel: int) -> bytes:
    return method(channel, 90, 30)


def goes(client: Peer, how: str) -> None:
    if how == "close":
        client.says(close())
    elif how == "refused":
        client.says(b"\x05" * 8)
    else:
        getattr(client, how)()


def over(stage: Stage, client: Peer, broker: Peer, how: str) -> None:
    """What was held has gone, and with it the client."""
    stage.advance(1.1)
    found = broker.frames()
    assert name(found[0]).startswith("1: publish")
    assert name(found[-1]).startswith("0: close ")
    broker.says(CLOSE_OK)
    if how == "close":
        client.gets(CLOSE_OK)
    stage.over()


@pytest.mark.parametrize("how", ["leaves", "breaks", "close", "refused"])
def test_consumers_and_deliveries_go_at_once(how: str) -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "a")
    stage.consumer(client, broker, 2, "b")
    broker.says(deliver(1, "a", 1), deliver(2, "b", 1))
    client.says(slow(1), slow(1))
    client.heard()
    broker.heard()
    goes(client, how)
    broker.gets(cancel(1, "a", no_wait=True), recover(1), cancel(2, "b", no_wait=True), recover(2))
    client.heard()
    assert stage.stats.consumers == 0
    # What was on its way goes back with the rest; what comes behind that, one by one.
    broker.says(deliver(1, "a", 2), recover_ok(1), deliver(1, "a", 3), recover_ok(2))
    broker.gets(nack(1, 3, requeue=True))
    client.gets_nothing()
    assert stage.stats.unacked == 0
    over(stage, client, broker, how)


def test_one_that_only_publishes_leaves_nothing() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(slow(1), slow(1))
    broker.heard()
    client.leaves()
    broker.gets_nothing()
    over(stage, client, broker, "leaves")


def test_exclusive_queues_are_deleted() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(
        declare(1, ""), declare(1, "mine"), declare(1, "all's", 2), declare(1, "quick", 20), declare(1, "seen", 5)
    )
    broker.says(*[queue_declare_ok(1, each) for each in ("amq.gen-1", "mine", "all's", "seen")])
    client.says(declare(1, "gone"), queue_delete(1, "gone"), slow(1), slow(1))
    broker.says(queue_declare_ok(1, "gone"), method(1, 50, 41, b"\x00\x00\x00\x00"))
    broker.heard()
    client.leaves()
    # Those with names of their own may be somebody else's by now.
    broker.gets(
        channel_open(OWN),
        delete(OWN, "amq.gen-1"),
        declare(OWN, "quick", 20),
        delete(OWN, "quick"),
        declare(OWN, "mine"),
        delete(OWN, "mine"),
        channel_close(OWN),
    )
    broker.says(channel_open_ok(OWN), channel_close(OWN, 405, "RESOURCE_LOCKED"))
    broker.gets(channel_close_ok(OWN))
    broker.says(channel_close_ok(OWN))
    over(stage, client, broker, "leaves")


def test_no_more_queues_are_remembered_than_there_is_room_for() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    for number in range(MAX_QUEUES + 10):
        client.says(declare(1, f"q{number}"))
        broker.says(queue_declare_ok(1, f"q{number}"))
    client.says(slow(1), slow(1))
    broker.heard()
    client.leaves()
    found = broker.frames()
    assert found[1:3] == [declare(OWN, "q10"), delete(OWN, "q10")]
    assert len(found) == 2 + 2 * MAX_QUEUES
    broker.says(channel_open_ok(OWN), channel_close_ok(OWN))
    over(stage, client, broker, "leaves")


def test_what_waits_of_a_channel_is_heard_where_it_is_about_deliveries() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "a")
    broker.says(deliver(1, "a", 1), deliver(1, "a", 2), deliver(1, "a", 3))
    client.says(slow(1), slow(1), queue_purge(1, "q"), ack(1, 1), consume(1, "q", "b"), slow(1, b"last"))
    client.says(nack(1, 2))
    broker.heard()
    client.leaves()
    broker.gets(ack(1, 1), nack(1, 2), cancel(1, "a", no_wait=True), recover(1))
    broker.says(recover_ok(1))
    stage.advance(1.1)
    found = [name(frame)[:10] for frame in broker.frames()]
    assert found == ["1: publish", "1: header ", "1: body b'", "1: (50, 30", "1: consume"]
    broker.says(consume_ok(1, "b"), deliver(1, "b", 4))
    broker.gets(cancel(1, "b", no_wait=True), nack(1, 4, requeue=True))
    over(stage, client, broker, "leaves")


def test_a_channel_that_is_closed_is_freed_alone() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "a")
    stage.consumer(client, broker, 2, "b")
    broker.says(deliver(1, "a", 1), deliver(2, "b", 1))
    client.says(slow(1), slow(1), channel_close(1))
    client.heard()
    assert [name(frame)[:9] for frame in broker.frames()[-2:]] == ["1: cancel", "1: recove"]
    broker.says(recover_ok(1), deliver(1, "a", 2), deliver(2, "b", 2))
    broker.gets(nack(1, 2, requeue=True))
    client.gets(deliver(2, "b", 2))
    client.says(ack(2, 2))
    broker.gets(ack(2, 2))
    stage.advance(1.1)
    assert broker.frames()[-1] == channel_close(1)
    broker.says(channel_close_ok(1))
    client.gets(channel_close_ok(1))
    stage.over()


def test_what_was_asked_before_and_comes_later() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    client.says(consume(1, "q", "a"), get(1, "q"), slow(1), slow(1))
    broker.heard()
    client.leaves()
    broker.gets(recover(1))
    broker.says(get_ok(1, 1), recover_ok(1), consume_ok(1, "a"), deliver(1, "a", 2))
    broker.gets(cancel(1, "a", no_wait=True), nack(1, 2, requeue=True))
    over(stage, client, broker, "leaves")


def test_consumers_that_need_not_acknowledge() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "a", no_ack=True)
    client.says(consume(1, "amq.rabbitmq.reply-to", "r", no_ack=True))
    broker.says(consume_ok(1, "r"))
    client.says(slow(1), slow(1))
    broker.heard()
    client.says(close())
    broker.gets(cancel(1, "a", no_wait=True), recover(1))
    client.heard()
    broker.says(recover_ok(1), deliver(1, "a", 1), deliver(1, "r", 2), returned(1, "k"))
    broker.gets_nothing()
    client.gets(returned(1, "k"))
    over(stage, client, broker, "close")


def test_a_transaction_that_nobody_commits_is_rolled_back() -> None:
    for commits in (False, True):
        stage = Stage(publish=SLOW)
        client, broker = stage.open(1)
        client.says(tx_select(1))
        broker.says(tx_select_ok(1))
        stage.consumer(client, broker, 1, "a")
        broker.says(deliver(1, "a", 1), deliver(1, "a", 2))
        client.says(ack(1, 1), slow(1), slow(1))
        if commits:
            client.says(tx_commit(1))
        broker.heard()
        client.leaves()
        if commits:
            # What it has acknowledged goes with what it has published.
            broker.gets(cancel(1, "a", no_wait=True))
            stage.advance(1.1)
            assert broker.frames()[-2] == tx_commit(1)
            broker.says(tx_commit_ok(1), CLOSE_OK)
            stage.over()
        else:
            broker.gets(cancel(1, "a", no_wait=True), rollback(1), recover(1))
            broker.says(method(1, 90, 31), recover_ok(1))
            over(stage, client, broker, "leaves")


def test_what_a_client_says_behind_its_close_is_not_heard() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "a")
    broker.says(deliver(1, "a", 1))
    client.says(slow(1), slow(1), close())
    broker.heard()
    client.says(ack(1, 1))
    broker.gets_nothing()
    client.heard()
    over(stage, client, broker, "close")


def test_with_a_spool() -> None:
    """What is held may not be spooled; and what was published just now is first confirmed."""
    stage = KeptStage(publish=SLOW)
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "a")
    stage.consumer(client, broker, 2, "b")
    broker.says(deliver(1, "a", 1))
    client.says(*[publish(1, "k", exchange="slow", bits=1) for _ in range(2)])
    broker.heard()
    client.leaves()
    broker.gets(cancel(1, "a", no_wait=True), recover(1), cancel(2, "b", no_wait=True), recover(2))
    broker.says(recover_ok(1), recover_ok(2), ack(1, 1))
    stage.advance(1.1)
    broker.heard()
    broker.says(ack(1, 2))
    assert name(broker.frames()[-1]).startswith("0: close ")
    broker.says(CLOSE_OK)
    stage.over()


def test_a_broker_that_comes_back_while_the_client_closes() -> None:
    """What was set up anew for it is taken down again."""
    stage = KeptStage(publish=SLOW)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "a")
    broker.says(deliver(1, "a", 1))
    client.says(*[publish(1, "k", exchange="slow", bits=1) for _ in range(3)], close())
    broker.heard()
    broker.breaks()
    client.heard()
    broker = stage.back(channel_open_ok(1), method(1, 85, 11), consume_ok(1, "a"))
    stage.advance(0.01)
    found = [name(frame) for frame in broker.frames()]
    assert [each for each in found if "cancel" in each], found
    stage.over()


def test_answers_that_a_client_has_asked_for_come_before_its_close() -> None:
    stage = Stage(publish=SLOW)
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "a")
    broker.says(deliver(1, "a", 1))
    client.says(slow(1), slow(1), recover(1), channel_close(1))
    client.heard()
    broker.heard()
    broker.says(recover_ok(1), deliver(1, "a", 2), recover_ok(1))
    broker.gets_nothing()
    client.gets(recover_ok(1))
    stage.advance(1.1)
    broker.heard()
    broker.says(channel_close_ok(1))
    client.gets(channel_close_ok(1))
    stage.over()


def test_a_connection_that_the_broker_does_not_read() -> None:
    """With a spool it goes with its client, and what was published is spooled; without one it has to stay."""
    for spool in (True, False):
        for closes in (True, False):
            stage = KeptStage() if spool else Stage()
            client, broker = stage.open(1)
            stage.consumer(client, broker, 1, "a")
            broker.says(deliver(1, "a", 1))
            client.says(publish(1, "k"))
            broker.says(blocked("memory"))
            client.says(publish(1, "k"))
            if closes:
                client.says(close())
                assert not broker.aborted
            client.leaves()
            assert broker.aborted == spool
            if isinstance(stage, KeptStage):
                assert len(stage.disk.stored) == 2
            else:
                stage.advance(10)
                assert broker.connected
                broker.says(UNBLOCKED)
                stage.advance(0.1)
                broker.says(CLOSE_OK)
            stage.over()
