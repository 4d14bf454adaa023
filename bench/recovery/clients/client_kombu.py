"""py-amqp under kombu: a ``ConsumerMixin``, and a producer that publishes with kombu's own retries."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.mixins import ConsumerMixin

PORT, QUEUE = int(sys.argv[1]), sys.argv[2]
ADDRESS = f"amqp://guest:guest@127.0.0.1:{PORT}//"
queue = Queue(QUEUE, Exchange(""), routing_key=QUEUE, durable=True)


def say(word: str, about: object) -> None:
    print(word, about, flush=True)


class Worker(ConsumerMixin):
    """Consumes; its ``run`` connects anew as long as the errors are the connection's."""

    def __init__(self) -> None:
        self.connection = Connection(ADDRESS)

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        return [Consumer([queue], callbacks=[self.take], accept=["text/plain"])]

    def take(self, body: str, message: Any) -> None:
        message.ack()
        say("got", body)

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        say("fails", f"{exc!r}, again in {interval} s")


def publish() -> None:
    connection = Connection(ADDRESS, transport_options={"confirm_publish": True})
    while True:
        stamp = str(time.time())
        try:
            with connection.Producer() as producer:
                producer.publish(stamp, routing_key=QUEUE, retry=True, retry_policy={"max_retries": 3})
            say("ok", stamp)
        except Exception as error:
            say("unsent", f"publish: {error!r}")
        time.sleep(0.1)


threading.Thread(target=publish, daemon=True).start()
try:
    Worker().run()
except Exception as error:
    say("gone", repr(error))
