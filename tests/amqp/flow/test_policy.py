from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.amqp.flow.gates import DepthGate, Gate, RateGate
from sidecar.amqp.flow.lanes import Sender
from sidecar.amqp.flow.policy import MAX_EXCHANGES, MAX_ROUTES, MAX_VHOSTS, Policy, PublishRoute
from sidecar.amqp.flow.publish import Publish
from sidecar.amqp.flow.scheduler import Scheduler
from sidecar.amqp.flow.stats import AmqpStats
from sidecar.amqp.wire.constants import BASIC_PUBLISH, SYNTAX_ERROR, AmqpError
from sidecar.core.amqp_settings import Amqp, AmqpHold, AmqpPublish, AmqpQueue
from support.clock import Clock, Loop
from support.examples import examples


def key(exchange: str, routing_key: str) -> bytes:
    """As in a publish."""
    first, second = exchange.encode("utf-8", "surrogateescape"), routing_key.encode("utf-8", "surrogateescape")
    return bytes([len(first)]) + first + bytes([len(second)]) + second


def policy(*rules: AmqpPublish, queues: tuple[AmqpQueue, ...] = ()) -> Policy:
    return Policy(Amqp(publish=rules, queues=queues), AmqpStats(), Clock())


def gates(policy: Policy, exchange: str, routing_key: str, vhost: str = "/") -> list[str]:
    return [gate.name for gate in policy.routes(vhost).find(key(exchange, routing_key)).gates]


def test_a_route_says_what_the_publish_said() -> None:
    found = policy().routes("/agents").find(key("ai.tasks", "ai.inference.é"))
    assert (found.vhost, found.exchange, found.routing_key) == ("/agents", "ai.tasks", "ai.inference.é")
    assert found.gates == ()
    assert (found.stats.vhost, found.stats.name) == ("/agents", "ai.tasks")


def test_a_route_is_found_again() -> None:
    of = policy()
    routes = of.routes("/")
    assert of.routes("/") is routes
    assert of.routes("/agents") is not routes
    assert routes.find(key("x", "k")) is routes.find(key("x", "k"))
    assert routes.find(key("x", "k")) is not routes.find(key("x", "l"))
    assert routes.find(key("x", "k")).stats is routes.find(key("x", "l")).stats


def test_lanes() -> None:
    routes = policy().routes("/")

    def lane(exchange: str, routing_key: str) -> str:
        return routes.find(key(exchange, routing_key)).lane

    assert lane("x", "k") == lane("x", "l")
    assert lane("", "k") != lane("", "l")
    assert len({lane("x", "k"), lane("y", "k"), lane("", "x"), lane("", "y"), lane("queue x", "k")}) == 5


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0", b"\1", b"\1x", b"\1x\2k", b"\1x\1kk", b"\1x\0k", b"\3x\1k", b"\xff", b"\xffx\0", b"\0\1", b"\0\0\0"],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(AmqpError) as caught:
        policy().routes("/").find(raw)
    assert (caught.value.code, caught.value.method, caught.value.channel) == (SYNTAX_ERROR, BASIC_PUBLISH, 0)


@given(raw=st.binary(max_size=12))
def test_whatever_comes_is_a_route_or_refused(raw: bytes) -> None:
    try:
        found = _shared.routes("/").find(raw)
    except AmqpError:
        return
    assert key(found.exchange, found.routing_key) == raw


_shared = policy(AmqpPublish(routing_key="a.*.#", rate=1))


def test_texts_that_are_not_utf_8() -> None:
    found = policy(AmqpPublish(exchange="#", routing_key="*", rate=1)).routes("/").find(b"\2\xff\xfe\1\x80")
    assert found.exchange.encode("utf-8", "surrogateescape") == b"\xff\xfe"
    assert len(found.gates) == 1


