"""Publishing over connections of the sidecar's own, against a real broker: what it says, and what comes of that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.amqp.flow.policy import Policy
from sidecar.amqp.flow.scheduler import Scheduler
from sidecar.amqp.flow.stats import AmqpStats
from sidecar.amqp.monitor.connection import TroubleLog
from sidecar.amqp.publisher.callbacks import Callbacks
from sidecar.amqp.publisher.connection import Publisher
from sidecar.amqp.publisher.connector import Connector
from sidecar.amqp.replay.dispatcher import Dispatcher
from sidecar.amqp.replay.publisher_slot import SaslLogin
from sidecar.amqp.spool.message import from_frames
from sidecar.amqp.spool.store import Spool
from sidecar.amqp.wire.client_handshake import ClientHandshake, own_properties, plain
from sidecar.amqp.wire.constants import AmqpError
from sidecar.core.amqp_settings import Amqp
from sidecar.net.wheel import TimerWheel
from support import amqp
from support.rabbitmq import RabbitMQ
from support.registries import until
from support.spooled import bodies, first_times


class Told(Callbacks):
    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.untaken: list[Any] = []
        self.back: list[tuple[Any, int]] = []
        self.bad: list[tuple[Any, int]] = []
        self.readies = 0
        self.left: list[Any] | None = None
        self.error: AmqpError | None = None

    def ready(self, publisher: Publisher) -> None:
        self.readies += 1

    def answered(self, publisher: Publisher, tokens: list[object], taken: bool) -> None:
        (self.taken if taken else self.untaken).extend(tokens)

    def returned(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        assert token not in self.taken
        self.back.append((token, code))

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        self.bad.append((token, code))

    def blocked(self, publisher: Publisher, on: bool, reason: str) -> None:
        raise AssertionError(reason)

    def writable(self, publisher: Publisher) -> None:
        pass

    def lost(self, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        self.left = left
        self.error = error


class Setting:
    def __init__(self, rabbit: RabbitMQ, user: str = "guest", password: str = "guest", vhost: str = "/") -> None:
        loop = asyncio.get_running_loop()
        self.told = Told()
        handshake = ClientHandshake("PLAIN", plain(user, password), vhost, own_properties("tests"))
        wheel = TimerWheel(loop.call_at, loop.time)
        self.publisher = Publisher(handshake, self.told, wheel, loop.time, loop.call_soon)
        Connector(lambda: [("127.0.0.1", rabbit.port)], loop).connect(self.publisher)

    def send(self, name: str, exchange: str = "", key: str = "", bits: int = 0, properties: bytes = b"\0\0") -> None:
        frames = amqp.publish(1, key, name.encode(), exchange=exchange, bits=bits, properties=properties)
        self.publisher.send(frames, name)

    async def all_answered(self) -> None:
        await until(lambda: self.publisher.unanswered == 0 or self.told.error is not None, "an answer to each")

    async def close(self) -> None:
        self.publisher.close()
        await until(lambda: self.told.error is not None, "the end")


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await work()
        await asyncio.sleep(0)  # transports close

    asyncio.run(whole())


@pytest.fixture(scope="module")
def names(rabbitmq: RabbitMQ) -> RabbitMQ:
    """The broker, with a queue, exchanges, and a user who may publish to one of them."""
    rabbitmq.add_user("pub-writer", "writer", permissions=("^$", "^pub-jobs$", ".*"))
    with rabbitmq.channel() as channel:
        channel.queue_declare("pub-queue")
        for exchange in ("pub-jobs", "pub-others"):
            channel.exchange_declare(exchange, "fanout")
            channel.queue_bind("pub-queue", exchange)
        channel.exchange_declare("pub-internal", "fanout", internal=True)
        channel.exchange_declare("pub-nowhere", "direct")
    return rabbitmq


def test_it_publishes_with_confirms(names: RabbitMQ) -> None:
    names.purge("pub-queue")

    async def work() -> None:
        one = Setting(names)
        for number in range(2000):
            one.send(str(number), key="pub-queue", properties=b"\x10\x00\x02" if number % 2 else b"\0\0")
        await one.all_answered()
        assert sorted(one.told.taken, key=int) == [str(number) for number in range(2000)]
        await one.close()
        assert one.told.left == []
        assert one.told.error is not None
        assert one.told.error.code == 200

    run(work)
    assert names.depth("pub-queue") == 2000


@pytest.mark.parametrize(
    ("user", "password", "vhost", "code"),
    [("guest", "wrong", "/", 403), ("nobody", "guest", "/", 403), ("guest", "guest", "/nowhere", 530)],
)
def test_logins_that_are_refused(names: RabbitMQ, user: str, password: str, vhost: str, code: int) -> None:
    async def work() -> None:
        one = Setting(names, user, password, vhost)
        one.send("a")
        await until(lambda: one.told.error is not None, "the end")
        assert one.told.error is not None
        assert one.told.error.code == code
        assert one.publisher.permanent
        assert one.told.left == ["a"]

    run(work)


def test_messages_that_are_no_good_among_others(names: RabbitMQ) -> None:
    names.purge("pub-queue")
    user_id = b"\x00\x10" + amqp.short("somebody")
    expiration = b"\x01\x00" + amqp.short("soon")

    async def work() -> None:
        one = Setting(names, "pub-writer", "writer")
        for number in range(50):
            one.send(f"good{number}", "pub-jobs")
            if number == 3:
                one.send("missing", "pub-missing")
            elif number == 10:
                one.send("forbidden", "pub-others")
            elif number == 20:
                one.send("default", "", "pub-queue")
            elif number == 30:
                one.send("user", "pub-jobs", properties=user_id)
            elif number == 31:
                one.send("expiration", "pub-jobs", properties=expiration)
        await one.all_answered()
        assert dict(one.told.bad) == {
            "missing": 404, "forbidden": 403, "default": 403, "user": 406, "expiration": 406,
        }  # fmt: skip
        assert one.told.taken == [f"good{number}" for number in range(50)]
        await one.close()

    run(work)


def test_exchanges_that_are_missing_or_internal(names: RabbitMQ) -> None:
    async def work() -> None:
        one = Setting(names)
        for number in range(30):
            one.send(f"good{number}", "pub-jobs")
            one.send(f"missing{number}", "pub-missing")
            one.send(f"internal{number}", "pub-internal")
        await one.all_answered()
        assert len(one.told.taken) == 30
        assert [name for name, code in one.told.bad if code == 404] == [f"missing{number}" for number in range(30)]
        assert [name for name, code in one.told.bad if code == 403] == [f"internal{number}" for number in range(30)]
        await one.close()

    run(work)


def test_a_missing_exchange_makes_no_duplicates(names: RabbitMQ) -> None:
    """Looking for exchanges takes no permission: this user has none but to write to one."""
    names.purge("pub-queue")

    async def work() -> None:
        one = Setting(names, "pub-writer", "writer")
        for number in range(500):
            one.send(f"good{number}", "pub-jobs")
            if number % 5 == 0:
                one.send(f"missing{number}", "pub-missing")
                await asyncio.sleep(0.001)
        await one.all_answered()
        assert [name for name, code in one.told.bad if code == 404] == [f"missing{n}" for n in range(0, 500, 5)]
        assert one.told.taken == [f"good{number}" for number in range(500)]
        await one.close()

    run(work)
    assert names.depth("pub-queue") == 500


def test_messages_that_come_back(names: RabbitMQ) -> None:
    async def work() -> None:
        one = Setting(names)
        one.send("a", "pub-nowhere", "key", bits=1)
        one.send("b", "pub-nowhere", "key")
        one.send("c", "pub-jobs", "key", bits=1)
        one.send("d", "", "pub-no-queue", bits=1)
        await one.all_answered()
        assert sorted(one.told.back) == [("a", 312), ("d", 312)]
        assert sorted(one.told.taken) == ["a", "b", "c", "d"]
        await one.close()

    run(work)


def test_one_that_ends_the_connection(names: RabbitMQ) -> None:
    async def work() -> None:
        one = Setting(names)
        await until(lambda: one.told.readies == 1, "a login")
        one.send("immediate", "pub-jobs", bits=2)
        await one.all_answered()
        assert one.told.bad == [("immediate", 540)]
        assert one.told.left == []

    run(work)


def test_a_spool_is_emptied_over_connections_that_break(names: RabbitMQ, tmp_path: Path) -> None:
    """Nothing is missing, the order is kept, and there twice is no more than was on its way."""
    names.purge("pub-queue")
    count, window, breaks = 3000, 100, 3

    async def work() -> None:
        loop = asyncio.get_running_loop()
        spool = Spool(tmp_path, "rabbitmq", 1 << 30, loop)
        spool.open()
        stored = asyncio.Event()
        frames = [amqp.publish(1, "key", str(number).encode(), exchange="pub-jobs") for number in range(count)]
        messages = [from_frames(each, "/", "exchange pub-jobs", time.time()) for each in frames]
        assert spool.put(messages, lambda messages, error: stored.set())
        await stored.wait()
        stats = AmqpStats()
        settings = Amqp()
        policy = Policy(settings, stats, loop.time)
        scheduler = Scheduler(settings.hold, stats, loop.time, loop.call_at)
        connector = Connector(lambda: [("127.0.0.1", names.port)], loop)
        publishers: list[Publisher] = []

        def connect(publisher: Publisher) -> None:
            publishers.append(publisher)
            connector.connect(publisher)

        dispatcher = Dispatcher(
            "rabbitmq", spool, scheduler, policy.routes,
            lambda vhost, user: SaslLogin("PLAIN", plain("guest", "guest")),
            connect, TimerWheel(loop.call_at, loop.time), loop.time, time.time, loop.call_soon,
            TroubleLog("rabbitmq", loop.time), window,
        )  # fmt: skip
        left = [count // 5, 2 * count // 5, 3 * count // 5]
        assert len(left) == breaks

        def settled(messages: object, taken: bool) -> None:
            if left and dispatcher.stats.replayed >= left[0]:
                del left[0]
                loop.call_soon(publishers[-1].transport.abort)

        dispatcher.on_settled = settled
        dispatcher.start()
        await until(lambda: not spool.streams, "all of it")
        assert dispatcher.stats.replayed == count
        assert len(publishers) > breaks
        assert stats.exchange("/", "pub-jobs").confirmed == count
        await dispatcher.close()
        connector.close()
        await spool.close()

    run(work)
    found = [int(body) for body in bodies(names, "pub-queue", count)]
    assert set(found) == set(range(count))
    assert len(found) - count <= breaks * window
    assert first_times(found) == list(range(count))
