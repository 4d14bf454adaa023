"""Limits for what is published and for what queues hold, by a real sidecar in front of a real RabbitMQ. With
``SIDECAR_SOAK=1`` rates are measured for ten seconds instead of two."""

from __future__ import annotations

import itertools
import os
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from pamqp import commands

from support.amqp_clients.raw import BODY, METHOD, Listener, RawClient
from support.patience import PATIENCE
from support.processes import Sidecar, ending, get, wait_for
from support.rabbitmq import GUEST, RabbitMQ, behind_sidecar
from support.starving import queued

#: Seconds without an answer after which a broker, or the machine, is too slow for bounds that need its answers.
SLOW = 1.0
#: Seconds that nobody is late by on a machine that has time for what it is asked.
HICCUP = 0.05
SECONDS = 10.0 if os.environ.get("SIDECAR_SOAK") == "1" else 2.0


@contextmanager
def running(folder: Path, rabbitmq: RabbitMQ, **amqp: object) -> Iterator[Sidecar]:
    with ending(Sidecar(folder, behind_sidecar(rabbitmq.port, **amqp))) as processes:
        sidecar = processes[0]
        assert isinstance(sidecar, Sidecar)
        yield sidecar.ready()


class Sink:
    """Consumes a queue straight from the broker and notes when each message came: ``came`` has pairs of the first byte
    of a message and its time; of messages that carry theirs, ``delays`` has how long they took."""

    def __init__(self, port: int, *queues: str) -> None:
        self.came: list[tuple[bytes, float]] = []
        self.delays: list[tuple[bytes, float]] = []
        self._client = RawClient(port)
        self._client.open_channel()
        for queue in queues:
            self._client.call(1, commands.Basic.Consume(queue=queue, no_ack=True), commands.Basic.ConsumeOk)
        self._thread = threading.Thread(target=self._run)
        self._ending = False

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()
        self._client.sock.close()

    def _run(self) -> None:
        while not self._ending:
            frame = self._client.read(0.1)
            if frame is not None and frame.kind == BODY:
                kind = frame.payload[:1]
                self.came.append((kind, frame.at))
                if len(frame.payload) >= 9:
                    self.delays.append((kind, frame.at - struct.unpack_from(">d", frame.payload, 1)[0]))

    def count(self, kind: bytes) -> int:
        return sum(which == kind for which, _ in list(self.came))

    def rate(self, kind: bytes, start: float, end: float) -> float:
        """Messages per second: the slope of their number over time, which one late moment of this machine does not
        change as it does a count."""
        return slope([at for which, at in list(self.came) if which == kind and start <= at < end])


def slope(times: list[float]) -> float:
    """How many a second these are."""
    return statistics.linear_regression(times, range(len(times))).slope


def stamped(kind: bytes) -> bytes:
    return kind + struct.pack(">d", time.monotonic()) + b"." * 247


