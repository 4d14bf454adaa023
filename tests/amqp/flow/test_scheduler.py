from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.confirms import Confirms
from sidecar.amqp.flow.gates import DepthGate, Gate, RateGate
from sidecar.amqp.flow.lanes import Sender
from sidecar.amqp.flow.policy import PublishRoute
from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.flow.scheduler import Scheduler
from sidecar.amqp.flow.stats import AmqpStats, ExchangeStats, QueueDepth
from sidecar.core.amqp_settings import AmqpHold
from support.clock import Call, Loop
from support.examples import examples

BOUNDS = AmqpHold(messages=100_000, bytes=1 << 30, timeout=30.0)


class LateLoop(Loop):
    """Its calls come late by what ``lateness()`` says."""

    def __init__(self, lateness: Callable[[], float]) -> None:
        super().__init__()
        self.lateness = lateness

    def call_at(self, when: float, callback: Callable[[], None]) -> Call:
        return super().call_at(max(when, self.now) + self.lateness(), callback)


class Channel(Sender):
    """A channel in confirm mode, if so wanted, that keeps what became of its publishes."""

    def __init__(self, port: Port, confirm: bool = False) -> None:
        super().__init__()
        self.port = port
        self.confirm = confirm
        self.count = 0
        self.sent: list[Publish] = []
        self.refused: list[Publish] = []
        #: How often nothing was held any more.
        self.emptied_times = 0

    def publish(self, route: PublishRoute, priority: int = 0, size: int = 100) -> Publish:
        self.count += 1
        now = self.port.loop.now
        tag = self.count if self.confirm else 0
        publish = Publish(self, route, tag, b"x" * size, priority, now)
        gate = self.port.scheduler.closed_gate(self, route, now)
        if gate is None:
            publish.frames = b""
            self.sent.append(publish)
        elif tag and gate.over == "nack":
            self.refuse(publish)
        else:
            self.port.scheduler.enqueue(publish, gate, now)
        return publish

    def forward(self, publish: Publish) -> None:
        assert publish.sender is self
        publish.frames = b""
        self.sent.append(publish)

    def refuse(self, publish: Publish) -> None:
        assert publish.sender is self
        publish.frames = b""
        self.refused.append(publish)

    def emptied(self) -> None:
        assert self.held == 0
        assert not self.lanes
        self.emptied_times += 1


class Port:
    """A hold with its clock, and gates to order."""

    def __init__(self, bounds: AmqpHold = BOUNDS, loop: Loop | None = None) -> None:
        self.loop = loop or Loop()
        self.stats = AmqpStats()
        self.scheduler = Scheduler(bounds, self.stats, self.loop, self.loop.call_at)

    def rate(self, rate: float, burst: int = 1, over: str = "hold") -> RateGate:
        return RateGate(f"rate {rate}", rate, burst, over, self.loop.now)

    def depth(self, high: int = 100, low: int = 80, over: str = "hold", name: str = "tasks") -> DepthGate:
        return DepthGate(QueueDepth("/", name, high, low), over)

    def sample(self, gate: DepthGate, depth: int) -> None:
        gate.sampled(depth, 1, self.loop.now, self.loop.now)

    def route(self, exchange: str, gates: Sequence[Gate] = (), key: str = "key") -> PublishRoute:
        return PublishRoute("/", exchange, key, tuple(gates), self.stats.exchange("/", exchange))

    def run(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)


def messages(scheduler: Scheduler) -> int:
    return scheduler.messages


def full(scheduler: Scheduler) -> bool:
    return scheduler.full


# -- one gate ----------------------------------------------------------------------------------------------------------


def test_nothing_is_held_without_a_reason() -> None:
    port = Port()
    channel = Channel(port, confirm=True)
    for _ in range(100):
        channel.publish(port.route("free"))
    assert len(channel.sent) == 100
    assert port.scheduler.waiting() == []
    assert port.loop.armed() == []
    assert port.stats.exchange("/", "free").held == 0


