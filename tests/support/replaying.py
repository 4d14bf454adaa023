"""A replayer with a spool in memory, a broker without sockets, limits and a clock of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

from sidecar.amqp.flow.policy import Policy
from sidecar.amqp.flow.scheduler import Scheduler
from sidecar.amqp.flow.stats import AmqpStats
from sidecar.amqp.replay.dispatcher import Dispatcher
from sidecar.amqp.replay.publisher_slot import SaslLogin
from sidecar.amqp.spool.message import SpooledMessage, from_frames
from sidecar.amqp.spool.store import Spool
from sidecar.amqp.wire.client_handshake import plain
from sidecar.core.amqp_settings import Amqp
from sidecar.net.wheel import TimerWheel
from support import amqp
from support.loop import FakeLoop
from support.taking_broker import TakingBroker

StreamName = tuple[str, str]
#: Loop time and Unix time in these tests differ by this much.
EPOCH = 1_700_000_000.0


class Count:
    """As :class:`sidecar.amqp.spool.store.Key`."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0


class FakeSpool:
    """A spool in memory. ``slow``: what is asked of it is done when a test says so, by :meth:`work`."""

    def __init__(self, loop: FakeLoop) -> None:
        self._loop = loop
        self.slow = False
        self.streams: dict[StreamName, Count] = {}
        #: What is on the disk, by id; and by stream, so that a fetch does not look at all of it.
        self.stored: dict[int, SpooledMessage] = {}
        self._in_stream: defaultdict[StreamName, dict[int, SpooledMessage]] = defaultdict(dict)
        self.dead_letters: list[tuple[SpooledMessage, str, int]] = []
        #: What the broker said of those.
        self.texts: list[str] = []
        self.fetches: list[tuple[StreamName, Any, int, int]] = []
        self.removed: list[SpooledMessage] = []
        self._next = 1
        self._jobs: list[Callable[[], None]] = []
        self._working = False

    @property
    def messages(self) -> int:
        return len(self.stored)

    def store(self, *messages: SpooledMessage) -> list[SpooledMessage]:
        """At once."""
        for message in messages:
            message.id = self._next
            self._next += 1
            self.stored[message.id] = self._in_stream[message.stream][message.id] = message
            key = self.streams.setdefault(message.stream, Count())
            key.count += 1
            key.bytes += message.size
        return list(messages)

    def fetch(self, key: StreamName, after: Any, limit: int, limit_bytes: int, done: Any) -> None:
        assert limit > 0
        assert limit_bytes > 0
        self.fetches.append((key, after, limit, limit_bytes))
        self._ask(lambda: self._fetch(key, after, limit, limit_bytes, done))

    def _fetch(self, key: StreamName, after: Any, limit: int, limit_bytes: int, done: Any) -> None:
        mine = sorted(self._in_stream[key].values(), key=lambda each: each.position)
        found: list[SpooledMessage] = []
        for each in mine:
            if after is not None and each.position <= after:
                continue
            limit_bytes -= each.size
            if len(found) == limit or (found and limit_bytes < 0):
                break
            found.append(copy(each))
        self._loop.call_soon(done, found)

    def remove(self, messages: list[SpooledMessage]) -> None:
        assert messages
        self.removed += messages
        for message in messages:
            self._less(message)
        self._ask(lambda: self._forget(messages))

    def tried(self, messages: list[SpooledMessage]) -> None:
        for message in messages:
            message.attempts += 1
        self._ask(lambda: self._tried(messages))

    def _tried(self, messages: list[SpooledMessage]) -> None:
        for message in messages:
            self.stored[message.id].attempts = message.attempts

    def dead(self, message: SpooledMessage, reason: str, code: int, text: str) -> None:
        self.dead_letters.append((message, reason, code))
        self.texts.append(text)
        self._less(message)
        self._ask(lambda: self._forget([message]))

    def _forget(self, messages: list[SpooledMessage]) -> None:
        for message in messages:
            del self.stored[message.id], self._in_stream[message.stream][message.id]

    def _less(self, message: SpooledMessage) -> None:
        key = self.streams[message.stream]
        key.count -= 1
        if not key.count:
            del self.streams[message.stream]

    def _ask(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        if not self.slow and not self._working:
            self._working = True
            self._loop.call_soon(self.work)

    def work(self) -> None:
        self._working = False
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job()


def copy(message: SpooledMessage) -> SpooledMessage:
    """As it comes from the disk: another object."""
    new = SpooledMessage(
        message.vhost, message.lane, message.exchange, message.routing_key, message.header, message.body,
        message.flags, message.priority, message.user, message.at, message.expires, message.origin, message.trace,
    )  # fmt: skip
    new.id = message.id
    new.attempts = message.attempts
    return new


class Log:
    """As :class:`sidecar.amqp.monitor.connection.TroubleLog`."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.troubles: dict[str, str] = {}

    def bad(self, source: str, kind: str, text: str) -> None:
        if self.troubles.get(source) != kind:
            self.troubles[source] = kind
            self.lines.append((source, text))

    def good(self, source: str) -> None:
        if self.troubles.pop(source, None):
            self.lines.append((source, "works again"))

    def gone(self, source: str) -> None:
        self.troubles.pop(source, None)


class Setting:
    """A replayer with a spool, a broker and limits of its own."""

    def __init__(self, config: Amqp | None = None, *, window: int = 256, dead_after: int = 5) -> None:
        self.loop = FakeLoop()
        self.broker = TakingBroker(self.loop)
        self.spool = FakeSpool(self.loop)
        self.stats = AmqpStats()
        self.config = config or Amqp()
        self.policy = Policy(self.config, self.stats, self.loop)
        self.scheduler = Scheduler(self.config.hold, self.stats, self.loop, self.loop.call_at)
        self.log = Log()
        #: Who can log in, beside the sidecar itself.
        self.users: set[str] = set()
        self.account = True
        self.password = "theirs"
        self.settled: list[tuple[int, bool]] = []
        self.dispatcher = self.make(window, dead_after)

    def make(self, window: int = 256, dead_after: int = 5) -> Dispatcher:
        wheel = TimerWheel(self.loop.call_at, self.loop)
        dispatcher = Dispatcher(
            "rabbitmq", cast(Spool, self.spool), self.scheduler, self.policy.routes, self.login, self.broker.connect,
            wheel,
            self.loop, self.wall, self.loop.call_soon, cast(Any, self.log), window, dead_after,
        )  # fmt: skip
        dispatcher.on_settled = lambda messages, taken: self.settled.extend((each.id, taken) for each in messages)
        return dispatcher

    def wall(self) -> float:
        return self.loop.now + EPOCH

    def login(self, vhost: str, user: str) -> SaslLogin | None:
        if not user:
            return SaslLogin("PLAIN", plain("sidecar", "secret")) if self.account else None
        return SaslLogin("PLAIN", plain(user, self.password)) if user in self.users else None

    def message(
        self,
        body: str,
        exchange: str = "jobs",
        *,
        key: str = "k",
        vhost: str = "/",
        priority: int = 0,
        user: str = "",
        expires: float = 0.0,
        bits: int = 0,
        size: int = 0,
        kept: float = 0.0,
    ) -> SpooledMessage:
        flags = 0x0800 if priority else 0
        properties = bytes((priority,)) if priority else b""
        if user:
            flags |= 0x0010
            properties += amqp.short(user)
        header = flags.to_bytes(2, "big") + properties
        padded = body.encode() + b"." * size
        frames = amqp.publish(1, key, padded, exchange=exchange, properties=header, bits=bits)
        lane = f"exchange {exchange}" if exchange else f"queue {key}"
        return from_frames(frames, vhost, lane, self.wall(), expires, ttl=kept)

    def put(self, *messages: SpooledMessage) -> None:
        """Store, and tell."""
        self.dispatcher.added(self.spool.store(*messages))

    def bodies(self) -> list[str]:
        return [body.decode().rstrip(".") for body in self.broker.bodies()]

    def start(self) -> Setting:
        self.dispatcher.start()
        self.loop.settle()
        return self

    def advance(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)

    def empty(self) -> bool:
        """All is done, and nothing of it is left anywhere."""
        self.loop.settle()
        left = self.dispatcher
        if self.spool.streams or self.spool.stored:
            return False
        assert not left.unconfirmed
        assert left._prefetch.ahead == left._prefetch.ahead_bytes == 0
        assert not left._streams
        assert self.scheduler.messages == 0
        return True


def numbered(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def reasons(one: Setting) -> list[tuple[str, str, int]]:
    """What has become a dead letter, and why."""
    return [(message.body.decode().rstrip("."), reason, code) for message, reason, code in one.spool.dead_letters]
