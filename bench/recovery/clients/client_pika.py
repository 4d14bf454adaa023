"""pika, with the loop of its documentation's recipe for connection recovery."""

from __future__ import annotations

import sys
import time
from typing import Any

import pika
from pika.exceptions import AMQPChannelError, AMQPConnectionError, NackError

PORT, QUEUE = int(sys.argv[1]), sys.argv[2]


def say(word: str, about: object) -> None:
    print(word, about, flush=True)


def take(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    channel.basic_ack(method.delivery_tag)
    say("got", body.decode())


while True:
    try:
        connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", PORT))
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(QUEUE, durable=True)
        channel.basic_consume(QUEUE, take)
        while True:
            stamp = str(time.time())
            try:
                channel.basic_publish("", QUEUE, stamp.encode(), pika.BasicProperties(delivery_mode=2))
                say("ok", stamp)
            except NackError:
                say("unsent", "nack")
            connection.process_data_events(0.1)
    except AMQPChannelError as error:
        say("gone", repr(error))
        break
    except AMQPConnectionError as error:
        say("fails", repr(error))
        time.sleep(1)