def test_held_until_the_queue_has_room() -> None:
    port = Port()
    gate = port.depth(100, 80)
    port.sample(gate, 100)
    route = port.route("work", [gate])
    channel = Channel(port)
    held = [channel.publish(route, size=50) for _ in range(10)]
    assert channel.sent == []
    assert channel.held == 10
    assert (port.scheduler.messages, port.scheduler.bytes) == (10, 500)
    assert port.scheduler.waiting() == [("queue tasks of /", 10)]
    stats = route.stats
    assert (stats.held, stats.held_messages, stats.held_bytes, stats.held_seconds) == (10, 10, 500, 0.0)
    assert port.loop.armed() == [], "the gate will tell"
    port.run(3)
    port.sample(gate, 90)
    port.run(0)
    assert channel.sent == []
    port.run(1)
    port.sample(gate, 80)
    assert channel.sent == [], "it is for the next turn of the loop"
    port.run(0)
    assert channel.sent == held
    assert channel.emptied_times == 1
    assert (port.scheduler.messages, port.scheduler.bytes) == (0, 0)
    assert (stats.held, stats.held_messages, stats.held_bytes) == (10, 0, 0)
    assert stats.held_seconds == pytest.approx(40)
    assert port.scheduler.waiting() == []
    assert gate.estimate == 90, "those that were let go are counted"
    channel.publish(route)
    assert len(channel.sent) == 11


def test_no_more_leave_than_there_is_room_for() -> None:
    port = Port()
    gate = port.depth(1000, 800)
    port.sample(gate, 1000)
    route = port.route("work", [gate])
    channel = Channel(port)
    for _ in range(2000):
        channel.publish(route)
    port.run(1)
    port.sample(gate, 800)
    port.run(1)
    assert len(channel.sent) == 200
    assert gate.urgent
    port.sample(gate, 900)
    port.run(1)
    assert len(channel.sent) == 300


def test_only_so_many_at_once() -> None:
    port = Port()
    port.scheduler.alarm(True, port.loop.now)
    channel = Channel(port)
    route = port.route("any")
    for _ in range(1200):
        channel.publish(route)
    port.scheduler.alarm(False, port.loop.now)
    assert len(port.loop.armed()) == 1
    counts = []
    while port.loop.armed():
        (call,) = port.loop.armed()
        assert call.when == port.loop.now
        port.loop.calls.clear()
        call.callback()
        counts.append(len(channel.sent))
    assert counts == [500, 1000, 1200]


def test_nobody_is_overtaken_while_the_held_leave() -> None:
    port = Port()
    port.scheduler.alarm(True, port.loop.now)
    first, second = Channel(port), Channel(port)
    route = port.route("any")
    held = [first.publish(route) for _ in range(600)]
    port.scheduler.alarm(False, port.loop.now)
    (call,) = port.loop.armed()
    port.loop.calls.clear()
    call.callback()
    assert first.sent == held[:500]
    late = second.publish(port.route("other"))
    assert second.sent == []
    assert port.scheduler.waiting() == [("alarm of the broker", 101)]
    port.run(0)
    assert first.sent == held
    assert second.sent == [late]


def test_rate() -> None:
    port = Port()
    route = port.route("work", [port.rate(100, 5)])
    channel = Channel(port)
    held = [channel.publish(route) for _ in range(50)]
    assert channel.sent == held[:5]
    port.run(0.105)
    assert channel.sent == held[:15]
    port.run(0.34)
    assert channel.sent == held[:49]
    port.run(1)
    assert channel.sent == held
    assert channel.emptied_times == 1
    assert port.loop.armed() == []


@pytest.mark.parametrize(("rate", "burst", "lanes"), [(1000, 1, 1), (1000, 1, 3), (333.3, 7, 2), (5000, 1, 1)])
@pytest.mark.parametrize("seed", range(2))
def test_the_rate_is_exact_with_late_timers(rate: float, burst: int, lanes: int, seed: int) -> None:
    chance = random.Random(seed)
    port = Port(loop=LateLoop(lambda: chance.uniform(0, 0.02)))
    route = port.route("work", [port.rate(rate, burst)])
    channels = [Channel(port) for _ in range(lanes)]
    start = port.loop.now
    for _ in range(int(rate * 11 / lanes)):
        for channel in channels:
            channel.publish(route)
    port.run(10)
    # Read at the last wake-up: what is due between two of them is not late, but not yet there.
    port.loop.run_until(port.loop.armed()[0].when)
    seconds = port.loop.now - start
    sent = sum(len(channel.sent) for channel in channels)
    assert abs(sent - burst - rate * seconds) <= 1.01, "and so within a thousandth over ten seconds"
    counts = [len(channel.sent) for channel in channels]
    assert max(counts) - min(counts) <= burst, "lanes take turns"


