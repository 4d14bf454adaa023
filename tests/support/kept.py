"""An AMQP port with a spool, without sockets, threads or a disk.

It is :class:`support.amqp.Stage` with everything that belongs to a spool: the port's own keeper, replayer, memory of
the broker and accounts are the real ones, and so is the spool as the loop sees it. Only its thread and the file behind
it are played (:mod:`support.kept_disk`): they do what is asked of them at once, later or not at all, as a test wants
it. Connections of the replay come to the same brokers as those of clients.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from struct import pack, unpack_from
from typing import Any, cast

from sidecar.agent.assembly import Context, create_listener
from sidecar.amqp.listener import AmqpListener
from sidecar.amqp.spool.store import Spool
from sidecar.amqp.store_and_forward import StoreAndForward
from sidecar.config.agent import Tracing
from sidecar.core.address import Address
from sidecar.core.amqp_settings import Amqp, AmqpCredentials, AmqpPrefetch, AmqpSpool
from sidecar.core.instance import Instance
from sidecar.core.records import AccessLog
from sidecar.core.secret import Secret
from sidecar.net.wheel import TimerWheel
from sidecar.resilience.backoff import Backoff
from support import clock
from support.amqp import (
    GREETING,
    Peer,
    Stage,
    _Errors,
    _Lines,
    channel_open_ok,
    confirm_select_ok,
    connection_open_ok,
    cut,
    frame,
    method,
    publish,
    start,
    tune,
)
from support.kept_disk import Disk
from support.loop import FakeLoop, FakeTransport
from support.ports import upstream_of

#: How the replay introduces itself.
REPLAY = b"sidecar rabbit: spool"
#: What it says before the first publish on channel 1, when the client has not asked for confirms: it wants no answer.
SELECT = method(1, 85, 10, b"\x01")

_ADDED = re.compile(rb"(?:\x0btraceparentS\x00\x00\x00\x37.{55})?\x0cx-sidecar-idS\x00\x00\x00.([0-9a-f-]+)", re.DOTALL)


# -- frames ------------------------------------------------------------------------------------------------------------


def bare(data: bytes) -> bytes:
    """A content header as the client has sent it, without the trace and the id that the port has added; any other frame
    as it is."""
    found = _ADDED.search(data) if data[:1] == b"\x02" else None
    if found is None:
        return data
    flags = int(unpack_from(">H", data, 19)[0])
    begin = 21
    for flag in (0x8000, 0x4000):
        if flags & flag:
            begin += 1 + data[begin]
    end = begin + 4 + int(unpack_from(">I", data, begin)[0])
    table = data[begin + 4 : found.start()] + data[found.end() : end]
    properties = data[21:begin] + (pack(">I", len(table)) + table if table else b"") + data[end:-1]
    new = data[7:19] + pack(">H", flags if table else flags & ~0x2000) + properties
    return frame(2, int(unpack_from(">H", data, 1)[0]), new)


def identity(data: bytes) -> bytes:
    """The id in a content header; empty: it has none."""
    found = _ADDED.search(data)
    return found[1] if found else b""


# -- the loop ----------------------------------------------------------------------------------------------------------


class KeptLoop(FakeLoop):
    """Runs real tasks and futures in its own time."""

    def __init__(self) -> None:
        super().__init__()
        #: What came of tasks that nobody waited for.
        self.troubles: list[str] = []

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> None:
        super().call_soon(cast(Any, callback if context is None else partial(context.run, callback)), *args)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> None:
        self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> clock.Call:
        return super().call_at(when, (lambda: callback(*args)) if args else callback)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> clock.Call:
        return self.call_at(self.now + delay, callback, *args)

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.troubles.append(f"{context.get('message')}: {context.get('exception')!r}")

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def create_task(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> Any:
        task = asyncio.Task(work, loop=cast(asyncio.AbstractEventLoop, self), name=name)
        self.tasks.append(cast(Any, task))
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.remove(cast(Any, task))
        if not task.cancelled() and task.exception() is not None:
            self.troubles.append(f"a task failed: {task.exception()!r}")

    def run_in_executor(self, executor: object, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        future.set_result(work(*args))
        return future

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> None:
        verdict = self.dialled(host, port)
        if verdict == "refuse":
            raise ConnectionRefusedError
        if verdict == "silent":
            await asyncio.sleep(20)
            raise TimeoutError
        protocol = factory()
        transport = FakeTransport(self, protocol)
        self.on_connection(protocol, transport)
        protocol.connection_made(transport)

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is done meanwhile is done by it."""
        before = events._get_running_loop()
        events._set_running_loop(cast(asyncio.AbstractEventLoop, self))
        try:
            yield
        finally:
            events._set_running_loop(before)

    def settle(self) -> None:
        with self.running():
            left = 100_000
            while self._soon:
                callback, args = self._soon.popleft()
                callback(*args)
                left -= 1
                assert left, "it does not settle"

    def run_until(self, when: float) -> None:
        with self.running():
            super().run_until(when)


