"""A publisher that has logged in at a broker without sockets, and somebody who writes down what it says."""

from __future__ import annotations

import asyncio
from typing import Any

from sidecar.amqp.publisher.callbacks import Callbacks
from sidecar.amqp.publisher.connection import READY, Publisher
from sidecar.amqp.wire.client_handshake import ClientHandshake, own_properties, plain
from sidecar.amqp.wire.constants import AmqpError
from sidecar.net.wheel import TimerWheel
from support import amqp
from support.loop import FakeLoop
from support.taking_broker import Connection, TakingBroker

NO_ACCESS = (403, "ACCESS_REFUSED - access to exchange 'orders' in vhost '/' refused for user 'guest'")
NO_ORDERS = (404, "NOT_FOUND - no exchange 'orders' in vhost '/'")
USER_ID = (406, "PRECONDITION_FAILED - user_id property set to 'eve' but authenticated user was 'guest'")


class Told(Callbacks):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.untaken: list[Any] = []
        self.back: list[tuple[Any, int, str]] = []
        self.bad: list[tuple[Any, int]] = []
        self.alarms: list[bool] = []
        self.readies = 0
        self.writables = 0
        self.left: list[Any] | None = None
        self.error: AmqpError | None = None
        self.over = asyncio.Event()

    def ready(self, publisher: Publisher) -> None:
        self.readies += 1

    def answered(self, publisher: Publisher, tokens: list[object], taken: bool) -> None:
        assert tokens
        (self.taken if taken else self.untaken).extend(tokens)

    def returned(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        assert token not in self.taken
        self.back.append((token, code, text))

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        self.bad.append((token, code))

    def blocked(self, publisher: Publisher, on: bool, reason: str) -> None:
        self.alarms.append(on)

    def writable(self, publisher: Publisher) -> None:
        self.writables += 1

    def lost(self, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        assert self.error is None
        self.left = left
        self.error = error
        self.over.set()


class Setting:
    """A publisher that has logged in, and its broker."""

    def __init__(self, heartbeat: int = 0, wary: int = 0, looks: bool = True) -> None:
        self.loop = FakeLoop()
        self.broker = TakingBroker(self.loop)
        self.broker.heartbeat = heartbeat
        self.told = Told()
        wheel = TimerWheel(self.loop.call_at, self.loop)
        handshake = ClientHandshake("PLAIN", plain("guest", "guest"), "/", own_properties("tests"), heartbeat)
        self.publisher = Publisher(handshake, self.told, wheel, self.loop, self.loop.call_soon, wary=wary, looks=looks)

    def connected(self) -> Setting:
        self.broker.connect(self.publisher)
        self.loop.settle()
        assert self.publisher.stage == READY
        assert self.told.readies == 1
        return self

    @property
    def connection(self) -> Connection:
        return self.broker.connections[-1]

    def send(self, *names: str, exchange: str = "jobs", bits: int = 0) -> None:
        """A message of each name, which is its body, its key and its token."""
        for name in names:
            frames = amqp.publish(1, name, name.encode(), exchange=exchange, bits=bits)
            self.publisher.send(frames, name)

    def settle(self) -> None:
        self.loop.settle()

    def over(self) -> None:
        """It leaves no timer behind."""
        self.loop.run_until(self.loop.now + 60)
        assert not self.loop.armed()

    def bodies(self) -> list[str]:
        return [body.decode() for body in self.broker.bodies()]


def can_send(one: Setting) -> bool:
    return one.publisher.open


def dislikes(*names: str, verdict: tuple[int, str] = USER_ID) -> Any:
    return lambda message: verdict if message.body.decode() in names else None


def numbered(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]
