"""Publishes numbered messages at a steady rate, as a process of its own, and says how that went::

    python publishers.py celery|aio_pika PORT QUEUE RATE COUNT [QUEUE-TYPE]

``celery`` is a Celery application that sends tasks without confirms; ``aio_pika`` asks for confirms, and has one
connection and one channel. Neither may see anything of an outage: they do not try again, and they do not connect anew.
When ``COUNT`` messages have been sent, or a line comes on standard input, a line of JSON says how many were, what went
wrong, and how long the longest of them took.
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
import time
from typing import Any

import aio_pika
from celery import Celery
from kombu.entity import Queue

TICK = 0.01  # seconds


def celery(port: int, queue: str, rate: float, count: int) -> dict[str, Any]:
    app = Celery("publisher", broker=f"amqp://guest:guest@127.0.0.1:{port}//")
    app.conf.update(
        task_queues=[Queue(queue)],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
    )
    published, longest, error = 0, 0.0, None
    started = time.monotonic()
    try:
        while published < count and not told_to_end():
            until = min(count, int((time.monotonic() - started) * rate) + 1)
            while published < until:
                before = time.monotonic()
                app.send_task("task", (published,), queue=queue, retry=False, ignore_result=True)
                longest = max(longest, time.monotonic() - before)
                published += 1
            time.sleep(TICK)
    except Exception as problem:
        error = repr(problem)
    return {"published": published, "error": error, "longest": longest}


async def with_confirms(port: int, queue: str, rate: float, count: int, type: str) -> dict[str, Any]:
    connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/?heartbeat=5")
    errors: list[str] = []
    connection.close_callbacks.add(lambda _, error: errors.append(f"closed: {error!r}") if error else None)
    channel = await connection.channel()
    await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": type})
    exchange = channel.default_exchange
    latencies: list[float] = []

    async def publish(number: int) -> None:
        before = time.monotonic()
        message = aio_pika.Message(str(number).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        try:
            await exchange.publish(message, queue, mandatory=False)
        except Exception as problem:
            errors.append(repr(problem))
        latencies.append(time.monotonic() - before)

    tasks: set[asyncio.Task[None]] = set()
    published = 0
    started = time.monotonic()
    while published < count and not errors and not (published and told_to_end()):
        until = min(count, int((time.monotonic() - started) * rate) + 1)
        for number in range(published, until):
            tasks.add(task := asyncio.create_task(publish(number)))
            task.add_done_callback(tasks.discard)
        published = until
        await asyncio.sleep(TICK)
    if tasks:
        await asyncio.wait(list(tasks), timeout=60)
    error = errors[0] if errors else None  # an orderly end is one to the callback, too
    if error is None:
        await connection.close()
    return {"published": published, "error": error, "longest": max(latencies)}


def told_to_end() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main() -> None:
    kind, port, queue, rate, count, *more = sys.argv[1:]
    arguments = (int(port), queue, float(rate), int(count))
    if kind == "celery":
        found = celery(*arguments)
    else:
        found = asyncio.run(with_confirms(*arguments, more[0] if more else "classic"))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
