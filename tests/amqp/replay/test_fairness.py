"""Keys that cannot move, and one that can."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.amqp.replay.prefetch import AHEAD, AHEAD_BYTES, MOMENT
from sidecar.amqp.replay.streams import PATIENCE
from sidecar.core.amqp_settings import Amqp, AmqpQueue
from support.replaying import Setting, numbered

STUCK = numbered(64, "stuck")
#: Messages of each: of all together more than twice what is in memory at once.
EACH = 2 * AHEAD // 64 + 9
CONFIG = Amqp(queues=tuple(AmqpQueue(name=name, high=100, low=50) for name in STUCK))

Hindrance = Callable[[Setting], dict[str, str]]


def full_queues(one: Setting) -> dict[str, str]:
    """The broker does not take what leads to some queues. Arguments of their messages."""
    one.broker.rejects = lambda message: message.key in STUCK
    return {}


def missing_exchanges(one: Setting) -> dict[str, str]:
    one.broker.exchanges = {"", "good"}
    return {}


def no_connection(one: Setting) -> dict[str, str]:
    one.users = {"alice"}
    one.broker.refuses["alice"] = (541, "INTERNAL_ERROR")
    return {"user": "alice"}


def closed_gates(one: Setting) -> dict[str, str]:
    for name in STUCK:
        one.policy.depth_gates["/", name].sampled(200, 1, one.loop.now, one.loop.now)
    return {}


def unknown_users(one: Setting) -> dict[str, str]:
    return {"user": "nobody"}


@pytest.mark.parametrize(
    ("hindrance", "to_exchanges"),
    [
        (full_queues, False),
        (full_queues, True),
        (missing_exchanges, True),
        (no_connection, False),
        (closed_gates, False),
        (unknown_users, True),
    ],
)
def test_those_that_cannot_move_leave_their_room(hindrance: Hindrance, to_exchanges: bool) -> None:
    one = Setting(CONFIG, dead_after=0)
    more = hindrance(one)
    for name in STUCK:
        exchange = name if to_exchanges else ""
        one.spool.store(
            *[one.message(f"{name} {n}", exchange, key=name, user=more.get("user", "")) for n in range(EACH)]
        )
    one.spool.store(*[one.message(name, "good") for name in numbered(500)])
    one.start()
    for _ in range(40):
        one.advance(0.1)
        assert one.dispatcher._prefetch.ahead <= AHEAD
    assert one.bodies() == numbered(500)
    # And when they can:
    one.broker.rejects = lambda message: False
    one.broker.exchanges = None
    one.broker.refuses.clear()
    one.users = {"alice", "nobody"}
    one.dispatcher.logins_changed()
    for name in STUCK:
        one.policy.depth_gates["/", name].sampled(0, 1, one.loop.now, one.loop.now)
    for _ in range(400):
        if one.empty():
            break
        one.advance(0.1)
        for name in STUCK:
            one.policy.depth_gates["/", name].sampled(0, 1, one.loop.now, one.loop.now)
    taken: dict[str, list[int]] = {name: [] for name in STUCK}
    for body in one.bodies()[500:]:
        name, _, number = body.partition(" ")
        taken[name].append(int(number))
    assert all(numbers == list(range(EACH)) for numbers in taken.values())
    assert one.empty()
    assert one.dispatcher._prefetch.stalled == one.dispatcher._prefetch.stalled_bytes == 0


def test_those_without_answers_leave_their_room() -> None:
    one = Setting()
    one.broker.answers = False
    for name in STUCK:
        one.spool.store(*[one.message(f"{name} {n}", "", key=name) for n in range(100)])
    one.spool.store(*[one.message(name, "good") for name in numbered(500)])
    one.start()
    for _ in range(200):
        one.advance(0.1)
        for connection in one.broker.open:
            for number, taken in list(connection.waiting.items()):
                if taken.exchange == "good":
                    connection.answer(number)
    assert len([body for body in one.bodies() if body.isdigit()]) == 500
    one.broker.answers = True
    one.broker.says_all()
    one.advance(5)
    assert one.empty()
    assert one.dispatcher._prefetch.stalled == one.dispatcher._prefetch.stalled_bytes == 0


def test_one_that_waits_at_a_gate_keeps_its_place_and_little_else() -> None:
    one = Setting(CONFIG)
    for name in STUCK:
        one.policy.depth_gates["/", name].sampled(200, 1, one.loop.now, one.loop.now)
        one.spool.store(*[one.message(f"{name} {n}", "", key=name, size=20_000) for n in range(100)])
    one.start()
    one.advance(20)
    assert one.scheduler.waiting() == [(f"queue {name} of /", 1) for name in STUCK]
    prefetch = one.dispatcher._prefetch
    assert prefetch.ahead_bytes + prefetch.stalled_bytes <= 2 * AHEAD_BYTES
    held = sum(len(key.loaded) for key in one.dispatcher._all())
    fetches = len(one.spool.fetches)
    one.put(one.message("urgent", "good"))
    one.advance(2 * MOMENT)
    assert "urgent" in one.bodies()
    assert held >= len(STUCK)
    one.advance(60)
    assert len(one.spool.fetches) - fetches < 2 * len(STUCK)


def test_large_messages_are_not_fetched_by_all_at_once() -> None:
    one = Setting()
    one.broker.answers = False
    for name in STUCK:
        one.spool.store(*[one.message(f"{name} {n}", name, size=100_000) for n in range(10)])
    one.start()
    assert one.dispatcher._prefetch.ahead_bytes < AHEAD_BYTES * 5 // 4
    one.broker.answers = True
    one.broker.says_all()
    one.advance(1)
    assert one.empty()


def test_large_ones_at_closed_gates_keep_nobody_for_long() -> None:
    one = Setting(CONFIG)
    for name in STUCK[:6]:
        one.policy.depth_gates["/", name].sampled(200, 1, one.loop.now, one.loop.now)
        one.spool.store(*[one.message(f"{name} {n}", "", key=name, size=3_000_000) for n in range(2)])
    one.spool.store(*[one.message(name, "good") for name in numbered(5)])
    one.start()
    for _ in range(100):
        one.advance(0.2)
        assert one.dispatcher._prefetch.ahead_bytes + one.dispatcher._prefetch.stalled_bytes <= 5 * AHEAD_BYTES
    assert one.bodies() == numbered(5)
    for name in STUCK[:6]:
        one.policy.depth_gates["/", name].sampled(0, 1, one.loop.now, one.loop.now)
    one.advance(60)
    assert one.empty()
    assert len(one.bodies()) == 17


# -- very many keys ----------------------------------------------------------------------------------------------------


def test_every_key_has_its_turn() -> None:
    one = Setting()
    one.dispatcher._streams.most = 20
    one.spool.store(*[one.message(f"x{n} {name}", f"x{n}") for name in numbered(3) for n in range(100)])
    one.start()
    one.put(*[one.message(f"y{n} {name}", f"y{n}") for name in numbered(3) for n in range(100)])
    most = 0
    for _ in range(50):
        one.advance(0.1)
        most = max(most, len(one.dispatcher._streams))
    assert len(one.bodies()) == len(set(one.bodies())) == 600
    assert one.empty()
    assert most <= 20


@pytest.mark.parametrize("hindrance", [full_queues, missing_exchanges, no_connection, closed_gates, unknown_users])
def test_those_that_cannot_move_make_room_for_other_keys(hindrance: Hindrance) -> None:
    one = Setting(CONFIG, dead_after=0)
    one.dispatcher._streams.most = 20
    more = hindrance(one)
    exchanges = hindrance is missing_exchanges
    for name in STUCK:
        exchange = name if exchanges else ""
        one.spool.store(*[one.message(f"{name} {n}", exchange, key=name, user=more.get("user", "")) for n in range(9)])
    one.spool.store(*[one.message(name, "good") for name in numbered(50)])
    one.start()
    one.advance(4 * PATIENCE + 10)
    assert one.bodies() == numbered(50)
    assert len(one.dispatcher._streams) <= 20
    assert one.dispatcher.stats.parked <= 20 * 9
    one.broker.rejects = lambda message: False
    one.broker.refuses.clear()
    one.users = {"alice", "nobody"}
    one.dispatcher.logins_changed()
    for _ in range(200):
        one.advance(1)
        for name in STUCK:
            one.policy.depth_gates["/", name].sampled(0, 1, one.loop.now, one.loop.now)
    assert one.empty()
    if not exchanges:
        assert len(one.bodies()) == len(set(one.bodies())) == 50 + 64 * 9
