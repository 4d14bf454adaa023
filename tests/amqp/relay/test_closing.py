"""The last words of a connection: each side gets one, and nothing behind it."""

from __future__ import annotations

from support.amqp import CLOSE_OK, Stage, close, consume, consume_ok, deliver


def test_a_client_that_reads_slowly_gets_one_answer_to_its_close() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    client.stops_reading()
    client.says(close())
    broker.says(CLOSE_OK)
    broker.leaves()
    client.reads_again()
    client.gets(CLOSE_OK)
    assert client.closed
    stage.finished()


def test_the_broker_hears_nothing_behind_a_close_of_the_client() -> None:
    stage = Stage()
    client, broker = stage.open(1)
    stage.consumer(client, broker, 1, "d")
    client.says(consume(1, "q", "c"))
    stage.listener.stop_work()
    client.says(close())
    broker.heard()
    broker.says(consume_ok(1, "c"), deliver(1, "d", 1), CLOSE_OK)
    broker.gets_nothing()
    stage.over()
