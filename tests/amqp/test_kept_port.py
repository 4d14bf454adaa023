"""What becomes of a session of a port with a spool, whatever moment its broker, its client or the disk choose to fail.
The port is whole: see :mod:`support.kept_port`."""

from __future__ import annotations

from sidecar.config import model
from support.amqp import (
    CLOSE_OK,
    UNBLOCKED,
    ack,
    blocked,
    cancel,
    channel_close,
    channel_close_ok,
    channel_open,
    channel_open_ok,
    close,
    confirm_select,
    confirm_select_ok,
    consume_ok,
    deliver,
    get,
    get_empty,
    get_ok,
    method,
    nack,
    name,
    publish,
    queue_declare,
    queue_declare_ok,
)
from support.kept_port import KeptStage

#: The sidecar wants confirms and no answer.
SELECT = method(1, 85, 10, b"\x01")
SLOW = (model.AmqpPublish(exchange="slow", rate=0.1, burst=1),)


def test_what_was_not_confirmed_goes_by_the_spool_and_later_ones_behind_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a"), publish(1, "q", b"b"))
    broker.gets(publish(1, "q", b"a"), publish(1, "q", b"b"))
    stage.away()
    broker.breaks()
    client.gets(ack(1, 2, True))
    client.says(publish(1, "q", b"c"))
    client.gets(ack(1, 3))
    assert stage.disk.bodies() == [b"a", b"b", b"c"]
    stage.there()
    broker = stage.back()
    broker.gets(channel_open(1), confirm_select(1))
    broker.says(channel_open_ok(1), confirm_select_ok(1))
    replay = stage.replay()
    replay.gets(publish(1, "q", b"a"), publish(1, "q", b"b"), publish(1, "q", b"c"))
    replay.says(ack(1, 3, True))
    client.says(publish(1, "q", b"d"))
    broker.gets(publish(1, "q", b"d"))
    broker.says(ack(1, 1))
    client.gets(ack(1, 4))
    stage.advance(1)
    assert not stage.disk.stored
    stage.over()


def test_what_a_channel_has_published_stays_in_order_whoever_notices_first_that_the_broker_is_gone() -> None:
    stage = KeptStage()
    one, first = stage.open(1)
    two, second = stage.open(1)
    one.says(publish(1, "q", b"a1"))
    two.says(publish(1, "q", b"b1"), publish(1, "other", b"c1"))
    stage.away()
    first.breaks()
    two.says(publish(1, "q", b"b2"), publish(1, "other", b"c2"))
    second.breaks()
    assert stage.disk.bodies() == [b"a1", b"b1", b"c1", b"c2", b"b2"]
    stage.over()


def test_what_goes_into_the_spool_waits_for_what_is_under_way() -> None:
    stage = KeptStage()
    one, first = stage.open(1)
    two, second = stage.open(1, confirms=True)
    stage.away()
    first.breaks()
    two.says(publish(1, "q", b"b1"))
    one.says(publish(1, "q", b"a1"))
    two.says(publish(1, "q", b"b2"))
    two.gets_nothing()
    second.says(ack(1, 1))
    two.gets(ack(1, 1))
    stage.advance(0.1)
    two.gets(ack(1, 2))
    assert stage.disk.bodies() == [b"a1", b"b2"]
    stage.over()


# -- a broker that answers nothing -------------------------------------------------------------------------------------


def test_a_publish_that_was_held_for_long_is_no_sign_of_a_dead_broker() -> None:
    stage = KeptStage(publish=SLOW)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a", exchange="slow"), publish(1, "q", b"b", exchange="slow"))
    broker.says(ack(1, 1))
    broker.heard()
    while not broker.heard():
        stage.advance(0.02)
    stage.advance(0.5)
    assert broker.connected
    stage.advance(5)
    assert broker.aborted
    stage.over()


def test_a_client_that_does_not_read_is_no_sign_of_a_dead_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    stage.consumer(client, broker, 1, "c")
    client.says(publish(1, "q", b"result"))
    client.stops_reading()
    broker.says(deliver(1, "c", 1, b"x" * 100_000), ack(1, 1))
    broker.says(deliver(1, "c", 2, b"x"), ack(1, 1))
    assert not broker.is_read()
    stage.advance(10)
    assert broker.connected
    stage.over()


# -- channels that the sidecar closes ----------------------------------------------------------------------------------


def test_a_channel_that_the_sidecar_has_closed_opens_again_without_a_broker() -> None:
    stage = KeptStage(max_message_size=1000)
    client, broker = stage.open(1)
    for _ in range(2):
        client.says(publish(1, "q", b"x" * 2000))
        client.gets_close(406)
        client.says(channel_close_ok(1))
        if not broker.transport.gone:
            stage.away()
            broker.breaks()
        client.says(channel_open(1))
        client.gets(channel_open_ok(1))
    stage.there()
    broker = stage.back()
    broker.gets(channel_open(1))
    broker.says(channel_open_ok(1))
    assert not stage.stats.detached
    stage.over()


