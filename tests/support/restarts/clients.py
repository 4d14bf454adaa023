"""Clients that go on whatever happens: they connect anew when their connection ends, as clients with a recovery do."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pika
from pamqp import commands
from pika.exceptions import AMQPError

from support.amqp_clients.raw import METHOD, RawClient
from support.rabbitmq import parameters_to
from support.restarts.ledger import Ledger, Target

PERSISTENT = commands.Basic.Properties(delivery_mode=2)
#: Publishes of one publisher that may be unconfirmed at once.
_AHEAD = 40


class Refused(Exception):
    """The connection was closed while it was being made."""


class Worker:
    """A thread that does ``work`` again and again, until it is told to end."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        self.ledger = ledger
        self.ending = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def work(self) -> None:
        """One connection, to its end."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self.ending:
            try:
                self.work()
            except (AMQPError, OSError, EOFError, Refused) as error:
                self.ledger.ended(f"{self.name}: {type(error).__name__} {str(error)[:100]}")
            except BaseException as error:
                self.error = error
                return
            time.sleep(0.1)

    def check(self) -> None:
        """It is still at work."""
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self.ending = True
        self._thread.join(30)
        assert not self._thread.is_alive(), f"{self.name} does not end"
        self.check()


class Publisher(Worker):
    """In confirm mode, to each of the targets, ``rate`` messages a second in all. ``stays``: seconds that a connection
    lasts, until it is made anew."""

    def __init__(
        self, name: str, ledger: Ledger, port: int, targets: Callable[[], Sequence[Target]], rate: float, seed: int,
        *, stays: float = 1e9, user: str = "guest", password: str = "guest",
    ) -> None:  # fmt: skip
        self.paused = False
        self._port = port
        self._targets = targets
        self._rate = rate
        self._rng = random.Random(seed)
        self._stays = stays
        self._user = user
        self._password = password
        self._number = 0
        self._sent: dict[int, bytes] = {}
        super().__init__(name, ledger)

    def is_quiet(self) -> bool:
        """It is paused, and everything is answered; or it has failed."""
        return (self.paused and not self._sent) or self.error is not None

    def work(self) -> None:
        self._sent = {}
        with self._connected() as client:
            self._publish(client)
            while self._sent:
                self._read(client, 0.1)
            client.close()

    def _connected(self) -> RawClient:
        client = None
        try:
            client = RawClient(self._port, timeout=30, user=self._user, password=self._password).open_channel()
            exchange = commands.Exchange.Declare(exchange="restarts", exchange_type="topic", durable=True)
            client.call(1, exchange, commands.Exchange.DeclareOk)
            return client.confirms()
        except AssertionError as error:  # not what was expected
            if client is not None:
                client.sock.close()
            raise Refused(str(error)) from None

    def _publish(self, client: RawClient) -> None:
        began = due = time.monotonic()
        tag = 0
        while not self.ending and time.monotonic() < began + self._stays:
            self._read(client, 0.005)
            now = time.monotonic()
            due = max(due, now - 0.1)
            while due < now and len(self._sent) < _AHEAD and not self.paused:
                due += self._rng.uniform(0.5, 1.5) / self._rate
                tag += 1
                target = self._rng.choice(self._targets())
                self._number += 1
                body = b"%s %s %d" % (target.name.encode(), self.name.encode(), self._number)
                self._sent[tag] = body
                self.ledger.publishes()
                client.publish(1, target.exchange, target.key, body, PERSISTENT)

    def _read(self, client: RawClient, seconds: float) -> None:
        found = client.read(seconds)
        while found is not None:
            if found.kind == METHOD:
                self._answered(found.method)
            found = client.read(0)

    def _answered(self, method: Any) -> None:
        if not isinstance(method, commands.Basic.Ack | commands.Basic.Nack):
            raise EOFError(f"{method.name} {dict(method)}")
        last = method.delivery_tag or 0
        for tag in [tag for tag in self._sent if tag <= last] if method.multiple else [last]:
            body = self._sent.pop(tag)
            if isinstance(method, commands.Basic.Ack):
                self.ledger.confirms(body)
            else:
                self.ledger.nacks()


class Consumer(Worker):
    """Declares its queue, binds it and consumes; ``acks``: it acknowledges each message, some time after it came."""

    def __init__(
        self, name: str, ledger: Ledger, port: int, queue: str, binding: str, *, acks: bool, **flags: bool
    ) -> None:
        self._port = port
        self._queue = queue
        self._binding = binding
        self._acks = acks
        self._flags = flags
        super().__init__(name, ledger)

    def work(self) -> None:
        connection = pika.BlockingConnection(parameters_to(self._port, heartbeat=0, blocked_connection_timeout=None))
        channel = connection.channel()
        channel.exchange_declare("restarts", "topic", durable=True)
        channel.queue_declare(self._queue, **self._flags)
        channel.queue_bind(self._queue, "restarts", self._binding)
        channel.basic_qos(prefetch_count=20)
        channel.basic_consume(self._queue, self._take, auto_ack=not self._acks)
        while not self.ending:
            connection.process_data_events(0.1)
        connection.close()

    def _take(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.ledger.consumes(body, method.redelivered)
        if self._acks:
            channel.basic_ack(method.delivery_tag)