def test_wake_ups_are_bounded() -> None:
    port = Port()
    route = port.route("work", [port.rate(50_000)])
    channel = Channel(port)
    for _ in range(5000):
        channel.publish(route)
    port.run(1)
    assert len(channel.sent) == 5000
    assert port.loop.woken <= 0.1 / 0.002 + 5


def test_a_stream_below_the_rate_is_not_held() -> None:
    port = Port()
    route = port.route("work", [port.rate(1000, 10)])
    channel = Channel(port)
    for _ in range(500):
        channel.publish(route)
        port.run(0.0011)
    assert route.stats.held == 0


# -- lanes -------------------------------------------------------------------------------------------------------------


def test_another_exchange_overtakes_on_the_same_channel() -> None:
    port = Port()
    channel = Channel(port)
    slow = port.route("slow", [port.rate(1)])
    free = port.route("free")
    first = channel.publish(slow)
    held = channel.publish(slow)
    others = [channel.publish(free) for _ in range(10)]
    assert channel.sent == [first, *others]
    port.run(1)
    assert channel.sent == [first, *others, held]


def test_a_lane_waits_as_a_whole() -> None:
    """Its publishes may have other gates, or none; they keep their order all the same."""
    port = Port()
    channel = Channel(port)
    gate = port.depth()
    port.sample(gate, 100)
    full = port.route("work", [gate], "full")
    free = port.route("work", [], "free")
    order = [channel.publish(free), channel.publish(full), channel.publish(free), channel.publish(full)]
    other = Channel(port)
    other.publish(free)
    assert len(other.sent) == 1, "it is this channel's lane only"
    assert channel.sent == order[:1]
    port.run(1)
    port.sample(gate, 10)
    port.run(0.01)
    assert channel.sent == order


def test_a_lane_goes_from_gate_to_gate() -> None:
    port = Port()
    channel = Channel(port)
    one, two = port.depth(name="one"), port.depth(name="two")
    port.sample(one, 100)
    port.sample(two, 100)
    both = port.route("work", [one, two], "both")
    only = port.route("work", [two], "two")
    order = [channel.publish(both), channel.publish(only)]
    assert port.scheduler.waiting() == [("queue one of /", 2)]
    port.sample(one, 0)
    port.run(0.01)
    assert port.scheduler.waiting() == [("queue two of /", 2)]
    port.scheduler.alarm(True, port.loop.now)
    port.sample(two, 0)
    port.run(0.01)
    assert port.scheduler.waiting() == [("alarm of the broker", 2)]
    port.sample(two, 100)
    port.scheduler.alarm(False, port.loop.now)
    port.run(0.01)
    assert port.scheduler.waiting() == [("queue two of /", 2)]
    port.sample(two, 0)
    port.run(0.01)
    assert channel.sent == order


def test_tokens_are_not_taken_in_vain() -> None:
    port = Port()
    channel = Channel(port)
    rate = port.rate(10, 5)
    depth = port.depth()
    port.sample(depth, 100)
    route = port.route("work", [depth, rate])
    for _ in range(20):
        channel.publish(route)
    port.run(10)
    port.sample(depth, 0)
    port.run(0.01)
    assert len(channel.sent) == 5, "the burst, and no more for the time that the queue was full"
    other = Channel(port)
    other.publish(port.route("other", [rate]))
    assert other.sent == [], "others wait for their turn"
    port.run(2)
    assert len(channel.sent) == 20
    assert len(other.sent) == 1


def test_priority_inside_a_lane_and_between_lanes() -> None:
    port = Port()
    port.scheduler.alarm(True, port.loop.now)
    one, two = Channel(port), Channel(port)
    route = port.route("work")
    order: list[tuple[str, Publish]] = []
    low = one.publish(route, 1)
    lower = two.publish(route, 0)
    high = two.publish(route, 9)
    middle = one.publish(route, 5)
    middle_too = two.publish(route, 5)
    for name, channel in (("one", one), ("two", two)):

        def forward(publish: Publish, name: str = name) -> None:
            order.append((name, publish))

        channel.forward = forward  # type: ignore[method-assign]
    port.scheduler.alarm(False, port.loop.now)
    port.run(0.01)
    assert order == [("two", high), ("one", middle), ("two", middle_too), ("one", low), ("two", lower)]