def test_the_first_rule_that_matches() -> None:
    of = policy(
        AmqpPublish(exchange="ai.tasks", routing_key="ai.inference.urgent"),
        AmqpPublish(exchange="ai.tasks", routing_key="ai.inference.#", rate=1000, burst=2000, over="nack"),
        AmqpPublish(vhost="/agents", exchange="ai.*", rate=500, burst=1),
        AmqpPublish(exchange="", routing_key="tasks.*", rate=10),
        AmqpPublish(exchange="amq.default", rate=20),
    )
    assert [gate.name for gate in of.rate_gates] == [
        "rate of ai.tasks, ai.inference.#",
        "rate of ai.*, # of /agents",
        "rate of amq.default, tasks.*",
        "rate of amq.default, #",
    ]
    assert [gate.over for gate in of.rate_gates] == ["nack", "hold", "hold", "hold"]
    assert gates(of, "ai.tasks", "ai.inference.urgent") == []
    assert gates(of, "ai.tasks", "ai.inference.urgent.x") == ["rate of ai.tasks, ai.inference.#"]
    assert gates(of, "ai.tasks", "ai.inference", "/agents") == ["rate of ai.tasks, ai.inference.#"]
    assert gates(of, "ai.tasks", "other") == []
    assert gates(of, "ai.tasks", "other", "/agents") == ["rate of ai.*, # of /agents"]
    assert gates(of, "ai.tasks.more", "other", "/agents") == []
    assert gates(of, "", "tasks.a") == ["rate of amq.default, tasks.*"]
    assert gates(of, "", "tasks") == ["rate of amq.default, #"]
    # The broker has no exchange of that name; it is one of the configuration's names for the default one.
    assert gates(of, "amq.default", "tasks") == []


@pytest.mark.parametrize("exchange", ["*", "#"])
def test_any_exchange(exchange: str) -> None:
    of = policy(AmqpPublish(exchange=exchange, rate=1))
    assert all(len(gates(of, name, "k")) == 1 for name in ("", "x", "ai.tasks", ".", "a.b.c.d"))
    gate = of.rate_gates[0]
    assert of.routes("/").find(key("", "k")).gates == of.routes("/b").find(key("x", "l")).gates == (gate,)


def test_a_rate_and_a_burst() -> None:
    of = policy(AmqpPublish(rate=10, burst=2))
    gate = of.rate_gates[0]
    assert [gate.open(1000.0) for _ in range(3)] == [True, True, False]
    assert gate.open(1000.1)
    assert not gate.open(1000.1)


def test_queues_come_before_the_rate() -> None:
    of = policy(
        AmqpPublish(rate=1),
        queues=(AmqpQueue(name="b"), AmqpQueue(name="a", over="nack"), AmqpQueue(name="a", vhost="/agents")),
    )
    of.bindings.bound("/", "x", "a", "k")
    of.bindings.bound("/", "x", "b", "k")
    of.bindings.bound("/", "x", "c", "k")
    assert gates(of, "x", "k") == ["queue b of /", "queue a of /", "rate of *, #"]
    assert gates(of, "x", "l") == ["rate of *, #"]
    assert gates(of, "", "a") == ["queue a of /", "rate of *, #"]
    assert gates(of, "", "c") == ["rate of *, #"]
    assert gates(of, "", "a", "/agents") == ["queue a of /agents", "rate of *, #"]
    assert gates(of, "", "b", "/agents") == ["rate of *, #"]
    assert list(of.depth_gates) == [("/", "b"), ("/", "a"), ("/agents", "a")]
    assert of.depth_gates["/", "a"].over == "nack"
    assert of.routes("/").find(key("", "a")).gates[0] is of.depth_gates["/", "a"]


def test_bindings_are_learnt_while_publishes_run() -> None:
    of = policy(queues=(AmqpQueue(name="q"),))
    assert gates(of, "x", "a.b") == []
    of.bindings.exchange_declared("/", "x", "topic")
    of.bindings.bound("/", "x", "q", "a.*")
    assert gates(of, "x", "a.b") == ["queue q of /"]
    before = of.version
    found = of.routes("/").find(key("x", "a.b"))
    of.bindings.bound("/", "x", "unwatched", "#")
    assert of.version == before
    assert of.routes("/").find(key("x", "a.b")) is found
    of.bindings.unbound("/", "x", "q", "a.*")
    assert gates(of, "x", "a.b") == []


def test_watched_queues_are_among_the_statistics() -> None:
    stats = AmqpStats()
    of = Policy(Amqp(queues=(AmqpQueue(name="q", high=10, low=5), AmqpQueue(name="p"))), stats, Clock())
    queue = stats.queues["/", "q"]
    assert (queue.vhost, queue.name, queue.high, queue.low) == ("/", "q", 10, 5)
    of.depth_gates["/", "q"].sampled(10, 0, 1000.0, 1000.0)
    assert queue.full
    of.update(Amqp(queues=(AmqpQueue(name="p"), AmqpQueue(name="q", high=10, low=5))))
    assert list(stats.queues) == [("/", "p"), ("/", "q")]
    assert stats.queues["/", "q"] is queue
    assert queue.full
    of.update(Amqp())
    assert stats.queues == {}