def test_a_channel_that_the_sidecar_closes_while_queues_are_declared_anew_is_not_known_there() -> None:
    stage = KeptStage(max_message_size=1000)
    client, broker = stage.open(1)
    client.says(queue_declare(1, "q1"))
    broker.says(queue_declare_ok(1, "q1"))
    client.heard()
    broker.breaks()
    broker = stage.back()
    broker.gets(channel_open(2), queue_declare(2, "q1"))
    client.says(publish(1, "q", b"x" * 2000))
    client.gets_close(406)
    broker.gets_nothing()
    broker.says(channel_open_ok(2), queue_declare_ok(2, "q1"))
    broker.gets(channel_close(2))
    broker.says(channel_close_ok(2))
    broker.gets_nothing()
    assert not stage.stats.detached
    stage.over()


def test_a_close_that_crosses_the_end_of_the_broker_is_answered() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.says(channel_close(1, 404, "no queue"))
    broker.breaks()
    client.gets_close(404)
    client.says(channel_close(1))
    client.gets(channel_close_ok(1))
    stage.over()


# -- a broker that is lost again ---------------------------------------------------------------------------------------


def test_a_broker_that_shuts_down_in_the_middle_of_a_restoration() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.breaks()
    broker = stage.back()
    broker.heard()
    broker.says(close(320, "shutdown"))
    broker.gets(CLOSE_OK)
    assert stage.stats.detached == 1
    broker = stage.back()
    broker.says(channel_open_ok(1))
    assert stage.stats.detached == 0
    client.gets_nothing()
    stage.over()


def test_tags_of_a_restoration_that_came_to_nothing_do_not_come_again() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, 2)
    stage.consumer(client, broker, 1, "c")
    broker.breaks()
    broker = stage.back()
    broker.says(channel_open_ok(1), consume_ok(1, "c"), deliver(1, "c", 1, b"A"))
    client.gets(deliver(1, "c", 1, b"A"))
    broker.breaks()
    broker = stage.back()
    broker.says(channel_open_ok(1), consume_ok(1, "c"), channel_open_ok(2), deliver(1, "c", 1, b"B"))
    client.gets(deliver(1, "c", 2, b"B"))
    broker.heard()
    client.says(ack(1, 1))
    broker.gets_nothing()
    client.says(ack(1, 2))
    broker.gets(ack(1, 1))
    stage.over()


def test_an_alarm_that_was_heard_of_in_a_restoration_ends_with_it() -> None:
    stage = KeptStage()
    _, broker = stage.open(1)
    broker.breaks()
    broker = stage.back()
    broker.says(blocked("memory"))
    assert stage.counts()["blocked"]
    broker.breaks()
    assert not stage.counts()["blocked"]
    stage.over()


def test_a_new_broker_that_has_said_as_much_as_the_last_one_is_not_taken_for_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1, confirms=True)
    for _ in range(2):
        stage.away()
        broker.breaks()
        client.says(publish(1, "q", bits=1))
        stage.advance(6)
        stage.there()
        broker = stage.back()
        broker.says(channel_open_ok(1), confirm_select_ok(1))
        stage.advance(0.3)
        assert broker.connected
    stage.over()


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


# -- closes and confirms -----------------------------------------------------------------------------------------------


def test_closes_wait_for_the_confirms_of_the_broker() -> None:
    for how in ("channel", "connection", "left"):
        stage = KeptStage()
        client, broker = stage.open(1)
        client.says(publish(1, "q", b"a"))
        broker.gets(SELECT, publish(1, "q", b"a"))
        if how == "left":
            client.leaves()
        else:
            client.says(channel_close(1) if how == "channel" else close())
        broker.gets_nothing()
        broker.says(ack(1, 1))
        if how == "channel":
            broker.gets(channel_close(1))
            broker.says(channel_close_ok(1))
            client.gets(channel_close_ok(1))
        else:
            assert name(broker.frames()[0]).startswith("0: close ")
            broker.says(CLOSE_OK)
        assert not stage.disk.stored
        stage.over()


def test_what_is_not_confirmed_when_its_channel_is_closed_is_not_lost_with_the_broker() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a"), channel_close(1))
    broker.heard()
    stage.away()
    broker.breaks()
    client.gets(channel_close_ok(1))
    assert stage.disk.bodies() == [b"a"]
    stage.over()


def test_closes_do_not_wait_for_ever() -> None:
    for whole in (False, True):
        stage = KeptStage()
        client, broker = stage.open(1, 2)
        stage.consumer(client, broker, 2, "c")
        client.says(publish(1, "q", b"a"), close() if whole else channel_close(1))
        broker.heard()
        for tag in range(1, 9):
            stage.advance(1)
            broker.says(deliver(2, "c", tag))
        client.heard()
        broker.gets(close() if whole else channel_close(1))
        broker.says(CLOSE_OK if whole else channel_close_ok(1))
        client.gets(CLOSE_OK if whole else channel_close_ok(1))
        assert stage.disk.bodies() == [b"a"]
        stage.over()