def test_an_urgent_publish_need_not_wait_for_the_gate_of_those_before_it() -> None:
    port = Port()
    channel = Channel(port)
    gate = port.depth()
    port.sample(gate, 100)
    held = channel.publish(port.route("work", [gate], "full"))
    urgent = channel.publish(port.route("work", [], "free"), 5)
    port.run(0.01)
    assert channel.sent == [urgent]
    last = channel.publish(port.route("work", [], "free"))
    port.sample(gate, 0)
    port.run(0.01)
    assert channel.sent == [urgent, held, last]


def test_one_lane_for_a_channel_in_tx_mode() -> None:
    port = Port()
    channel = Channel(port)
    channel.one_lane = True
    gate = port.depth()
    port.sample(gate, 100)
    order = [channel.publish(port.route("work", [gate])), channel.publish(port.route("free"))]
    assert channel.sent == []
    port.sample(gate, 0)
    port.run(0.01)
    assert channel.sent == order


# -- nack, timeout, alarm ----------------------------------------------------------------------------------------------


def test_a_gate_met_later_may_refuse() -> None:
    port = Port()
    plain, confirming = Channel(port), Channel(port, confirm=True)
    route = port.route("work", [port.rate(10, 2, "nack")])
    port.scheduler.alarm(True, port.loop.now)
    for _ in range(4):
        plain.publish(route)
        confirming.publish(route)
    assert confirming.refused == [], "the alarm refuses nobody"
    port.scheduler.alarm(False, port.loop.now)
    port.run(0.01)
    assert len(plain.sent) + len(confirming.sent) == 2
    assert len(confirming.sent) + len(confirming.refused) == 4
    assert confirming.emptied_times == 1
    port.run(1)
    assert len(plain.sent) == 4, "who cannot be told is held"


def test_held_for_too_long() -> None:
    port = Port(replace(BOUNDS, timeout=5.0))
    gate = port.depth()
    port.sample(gate, 100)
    route = port.route("work", [gate])
    plain, confirming = Channel(port), Channel(port, confirm=True)
    kept = plain.publish(route)
    late = confirming.publish(route)
    port.run(2)
    later = confirming.publish(route)
    port.run(2.9)
    assert confirming.refused == []
    port.run(0.2)
    assert confirming.refused == [late]
    assert confirming.emptied_times == 0
    assert port.scheduler.waiting() == [(gate.name, 2)]
    port.run(2)
    assert confirming.refused == [late, later]
    assert confirming.emptied_times == 1
    assert route.stats.held_seconds == pytest.approx(10, abs=0.2)
    port.run(100)
    assert messages(port.scheduler) == 1
    port.sample(gate, 0)
    port.run(0.01)
    assert plain.sent == [kept]
    assert messages(port.scheduler) == 0


def test_the_timeout_can_be_changed() -> None:
    port = Port(replace(BOUNDS, timeout=0.0))
    gate = port.depth()
    port.sample(gate, 100)
    channel = Channel(port, confirm=True)
    channel.publish(port.route("work", [gate]))
    port.run(1000)
    assert channel.refused == []
    port.scheduler.configure(BOUNDS)
    port.run(0.1)
    assert len(channel.refused) == 1


def test_an_alarm_does_not_count_as_waiting() -> None:
    port = Port(replace(BOUNDS, timeout=5.0))
    gate = port.depth()
    port.sample(gate, 100)
    channel = Channel(port, confirm=True)
    channel.publish(port.route("work", [gate]))
    port.run(3)
    port.scheduler.alarm(True, port.loop.now)
    channel.publish(port.route("other"))
    port.scheduler.alarm(True, port.loop.now)
    port.run(60)
    assert channel.refused == []
    port.scheduler.expire(port.loop.now)
    assert channel.refused == []
    assert (port.stats.blocked, port.stats.blocked_since) == (True, 1003.0)
    port.scheduler.alarm(False, port.loop.now)
    assert (port.stats.blocked, port.stats.blocked_seconds) == (False, 60.0)
    port.run(1.9)
    assert len(channel.sent) == 1
    assert channel.refused == []
    port.run(0.2)
    assert len(channel.refused) == 1


def test_thousands_that_are_late_at_once() -> None:
    port = Port(replace(BOUNDS, timeout=1.0))
    gate = port.depth()
    port.sample(gate, 100)
    channel = Channel(port, confirm=True)
    route = port.route("work", [gate])
    held = [channel.publish(route, number % 7) for number in range(2000)]
    port.run(0.99)
    assert channel.refused == []
    port.run(0.5)
    assert channel.refused == held
    assert port.loop.armed() == []


