"""Clients and brokers that keep to the rules never see each other break them, whatever happens and in whatever order;
nothing is lost on the way; and however a session ends, nothing of it is left."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.amqp_settings import AmqpHold, AmqpPrefetch, AmqpPublish
from support.amqp import DEAF, PROPERTIES, Stage
from support.amqp_model import Broker, Client
from support.examples import examples

LIMITS = (
    AmqpPublish(exchange="slow", rate=2.0, burst=2),
    AmqpPublish(exchange="short", rate=5.0, burst=1, over="nack"),
)
EXCHANGES = ("", "free", "slow", "slow", "short")
#: Kinds of steps, by what they need.
ANY = 25
HARMLESS = (0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 9, 10, 10, 12, 13, 14, 15, 16, 17, 18, 21, 22)


class World:
    """A client and a broker, with everything that can happen to them."""

    def __init__(self, deaf: bool, prefetch: int, heartbeat: int, timeout: float = 8.0) -> None:
        self.stage = Stage(
            publish=LIMITS,
            hold=AmqpHold(messages=20, bytes=5000, timeout=timeout),
            max_message_size=1000,
            prefetch=AmqpPrefetch(default=prefetch, max=10),
            sample=0.5,
            spans=True,
        )
        client, broker = self.stage.open(properties=DEAF if deaf else PROPERTIES, heartbeat=heartbeat)
        self.client = Client(client)
        self.broker = Broker(broker)
        self.messages = 0
        self.client.open_channel(1)
        self.turn()

    def turn(self) -> None:
        """Both read what there is."""
        self.broker.turn()
        self.client.turn()

    def quiet(self) -> bool:
        """Nothing is on its way for longer than it takes to read it."""
        pipes = self.client.peer.transport, self.broker.peer.transport
        counts = self.stage.counts()
        return not any(pipe.stuck or pipe.unread for pipe in pipes) and not counts["held"] and not counts["stalled"]

    def do(self, what: int, a: int, b: int) -> None:
        client, broker, stage = self.client, self.broker, self.stage
        usable = client.usable
        here = usable[a % len(usable)] if usable else 0
        there = list(broker.channels)[a % len(broker.channels)] if broker.channels else 0
        if what == 0:
            client.open_channel(1 + a % 3)
        elif what == 1 and here:
            self.messages += 1
            body = b"%d " % self.messages + b"x" * (b * 7 % 300)
            client.publish(here, EXCHANGES[b % 5], body, pieces=b % 40)
        elif what == 2 and here:
            client.select(here)
        elif what == 3 and here:
            client.consume(here, b % 4 == 0, b % 3 == 0)
        elif what == 4 and here:
            client.cancel(here, b, b % 2 == 0)
        elif what == 5 and here and self.quiet():
            # An answer that overtakes deliveries that are kept back is another subject: tags must come in order.
            client.get(here, b % 4 == 0)
            self.turn()
        elif what == 6 and here:
            self.turn()
            quiet = self.quiet()
            if here in client.usable:
                client.settle(here, b, b // 7, quiet)
            if quiet:
                broker.turn()
        elif what == 7 and here:
            client.set_qos(here, b)
        elif what == 8 and here and b % 3 == 0:
            client.close_channel(here)
        elif what == 9 and there:
            broker.deliver(there)
            broker.deliver(there)
        elif what == 10 and there:
            broker.answer(there, b, b % 2 == 0, b % 5 != 0)
        elif what == 11 and there and b % 5 == 0:
            broker.close_channel(there)
        elif what == 12:
            stage.advance(a % 10 / 10)
        elif what == 13:
            stage.listener.app_health(b % 2 == 0)
        elif what == 14:
            broker.turn()
        elif what == 15:
            client.turn()
        elif what == 16 and b % 3 == 0:
            client.peer.stops_reading()
        elif what == 16:
            client.peer.reads_again()
        elif what == 17 and b % 3 == 0:
            broker.peer.stops_reading()
        elif what == 17:
            broker.peer.reads_again()
        elif what == 18 and here and b % 4 == 0:
            client.delete_queue(here)
        elif what == 19 and here and b % 4 == 0:
            client.recover(here)
        elif what == 20 and b % 9 == 0 and not broker.closing and not broker.over:
            stage.listener.stop_work()
        elif what == 21 and b % 3 == 0:
            broker.block()
        elif what == 22:
            broker.unblock()
        elif what == 23 and b % 9 == 0:
            client.close()
        elif what == 24 and b % 9 == 0:
            broker.turn()
            broker.close()

    def everything(self) -> None:
        """All that is under way arrives."""
        self.client.peer.reads_again()
        self.broker.peer.reads_again()
        self.broker.unblock()
        for _ in range(60):
            self.broker.turn()
            for number in list(self.broker.channels):
                self.broker.answer(number, -1, True, True)
            self.client.turn()
            if self.client.over and not self.client.peer.transport.gone:
                self.client.peer.leaves()
            if self.broker.over and not self.broker.peer.transport.gone:
                self.broker.peer.leaves()
            self.stage.advance(1)

    def end(self, how: int) -> None:
        client, broker, stage = self.client, self.broker, self.stage
        if how == 0:
            client.close()
        elif how == 1:
            broker.turn()
            broker.close()
        elif how == 2:
            client.peer.leaves()
        elif how == 3:
            client.peer.breaks()
        elif how == 4:
            broker.peer.leaves()
        elif how == 5:
            broker.peer.breaks()
        elif how == 6:
            for session in list(stage.listener.sessions):
                session.shut_down("the end")
        elif how == 7:
            for session in list(stage.listener.sessions):
                session.abort()
        self.everything()
        if how < 8:
            assert client.peer.transport.gone
            assert broker.peer.transport.gone
        stage.over()


NUMBERS = st.integers(0, 9), st.integers(0, 99)
WORLDS = st.booleans(), st.sampled_from([0, 5]), st.sampled_from([0, 4])


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.tuples(st.integers(0, ANY - 1), *NUMBERS), max_size=60), st.integers(0, 8), *WORLDS)
def test_nothing_is_left_whatever_happened(
    steps: list[tuple[int, int, int]], how: int, deaf: bool, prefetch: int, heartbeat: int
) -> None:
    world = World(deaf, prefetch, heartbeat)
    for step in steps:
        world.do(*step)
    world.end(how)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(HARMLESS), *NUMBERS), max_size=60), st.booleans(), st.sampled_from([0.0, 2.0])
)
def test_nothing_is_lost(steps: list[tuple[int, int, int]], deaf: bool, timeout: float) -> None:
    world = World(deaf, 0, 0, timeout)
    for step in steps:
        world.do(*step)
    nothing_was_lost(world)
    world.end(0)


def nothing_was_lost(world: World) -> None:
    """Everything that was published has arrived in its order, or was refused; and everything was answered."""
    client, broker = world.client, world.broker
    world.stage.listener.app_health(True)
    world.everything()
    refused = set()
    for channel in client.channels.values():
        assert not channel.unconfirmed
        refused |= {channel.sent[number][2] for number in channel.refused}
    lanes: dict[tuple[str, str], list[bytes]] = {}
    for exchange, key, body in client.published:
        lanes.setdefault((exchange, key), []).append(body)
    arrived: dict[tuple[str, str], list[bytes]] = {}
    for exchange, key, body in broker.published:
        arrived.setdefault((exchange, key), []).append(body)
    for lane, bodies in lanes.items():
        here = arrived.get(lane, [])
        assert here == [body for body in bodies if body in here]
        assert set(bodies) - set(here) <= refused
    assert sum(map(len, arrived.values())) <= len(client.published)
    for number, channel in client.channels.items():
        assert channel.unacked == broker.channels[number].unacked
        assert not channel.gets
        assert channel.qos == 0
    assert world.stage.stats.unacked == sum(len(channel.unacked) for channel in client.channels.values())
    assert world.stage.counts()["held"] == 0
    assert world.stage.counts()["stalled"] == 0
