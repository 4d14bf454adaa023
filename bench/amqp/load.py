"""``python -m bench.amqp.load``: the load generator, a process of its own; an :class:`Order` as JSON comes on its
standard input, the turns go to its standard output.

All contenders' connections stand during the whole of it, one contender at a time is under load.
"""

from __future__ import annotations

import json
import select
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.amqp import wire
from bench.amqp.cases import BODY_BYTES, DELIVERIES, EXCHANGE, MAX_LENGTH, PREFETCH, ROUTING_KEY, WINDOW, Case
from bench.amqp.client import PATIENCE, Connection
from bench.amqp.wire import WireError
from bench.processes import cpu_seconds, machine_cpu_seconds

#: Seconds of load before a turn that are not counted, once per contender.
_WARM_UP: Final = 0.5
#: Seconds without load between turns.
_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """Where a contender listens, and its process id, 0 for none; ``traced``: messages have a trace context from the
    beginning."""

    name: str
    port: int
    pid: int
    traced: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What to do: one turn of ``seconds`` for each name in ``turns``. ``broker`` is where the broker itself listens."""

    case: Case
    broker: Target
    targets: list[Target]
    turns: list[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn came to. CPU seconds of the contender, the broker and the generator, and of what does not belong to
    the benchmark at all; ``latencies`` are of a paced case: microseconds from when a message was due to its confirm."""

    name: str
    messages: int
    seconds: float
    cpu: float
    broker_cpu: float
    load_cpu: float
    other_cpu: float
    latencies: list[int]


class Lane:
    """A contender's connections, and for each the block of messages that is sent over it, with the size of one; ``pid``
    is the contender's process, 0 for none."""

    def __init__(self, name: str, pid: int = 0) -> None:
        self.name = name
        self.pid = pid
        self.connections: list[Connection] = []
        self.blocks: list[memoryview] = []
        self.sizes: list[int] = []

    def add(self, connection: Connection, block: bytes, size: int) -> None:
        self.connections.append(connection)
        self.blocks.append(memoryview(block))
        self.sizes.append(size)


def queues(target: Target, case: Case) -> list[str]:
    """The one behind each connection of a contender."""
    return [f"bench.{target.name}.{number}" for number in range(case.connections)]


def stand(target: Target, case: Case, control: Connection, stack: ExitStack) -> Lane:
    """Its connections, open, and their queues."""
    lane = Lane(target.name, target.pid)
    for number, queue in enumerate(queues(target, case)):
        control.call(wire.declare_queue(queue, 0 if case.consuming else MAX_LENGTH))
        connection = stack.enter_context(closing(Connection(target.port)))
        if case.consuming:
            connection.call(wire.qos(PREFETCH))
            message = wire.publish("", queue, b"x" * BODY_BYTES, target.traced)
        else:
            key = f"{ROUTING_KEY}.{number}.{target.name}"
            control.call(wire.bind_queue(queue, EXCHANGE, key))
            connection.call(wire.confirm_select())
            message = wire.publish(EXCHANGE, key, b"x" * BODY_BYTES, target.traced)
        lane.add(connection, message * WINDOW, len(message))
    return lane


def full_speed(lane: Lane, seconds: float) -> int:
    """Publishes with a window of unconfirmed ones on each connection, until all are confirmed; how many."""
    poll = select.epoll()
    by_descriptor: dict[int, tuple[Connection, memoryview, int]] = {}
    before = sum(connection.confirms.sent for connection in lane.connections)
    for connection, block, size in zip(lane.connections, lane.blocks, lane.sizes, strict=True):
        by_descriptor[connection.fileno()] = (connection, block, size)
        poll.register(connection.fileno(), select.EPOLLIN)
    deadline = time.perf_counter() + seconds
    for connection, block, _ in by_descriptor.values():
        connection.confirms.sent += WINDOW
        if connection.send(block):
            poll.modify(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)
    ended = False
    with closing(poll):
        while not (ended and all(connection.confirms.outstanding == 0 for connection in lane.connections)):
            events = poll.poll(PATIENCE)
            if not events:
                raise WireError(f"no confirm within {PATIENCE:g} s")
            ended = ended or time.perf_counter() > deadline
            for descriptor, event in events:
                connection, block, size = by_descriptor[descriptor]
                if event & select.EPOLLOUT and not connection.flush():
                    poll.modify(descriptor, select.EPOLLIN)
                if event & ~select.EPOLLOUT:
                    connection.read()
                free = WINDOW - connection.confirms.outstanding
                if free and not ended and not connection.sending:
                    connection.confirms.sent += free
                    if connection.send(block[: free * size]):
                        poll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)
    return sum(connection.confirms.sent for connection in lane.connections) - before