def test_those_who_stay_keep_their_order() -> None:
    chance = random.Random(1)
    port = Port(replace(BOUNDS, timeout=1.0))
    gate = port.depth()
    port.sample(gate, 100)
    channel = Channel(port, confirm=True)
    route = port.route("work", [gate])
    order = []
    for _ in range(100):
        order.append(channel.publish(route, chance.randrange(10)))
        port.run(0.02)
    assert 40 < len(channel.refused) < 60
    assert channel.refused == order[: len(channel.refused)]
    port.sample(gate, 0)
    port.run(0.01)
    left = order[len(channel.refused) :]
    assert channel.sent == sorted(left, key=lambda publish: (-publish.priority, publish.since))


# -- bounds, ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [AmqpHold(messages=10), AmqpHold(bytes=1000)])
def test_room(bounds: AmqpHold) -> None:
    port = Port(bounds)
    rooms: list[int] = []
    port.scheduler.on_room = lambda: rooms.append(port.scheduler.messages)
    channel = Channel(port)
    route = port.route("work", [port.rate(1)])
    for _ in range(10):
        channel.publish(route)
    assert not full(port.scheduler)
    channel.publish(route)
    assert full(port.scheduler)
    port.run(1.5)
    assert full(port.scheduler)
    assert rooms == []
    port.run(1)
    assert not full(port.scheduler)
    assert rooms == [8]
    port.run(5)
    assert rooms == [8]


@pytest.mark.parametrize("bounds", [AmqpHold(messages=80), AmqpHold(bytes=8000)])
def test_who_waits_for_something_else_has_room_where_one_line_fills_it(bounds: AmqpHold) -> None:
    port = Port(bounds)
    channel = Channel(port)
    stuck, other = port.depth(), port.depth(name="other")
    port.sample(stuck, 200)
    port.sample(other, 200)
    for _ in range(79):
        channel.publish(port.route("stuck", [stuck]))
    assert not port.scheduler.crowded(stuck)
    channel.publish(port.route("stuck", [stuck]))
    assert port.scheduler.crowded(stuck)
    assert not port.scheduler.crowded(other)
    for _ in range(9):
        channel.publish(port.route("other", [other]))
    assert not port.scheduler.crowded(other)
    channel.publish(port.route("other", [other]))
    assert port.scheduler.crowded(other), "it has an eighth itself"
    port.sample(other, 0)
    port.run(0.1)
    assert full(port.scheduler)
    assert not port.scheduler.crowded(other)
    for number in range(20):
        gate = port.depth(name=f"small {number}")
        port.sample(gate, 200)
        assert not port.scheduler.crowded(gate)
        channel.publish(port.route(f"small {number}", [gate]))
    assert port.scheduler.crowded(port.depth()), "the reserve is used up"
    port.sample(stuck, 0)
    port.run(0.1)
    assert not full(port.scheduler)
    assert not port.scheduler.crowded(stuck)


def test_lines_know_their_bytes() -> None:
    port = Port(AmqpHold(timeout=5.0))
    gate, wide = port.depth(), port.depth(name="wide")
    port.sample(gate, 200)
    port.sample(wide, 200)
    first, second = Channel(port, confirm=True), Channel(port)
    for size in (10, 200, 3000):
        first.publish(port.route("a", [gate]), size=size)
        second.publish(port.route("a", [gate, wide]), priority=size % 7, size=size)
    assert (gate.messages, gate.bytes) == (6, 6420)
    port.run(6)  # what is in confirm mode is refused
    assert (gate.messages, gate.bytes) == (3, 3210)
    port.sample(gate, 0)
    port.run(0.1)
    assert (gate.messages, gate.bytes, wide.messages, wide.bytes) == (0, 0, 3, 3210)
    port.scheduler.forget(second)
    assert (wide.messages, wide.bytes) == (0, 0)