# -- the stage ---------------------------------------------------------------------------------------------------------


class KeptPeer(Peer):
    """Reads without what the port has added to messages."""

    _loop: KeptLoop

    def says(self, *frames: bytes, pieces: int = 0) -> None:
        with self._loop.running():
            super().says(*frames, pieces=pieces)

    def leaves(self) -> None:
        with self._loop.running():
            super().leaves()

    def breaks(self) -> None:
        with self._loop.running():
            super().breaks()

    def frames(self) -> list[bytes]:
        return [bare(each) for each in cut(self.heard())]


class KeptStage(Stage):
    """The port with everybody who has to do with it; ``spool`` are settings of the spool, all others as for
    :class:`Stage`. Unless told otherwise, the sidecar's own account is the one of the clients."""

    loop: KeptLoop

    def __init__(
        self,
        *,
        brokers: int = 1,
        sample: float = 0.0,
        spans: bool = False,
        spool: dict[str, Any] | None = None,
        upstream: dict[str, Any] | None = None,
        disk: Callable[[Spool, KeptLoop], Any] = Disk,
        **amqp: Any,
    ) -> None:
        self.loop = loop = KeptLoop()
        self.loop.on_connection = self._accepted
        self.wheel = TimerWheel(self.loop.call_at, self.loop)
        self.clients = []
        self.accepted = []
        self._taken = 0
        self.calls = []
        self.answering = True
        self.lines = _Lines()
        self.spans = []
        self._errors = _Errors()
        logging.getLogger("sidecar").addHandler(self._errors)
        amqp.setdefault("prefetch", AmqpPrefetch(default=0, max=0))
        amqp.setdefault("credentials", AmqpCredentials(username="guest", password=Secret("secret")))
        self.config = Amqp(spool=AmqpSpool(**{"path": "/nowhere", **(spool or {})}), **amqp)
        context = Context(
            loop=cast(asyncio.AbstractEventLoop, self.loop),
            wheel=self.wheel,
            clock=self.loop,
            rng=random.Random(1),
            access_log=AccessLog("all", self.lines.put),
            record_span=self.spans.append if spans else None,
            tracing=Tracing(sample=sample),
            breaker_changed=lambda name, breaker: None,
        )
        policies: dict[str, Any] = {"retry": None, "circuit_breaker": None, "bulkhead": None, **(upstream or {})}
        listener = create_listener(
            context,
            "rabbit",
            upstream_of(name="rabbit", bind=Address("127.0.0.1", 0), protocol="amqp", amqp=self.config, **policies),
        )
        assert isinstance(listener, AmqpListener)
        assert listener.port is not None
        self.listener = listener
        self.stats = listener.amqp_stats
        self.port: StoreAndForward = listener.port
        self.disk = disk(self.port.spool, loop)
        listener.cluster.update(Instance(host="10.0.0.1", port=5672 + number) for number in range(brokers))
        self.dispatcher = self.port._dispatcher
        self.dispatcher._pool._backoff = Backoff(0.5, 10.0, random.Random(2))
        self.dispatcher.start()

    def _peer(self, transport: FakeTransport) -> Peer:
        return KeptPeer(self.loop, transport)

    def connect(self) -> Peer:
        protocol = self.listener.protocol()
        transport = FakeTransport(self.loop, protocol)
        client = KeptPeer(self.loop, transport)
        self.clients.append(client)
        protocol.connection_made(cast(asyncio.Transport, transport))
        self.loop.settle()
        return client

    # -- the broker goes and comes --

    def away(self, how: str = "refuse") -> None:
        """No more connections to a broker: they are refused, or hang (``silent``)."""
        self.loop.dialled = lambda host, port: how

    def there(self) -> None:
        """The broker accepts connections again."""
        self.loop.dialled = lambda host, port: "accept"

    def found(self, seconds: float = 5.0) -> tuple[Peer, bytes]:
        """The broker's end of the next connection, logged in, and what was said in the login. The stage does no more
        until it is there than let time pass."""
        until = self.loop.now + seconds
        while len(self.accepted) <= self._taken and self.loop.now < until:
            self.advance(0.1)
        peer = self.broker()
        assert peer.heard() == GREETING
        peer.says(start())
        login = peer.heard()
        peer.says(tune())
        login += peer.heard()
        peer.says(connection_open_ok())
        return peer, login

    def back(self, *answers: bytes, seconds: float = 5.0) -> Peer:
        """The same for the next connection that is a client's; those of the replay are refused. With the ``answers`` of
        the broker to all that is set up anew, the client has a broker again."""
        while True:
            peer, login = self.found(seconds)
            if REPLAY not in login:
                break
            peer.breaks()
        if answers:
            peer.heard()
            peer.says(*answers)
            assert not self.stats.detached
        return peer

    def replay(self, seconds: float = 10.0) -> Peer:
        """The same for the next one of the replay; its channel is open."""
        peer, login = self.found(seconds)
        assert REPLAY in login
        peer.heard()
        peer.says(channel_opened(1))
        return peer

    # -- the end --

    def complains(self, words: str) -> None:
        """Errors were logged, and all of them with these words."""
        assert self._errors.records
        assert all(words in record for record in self._errors.records), self._errors.records
        self._errors.records.clear()

    def counts(self) -> dict[str, int]:
        counts = super().counts()
        owners = [cast(Any, timer.callback).__self__ for bucket in self.wheel._buckets.values() for timer in bucket]
        replay = sum(type(owner).__module__.startswith("sidecar.amqp.replay") for owner in owners)
        return counts | {
            "timers": counts["timers"] - replay,
            "detached": self.stats.detached,
            "waiting for the disk": self.port.spool._waiting,
            "jobs": self.disk.jobs,
            "unconfirmed": self.dispatcher.unconfirmed,
            "late": len(self.port._late),
        }

    def over(self, errors: bool = False) -> None:
        """Everybody leaves; the broker does not come back, and the disk does what it was asked."""
        self.away()
        self.disk.slow = False
        self.disk.broken = ""
        self.disk.work()
        super().over(errors)

    def finished(self) -> None:
        assert not self.loop.troubles, self.loop.troubles
        super().finished()
        assert not self.loop.troubles, self.loop.troubles


def replayed(number: int, key: str, body: bytes, bits: int = 0) -> bytes:
    """A publish as it comes out of the spool: ``mandatory`` whatever it was, so that none vanishes."""
    return publish(number, key, body, bits=bits | 1)


def channel_opened(channel: int) -> bytes:
    """A broker's answers to a channel that is opened and put into confirm mode."""
    return channel_open_ok(channel) + confirm_select_ok(channel)
