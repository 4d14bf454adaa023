"""Watching a broker, against a real one."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from sidecar.amqp.flow.policy import Policy
from sidecar.amqp.flow.stats import AmqpStats
from sidecar.amqp.monitor import connection as link
from sidecar.amqp.monitor import queue_watch, watcher
from sidecar.amqp.monitor.connection import TroubleLog
from sidecar.amqp.monitor.watcher import Watcher
from sidecar.core.amqp_settings import Amqp, AmqpCredentials, AmqpQueue
from sidecar.core.secret import Secret
from sidecar.resilience.backoff import Backoff
from support.held import HeldLoop
from support.processes import free_port
from support.rabbitmq import RabbitMQ
from support.registries import until

GUEST = AmqpCredentials(username="guest", password=Secret("guest"))
OFTEN = 0.02


@pytest.fixture
def rabbit(rabbitmq: RabbitMQ) -> RabbitMQ:
    return rabbitmq


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is missing is asked for again soon, and a broker that is away."""
    monkeypatch.setattr(queue_watch, "MISSING_AGAIN", 0.1)
    monkeypatch.setattr(queue_watch, "MISSING_LONG", 0.1)
    monkeypatch.setattr(link, "_backoff", Backoff(0.05, 0.3, random.Random(1)))


def config(*queues: str | AmqpQueue, **more: Any) -> Amqp:
    """Those queues, watched by ``guest`` often."""
    named = tuple(AmqpQueue(name=queue, high=100, low=80) if isinstance(queue, str) else queue for queue in queues)
    return Amqp(**{"credentials": GUEST, "queues": named, "watch_interval": OFTEN, **more})


class Setting:
    """A watcher with a real policy."""

    def __init__(self, settings: Amqp, *ports: int) -> None:
        self.settings = settings
        self.stats = AmqpStats()
        self.clock = asyncio.get_running_loop().time
        self.policy = Policy(settings, self.stats, self.clock)
        self.addresses = [("127.0.0.1", port) for port in ports]
        self.alarms: list[bool] = []
        #: How often it was asked where the broker is.
        self.looked = 0
        self.watcher = Watcher("rabbitmq", settings, self.policy, self._look, self.clock, self.alarms.append)

    def _look(self) -> list[tuple[str, int]]:
        self.looked += 1
        return self.addresses

    async def __aenter__(self) -> Setting:
        self.watcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.watcher.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        mine = [task for task in left if task.get_name().startswith("amqp")]
        assert not mine

    def update(self, settings: Amqp) -> None:
        self.policy.update(settings)
        self.watcher.update(settings)

    def depth(self, queue: str, vhost: str = "/") -> int:
        return self.stats.queues[vhost, queue].depth

    def problem(self, queue: str, vhost: str = "/") -> str:
        return self.stats.queues[vhost, queue].problem


def run(what: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(what, 180))


def put(rabbit: RabbitMQ, queue: str, count: int, vhost: str = "/") -> None:
    with rabbit.channel(vhost) as channel:
        channel.confirm_delivery()
        for _ in range(count):
            channel.basic_publish("", queue, b"x")


class Gate:
    """A depth gate that remembers what it is told."""

    def __init__(self) -> None:
        self.urgent = False
        self.on_urgent: Callable[[], None] | None = None
        self.asked: list[float] = []
        self.depths: list[int] = []
        self.problems: list[str] = []
        self._answered = asyncio.Event()

    async def answer(self) -> None:
        """Wait for one that nobody has waited for yet."""
        await self._answered.wait()
        self._answered.clear()

    def sampled(self, depth: int, consumers: int, asked_at: float, now: float) -> None:
        assert asked_at <= now
        self._answered.set()
        self.asked.append(asked_at)
        self.depths.append(depth)

    def unknown(self, problem: str, now: float) -> None:
        self.problems.append(problem)


class FakePolicy:
    def __init__(self, *queues: str) -> None:
        self.depth_gates = {("/", queue): Gate() for queue in queues}


# -- depths