def test_bounds_can_be_changed() -> None:
    port = Port(AmqpHold(messages=10))
    rooms: list[int] = []
    port.scheduler.on_room = lambda: rooms.append(port.scheduler.messages)
    port.scheduler.alarm(True, port.loop.now)
    channel = Channel(port)
    for _ in range(10):
        channel.publish(port.route("work"))
    assert full(port.scheduler)
    port.scheduler.configure(AmqpHold(messages=20))
    assert not full(port.scheduler)
    assert rooms == [10]
    port.scheduler.configure(AmqpHold(messages=5))
    assert full(port.scheduler)
    assert len(port.scheduler.forget(channel)) == 10
    assert not full(port.scheduler)
    assert rooms == [10, 0]


def test_forget() -> None:
    port = Port()
    gate = port.depth()
    port.sample(gate, 100)
    channel, other = Channel(port, confirm=True), Channel(port, confirm=True)
    one, two = port.route("one", [gate]), port.route("two", [gate])
    order = [channel.publish(one), channel.publish(two), channel.publish(one, 9), channel.publish(two)]
    stays = other.publish(one)
    assert port.scheduler.forget(channel) == order
    assert port.scheduler.forget(channel) == []
    assert channel.emptied_times == 0
    assert (channel.held, channel.lanes) == (0, {})
    assert (port.scheduler.messages, port.scheduler.bytes) == (1, 100)
    assert (one.stats.held_messages, two.stats.held_messages) == (1, 0)
    assert port.scheduler.waiting() == [(gate.name, 1)]
    port.run(100)
    assert channel.refused == []
    assert other.refused == [stays]


def test_channels_that_come_and_go_leave_nothing_behind() -> None:
    port = Port()
    gate = port.depth()
    port.sample(gate, 100)
    route = port.route("work", [gate])
    for _ in range(2000):
        channel = Channel(port, confirm=True)
        channel.publish(route)
        channel.publish(route, 5)
        port.scheduler.forget(channel)
    assert len(gate._line) < 100
    assert len(port.scheduler._tagged) == 0
    assert len(port.loop.armed()) <= 1


def test_a_gate_that_is_no_more() -> None:
    port = Port()
    gate, rate = port.depth(), port.rate(0.001)
    port.sample(gate, 100)
    route = port.route("work", [gate, rate])
    channel = Channel(port)
    held = [channel.publish(route) for _ in range(3)]
    gate.retire(port.loop.now)
    port.run(0.01)
    assert channel.sent == held[:1]
    rate.retire(port.loop.now)
    port.run(0.01)
    assert channel.sent == held


def test_gates_changed() -> None:
    port = Port()
    channel = Channel(port)
    rate = port.rate(0.001)
    route = port.route("work", [rate])
    held = [channel.publish(route) for _ in range(2)]
    rate.on_change = None
    rate.change(1000, 10, "hold", port.loop.now)
    port.scheduler.wake()
    port.run(0)
    assert channel.sent == held


def test_a_gate_may_have_opened_meanwhile() -> None:
    """Between the question and the keeping."""
    port = Port()
    channel = Channel(port)
    gate = port.depth()
    port.sample(gate, 100)
    route = port.route("work", [gate])
    assert port.scheduler.closed_gate(channel, route, port.loop.now) is gate
    port.sample(gate, 0)
    publish = Publish(channel, route, 0, b"frames", 0, port.loop.now)
    port.scheduler.enqueue(publish, gate, port.loop.now)
    port.run(0.01)
    assert channel.sent == [publish]


class Chatty(Channel):
    """One that publishes, or goes, in the middle of everything."""

    def __init__(self, port: Port, route: PublishRoute) -> None:
        super().__init__(port)
        self.route = route
        self.more = 3

    def forward(self, publish: Publish) -> None:
        super().forward(publish)
        if self.more == 2:
            self.port.scheduler.forget(self)
        if self.more:
            self.more -= 1
            self.publish(self.route)

    def emptied(self) -> None:
        super().emptied()
        if self.more:
            self.more -= 1
            self.publish(self.route)


def test_a_sender_may_do_anything_when_its_turn_comes() -> None:
    port = Port()
    route = port.route("work", [port.rate(10, 1)])
    channel = Chatty(port, route)
    other = Channel(port)
    for _ in range(5):
        channel.publish(route)
        other.publish(route)
    port.run(3)
    assert len(other.sent) == 5
    assert channel.more == 0
    assert messages(port.scheduler) == 0
    assert (channel.held, channel.lanes) == (0, {})
    assert port.scheduler.waiting() == []
    assert route.stats.held_messages == route.stats.held_bytes == 0