def paced(lane: Lane, rate: int, seconds: float) -> list[int]:
    """Publishes at fixed times, whatever becomes of them; microseconds from when each was due to its confirm."""
    (connection,), (block,), (size,) = lane.connections, lane.blocks, lane.sizes
    confirms = connection.confirms
    total, first = round(rate * seconds), confirms.sent + 1
    answered = [0.0] * total
    begun = time.perf_counter() + 0.01
    sent = low = 0
    while low < total:
        now = time.perf_counter()
        due = min(int((now - begun) * rate) + 1, total) if now >= begun else 0
        if due > sent and not connection.sending:
            count = min(due - sent, WINDOW)
            confirms.sent += count
            sent += count
            connection.send(block[: count * size])
        wait = begun + sent / rate - time.perf_counter() if sent < total else PATIENCE
        readable, _, _ = select.select([connection], [connection] if connection.sending else [], [], max(wait, 0.0))
        if connection.sending:
            connection.flush()
        if readable:
            connection.read()
            now = time.perf_counter()
            # With one queue the broker confirms in order; what it does not is counted late, when the gap closes.
            while low <= confirms.low - first:
                answered[low] = now
                low += 1
        elif sent == total and wait == PATIENCE:
            raise WireError(f"no confirm within {PATIENCE:g} s")
    return [round((answered[number] - begun - number / rate) * 1e6) for number in range(total)]


def preload(lane: Lane, control: Connection) -> None:
    """Fill the queue that :func:`consumed` will empty, not through the contender."""
    (block,), (size,) = lane.blocks, lane.sizes
    confirms, left = control.confirms, DELIVERIES
    while left or confirms.outstanding:
        count = 0 if control.sending else min(WINDOW - confirms.outstanding, left)
        confirms.sent += count
        left -= count
        if count:
            control.send(block[: count * size])
        control.wait()


def consumed(lane: Lane, queue: str) -> int:
    """Take all messages of the queue, and acknowledge each; how many."""
    (connection,) = lane.connections
    acked = before = connection.delivered
    connection.call(wire.consume(queue, "bench"))
    connection.take()
    while acked < before + DELIVERIES:
        if connection.delivered > acked and not connection.sending:
            newest = connection.delivered
            connection.send(b"".join([wire.ack(tag) for tag in range(acked + 1, newest + 1)]))
            acked = newest
            continue
        connection.wait()
    while connection.sending:
        connection.wait()
    # The answer says that the broker has taken every ack before it.
    connection.call(wire.cancel("bench"))
    return connection.delivered - before


def take_turn(lane: Lane, order: Order, control: Connection, seconds: float) -> Turn:
    """One contender under load."""
    if order.case.consuming:
        preload(lane, control)
    latencies: list[int] = []
    before = _cpu(lane.pid, order.broker.pid)
    begun = time.perf_counter()
    if order.case.consuming:
        messages = consumed(lane, f"bench.{lane.name}.0")
    elif order.case.rate:
        latencies = paced(lane, order.case.rate, seconds)
        messages = len(latencies)
    else:
        messages = full_speed(lane, seconds)
    took = time.perf_counter() - begun
    after = _cpu(lane.pid, order.broker.pid)
    contender, broker, own, machine = (now - then for now, then in zip(after, before, strict=True))
    other = max(machine - contender - broker - own, 0.0)
    return Turn(lane.name, messages, took, contender, broker, own, other, latencies)


def _cpu(contender: int, broker: int) -> tuple[float, float, float, float]:
    """CPU seconds so far: contender's, broker's, our own, the machine's."""
    return (
        cpu_seconds(contender) if contender else 0.0,
        cpu_seconds(broker),
        time.process_time(),
        machine_cpu_seconds(),
    )


def carry_out(order: Order) -> list[Turn]:
    """All turns, in the order that is asked for."""
    turns = []
    with ExitStack() as stack:
        control = stack.enter_context(closing(Connection(order.broker.port)))
        control.call(wire.confirm_select())
        control.call(wire.declare_exchange(EXCHANGE, "topic"))
        lanes = {target.name: stand(target, order.case, control, stack) for target in order.targets}
        for lane in lanes.values():
            take_turn(lane, order, control, min(_WARM_UP, order.seconds))
        for name in order.turns:
            time.sleep(_PAUSE)
            turns.append(take_turn(lanes[name], order, control, order.seconds))
        # Not on the way out of an error, which has to be told before anything that follows from it.
        for target in order.targets:
            for queue in queues(target, order.case):
                control.call(wire.delete_queue(queue))
        control.call(wire.delete_exchange(EXCHANGE))
    return turns


def decode(text: str) -> Order:
    """The order that ``json.dumps(dataclasses.asdict(order))`` wrote."""
    fields = json.loads(text)
    return Order(
        case=Case(**fields["case"]),
        broker=Target(**fields["broker"]),
        targets=[Target(**target) for target in fields["targets"]],
        turns=fields["turns"],
        seconds=fields["seconds"],
    )


def main() -> int:
    # A schedule in halves of milliseconds needs timers that are not 50 µs late, as they may be (PR_SET_TIMERSLACK).
    Path("/proc/self/timerslack_ns").write_text("1000")
    try:
        turns = carry_out(decode(sys.stdin.read()))
    except (WireError, OSError) as error:
        print(f"bench.amqp.load: {error}", file=sys.stderr)
        return 1
    json.dump([asdict(turn) for turn in turns], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
