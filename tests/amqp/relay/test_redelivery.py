"""A consumer whose broker is lost again and again, at any byte: nothing is acknowledged that it has not acknowledged,
and everything reaches it."""

from __future__ import annotations

from struct import unpack_from

from hypothesis import given, settings
from hypothesis import strategies as st

from support.amqp import Peer, ack, channel_open_ok, consume_ok, cut, deliver, qos, qos_ok
from support.examples import examples
from support.kept import KeptStage

PREFETCH = 3
COUNT = 12


class Queue:
    """A queue at a broker that is played by a test: numbered messages for one consumer."""

    def __init__(self, stage: KeptStage, broker: Peer) -> None:
        self.stage = stage
        self.broker = broker
        self.ready = list(range(COUNT))
        self.unacked: dict[int, int] = {}
        self.acknowledged: set[int] = set()
        self._tag = 0
        #: What it has said and has not got through.
        self._stream = b""

    def work(self) -> None:
        """Deliver what may be delivered."""
        while self.ready and len(self.unacked) < PREFETCH:
            number = self.ready.pop(0)
            self._tag += 1
            self.unacked[self._tag] = number
            self._stream += deliver(1, "c", self._tag, b"%d " % number + b"x" * 10 * number)

    def flow(self, size: int) -> None:
        """So many bytes of it get through."""
        piece, self._stream = self._stream[:size], self._stream[size:]
        if piece:
            self.broker.says(piece)

    def hear(self) -> None:
        """Acknowledgements come."""
        for each in cut(self.broker.heard()):
            if each[0] == 1 and unpack_from(">HH", each, 7) == (60, 80):
                tag, many = unpack_from(">QB", each, 11)
                tags = [known for known in self.unacked if known == tag or (many and known < tag)]
                assert tags, "an acknowledgement of what was never delivered, or acknowledged before"
                self.acknowledged |= {self.unacked.pop(known) for known in tags}

    def lost(self, early: int, again: bool) -> None:
        """The connection breaks, and there is another one; ``again``: the first one breaks, too, after so many bytes of
        deliveries that come before everything was set up."""
        self.broker.breaks()
        self._requeue()
        if again:
            self.broker = self.stage.back()
            self.broker.says(channel_open_ok(1))
            self.broker.heard()
            self.work()
            self.flow(early)
            self.broker.breaks()
            self._requeue()
        self.broker = self.stage.back(channel_open_ok(1), qos_ok(1), consume_ok(1, "c"))

    def _requeue(self) -> None:
        self.ready = sorted([*self.ready, *self.unacked.values()])
        self.unacked.clear()
        self._tag = 0
        self._stream = b""


class Consumer:
    """The client: it remembers what it has got, by tag, and what it has acknowledged."""

    def __init__(self, client: Peer) -> None:
        self.client = client
        self.got: dict[int, int] = {}
        self.acknowledged: set[int] = set()
        self._last = 0

    def hear(self) -> None:
        frames = self.client.frames()
        while frames:
            tag = int(unpack_from(">Q", frames[0], 13)[0])
            assert tag > self._last, "delivery tags only grow"
            self._last = tag
            header, body = frames[1], frames[2]
            assert (frames[0][0], header[0], body[0]) == (1, 2, 3), "messages come whole"
            assert int(unpack_from(">Q", header, 11)[0]) == len(body) - 8
            self.got[tag] = int(body[7:-1].split(b" ")[0])
            frames = frames[3:]

    def acknowledge(self, place: int, many: bool, all_so_far: bool) -> None:
        """One of those that it has not acknowledged, or all up to it."""
        if not self.got:
            return
        tags = sorted(self.got)
        tag = tags[-1] if all_so_far else tags[place % len(tags)]
        gone = [known for known in tags if known == tag or ((many or all_so_far) and known < tag)]
        self.acknowledged |= {self.got.pop(known) for known in gone}
        self.client.says(ack(1, 0 if all_so_far else tag, many or all_so_far))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("flow"), st.integers(1, 300), st.booleans()),
        st.tuples(st.just("acknowledge"), st.integers(0, PREFETCH), st.booleans()),
        st.tuples(st.just("all so far"), st.just(0), st.booleans()),
        st.tuples(st.just("lost"), st.integers(0, 200), st.booleans()),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=examples(200), deadline=None)
def test_nothing_is_acknowledged_in_vain(steps: list[tuple[str, int, bool]]) -> None:
    stage = KeptStage()
    client, broker = stage.open(1)
    client.says(qos(1, PREFETCH))
    broker.says(qos_ok(1))
    stage.consumer(client, broker, 1, "c")
    queue, consumer = Queue(stage, broker), Consumer(client)

    def settle() -> None:
        queue.hear()
        queue.work()
        consumer.hear()
        assert queue.acknowledged <= consumer.acknowledged

    for what, number, flag in steps:
        settle()
        if what == "flow":
            queue.flow(number)
        elif what == "lost":
            queue.lost(number, flag)
        else:
            consumer.acknowledge(number, flag, what == "all so far")
    for _ in range(3 * COUNT):
        settle()
        queue.flow(10_000)
        consumer.hear()
        consumer.acknowledge(0, False, False)
    settle()
    assert queue.acknowledged == set(range(COUNT))
    assert stage.stats.unacked == 0
    stage.over()
