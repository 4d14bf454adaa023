"""What a client hears while there is no broker."""

from __future__ import annotations

import pytest

from sidecar.core.amqp_settings import AmqpCredentials
from sidecar.core.secret import Secret
from support.amqp import (
    CLOSE_OK,
    GREETING,
    Peer,
    cancel,
    cancel_ok,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    confirm_select_ok,
    connection_open,
    connection_open_ok,
    consume,
    consume_ok,
    cut,
    deliver,
    get,
    get_empty,
    get_ok,
    method,
    publish,
    qos,
    qos_ok,
    queue_declare,
    queue_declare_ok,
    queue_delete,
    start_ok,
    tune,
    tune_ok,
)
from support.kept import KeptStage, replayed


def test_a_stand_in_answers_and_what_it_has_said_is_so() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(queue_declare(1, "known"))
    broker.says(queue_declare_ok(1, "known", 7, 1))
    client.heard()
    broker.breaks()
    client.says(channel_open(2), qos(2, 5), queue_declare(2, "known"), consume(2, "known", "c"), get(2, "known"))
    client.gets(channel_open_ok(2), qos_ok(2), queue_declare_ok(2, "known"), consume_ok(2, "c"), get_empty(2))
    client.says(cancel(2, "c"), consume(2, "known", "d"), channel_close(1))
    client.gets(cancel_ok(2, "c"), consume_ok(2, "d"), channel_close_ok(1))
    broker = stage.back()
    broker.heard()
    broker.says(channel_open_ok(1), queue_declare_ok(1, "known"), channel_close_ok(1))
    broker.gets(channel_close(1), channel_open(2), qos(2, 5), consume(2, "known", "d"))
    broker.says(channel_open_ok(2), qos_ok(2), consume_ok(2, "d"), deliver(2, "d", 1))
    client.gets(deliver(2, "d", 1))
    stage.over()


def test_what_only_a_broker_can_answer_waits_for_it_and_all_behind_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, 2)
    broker.breaks()
    client.says(queue_delete(1, "q"), publish(1, "q", b"behind"), qos(2, 1))
    client.gets(qos_ok(2))
    assert stage.disk.bodies() == []
    broker = stage.back()
    broker.heard()
    broker.says(channel_open_ok(1), channel_open_ok(2), qos_ok(2))
    assert cut(broker.heard())[0] == queue_delete(1, "q")
    deleted = method(1, 50, 41, b"\0\0\0\0")
    broker.says(deleted)
    client.gets(deleted)
    stage.over()


def test_a_channel_that_has_waited_can_be_closed() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    client.says(queue_delete(1, "q"), qos(1, 1))
    client.says(channel_close(1))
    client.gets(channel_close_ok(1))
    assert stage.counts()["channels"] == 0
    client.says(channel_open(1))
    client.gets(channel_open_ok(1))
    stage.over()


@pytest.mark.parametrize(
    ("question", "words", "polite"),
    [
        (queue_delete(1, "q"), "queue.delete of 'q'", True),
        (queue_declare(1, "unknown"), "queue.declare of 'unknown'", False),
    ],
)
def test_who_waits_too_long_is_told_and_cut_if_need_be(question: bytes, words: str, polite: bool) -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(question)
    stage.advance(119)
    client.gets_nothing()
    stage.advance(2)
    client.gets_close(320, words)
    if polite:
        client.says(CLOSE_OK)
        assert client.closed
    else:
        stage.advance(5)
        assert client.aborted
    stage.finished()


def test_a_fetch_whose_answer_is_kept_back_is_answered_when_the_broker_goes() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c")
    stage.listener.app_health(False)
    broker.says(deliver(1, "c", 1))
    client.says(get(1, "q"))
    broker.says(get_ok(1, 2))
    client.gets_nothing()
    stage.away()
    broker.breaks()
    client.gets(get_empty(1))
    stage.over()


# -- clients that come meanwhile ---------------------------------------------------------------------------------------


def arriving(stage: KeptStage, password: str = "secret") -> Peer:
    stage.away()
    client = stage.connect()
    client.says(GREETING)
    assert b"RabbitMQ" in client.heard()
    client.says(start_ok(response=f"\0guest\0{password}"))
    return client


def test_the_sidecars_own_account_comes_in_though_no_broker_was_ever_seen() -> None:
    stage = KeptStage()
    client = arriving(stage)
    client.gets(tune(heartbeat=60))
    client.says(tune_ok(), connection_open())
    client.gets(connection_open_ok())
    client.says(channel_open(1), publish(1, "q", b"early"))
    client.gets(channel_open_ok(1))
    assert stage.disk.bodies() == [b"early"]
    assert stage.stats.detached == 1
    stage.there()
    broker = stage.back(channel_open_ok(1), confirm_select_ok(1))
    stage.replay().gets(replayed(1, "q", b"early"))
    client.says(close())
    broker.gets(close())
    broker.says(CLOSE_OK)
    client.gets(CLOSE_OK)
    stage.over()


@pytest.mark.parametrize(("password", "vhost"), [("secret", "/"), ("wrong", "/"), ("secret", "closed")])
def test_those_come_in_whom_the_broker_has_let_in_before(password: str, vhost: str) -> None:
    stage = KeptStage(credentials=AmqpCredentials(username="own", password=Secret("own")))
    stage.open()[0].leaves()
    client = arriving(stage, password)
    client.gets(tune())
    client.says(tune_ok(), connection_open(vhost))
    if (password, vhost) == ("secret", "/"):
        client.gets(connection_open_ok())
        assert stage.stats.detached == 1
    else:
        # Whatever were said, or said sooner, some clients would take for a refusal for good.
        client.gets_nothing()
        assert client.closed
        assert stage.listener.stats.rejected["connect_failed"] == 1
    stage.over()


def test_one_that_leaves_at_the_door() -> None:
    stage = KeptStage()
    for _ in range(3):
        arriving(stage).leaves()
    client = stage.connect()
    client.says(GREETING)
    client.transport.feed(start_ok())
    client.leaves()  # before its login was looked at
    stage.finished()
