"""``python -m bench.hotpath``: what one exchange costs in Python alone, without sockets, in microseconds.

The listener, its chain and both connections are the real ones; only the transports are objects that drop what is
written. So the figure (CPU time) does not depend on the kernel, the load generator or the other core, and a change of a
tenth of a microsecond shows. ``--profile`` says where it goes. ``--part amqp``: what one message costs
(:mod:`bench.amqp.hotpath`). ``--telemetry``: with spans, stories for ``sidecar why`` and access lines of 1 % of all, as
a sidecar with a collector has them; what other threads do with those is not in the figure. ``--shared``: the rate limit
is one that sidecars share, of which 10 000 tokens a second are spent; answers of its Redis are at hand.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import functools
import gc
import io
import itertools
import os
import pstats
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from sidecar.agent import process
from sidecar.agent.assembly import Context, create_listener
from sidecar.config.agent import Rehearsal, Tracing
from sidecar.config.traffic import StaticEndpoint, Upstream
from sidecar.core.address import Address
from sidecar.core.decisions import Decisions
from sidecar.core.instance import Instance
from sidecar.core.records import AccessLog, SpanRecord, Stories
from sidecar.exchange.listener import Listener
from sidecar.filters.rate_limit import RateLimitSettings
from sidecar.http.h1.server import Downstream
from sidecar.http.listener import HttpListener
from sidecar.net.wheel import TimerWheel
from sidecar.redis.client import Script
from sidecar.redis.limits import SharedLimits
from sidecar.redis.resp import Reader, Reply, encode
from sidecar.telemetry.logs import setup
from sidecar.why.ring import Ring

T = TypeVar("T")

REQUEST = b"GET /api/v1/tasks/42 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
BROWSER = (
    b"GET /api/v1/tasks/42?full=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: python-requests/2.31.0\r\n"
    b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\nAuthorization: Bearer 0123456789\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nx-request-id: 7f3c\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 04:33:09 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\n{}"
)


class Sink(asyncio.Transport):
    """A transport that takes everything and keeps nothing."""

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Loop:
    """The running event loop, except that connecting always succeeds, to a :class:`Sink`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        #: The protocol object of the connection that was made.
        self.upstream: asyncio.Future[Any] = self._loop.create_future()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> None:
        conn = factory()
        conn.connection_made(Sink())
        self.upstream.set_result(conn)


class Redis:
    """In place of the client: questions are written as they go out, and all that is asked for is granted."""

    def __init__(self) -> None:
        self._reader = Reader()
        self.asked: list[tuple[int, Callable[[Reply], None]]] = []

    def run(self, script: Script, key: str, arguments: Sequence[str | int], then: Callable[[Reply], None]) -> bool:
        encode("EVALSHA", script.sha, 1, key, *arguments)
        self.asked.append((int(arguments[-1]), then))
        return True

    async def answered(self) -> None:
        await asyncio.get_running_loop().create_future()  # nothing is to be announced

    async def close(self) -> None:
        pass

    def answer(self) -> None:
        """Answer what was asked."""
        while self.asked:
            tokens, then = self.asked.pop()
            for reply in self._reader.feed(b"*2\r\n:%d\r\n$1\r\n0\r\n" % tokens):
                then(reply)


def shared_limits(redis: Redis) -> SharedLimits:
    """Of a sidecar that has 10 000 requests a second: for each one its clock is a tenth of a millisecond later."""
    clock = functools.partial(next, itertools.count(1000.0, 0.0001))
    return SharedLimits(cast(Any, redis), "bench", lambda: (), random.random, clock=clock)


def make_listener(
    loop: Loop, upstream: Upstream, telemetry: bool = False, shared: SharedLimits | None = None
) -> Listener:
    """A listener as the sidecar makes it, with one endpoint."""
    rng = random.Random(1)
    spans: deque[SpanRecord] = deque(maxlen=4096)
    log = setup("warning", "json", "bench", os.open(os.devnull, os.O_WRONLY))
    context = Context(
        loop=cast(asyncio.AbstractEventLoop, loop),
        wheel=TimerWheel(loop.call_at, time.monotonic),
        clock=time.monotonic,
        rng=rng,
        access_log=AccessLog("errors", log.put, *((0.01, 0.5) if telemetry else ())),
        record_span=spans.append if telemetry else None,
        tracing=Tracing(sample=0.01 if telemetry else 0.0),
        stories=Stories(Ring(2000).put, enabled=telemetry),
        breaker_changed=lambda name, breaker: None,
        decisions=Decisions(Rehearsal().records),
        shared=shared.limit if shared is not None else None,
    )
    listener = create_listener(context, upstream.name, upstream)
    listener.cluster.update([Instance(host="127.0.0.1", port=1)])
    return listener