# -- any mix -----------------------------------------------------------------------------------------------------------


class Checked(Channel):
    """A channel that looks at every step whether it was right."""

    def __init__(self, port: Port, confirm: bool, book: Book) -> None:
        super().__init__(port, confirm)
        self.book = book

    def publish(self, route: PublishRoute, priority: int = 0, size: int = 100) -> Publish:
        sent = len(self.sent)
        refused = len(self.refused)
        publish = super().publish(route, priority, size)
        if len(self.sent) > sent:
            self.book.may_go(publish)
        elif len(self.refused) == refused:
            self.book.held.append(publish)
        return publish

    def forward(self, publish: Publish) -> None:
        self.book.held.remove(publish)
        self.book.may_go(publish)
        super().forward(publish)

    def refuse(self, publish: Publish) -> None:
        if publish in self.book.held:
            self.book.held.remove(publish)
        super().refuse(publish)


class Book:
    """What is held, kept apart from the hold."""

    def __init__(self, port: Port) -> None:
        self.port = port
        #: In order of arrival.
        self.held: list[Publish] = []

    def lane(self, publish: Publish) -> object:
        return publish.sender, "" if publish.sender.one_lane else publish.route.lane

    def may_go(self, publish: Publish) -> None:
        """Nobody of its lane was to go before it, and no gate is closed beyond what it has filled itself."""
        assert not self.port.stats.blocked
        for other in self.held:
            if self.lane(other) == self.lane(publish):
                assert other.priority < publish.priority or other.since > publish.since or other is publish
        for gate in publish.route.gates:
            if isinstance(gate, DepthGate) and gate.queue.depth >= 0 and not gate.retired:
                assert gate.estimate <= gate.queue.high

    def check(self) -> None:
        scheduler = self.port.scheduler
        assert scheduler.messages == len(self.held) == sum(count for _, count in scheduler.waiting())
        assert scheduler.bytes == sum(len(publish.frames) for publish in self.held)
        exchanges: dict[ExchangeStats, int] = {}
        senders: dict[Sender, int] = {}
        for publish in self.held:
            exchanges[publish.route.stats] = exchanges.get(publish.route.stats, 0) + 1
            senders[publish.sender] = senders.get(publish.sender, 0) + 1
        for stats in self.port.stats.exchanges.values():
            assert stats.held_messages == exchanges.get(stats, 0)
        for sender, count in senders.items():
            assert sender.held == count == sum(lane.messages for lane in sender.lanes.values())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 5), st.integers(0, 6), st.integers(0, 2)),
        st.tuples(st.just("publish"), st.integers(0, 5), st.integers(0, 6), st.integers(0, 2)),
        st.tuples(st.just("sample"), st.integers(0, 1), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("unknown"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("alarm"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("run"), st.integers(1, 2000), st.just(0), st.just(0)),
        st.tuples(st.just("forget"), st.integers(0, 5), st.just(0), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=examples(300), deadline=None)
@given(steps=STEPS, timeout=st.sampled_from([0.0, 1.0]), over=st.sampled_from(["hold", "nack"]))
def test_any_mix(steps: list[tuple[str, int, int, int]], timeout: float, over: str) -> None:
    """Lanes keep their order, nobody passes a closed gate, the counters are right; once all is open, all are out."""
    port = Port(replace(BOUNDS, timeout=timeout))
    book = Book(port)
    scheduler, loop = port.scheduler, port.loop
    depths = [port.depth(10, 5, name="one"), port.depth(8, 8, over, name="two")]
    rates = [port.rate(20, 2), port.rate(50, 1, over)]
    routes = [
        port.route("free"),
        port.route("rated", [rates[0]]),
        port.route("both", [depths[0], rates[1]]),
        port.route("mixed", [depths[0], depths[1]], "a"),
        port.route("mixed", [depths[1]], "b"),
        port.route("mixed", [], "c"),
        port.route("mixed", [depths[1], rates[0]], "d"),
    ]
    channels = [Checked(port, number % 2 == 1, book) for number in range(6)]
    channels[4].one_lane = channels[5].one_lane = True
    gone = 0
    for what, first, second, third in steps:
        loop.now += 0.0001
        now = loop.now
        if what == "publish":
            channels[first].publish(routes[second], third, 10 + first)
        elif what == "sample":
            depths[first].sampled(second, 1, now, now)
        elif what == "unknown":
            depths[first].unknown("gone", now)
        elif what == "alarm":
            scheduler.alarm(first == 1, now)
        elif what == "run":
            port.run(first / 1000)
        else:
            found = scheduler.forget(channels[first])
            assert found == [publish for publish in book.held if publish.sender is channels[first]]
            book.held = [publish for publish in book.held if publish.sender is not channels[first]]
            gone += len(found)
        book.check()
        if timeout and not port.stats.blocked:
            port.run(0)
    event("some are left" if book.held else "none are left")
    scheduler.alarm(False, loop.now)
    for _ in range(40):
        for gate in depths:
            gate.sampled(0, 1, loop.now, loop.now)
        port.run(0.5)
        book.check()
    assert not book.held
    assert scheduler.waiting() == []
    assert loop.armed() == []
    published = sum(channel.count for channel in channels)
    assert published == gone + sum(len(channel.sent) + len(channel.refused) for channel in channels)
    for channel in channels:
        assert (channel.held, channel.lanes) == (0, {})
        if not channel.confirm:
            assert channel.refused == []


class Confirming(Checked):
    """A channel with a client that waits for confirms, and a broker that gives them."""

    def __init__(self, port: Port, book: Book) -> None:
        super().__init__(port, True, book)
        self.confirms = Confirms()
        self.unanswered: set[int] = set()
        self.reached = 0
        self.open: set[int] = set()

    def publish(self, route: PublishRoute, priority: int = 0, size: int = 100) -> Publish:
        self.unanswered.add(self.confirms.received())
        sent = len(self.sent)
        publish = super().publish(route, priority, size)
        if len(self.sent) > sent:
            self.pass_on(publish)
        return publish

    def forward(self, publish: Publish) -> None:
        super().forward(publish)
        self.pass_on(publish)

    def pass_on(self, publish: Publish) -> None:
        self.confirms.forwarded(publish)
        self.reached += 1
        self.open.add(self.reached)

    def refuse(self, publish: Publish) -> None:
        super().refuse(publish)
        self.hear(self.confirms.answers([publish.tag]))

    def hear(self, frames: list[tuple[int, bool]]) -> None:
        for tag, multiple in frames:
            if multiple:
                self.unanswered = {one for one in self.unanswered if one > tag}
            else:
                self.unanswered.remove(tag)
        for publish in self.book.held:
            assert publish.sender is not self or publish.tag in self.unanswered

    def answer(self, position: int, multiple: bool) -> None:
        """The broker answers one that it has not answered, or all up to it."""
        if self.open:
            number = sorted(self.open)[position % len(self.open)]
            self.open = {one for one in self.open if (one > number if multiple else one != number)}
            self.hear(self.confirms.answers([one.tag for one in self.confirms.settled(number, multiple)]))


@settings(max_examples=examples(200), deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(0, 3), st.integers(0, 2)),
            st.tuples(st.just("publish"), st.integers(0, 3), st.integers(0, 2)),
            st.tuples(st.just("answer"), st.integers(0, 20), st.integers(0, 1)),
            st.tuples(st.just("run"), st.integers(1, 400), st.just(0)),
            st.tuples(st.just("alarm"), st.integers(0, 1), st.just(0)),
        ),
        max_size=100,
    )
)
def test_every_number_is_answered_once(steps: list[tuple[str, int, int]]) -> None:
    """With gates that hold and gates that refuse, priorities, an alarm and a timeout: the client hears of each of its
    publishes once, and never of one that is still held."""
    port = Port(replace(BOUNDS, timeout=0.5))
    book = Book(port)
    channel = Confirming(port, book)
    routes = [
        port.route("free"),
        port.route("slow", [port.rate(3)]),
        port.route("strict", [port.rate(10, 2, "nack")]),
        port.route("mixed", [port.rate(20)]),
    ]
    for what, first, second in steps:
        port.loop.now += 0.0001
        if what == "publish":
            channel.publish(routes[first], second)
        elif what == "answer":
            channel.answer(first, second == 1)
        elif what == "run":
            port.run(first / 1000)
        else:
            port.scheduler.alarm(first == 1, port.loop.now)
        book.check()
    port.scheduler.alarm(False, port.loop.now)
    port.run(5)
    event("translated" if not channel.confirms.same else "same numbers")
    assert book.held == []
    while channel.open:
        channel.answer(0, True)
    assert channel.unanswered == set()