def test_a_reload_keeps_what_a_gate_knows() -> None:
    rule = AmqpPublish(exchange="x", rate=10, burst=2)
    of = policy(rule, queues=(AmqpQueue(name="q", high=10, low=5),))
    rate, depth = of.rate_gates[0], of.depth_gates["/", "q"]
    of.bindings.bound("/", "x", "q", "k")
    before = of.routes("/").find(key("x", "k"))
    assert rate.open(1000.0)
    assert rate.open(1000.0)
    depth.sampled(10, 0, 1000.0, 1000.0)
    other = AmqpPublish(exchange="y", rate=1)
    of.update(Amqp(publish=(other, rule), queues=(AmqpQueue(name="q", high=10, low=5, over="nack"),)))
    assert of.rate_gates[1] is rate
    assert not rate.open(1000.0)
    assert of.depth_gates["/", "q"] is depth
    assert depth.closed
    assert depth.over == "nack"
    after = of.routes("/").find(key("x", "k"))
    assert after is not before
    assert (after.gates, after.lane, after.stats) == (before.gates, before.lane, before.stats)
    of.update(Amqp(publish=(AmqpPublish(exchange="x", rate=10, burst=2, over="nack"),)))
    assert list(of.rate_gates) == [rate]
    assert rate.over == "nack"
    assert not rate.open(1000.0)


def test_a_reload_with_other_numbers() -> None:
    of = policy(AmqpPublish(exchange="x", rate=1, burst=1), queues=(AmqpQueue(name="q", high=10, low=5),))
    rate, depth = of.rate_gates[0], of.depth_gates["/", "q"]
    assert rate.open(1000.0)
    depth.sampled(50, 0, 1000.0, 1000.0)
    told: list[Gate] = []
    rate.on_change = lambda: told.append(rate)
    depth.on_change = lambda: told.append(depth)
    of.update(
        Amqp(publish=(AmqpPublish(exchange="x", rate=1000, burst=2),), queues=(AmqpQueue(name="q", high=100, low=80),))
    )
    assert list(of.rate_gates) == [rate]
    assert of.depth_gates == {("/", "q"): depth}
    assert rate.open(1000.0)
    assert not depth.closed
    assert (depth.queue.high, depth.queue.low) == (100, 80)
    assert told == [depth, rate]


def test_whoever_waits_at_a_gate_that_is_gone_may_go() -> None:
    of = policy(AmqpPublish(exchange="x", rate=1, burst=1), queues=(AmqpQueue(name="q", high=10, low=5),))
    rate, depth = of.rate_gates[0], of.depth_gates["/", "q"]
    rate.open(1000.0)
    depth.sampled(50, 0, 1000.0, 1000.0)
    told: list[Gate] = []
    rate.on_change = lambda: told.append(rate)
    depth.on_change = lambda: told.append(depth)
    of.update(Amqp(publish=(AmqpPublish(exchange="x"),)))
    assert not of.rate_gates
    assert of.depth_gates == {}
    assert set(told) == {rate, depth}
    assert rate.open(1000.0)
    assert depth.open(1000.0)
    # And should they come back, they begin anew.
    of.update(Amqp(publish=(AmqpPublish(exchange="x", rate=1, burst=1),), queues=(AmqpQueue(name="q"),)))
    assert of.rate_gates[0] is not rate
    assert of.depth_gates["/", "q"] is not depth


def test_a_rule_given_twice() -> None:
    of = policy(AmqpPublish(rate=5, burst=5), AmqpPublish(rate=1), AmqpPublish())
    assert len(of.rate_gates) == 1
    gate = of.rate_gates[0]
    assert [gate.open(1000.0) for _ in range(6)] == [True] * 5 + [False]
    of.update(Amqp(publish=(AmqpPublish(rate=5, burst=5), AmqpPublish(rate=1))))
    assert not gate.open(1000.0)


def test_what_is_kept_is_bounded() -> None:
    of = policy(AmqpPublish(routing_key="a.#", rate=1))
    routes = of.routes("/")
    for number in range(2 * MAX_ROUTES + 50):
        exchange = f"x{number // 4}"
        assert routes.find(key(exchange, f"a.{number}")).exchange == exchange
        assert len(routes._found) <= MAX_ROUTES
        assert len(routes._exchanges) <= MAX_EXCHANGES
    for number in range(MAX_VHOSTS + 50):
        of.routes(str(number))
        assert of.routes("in use") is of.routes("in use")
    assert len(of._routes) == MAX_VHOSTS
    assert "in use" in of._routes
    assert "/" not in of._routes
    # One that is no longer handed out still follows a reload.
    assert len(routes.find(key("x1", "a.1")).gates) == 1
    of.update(Amqp())
    assert routes.find(key("x1", "a.1")).gates == ()