def time_runs(name: str, prepare: Callable[[int], T], run: Callable[[T], None], count: int, profile: bool) -> None:
    """Print the microseconds of one of those ``n`` that ``run`` does with what ``prepare(n)`` gave: the best of five,
    and what it leaves to the garbage collector; with ``profile``, where the time goes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*process.GC_THRESHOLD)  # as in a running sidecar
    run(prepare(2000))
    times = []
    for _ in range(5):
        what = prepare(count // 5)
        begun = time.process_time()
        run(what)
        times.append((time.process_time() - begun) / (count // 5) * 1e6)
    what = prepare(1000)
    gc.disable()
    gc.collect()
    run(what)
    print(f"{name}: {min(times):.2f} µs; {gc.collect()} objects left to the garbage collector by 1000")
    gc.enable()
    if profile:
        what = prepare(count)
        profiler = cProfile.Profile()
        profiler.runcall(run, what)
        out = io.StringIO()
        pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(45)
        print(out.getvalue())


async def connected(
    telemetry: bool = False, redis: Redis | None = None, limits: SharedLimits | None = None
) -> tuple[HttpListener, Downstream, Any]:
    """A listener, a client's connection to it and one to its endpoint, over which one exchange has gone."""
    loop = Loop()
    upstream = Upstream(
        name="up",
        bind=Address("127.0.0.1", 0),
        endpoints=(StaticEndpoint(address=Address("127.0.0.1", 1)),),
        policies={"rate_limit": RateLimitSettings(rate=1e6, burst=1_000_000, shared=limits is not None)},
    )
    listener = make_listener(loop, upstream, telemetry, limits)
    assert isinstance(listener, HttpListener)
    client = Downstream(listener)
    client.connection_made(Sink())
    client.data_received(REQUEST)
    if redis is not None:
        redis.answer()
    conn = await loop.upstream
    conn.data_received(ANSWER)
    return listener, client, conn


async def measure_http(exchanges: int, profile: bool, telemetry: bool = False, shared: bool = False) -> None:
    redis = Redis()
    asked = redis.asked
    limits = shared_limits(redis) if shared else None
    listener, client, conn = await connected(telemetry, redis, limits)
    for _ in range(2000 if shared else 0):  # before there are leases, requests wait
        client.data_received(REQUEST)
        redis.answer()
        await asyncio.sleep(0)
        conn.data_received(ANSWER)
    for name, request in (("bare request", REQUEST), ("nine headers", BROWSER)):

        def run(n: int, request: bytes = request) -> None:
            for _ in range(n):
                client.data_received(request)
                conn.data_received(ANSWER)
                if asked:
                    redis.answer()

        time_runs(name, int, run, exchanges, profile and request is REQUEST)
    assert listener.stats.requests["GET", 200] > exchanges, "not every exchange was answered"
    if limits is not None:
        assert 0 < limits.counts["granted"] < exchanges / 20, "tokens were not leased as they should be"
        await limits.close()


def main() -> None:
    from bench.amqp.hotpath import measure_amqp

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["http", "amqp"], default="http")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--exchanges", type=int, default=50_000, help="or messages")
    parser.add_argument("--telemetry", action="store_true", help="spans, stories and access lines of 1 %%")
    parser.add_argument("--shared", action="store_true", help="the rate limit is one that sidecars share")
    options = parser.parse_args()
    if options.part == "amqp":
        asyncio.run(measure_amqp(options.exchanges, options.profile, options.telemetry))
    else:
        asyncio.run(measure_http(options.exchanges, options.profile, options.telemetry, options.shared))


if __name__ == "__main__":
    main()
