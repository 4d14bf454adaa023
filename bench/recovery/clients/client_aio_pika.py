"""aio-pika: ``connect_robust``, which comes back by itself once it has been connected."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AuthenticationError

PORT, QUEUE = int(sys.argv[1]), sys.argv[2]


def say(word: str, about: object) -> None:
    print(word, about, flush=True)


class Warnings(logging.Handler):
    """What the library says of its own tries."""

    def emit(self, record: logging.LogRecord) -> None:
        say("fails", " ".join(record.getMessage().split()))


logging.getLogger("aio_pika.robust_connection").addHandler(Warnings(logging.WARNING))


async def take(message: AbstractIncomingMessage) -> None:
    await message.ack()
    say("got", message.body.decode())


async def main() -> None:
    while True:
        try:
            connection = await aio_pika.connect_robust(f"amqp://guest:guest@127.0.0.1:{PORT}/")
            break
        except AuthenticationError as error:
            say("gone", repr(error))
            return
        except Exception as error:
            say("fails", repr(error))
            await asyncio.sleep(1)
    channel = await connection.channel()
    queue = await channel.declare_queue(QUEUE, durable=True)
    await queue.consume(take)
    while True:
        stamp = str(time.time())
        message = aio_pika.Message(stamp.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        try:
            await channel.default_exchange.publish(message, QUEUE, timeout=10)
            say("ok", stamp)
        except Exception as error:
            say("unsent", repr(error))
        await asyncio.sleep(0.1)


asyncio.run(main())
