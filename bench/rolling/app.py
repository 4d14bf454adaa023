"""The apps, as ordinary programs that know of no sidecar.

``app.py tasks PORT AMQP_PORT`` · ``app.py web HTTP_PORT AMQP_PORT REQUESTS MESSAGES`` (a second). Each prints a line of
JSON for each message that it published or consumed, for each request that was not answered by a 200, and a last one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

QUEUE = "rolling"
#: Seconds after which a request or a confirm is given up.
PATIENCE = 60.0


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def dialled(port: int) -> aio_pika.abc.AbstractConnection:
    return await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/", timeout=PATIENCE)


class Server:
    """Answers; an idle connection is closed at the end, one in use after its answer."""

    def __init__(self) -> None:
        self.ending = False
        self.answered = 0
        self._busy: set[asyncio.StreamWriter] = set()
        self._idle: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self._idle.add(writer)
                head = await reader.readuntil(b"\r\n\r\n")
                self._idle.discard(writer)
                self._busy.add(writer)
                size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(size)
                if not head.startswith(b"GET /health"):
                    await asyncio.sleep(0.02)
                    self.answered += 1
                last = b"connection: close\r\n" if self.ending else b""
                writer.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: 2\r\n\r\nok" % last)
                await writer.drain()
                self._busy.discard(writer)
                if self.ending:
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._idle.discard(writer)
            self._busy.discard(writer)
            writer.close()

    async def end(self) -> None:
        self.ending = True
        for writer in list(self._idle):
            writer.close()
        while self._busy:  # noqa: ASYNC110 - a program like others
            await asyncio.sleep(0.01)


async def tasks(port: int, amqp: int, ended: asyncio.Event) -> None:
    it = Server()
    server = await asyncio.start_server(it.serve, "127.0.0.1", port, backlog=1024)
    connection = await dialled(amqp)
    channel = await connection.channel()
    await channel.set_qos(50)
    queue = await channel.declare_queue(QUEUE, durable=True)

    async def take(message: AbstractIncomingMessage) -> None:
        say(got=message.body.decode())
        await message.ack()

    tag = await queue.consume(take)
    await ended.wait()
    server.close()
    await queue.cancel(tag)
    await it.end()
    await connection.close()
    say(end=True, answered=it.answered)


class Web:
    """Calls and publishes at a fixed pace, each in a task of its own, whatever becomes of those before it."""

    def __init__(self, port: int, amqp: int) -> None:
        self.port = port
        self.amqp = amqp
        self.begun = {"requests": 0, "messages": 0}
        self.done = {"requests": 0, "messages": 0}
        self.slowest = 0.0
        self._under_way: set[asyncio.Task[None]] = set()
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._exchange: aio_pika.abc.AbstractExchange | None = None
        self._dialling = asyncio.Lock()

    async def call(self, number: int) -> None:
        began = time.monotonic()
        method = b"POST" if number % 2 else b"GET"
        try:
            async with asyncio.timeout(PATIENCE):
                while self._kept and self._kept[-1][0].at_eof():
                    self._kept.pop()[1].close()
                reader, writer = (
                    self._kept.pop() if self._kept else await asyncio.open_connection("127.0.0.1", self.port)
                )
                writer.write(b"%b /work HTTP/1.1\r\nhost: tasks\r\ncontent-length: 2\r\n\r\nhi" % method)
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(size)
            if b"connection: close" in head.lower():
                writer.close()
            else:
                self._kept.append((reader, writer))
            problem = "" if head[9:12] == b"200" else f"{head[9:12].decode()} {body.decode(errors='replace')[:200]}"
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            problem = repr(error)
        self.slowest = max(self.slowest, time.monotonic() - began)
        if problem:
            say(failed="request", method=method.decode(), problem=problem, at=time.time())
        else:
            self.done["requests"] += 1

    async def publish(self, number: int) -> None:
        body = f"{os.getpid()}-{number}"
        try:
            async with asyncio.timeout(PATIENCE):
                async with self._dialling:
                    if self._exchange is None:
                        channel = await (await dialled(self.amqp)).channel()
                        await channel.declare_queue(QUEUE, durable=True)
                        self._exchange = channel.default_exchange
                message = aio_pika.Message(body.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await self._exchange.publish(message, QUEUE)
        except Exception as error:
            say(failed="message", problem=repr(error), at=time.time())
        else:
            self.done["messages"] += 1
            say(sent=body)

    async def pace(self, what: str, rate: float, ended: asyncio.Event) -> None:
        work = {"requests": self.call, "messages": self.publish}[what]
        due = time.monotonic()
        while not ended.is_set():
            task = asyncio.ensure_future(work(self.begun[what]))
            self.begun[what] += 1
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def run(self, requests: float, messages: float, ended: asyncio.Event) -> None:
        await asyncio.gather(self.pace("requests", requests, ended), self.pace("messages", messages, ended))
        while self._under_way:
            await asyncio.wait(self._under_way)
        say(end=True, begun=self.begun, done=self.done, slowest=round(self.slowest, 3))


async def main(kind: str, port: int, amqp: int, *rates: float) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await (tasks(port, amqp, ended) if kind == "tasks" else Web(port, amqp).run(rates[0], rates[1], ended))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:])))
