"""The metrics of AMQP ports, read back as a scraper does."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from sidecar.agent.admin import metrics
from sidecar.agent.lifecycle import Agent
from sidecar.amqp.flow.stats import MAX_EXCHANGES
from sidecar.amqp.metrics import MAX_REASONS
from support.fake_spool import FakeSpool, letter
from support.running import FakeAmqp, FakeRunning, FakeUpstream, running

EXCHANGE = {"upstream", "vhost", "exchange"}
QUEUE = {"upstream", "vhost", "queue"}
#: Names, and the labels of their samples.
CONTRACT = {
    "sidecar_amqp_messages_total": EXCHANGE | {"event"},
    "sidecar_amqp_held_messages": EXCHANGE,
    "sidecar_amqp_held_bytes": EXCHANGE,
    "sidecar_amqp_held_seconds_total": EXCHANGE,
    "sidecar_amqp_blocked": {"upstream"},
    "sidecar_amqp_blocked_seconds_total": {"upstream"},
    "sidecar_amqp_connections": {"upstream"},
    "sidecar_amqp_detached_connections": {"upstream"},
    "sidecar_amqp_channels": {"upstream"},
    "sidecar_amqp_consumers": {"upstream"},
    "sidecar_amqp_unacked": {"upstream"},
    "sidecar_amqp_stalled": {"upstream"},
    "sidecar_amqp_delivered_total": {"upstream"},
    "sidecar_amqp_refusing": {"upstream", "reason"},
    "sidecar_message_queue_depth": QUEUE,
    "sidecar_message_queue_consumers": QUEUE,
    "sidecar_message_queue_full": QUEUE,
    "sidecar_message_queue_watched": QUEUE,
    "sidecar_amqp_unkeyed_total": {"upstream", "exchange"},
    "sidecar_amqp_spool_messages": {"upstream"},
    "sidecar_amqp_spool_parked": {"upstream"},
    "sidecar_amqp_spool_still_seconds": {"upstream"},
    "sidecar_amqp_spool_bytes": {"upstream"},
    "sidecar_amqp_spool_max_bytes": {"upstream"},
    "sidecar_amqp_spool_keys": {"upstream"},
    "sidecar_amqp_spool_full": {"upstream"},
    "sidecar_amqp_spool_working": {"upstream"},
    "sidecar_amqp_spool_corrupt_total": {"upstream"},
    "sidecar_amqp_spooled_total": {"upstream"},
    "sidecar_amqp_replayed_total": {"upstream"},
    "sidecar_amqp_expired_total": {"upstream"},
    "sidecar_amqp_acks_total": {"upstream", "by"},
    "sidecar_amqp_dead_letters": {"upstream", "reason"},
    "sidecar_amqp_dead_letter_bytes": {"upstream"},
    "sidecar_amqp_dead_letters_dropped_total": {"upstream"},
}


def samples(of: FakeRunning) -> list[Sample]:
    return [s for family in parse_text(metrics(cast(Agent, of)).render("")[0].decode()) for s in family.samples]


def value(of: FakeRunning, name: str, **labels: str) -> float:
    (found,) = [s.value for s in samples(of) if s.name == name and s.labels == {"upstream": "rabbitmq", **labels}]
    return float(found)


def broker() -> tuple[FakeRunning, FakeAmqp]:
    it = running("ollama")
    it.upstreams["rabbitmq"] = upstream = FakeUpstream("rabbitmq", protocol="amqp")
    view = upstream.amqp
    assert view is not None
    stats = view.stats
    stats.connections, stats.channels, stats.consumers, stats.unacked, stats.delivered, stats.stalled = (
        2,
        5,
        1,
        7,
        90,
        3,
    )
    stats.blocked_seconds = 12.5
    view.exchange(
        "/", "ai.tasks", published=40, forwarded=30, confirmed=25, nacked=1, nacked_here=2, returned=3, held=12,
        held_messages=6, held_bytes=600, held_seconds=1.5, dropped=4,
    )  # fmt: skip
    view.queue("tasks", depth=11, full=True)
    view.queue("gone", depth=-1, problem="no such queue")
    stats.detached = 1
    view.spool = spool = FakeSpool()
    spool.key("exchange ai.tasks", 3, 900)
    spool.key("queue tasks", 1, 100)
    spool.parked = 2
    spool.still = 12.5
    view.unkeyed = {"ai.tasks": 5, "\udcff": 1, "\\udcff": 2}
    spool.spooled, spool.replayed, spool.expired, spool.corrupt = 20, 9, 2, 1
    spool.acks = {"broker": 7, "spool": 20}
    spool.dead_letters.add(letter(1), letter(2), letter(3, reason="expired"))
    spool.dead_letters.dropped = 4
    return it, view


@pytest.mark.parametrize("name", CONTRACT)
def test_names_and_labels(name: str) -> None:
    found = [s.labels for s in samples(broker()[0]) if s.name == name]
    assert found
    assert all(set(labels) == CONTRACT[name] for labels in found)


def test_without_an_amqp_upstream_nothing_is_said_about_one() -> None:
    page = metrics(cast(Agent, running("ollama"))).render("")[0].decode()
    said = "\n".join(line for line in page.splitlines() if not line.startswith("sidecar_build_info{"))
    assert "amqp" not in said
    assert "message_queue" not in said


def test_values() -> None:
    it, _ = broker()
    where = {"vhost": "/", "exchange": "ai.tasks"}
    events = {
        "published": 40, "forwarded": 30, "confirmed": 25, "nacked": 1, "refused": 2, "returned": 3, "held": 12,
        "dropped": 4,
    }  # fmt: skip
    assert {e: value(it, "sidecar_amqp_messages_total", **where, event=e) for e in events} == events
    assert value(it, "sidecar_amqp_held_messages", **where) == 6
    assert value(it, "sidecar_amqp_held_bytes", **where) == 600
    assert value(it, "sidecar_amqp_held_seconds_total", **where) == 1.5
    assert value(it, "sidecar_amqp_blocked") == 0
    assert value(it, "sidecar_amqp_blocked_seconds_total") == 12.5
    names = ("connections", "channels", "consumers", "unacked", "delivered_total", "stalled")
    assert [value(it, f"sidecar_amqp_{name}") for name in names] == [2, 5, 1, 7, 90, 3]


def test_a_spool() -> None:
    it, view = broker()
    spool = view.spool
    assert spool is not None
    counted = {
        "messages": 4,
        "bytes": 1000,
        "max_bytes": 1 << 30,
        "keys": 2,
        "full": 0,
        "working": 1,
        "parked": 2,
        "still_seconds": 12.5,
    }
    assert {name: value(it, f"sidecar_amqp_spool_{name}") for name in counted} == counted
    so_far = {"spooled": 20, "replayed": 9, "expired": 2, "spool_corrupt": 1, "dead_letters_dropped": 4}
    assert {name: value(it, f"sidecar_amqp_{name}_total") for name in so_far} == so_far
    assert [value(it, "sidecar_amqp_acks_total", by=by) for by in ("broker", "spool")] == [7, 20]
    assert [value(it, "sidecar_amqp_dead_letters", reason=reason) for reason in ("nacked", "expired")] == [2, 1]
    assert value(it, "sidecar_amqp_dead_letter_bytes") == spool.dead_letters.bytes
    assert value(it, "sidecar_amqp_detached_connections") == 1
    spool.full, spool.problem = True, "no space left on device"
    assert [value(it, f"sidecar_amqp_spool_{name}") for name in ("full", "working")] == [1, 0]


def test_partitions() -> None:
    it, _ = broker()
    assert value(it, "sidecar_amqp_unkeyed_total", exchange="ai.tasks") == 5
    assert value(it, "sidecar_amqp_unkeyed_total", exchange="\\udcff") == 3


def test_without_a_spool_nothing_is_said_about_one() -> None:
    it, view = broker()
    view.spool = None
    page = metrics(cast(Agent, it)).render("")[0].decode()
    assert "sidecar_amqp_connections" in page
    assert "sidecar_amqp_spool" not in page
    assert "dead_letter" not in page


def test_reasons_of_dead_letters_are_bounded_and_readable() -> None:
    it, view = broker()
    spool = view.spool
    assert spool is not None
    reasons = {f"reason {number}": number for number in range(1, 3 * MAX_REASONS)}
    spool.dead_letters = SimpleNamespace(  # type: ignore[assignment]
        count=1, bytes=1, dropped=0, reasons={"\udcff": 1000, "\\udcff": 2000} | reasons
    )
    found = {s.labels["reason"]: s.value for s in samples(it) if s.name == "sidecar_amqp_dead_letters"}
    assert len(found) == MAX_REASONS + 1
    assert found["\\udcff"] == 3000
    assert sum(found.values()) == 3000 + sum(reasons.values())


def test_queues_and_those_that_cannot_be_watched() -> None:
    it, _ = broker()
    tasks, gone = {"vhost": "/", "queue": "tasks"}, {"vhost": "/", "queue": "gone"}
    assert value(it, "sidecar_message_queue_depth", **tasks) == 11
    assert value(it, "sidecar_message_queue_consumers", **tasks) == 1
    assert [value(it, "sidecar_message_queue_full", **queue) for queue in (tasks, gone)] == [1, 0]
    assert [value(it, "sidecar_message_queue_watched", **queue) for queue in (tasks, gone)] == [1, 0]
    known = [s.labels["queue"] for s in samples(it) if s.name == "sidecar_message_queue_depth"]
    assert known == ["tasks"]


def test_an_alarm_that_lasts_counts_already() -> None:
    it, view = broker()
    view.stats.blocked, view.stats.blocked_since = True, time.monotonic() - 5
    assert value(it, "sidecar_amqp_blocked") == 1
    assert value(it, "sidecar_amqp_blocked_seconds_total") == pytest.approx(17.5, abs=1)


def test_names_that_look_the_same_are_one_sample() -> None:
    it, view = broker()
    name = b"\xff".decode("utf-8", "surrogateescape")
    view.exchange("/", name, published=1)
    view.exchange("/", "\\udcff", published=2)
    assert value(it, "sidecar_amqp_messages_total", vhost="/", exchange="\\udcff", event="published") == 3
    keys = [(s.name, tuple(sorted(s.labels.items()))) for s in samples(it)]
    assert len(keys) == len(set(keys))


def test_labels_are_bounded() -> None:
    it, view = broker()
    for number in range(3 * MAX_EXCHANGES):
        view.exchange("/", f"e{number}").published += 1
    found = [s for s in samples(it) if s.name == "sidecar_amqp_held_messages"]
    assert len(found) == MAX_EXCHANGES + 1