def test_a_rate_is_kept_and_another_exchange_is_not_slowed(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """1300 a second are offered to an exchange that may have 1000; 1000 a second to another one on the same channel.

    Never more than the rate is a law. That it is reached, and that the other is quick, can be told only where the
    machine lets sidecar and broker run; one that does not in any of three tries is no test of that."""
    for attempt in range(3):
        found = offered_to_two(rabbitmq, tmp_path / str(attempt))
        print(found)
        if not found.starved:
            assert found.limited >= 0.98 * min(1000.0, found.unlimited)
            assert found.unlimited >= 0.95 * found.sent
            # What is not limited does not wait behind what is: else it would take as long.
            assert found.delay < found.waited / 10
            return


class Offered(NamedTuple):
    """What became of two streams of messages: rates a second, and medians of the seconds that they took."""

    limited: float
    unlimited: float
    sent: float
    delay: float
    waited: float
    queued: float

    @property
    def starved(self) -> bool:
        """Sidecar and broker stood in line for a core for more than half of the time."""
        return self.queued > 0.5


def offered_to_two(rabbitmq: RabbitMQ, folder: Path) -> Offered:
    rule = {"exchange": "limits.slow", "rate": "1000/s", "burst": 20, "over": "hold"}
    folder.mkdir()
    with running(folder, rabbitmq, publish=[rule]) as sidecar, RawClient(sidecar.port("rabbitmq")) as client:
        client.open_channel()
        for exchange in ("limits.slow", "limits.free"):
            declare = commands.Exchange.Declare(exchange=exchange, exchange_type="fanout", auto_delete=True)
            client.call(1, declare, commands.Exchange.DeclareOk)
            rabbitmq.declare(exchange, auto_delete=True)
            client.call(1, commands.Queue.Bind(queue=exchange, exchange=exchange), commands.Queue.BindOk)
        with Sink(rabbitmq.port, "limits.slow", "limits.free") as sink:
            started = time.monotonic()
            queued_before = queued(sidecar.pid, rabbitmq.pid)
            slow = 0
            offered: list[float] = []
            while (passed := time.monotonic() - started) < SECONDS + 1.0:
                data = []
                while slow < passed * 1300:
                    data.append(client.publishing(1, "limits.slow", "", stamped(b"s")))
                    slow += 1
                while len(offered) < passed * 1000:
                    data.append(client.publishing(1, "limits.free", "", stamped(b"f")))
                    offered.append(time.monotonic())
                client.send_bytes(b"".join(data))
                time.sleep(0.002)
            window = (started + 0.5, started + 0.5 + SECONDS)
            stood = queued(sidecar.pid, rabbitmq.pid) - queued_before
            limited, unlimited = sink.rate(b"s", *window), sink.rate(b"f", *window)
            delay = statistics.median(d for kind, d in list(sink.delays) if kind == b"f")
            held = get(f"{sidecar.admin}/amqp")[1]["upstreams"][0]["held"]["messages"]
            # On a busy machine the answer comes late, and some of them have gone by then.
            left = slow - 1000 * (time.monotonic() - started) - 120
            wait_for(lambda: sink.count(b"s") == slow, "all that was held has come")
            assert sink.count(b"f") == len(offered)
            waited = statistics.median(d for kind, d in sink.delays if kind == b"s")
    # However late this machine was with some, so many may have come by then.
    came = [at for kind, at in sink.came if kind == b"s"]
    assert all(number <= 1000 * (at - started) + 20 for number, at in enumerate(came))
    assert max(at for kind, at in sink.came if kind == b"f") < came[-1]
    assert held > min(200 * SECONDS, left)
    sent = slope([at for at in offered if window[0] <= at < window[1]])
    return Offered(limited, unlimited, sent, delay, waited, stood / (SECONDS + 1.0))


def test_what_is_over_the_rate_is_nacked(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """In confirm mode, each once; a channel without confirms is held instead."""
    rule = {"exchange": "*", "routing_key": "limits.nacked", "rate": "50/s", "burst": 50, "over": "nack"}
    rabbitmq.declare("limits.nacked")
    with running(tmp_path, rabbitmq, publish=[rule]) as sidecar, RawClient(sidecar.port("rabbitmq")) as client:
        client.open_channel(1).confirms(1).open_channel(2)
        client.send_bytes(b"".join(client.publishing(1, "", "limits.nacked", b"%d" % n) for n in range(300)))
        acked, nacked = answers(client, 1, 300)
        assert 50 <= len(acked) <= 60
        assert len(nacked) == 300 - len(acked)
        client.send_bytes(b"".join(client.publishing(2, "", "limits.nacked", b"held") for n in range(40)))
        wait_for(lambda: rabbitmq.depth("limits.nacked") == len(acked) + 40, "the held ones come too")
        client.publish(1, "", "limits.elsewhere", b"no rule is about this")
        assert answers(client, 1, 1, 300) == ({301}, set())
    rabbitmq.delete("limits.nacked")


def test_too_much_and_for_too_long(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """At the bound, only who publishes too much is not read from, and it is told; what waited for longer than is
    allowed is refused, if it can be."""
    rule = {"exchange": "", "routing_key": "limits.long", "rate": "10/s", "burst": 1, "over": "hold"}
    with running(tmp_path, rabbitmq, publish=[rule], hold={"messages": 100, "timeout": "1500ms"}) as sidecar:
        port = sidecar.port("rabbitmq")
        client = RawClient(port, heartbeat=1, capabilities={"connection.blocked": True}).open_channel().confirms()
        other = RawClient(port, heartbeat=1).open_channel().confirms()
        with Listener(client) as flooding, Listener(other) as modest:
            for _ in range(20):
                flooding.publish_many("limits.long", b"." * 10_000, 10)
            wait_for(lambda: flooding.methods(commands.Connection.Blocked), "it is told")
            modest.publish("limits.elsewhere", b"x")
            wait_for(lambda: modest.confirmed() == 1, "another is served")
            wait_for(lambda: len(flooding.answered()) == 200, "all are answered")
            nacks = flooding.methods(commands.Basic.Nack)
            assert nacks
            wait_for(lambda: flooding.methods(commands.Connection.Unblocked), "it is told")
            assert flooding.error is None
            assert modest.error is None


def answers(client: RawClient, channel: int, count: int, after: int = 0) -> tuple[set[int], set[int]]:
    """The tags that were acked and nacked, ``count`` of them after that tag; each may be answered once."""
    acked: set[int] = set()
    nacked: set[int] = set()
    while len(acked) + len(nacked) < count:
        frame = client.next(channel)
        assert frame.kind == METHOD
        method = frame.method
        assert isinstance(method, commands.Basic.Ack | commands.Basic.Nack)
        tag = method.delivery_tag
        done = acked | nacked
        assert tag not in done
        new = set(range(after + 1, tag + 1)) - done if method.multiple else {tag}
        (acked if isinstance(method, commands.Basic.Ack) else nacked).update(new)
    assert acked | nacked == set(range(after + 1, after + count + 1))
    return acked, nacked


def test_a_queue_does_not_grow_beyond_its_limit(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """A storm from three connections, by name and by binding; it ends at the limit, and goes on within a second after
    the queue has become short. A broker that leaves questions unanswered opens the gate, as it should, and a sidecar
    that has to wait for a processor knows a depth too late: a storm in which that was seen is repeated."""
    said = []
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        said.append(weather(rabbitmq, folder))
        if not said[-1]:
            return
    pytest.fail("; ".join(said))


def weather(rabbitmq: RabbitMQ, folder: Path) -> str:
    """One such storm, of which no message is lost; and how it was worse than it should be."""
    queue = {"name": "limits.depth", "high": 5000, "low": 4000, "over": "hold"}
    settings = {"credentials": GUEST, "queues": [queue], "hold": {"messages": 3000}}
    rabbitmq.declare("limits.depth")
    with ExitStack() as stack:
        stack.callback(rabbitmq.delete, "limits.depth")
        sidecar = stack.enter_context(running(folder, rabbitmq, **settings))
        port = sidecar.port("rabbitmq")
        clients = [stack.enter_context(RawClient(port, timeout=60)).open_channel() for _ in range(3)]
        bind = commands.Queue.Bind(queue="limits.depth", exchange="amq.topic", routing_key="storm.#")
        clients[0].call(1, bind, commands.Queue.BindOk)
        wait_for(lambda: "depth" in str(get(f"{sidecar.admin}/amqp")[1]), "the queue is watched")

        pool = stack.enter_context(ThreadPoolExecutor(3))
        targets = [("", "limits.depth"), ("amq.topic", "storm.a.b"), ("", "limits.depth")]
        storms = [pool.submit(storm, client, *target) for client, target in zip(clients, targets, strict=True)]
        deepest, slowest = watch(rabbitmq, 1.2, 4000)

        started = time.monotonic()
        purged = rabbitmq.purge("limits.depth")
        wait_for(lambda: rabbitmq.depth("limits.depth") > 0, "what was held goes on")
        free_after = time.monotonic() - started
        again, slowest_again = watch(rabbitmq, 0.8)
        slowest = max(slowest, slowest_again, free_after)

        sink = stack.enter_context(Sink(rabbitmq.port, "limits.depth"))
        wait_for(lambda: all(storm.done() for storm in storms), "all was taken from the clients")
        wait_for(lambda: purged + len(sink.came) == 15_000, "every message came, once")
        assert get(f"{sidecar.admin}/amqp")[1]["upstreams"][0]["held"]["messages"] == 0
        late = hiccups(sidecar)
        for client in clients:
            client.close()
    if slowest < SLOW and 4000 <= deepest <= 5200 and again <= 5200:
        return ""
    told = f"{deepest} deep, then {again}; the broker took {slowest:.2f} s to answer, the sidecar was late {late} times"
    assert slowest >= HICCUP or late, told
    return told


def hiccups(sidecar: Sidecar) -> int:
    """How often its event loop was late by more than :data:`HICCUP`, of four looks a second."""
    text = get(f"{sidecar.admin}/metrics")[1]
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("sidecar_event_loop_lag_seconds"))
    name = "sidecar_event_loop_lag_seconds"
    return int(float(found[f"{name}_count"]) - float(found[f'{name}_bucket{{le="{HICCUP}"}}']))


def storm(client: RawClient, exchange: str, key: str) -> None:
    """5000 messages as fast as they are taken."""
    batch = b"".join(client.publishing(1, exchange, key, b"." * 256) for _ in range(50))
    for _ in range(100):
        client.send_bytes(batch)


def watch(rabbitmq: RabbitMQ, seconds: float, reaches: int = 0) -> tuple[int, float]:
    """The greatest depth in that time, and until it ``reaches`` that, and the longest time that an answer took,
    seconds."""
    deepest, slowest = 0, 0.0
    deadline = time.monotonic() + seconds
    with rabbitmq.channel() as channel:
        while (asked := time.monotonic()) < deadline or (deepest < reaches and asked < deadline + PATIENCE):
            deepest = max(deepest, channel.queue_declare("limits.depth", passive=True).method.message_count)
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.01)
    return deepest, slowest


def test_a_missing_queue_is_not_an_outage(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    queue = {"name": "limits.missing", "high": 10, "low": 5, "over": "nack"}
    with running(tmp_path, rabbitmq, credentials=GUEST, queues=[queue]) as sidecar:
        wait_for(lambda: "no such queue" in sidecar.output(), "a line of log says so")
        with RawClient(sidecar.port("rabbitmq")) as client:
            client.open_channel().confirms()
            client.send_bytes(b"".join(client.publishing(1, "", "limits.missing", b"x") for _ in range(50)))
            assert answers(client, 1, 50) == (set(range(1, 51)), set())
            client.queue(1, "limits.missing", auto_delete=True)  # noticed within two seconds
            client.send_bytes(b"".join(client.publishing(1, "", "limits.missing", b"x") for _ in range(20)))
            answers(client, 1, 20, 50)

            published = itertools.count(71)

            def refused() -> bool:
                client.publish(1, "", "limits.missing", b"x")
                return bool(answers(client, 1, 1, next(published) - 1)[1])

            wait_for(refused, "its depth is watched")
            client.call(1, commands.Queue.Delete(queue="limits.missing"), commands.Queue.DeleteOk)


def test_unlimited_prefetch_becomes_limited(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    rabbitmq.declare("limits.prefetch")
    with running(tmp_path, rabbitmq, prefetch={"default": 20, "max": 50}) as sidecar:
        with RawClient(rabbitmq.port) as direct:
            direct.open_channel()
            direct.send_bytes(b"".join(direct.publishing(1, "", "limits.prefetch", b"x") for _ in range(200)))
            direct.close()
        for asked, expected in ((None, 20), (0, 20), (10, 10), (40, 40), (500, 50)):
            with RawClient(sidecar.port("rabbitmq")) as client:
                client.open_channel()
                if asked is not None:
                    client.call(1, commands.Basic.Qos(prefetch_count=asked), commands.Basic.QosOk)
                client.call(1, commands.Basic.Consume(queue="limits.prefetch"), commands.Basic.ConsumeOk)
                came = 0
                while (frame := client.read(0.15)) is not None:
                    came += frame.kind == BODY
                assert came == expected, f"asked for {asked}"
                client.close()
    rabbitmq.delete("limits.prefetch")


def test_other_virtual_hosts_are_refused(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    with running(tmp_path, rabbitmq, vhosts=["/agents"]) as sidecar:
        with pytest.raises(AssertionError, match="530"):
            RawClient(sidecar.port("rabbitmq"))
        rabbitmq.add_vhost("/agents")
        RawClient(sidecar.port("rabbitmq"), vhost="/agents").close()


def test_messages_that_are_too_large(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    with (
        running(tmp_path, rabbitmq, max_message_size="64KiB") as sidecar,
        RawClient(sidecar.port("rabbitmq")) as client,
    ):
        client.open_channel(1).open_channel(2)
        client.publish(1, "", "limits.nowhere", b"x" * 65_536)
        client.publish(1, "", "limits.nowhere", b"x" * 65_537)
        assert client.expect(commands.Channel.Close, 1).reply_code in (311, 406)
        client.send(1, commands.Channel.CloseOk())
        assert client.queue(2)