def test_nothing_follows_the_answer_to_a_close() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(publish(1, "q", b"a"), channel_close(1), close())
    broker.heard()
    stage.away()
    broker.breaks()
    assert client.frames()[-1] == CLOSE_OK
    stage.over()


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_what_a_client_has_left_behind_is_tried_until_the_disk_takes_it() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"))
    client.leaves()
    stage.disk.broken = "no space"
    stage.disk.work()
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(5)
    assert stage.disk.bodies() == [b"a"]
    stage.complains("no space")
    stage.over()


def test_what_the_disk_gives_back_is_not_written_on_a_channel_that_is_closed() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    broker.says(blocked("memory"))
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"), channel_close(1))
    broker.gets(SELECT, channel_close(1))
    broker.says(channel_close_ok(1), UNBLOCKED)
    stage.disk.broken = "no space"
    stage.disk.work()
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(5)
    broker.gets_nothing()
    stage.replay().gets(publish(1, "q", b"a"))
    stage.complains("no space")
    stage.over()


def test_the_broker_dies_when_the_spool_is_full() -> None:
    stage = KeptStage(spool={"over": "nack", "max_bytes": 300})
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a" * 300), publish(1, "q", b"b"))
    stage.away()
    broker.breaks()
    client.gets(nack(1, 1), nack(1, 2))
    assert not stage.disk.stored
    stage.over()


def test_a_disk_that_does_not_work_is_not_tried_all_the_time() -> None:
    stage = KeptStage(spool={"max_bytes": 1000})
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "p", b"a"), publish(1, "q", b"b" * 1000))
    stage.disk.broken = "no space"
    stage.disk.slow = False
    stage.disk.work()
    stage.advance(5)
    stage.disk.broken = ""
    stage.advance(5)
    assert stage.disk.bodies() == [b"a"]
    stage.complains("no space")
    stage.over()


def test_what_comes_back_from_the_disk_is_kept_when_its_channel_is_gone() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"))
    stage.disk.broken = "no space"
    stage.disk.work()
    client.leaves()
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(5)
    assert stage.disk.bodies() == [b"a"]
    stage.complains("no space")
    stage.over()


def test_a_close_waits_for_what_the_disk_gave_back() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    stage.disk.slow = True
    client.says(publish(1, "q", b"a"))
    client.says(close())
    stage.disk.broken = "no space"
    stage.disk.work()
    client.gets_nothing()
    stage.disk.broken = ""
    stage.disk.slow = False
    stage.advance(5)
    client.gets(CLOSE_OK)
    assert stage.disk.bodies() == [b"a"]
    stage.complains("no space")
    stage.over()


# -- what waits for a broker -------------------------------------------------------------------------------------------


def test_a_client_that_does_not_answer_the_close_is_cut() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(queue_declare(1, "unknown"))
    stage.advance(121)
    client.gets_close(320, "queue.declare of 'unknown'")
    stage.advance(5)
    assert client.aborted
    stage.finished()


def test_what_is_behind_refused_publishes_does_not_wait_for_a_broker() -> None:
    stage = KeptStage(spool={"over": "nack", "max_bytes": 400}, publish=SLOW)
    client, broker = stage.open(1, confirms=True)
    client.says(publish(1, "q", b"a", exchange="slow"), publish(1, "q", b"b" * 500, exchange="slow"))
    broker.says(ack(1, 1))
    client.gets(ack(1, 1))
    client.says(channel_close(1))
    stage.away()
    broker.breaks()
    client.gets(nack(1, 2), channel_close_ok(1))
    stage.over()


def test_a_connection_may_be_closed_behind_what_waits() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(queue_declare(1, "unknown"), close())
    client.gets(CLOSE_OK)
    stage.over()


def test_a_connection_is_not_closed_before_publishes_that_wait_behind_something() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.away()
    broker.breaks()
    client.says(queue_declare(1, "unknown"), publish(1, "unknown"), close())
    client.gets_nothing()
    stage.there()
    broker = stage.back()
    broker.says(channel_open_ok(1))
    broker.says(queue_declare_ok(1, "unknown"))
    broker.heard()
    broker.says(ack(1, 1), CLOSE_OK)
    client.gets(queue_declare_ok(1, "unknown"), CLOSE_OK)
    stage.over()


def test_a_client_that_does_not_read_stops_the_next_broker_too() -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "c", no_ack=True)
    client.stops_reading()
    broker.says(deliver(1, "c", 1, b"x" * 100_000))
    assert not broker.is_read()
    broker.breaks()
    broker = stage.back()
    broker.says(channel_open_ok(1), consume_ok(1, "c"), deliver(1, "c", 1, b"y"))
    assert not broker.is_read()
    client.reads_again()
    assert broker.is_read()
    assert not stage.stats.detached
    stage.over()


# -- draining ----------------------------------------------------------------------------------------------------------


def test_consumers_are_cancelled_when_there_is_a_broker_again() -> None:
    for restoring in (False, True):
        stage = KeptStage()
        client, broker = stage.open(1)
        stage.consumer(client, broker, 1, "c")
        broker.breaks()
        if not restoring:
            stage.listener.stop_work()
        broker = stage.back()
        broker.heard()
        stage.listener.stop_work()
        broker.gets_nothing()
        broker.says(channel_open_ok(1), consume_ok(1, "c"))
        broker.gets(cancel(1, "c", no_wait=True))
        stage.over()