def test_the_depth_of_a_queue_and_its_consumers_are_known(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.declare("deep")
        async with Setting(config("deep"), rabbit.port) as it:
            await until(lambda: it.depth("deep") == 0, "it is asked for")
            assert it.stats.queues["/", "deep"].consumers == 0
            await asyncio.to_thread(put, rabbit, "deep", 7)
            await until(lambda: it.depth("deep") == 7, "it is asked for again")
            await asyncio.to_thread(rabbit.purge, "deep")
            await until(lambda: it.depth("deep") == 0, "and again")
            assert not it.problem("deep")

    run(check())


def test_a_full_queue_closes_its_gate(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.declare("full")
        async with Setting(config(AmqpQueue(name="full", high=10, low=5)), rabbit.port) as it:
            gate = it.policy.depth_gates["/", "full"]
            put(rabbit, "full", 10)
            await until(lambda: gate.closed, "it is full")
            rabbit.purge("full")
            await until(lambda: not gate.closed, "it is not any more")

    run(check())


def test_queues_of_several_vhosts(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.add_vhost("/agents 5%")
        rabbit.declare("same")
        rabbit.declare("same", "/agents 5%")
        put(rabbit, "same", 3, "/agents 5%")
        there = AmqpQueue(name="same", vhost="/agents 5%")
        async with Setting(config("same", there), rabbit.port) as it:
            await until(lambda: it.depth("same") == 0 and it.depth("same", "/agents 5%") == 3, "both are asked for")

    run(check())


def test_it_hurries_when_a_gate_is_urgent(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.declare("urgent")
        policy = FakePolicy("urgent")
        gate = policy.depth_gates["/", "urgent"]
        settings = config("urgent", watch_interval=30.0)
        clock = asyncio.get_running_loop().time
        watcher = Watcher(
            "rabbitmq", settings, cast(Policy, policy), lambda: [("127.0.0.1", rabbit.port)], clock, lambda on: None
        )
        watcher.start()
        try:
            await until(lambda: len(gate.asked) == 1, "the first time")
            assert gate.on_urgent is not None
            hurried = clock()
            gate.urgent = True
            gate.on_urgent()
            await until(lambda: len(gate.asked) >= 8, "then often")
            assert gate.asked[0] < hurried < gate.asked[1] < hurried + settings.watch_interval, "not before, but soon"
            for before, after in zip(gate.asked[1:-1], gate.asked[2:], strict=True):
                assert after - before >= queue_watch.URGENT - 0.003
            gate.urgent = False
            asked = len(gate.asked)
            for _ in range(3):
                gate.on_urgent()
                await asyncio.sleep(0)
            await asyncio.sleep(0.2)
            assert len(gate.asked) <= asked + 2, "not more often, however often one asks it to"
        finally:
            await watcher.close()

    run(check())


def test_a_queue_that_is_missing_is_waited_for(rabbit: RabbitMQ, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        rabbit.declare("there")
        async with Setting(config("there", "missing"), rabbit.port) as it:
            await until(lambda: it.problem("missing") == "no such queue" and it.depth("there") == 0, "it is seen")
            assert it.depth("missing") == -1
            await asyncio.sleep(0.35)
            rabbit.declare("missing")
            await until(lambda: it.depth("missing") == 0, "it is there")
            assert not it.problem("missing")
            rabbit.delete("missing")
            await until(lambda: it.depth("missing") == -1, "it is gone")

    caplog.set_level(logging.INFO, "sidecar.amqp")
    run(check())
    said = [record.getMessage() for record in caplog.records if "missing" in record.getMessage()]
    assert len(said) == 3, said
    assert "no such queue" in said[0]
    assert "works again" in said[1]
    assert all(record.name == "sidecar.amqp" for record in caplog.records if record.levelno > logging.INFO)


def test_a_queue_that_a_client_declares_is_asked_for_at_once(rabbit: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        async with Setting(config("new"), rabbit.port) as it:
            await until(lambda: it.problem("new"), "it is missing")
            it.watcher.declared("/", "new")
            it.watcher.declared("/", "another")
            rabbit.declare("new")
            await asyncio.sleep(0.1)  # asked in vain, and waiting again
            it.watcher.declared("/", "new")
            await until(lambda: it.depth("new") == 0, "it is there")

    monkeypatch.setattr(queue_watch, "MISSING_AGAIN", 60.0)
    run(check())


def test_a_missing_queue_does_not_disturb_the_others(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.declare("there")
        policy = FakePolicy("there", "never", "nowhere")
        clock = asyncio.get_running_loop().time
        watcher = Watcher(
            "rabbitmq", config("there", "never", "nowhere"), cast(Policy, policy),
            lambda: [("127.0.0.1", rabbit.port)], clock, lambda on: None,
        )  # fmt: skip
        watcher.start()
        gate = policy.depth_gates["/", "there"]
        await until(lambda: len(gate.asked) > 30, "it is asked for")
        await watcher.close()
        assert max(b - a for a, b in zip(gate.asked, gate.asked[1:], strict=False)) < 1.0
        assert not gate.problems
        assert set(policy.depth_gates["/", "never"].problems) == {"no such queue"}

    run(check())


def test_a_queue_that_does_not_answer_does_not_disturb_the_others(rabbit: RabbitMQ) -> None:
    """Time is what the questions about the other one take: each of those that are due is answered."""
    loop = HeldLoop()

    async def check() -> None:
        rabbit.declare("there")
        rabbit.declare("stuck")
        process = 'element(2, rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"stuck">>)))'
        policy = FakePolicy("there", "stuck")
        watcher = Watcher(
            "rabbitmq", config("there", "stuck"), cast(Policy, policy), lambda: [("127.0.0.1", rabbit.port)], loop.time,
            lambda on: None,
        )  # fmt: skip
        there, stuck = policy.depth_gates["/", "there"], policy.depth_gates["/", "stuck"]
        loop.hold()
        watcher.start()
        await there.answer()
        await stuck.answer()
        await asyncio.to_thread(rabbit.eval, f"sys:suspend(amqqueue:get_pid({process})).")
        try:
            held, count = loop.time(), len(there.asked)
            while not stuck.problems:
                loop.advance(2 * OFTEN)
                await there.answer()
            assert stuck.problems == ["no answer in time"]
            assert not there.problems
            assert loop.time() - held == pytest.approx(queue_watch.ANSWER_SECONDS, abs=4 * OFTEN)
            assert len(there.asked) - count >= queue_watch.ANSWER_SECONDS / (2 * OFTEN)
        finally:
            loop.release()
            await asyncio.to_thread(rabbit.eval, f"sys:resume(amqqueue:get_pid({process})).")
        count = len(stuck.asked)
        await until(lambda: len(stuck.asked) > count, "it answers again")
        await watcher.close()

    run(check(), lambda: loop)


def test_a_queue_that_is_exclusive_to_somebody(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        with rabbit.channel() as channel:
            channel.queue_declare("mine", exclusive=True)
            async with Setting(config("mine"), rabbit.port) as it:
                await until(lambda: it.problem("mine"), "it is seen")
                assert "exclusive" in it.problem("mine")

    run(check())


# -- who may not, and who cannot be reached


def test_a_user_without_any_permission(rabbit: RabbitMQ, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        rabbit.declare("secret")
        rabbit.add_user("blind", "s3cr3t-p@ss/word", permissions=("^$", "^$", "^$"))
        blind = AmqpCredentials(username="blind", password=Secret("s3cr3t-p@ss/word"))
        async with Setting(config("secret", credentials=blind), rabbit.port) as it:
            await until(lambda: "the alarm probe" in caplog.text, "the probe is refused")
            await until(lambda: it.depth("secret") == 0 or it.problem("secret"), "there is an answer")
            await asyncio.sleep(0.2)
            assert it.alarms == []

    run(check())
    assert caplog.text.count("the alarm probe") == 1
    assert "s3cr3t" not in caplog.text


def test_a_wrong_password(rabbit: RabbitMQ, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        rabbit.declare("q")
        wrong = AmqpCredentials(username="guest", password=Secret("wr0ng-p@ss"))
        async with Setting(config("q", credentials=wrong), rabbit.port) as it:
            await until(lambda: it.problem("q"), "it is seen")
            assert "ACCESS_REFUSED" in it.problem("q")
            assert "wr0ng" not in it.problem("q")
            it.update(config("q"))
            await until(lambda: it.depth("q") == 0, "the right one works")

    for module in (queue_watch, watcher):
        monkeypatch.setattr(module, "UNKNOWN_AFTER", 0.5)
    caplog.set_level(logging.INFO, "sidecar.amqp")
    run(check())
    assert "wr0ng" not in caplog.text
    assert caplog.text.count("ACCESS_REFUSED") == 1


def test_a_vhost_that_is_not_there(rabbit: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        there, odd = AmqpQueue(name="q", vhost="nowhere"), AmqpQueue(name="q", vhost="..")
        async with Setting(config(there, odd), rabbit.port) as it:
            await until(lambda: it.problem("q", "nowhere") and it.problem("q", ".."), "it is seen")
            assert "there is no vhost nowhere" in it.problem("q", "nowhere")
            assert "cannot ask for" in it.problem("q", "..")

    for module in (queue_watch, watcher):
        monkeypatch.setattr(module, "UNKNOWN_AFTER", 0.5)
    run(check())


def test_the_next_endpoint_is_tried(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.declare("q")
        async with Setting(config("q"), free_port(), rabbit.port) as it:
            await until(lambda: it.depth("q") == 0, "it is reached")

    run(check())


def test_no_broker_at_all(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        async with Setting(config("q"), free_port()) as it:
            await until(lambda: it.problem("q"), "it is seen")
            assert "no connection to the broker" in it.problem("q")
            assert "Connect call failed" in it.problem("q")
            it.addresses.clear()
            await until(lambda: "there is no endpoint" in it.problem("q"), "the reason is kept up to date")
            before = it.looked
            await until(lambda: it.looked >= before + 4, "it tries again and again")

    for module in (queue_watch, watcher):
        monkeypatch.setattr(module, "UNKNOWN_AFTER", 0.3)
    run(check())
    assert caplog.text.count("Connect call failed") == 1


def test_a_broker_that_hangs_up_is_not_hammered(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pauses = 0

    class Counted(Backoff):
        def delay(self, attempt: int) -> float:
            nonlocal pauses
            pauses += 1
            return super().delay(attempt)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.write(bytes(range(256)))
        writer.close()

    async def check() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server, Setting(config("q"), server.sockets[0].getsockname()[1]) as it:
            await until(lambda: it.problem("q") and calls >= 8, "it is seen, and comes again")
            assert calls <= pauses + 2, "each time after a pause, but for the first of each of its two connections"

    monkeypatch.setattr(link, "_backoff", Counted(0.05, 0.3, random.Random(1)))
    for module in (queue_watch, watcher):
        monkeypatch.setattr(module, "UNKNOWN_AFTER", 0.3)
    run(check())


# -- a broker that goes and comes


def test_a_broker_that_stops_and_comes_back(rabbit: RabbitMQ, caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        rabbit.declare("lasting", durable=True)
        async with Setting(config("lasting"), rabbit.port) as it:
            await until(lambda: it.depth("lasting") == 0, "it is reached")
            # One that stands still says nothing at all.
            rabbit.freeze()
            frozen = it.clock()
            await until(lambda: it.problem("lasting"), "it stands still")
            assert it.clock() - frozen < queue_watch.ANSWER_SECONDS + queue_watch.UNKNOWN_AFTER + 1.0
            rabbit.thaw()
            await until(lambda: it.depth("lasting") == 0, "it goes on")
            await asyncio.to_thread(rabbit.stop_app)
            stopped = it.clock()
            await until(lambda: it.problem("lasting"), "it is away")
            assert it.clock() - stopped < queue_watch.UNKNOWN_AFTER + 1.0
            assert it.depth("lasting") == -1
            await asyncio.to_thread(rabbit.start_app)
            await until(lambda: it.depth("lasting") == 0, "it is back")
            # What all sources have in common is told once, so the last one to recover says so.
            await until(lambda: "works again" in caplog.messages[-1], "which is told")

    caplog.set_level(logging.INFO, "sidecar.amqp")
    run(check())
    assert not [record for record in caplog.records if record.name.startswith(("aio", "asyncio"))], caplog.text
    said = [record for record in caplog.records if record.name == "sidecar.amqp"]
    assert said[0].levelno == logging.WARNING
    assert len(said) <= 10, caplog.text


def test_an_alarm(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.declare("alarmed")
        put(rabbit, "alarmed", 3)
        async with Setting(config("alarmed", watch_interval=0.1), rabbit.port) as it:
            await until(lambda: it.depth("alarmed") == 3, "it is reached")
            await asyncio.sleep(0.3)
            assert it.alarms == []
            await asyncio.to_thread(rabbit.alarm, True)
            try:
                await until(lambda: it.alarms == [True], "the alarm is seen")
                await asyncio.to_thread(rabbit.purge, "alarmed")
                await until(lambda: it.depth("alarmed") == 0, "depths are still asked for")
            finally:
                await asyncio.to_thread(rabbit.alarm, False)
            await until(lambda: it.alarms == [True, False], "its end is seen")

    run(check())


def test_an_alarm_that_is_on_from_the_start_and_ends_with_the_watching(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.alarm(True)
        try:
            async with Setting(config(watch_interval=0.1), rabbit.port) as it:
                await until(lambda: it.alarms == [True], "the alarm is seen")
                begun = time.monotonic()
            assert time.monotonic() - begun < link.CLOSE_SECONDS + 30
            assert it.alarms == [True, False]
        finally:
            await asyncio.to_thread(rabbit.alarm, False)

    run(check())


def test_an_alarm_outlasts_other_credentials(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        rabbit.add_user("other", "password")
        rabbit.alarm(True)
        try:
            async with Setting(config(watch_interval=0.1), rabbit.port) as it:
                await until(lambda: it.alarms == [True], "the alarm is seen")
                it.update(
                    config(credentials=AmqpCredentials(username="other", password=Secret("password")))
                )  # fmt: skip
                await until(lambda: it.alarms == [True, False, True], "the alarm is seen again")
                await asyncio.sleep(link.CLOSE_SECONDS + 0.3)
                assert it.alarms == [True, False, True], "the old connection has no say"
        finally:
            await asyncio.to_thread(rabbit.alarm, False)

    run(check())


# -- configuration


def test_queues_come_and_go(rabbit: RabbitMQ) -> None:
    async def check() -> None:
        for queue in ("one", "two"):
            rabbit.declare(queue)
        async with Setting(config("one"), rabbit.port) as it:
            await until(lambda: it.depth("one") == 0, "it is reached")
            it.update(config("two"))
            assert ("/", "one") not in it.stats.queues
            await until(lambda: it.depth("two") == 0, "the new one is asked for")
            it.update(config("two", "one"))
            await until(lambda: it.depth("one") == 0, "both are")
            it.update(replace(config("two"), credentials=None))
            ended = [task for task in asyncio.all_tasks() if task.get_name().startswith("amqp")]
            await asyncio.wait(ended, timeout=5)
            assert all(task.done() for task in ended)

    run(check())


def test_without_credentials_nothing_runs() -> None:
    async def check() -> None:
        before = asyncio.all_tasks()
        async with Setting(Amqp()):
            assert asyncio.all_tasks() == before

    run(check())


def test_many_queues_are_asked_for_less_often() -> None:
    async def check() -> None:
        it = Setting(config(*(f"q{number}" for number in range(600))), free_port())
        assert it.watcher.interval == OFTEN
        async with it:
            assert it.watcher.interval == 3.0
            assert it.watcher.pause == OFTEN

    run(check())


# -- its end


def test_it_ends_whatever_it_is_doing(rabbit: RabbitMQ) -> None:
    """aiormq forgets some cancellations, and aio-pika some connections whose opening is cancelled."""

    async def check() -> None:
        rabbit.declare("q")
        rabbit.add_user("ends", "password")
        ends = AmqpCredentials(username="ends", password=Secret("password"))
        settings = config("q", "missing", watch_interval=0.001, credentials=ends)
        rng = random.Random(2)
        for _ in range(40):
            async with Setting(settings, rabbit.port) as it:
                await asyncio.sleep(rng.random() * 0.08)
                begun = it.clock()
            assert it.clock() - begun < link.CLOSE_SECONDS + 30
        connections = "rabbit_networking:connection_info_all([user])."
        await until(lambda: '"ends"' not in rabbit.eval(connections), "all were closed")

    run(check())


def test_a_cancellation_that_is_forgotten_is_repeated() -> None:
    forgotten = 0

    async def forgetful() -> None:
        nonlocal forgotten
        while forgotten < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                forgotten += 1

    async def check() -> None:
        task = asyncio.create_task(forgetful())
        await asyncio.sleep(0)
        await link.end(task)
        assert task.done()

    run(check())
    assert forgotten == 2


# -- log lines


def test_trouble_that_several_have_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidecar.amqp")
    report = TroubleLog("rabbitmq", lambda: 0.0)
    for _ in range(3):
        report.bad("one", "OSError", "refused")
        report.bad("two", "OSError", "refused")
    assert [record.getMessage() for record in caplog.records] == ["upstream rabbitmq: one: refused"]
    report.good("one")
    report.good("two")
    report.good("two")
    assert [record.getMessage() for record in caplog.records][1:] == ["upstream rabbitmq: two: works again"]
    for number in range(100):
        report.bad("one", str(number), "again")
    assert len(caplog.records) <= 20