class Channel(Sender):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Publish] = []

    def forward(self, publish: Publish) -> None:
        self.sent.append(publish)

    def emptied(self) -> None:
        pass


def test_a_reload_lets_go_what_it_no_longer_limits() -> None:
    loop = Loop()
    stats = AmqpStats()
    rule = AmqpPublish(exchange="x", rate=0.001, burst=1)
    of = Policy(Amqp(publish=(rule,), queues=(AmqpQueue(name="q", high=10, low=5),)), stats, loop)
    scheduler = Scheduler(AmqpHold(), stats, loop, loop.call_at)
    of.depth_gates["/", "q"].sampled(10, 0, loop.now, loop.now)
    channel = Channel()
    routes = of.routes("/")
    for exchange, routing_key in (("x", "a"), ("x", "b"), ("", "q"), ("x", "c"), ("", "q")):
        route = routes.find(key(exchange, routing_key))
        gate = scheduler.closed_gate(channel, route, loop.now)
        if gate is not None:
            scheduler.enqueue(Publish(channel, route, 0, b"frames", 0, loop.now), gate, loop.now)
    loop.run_until(loop.now + 10)
    assert channel.held == 4
    of.update(Amqp(publish=(rule,)))
    loop.run_until(loop.now + 0.1)
    assert [publish.route.exchange for publish in channel.sent] == ["", ""]
    of.update(Amqp(publish=(AmqpPublish(exchange="x"),)))
    loop.run_until(loop.now + 0.1)
    assert [publish.route.routing_key for publish in channel.sent[2:]] == ["b", "c"]
    assert (scheduler.messages, channel.held) == (0, 0)


def test_gates_are_what_they_are_said_to_be() -> None:
    of = policy(AmqpPublish(rate=1), queues=(AmqpQueue(name="q"),))
    found: PublishRoute = of.routes("/").find(key("", "q"))
    assert [type(gate) for gate in found.gates] == [DepthGate, RateGate]


_names = st.sampled_from(["", "x", "y"])
_keys = st.sampled_from(["", "q", "p", "a", "a.b"])
_patterns = st.sampled_from(["", "#", "a.#", "*", "a"])
_publishes = st.tuples(st.just("publish"), _names, _keys)
_changes = st.one_of(
    st.tuples(st.sampled_from(["bound", "unbound"]), _names, st.sampled_from(["q", "p"]), _patterns),
    st.tuples(st.just("declared"), _names, st.sampled_from(["direct", "topic", "fanout"])),
    st.tuples(st.just("watched"), st.sets(st.sampled_from(["q", "p"]))),
    st.tuples(st.just("limited"), st.lists(st.tuples(_names, _patterns), max_size=3)),
)


@settings(max_examples=examples(300), deadline=None)
@given(steps=st.lists(st.one_of(_publishes, _publishes, _changes), max_size=40))
def test_what_is_kept_is_never_out_of_date(steps: list[tuple[object, ...]]) -> None:
    config = Amqp()
    of = Policy(config, AmqpStats(), Clock())
    routes = of.routes("/")
    learnt: list[tuple[object, ...]] = []
    for step in steps:
        match step:
            case ("publish", str(exchange), str(routing_key)):
                # One that has kept nothing, and has been told the same.
                fresh = Policy(config, AmqpStats(), Clock())
                for known in learnt:
                    learn(fresh, known)
                assert gates(of, exchange, routing_key) == gates(fresh, exchange, routing_key)
                found = routes.find(key(exchange, routing_key))
                assert set(found.gates) <= {*of.depth_gates.values(), *of.rate_gates}
            case ("watched", set(names)):
                config = dataclasses.replace(config, queues=tuple(AmqpQueue(name=str(name)) for name in sorted(names)))
                of.update(config)
            case ("limited", list(limits)):
                rules = tuple(AmqpPublish(exchange=name, routing_key=text, rate=1) for name, text in limits)
                config = dataclasses.replace(config, publish=rules)
                of.update(config)
            case _:
                learnt.append(step)
                learn(of, step)


def learn(policy: Policy, step: tuple[object, ...]) -> None:
    match step:
        case ("bound", str(exchange), str(queue), str(pattern)):
            policy.bindings.bound("/", exchange, queue, pattern)
        case ("unbound", str(exchange), str(queue), str(pattern)):
            policy.bindings.unbound("/", exchange, queue, pattern)
        case ("declared", str(exchange), str(kind)):
            policy.bindings.exchange_declared("/", exchange, kind)
