"""Messages through the AMQP port: work that is consumed, results that are published.

A message is acknowledged once what comes of it is confirmed: then nothing is lost whoever is killed, and some work is
done twice. So a result's ``message_id`` is made of its request's, and who takes results knows the second one.

aio-pika's robust connection is what a client library does by itself when its connection ends. With the sidecar's spool
it does not end when the broker goes; it does when the sidecar itself is replaced.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection
from aio_pika.exceptions import AMQPException

from examples.common.context import context_of, log

#: Where all of it is; the broker has it from ``deploy/rabbitmq/definitions.json``.
VHOST = "/sutazai"
EXCHANGE = "workflows.topic"
#: How long a confirm may take. With the sidecar's spool it takes as long as a write to its disk, broker or not.
CONFIRM_SECONDS = 30.0

#: What is called for each message: its body, its id, its trace context.
Handler = Callable[[bytes, str, dict[str, str]], Awaitable[None]]


class NotPublished(Exception):
    """Nobody has confirmed it: there is no connection, or the message was refused."""


def url_of(environment: Mapping[str, str]) -> str:
    """Where the broker is dialled, and as whom: ``AMQP_PORT``, ``AMQP_USER``, ``AMQP_PASSWORD_FILE``."""
    file = environment.get("AMQP_PASSWORD_FILE")
    password = Path(file).read_text().strip() if file else "guest"
    user = environment.get("AMQP_USER", "guest")
    where = f"127.0.0.1:{environment.get('AMQP_PORT', '5672')}"
    return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@{where}/{quote(VHOST, safe='')}"


class Messages:
    """One connection, with a channel to consume and one to publish: so neither waits for the other."""

    def __init__(self, url: str, prefetch: int, handlers: Mapping[str, Handler]) -> None:
        self._url = url
        self._prefetch = prefetch
        self._handlers = handlers
        self._connection: AbstractRobustConnection | None = None
        self._consumers: list[tuple[Any, str]] = []
        self._exchange: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> bool:
        return self._exchange is not None and self._connection is not None and self._connection.connected.is_set()

    def start(self) -> None:
        """Connect in the background: HTTP is served meanwhile."""
        self._opening = asyncio.create_task(self._open())
        self._opening.add_done_callback(_end_with_it)

    async def _open(self) -> None:
        self._connection = await aio_pika.connect_robust(self._url, fail_fast=False, reconnect_interval=1)
        publishing = await self._connection.channel(publisher_confirms=True)
        self._exchange = await publishing.get_exchange(EXCHANGE, ensure=True)
        consuming = await self._connection.channel()
        await consuming.set_qos(self._prefetch)
        for name, handler in self._handlers.items():
            queue = await consuming.get_queue(name, ensure=True)
            self._consumers.append((queue, await queue.consume(self._taken_by(handler))))

    def _taken_by(self, handler: Handler) -> Callable[[AbstractIncomingMessage], Awaitable[None]]:
        async def take(message: AbstractIncomingMessage) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._under_way.add(task)
            try:
                await self._handle(handler, message)
            finally:
                self._under_way.discard(task)

        return take

    async def _handle(self, handler: Handler, message: AbstractIncomingMessage) -> None:
        context = context_of(message.headers)
        # x-sidecar-id is the same however often a message is delivered, and there where a publisher has given none.
        name = message.message_id or str(message.headers.get("x-sidecar-id", "")) or os.urandom(8).hex()
        try:
            await handler(message.body, name, context)
            await message.ack()
        except (NotPublished, OSError) as error:  # not now: it comes again, to whoever can
            log("put back", context, message_id=name, why=str(error))
            await _quietly(message.nack(requeue=True))
        except AMQPException:  # the connection went while it was acknowledged: the broker delivers it again
            log("delivered twice", context, message_id=name)
        except Exception as error:  # a fault of this program, or of the message: not again and again
            log("given up", context, message_id=name, why=repr(error))
            await _quietly(message.reject(requeue=False))

    async def publish(self, key: str, document: object, name: str, context: Mapping[str, str], about: str = "") -> None:
        """Publish, and return when it is confirmed. ``about``: the id of what it answers."""
        if self._exchange is None:
            raise NotPublished("there has been no connection to the broker yet")
        message = aio_pika.Message(
            json.dumps(document).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=name,
            correlation_id=about or None,
            headers=dict(context),
        )
        try:
            # Without "mandatory": the spool takes no message that has to be returned if no queue wants it.
            await self._exchange.publish(message, key, mandatory=False, timeout=CONFIRM_SECONDS)
        except (AMQPException, OSError, asyncio.InvalidStateError) as error:
            raise NotPublished(str(error) or "it was not confirmed in time") from error

    async def stop_consuming(self) -> None:
        """Take nothing new, and finish what is under way."""
        if self._opening is not None:
            self._opening.cancel()
        for queue, tag in self._consumers:
            await _quietly(queue.cancel(tag, timeout=5))
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=20)

    async def close(self) -> None:
        if self._connection is not None:
            await _quietly(self._connection.close())


async def _quietly(doing: Awaitable[object]) -> None:
    """What is said to a connection that may have gone."""
    try:
        await doing
    except (AMQPException, OSError, asyncio.InvalidStateError):
        pass


def _end_with_it(task: asyncio.Task[None]) -> None:
    """A broker that refuses this program (its login, a queue that is missing) is no outage: end, and say so."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log("the broker refuses what this service needs", {}, why=str(error))
        os._exit(1)
