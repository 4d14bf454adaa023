"""What is said about AMQP ports."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.agent.clusters import RunningUpstream
from sidecar.amqp.views.port import MAX_SESSIONS, ports
from support.admin import Asking
from support.running import FakeAmqp, FakeRunning, FakeUpstream, running


def listed(it: FakeRunning) -> list[dict[str, Any]]:
    """All ports of a sidecar."""
    return ports({name: view.amqp for name, view in it.upstreams.items() if view.amqp is not None})


def broker() -> tuple[FakeRunning, FakeAmqp]:
    it = running("ollama")
    it.upstreams["rabbitmq"] = upstream = FakeUpstream("rabbitmq", protocol="amqp")
    assert upstream.amqp is not None
    return it, upstream.amqp


def test_an_upstream_that_speaks_something_else_is_not_listed() -> None:
    assert listed(running("ollama")) == []
    it, _ = broker()
    assert [port["name"] for port in listed(it)] == ["rabbitmq"]


def test_a_running_upstream_has_what_its_listener_has() -> None:
    _, view = broker()
    config = FakeUpstream("rabbitmq", protocol="amqp").config
    chain = SimpleNamespace(filters=())
    listener: Any = SimpleNamespace(amqp_view=view, cluster=SimpleNamespace(), chain=chain)
    names: Any = None
    assert RunningUpstream(config, listener, names).amqp is view
    listener = SimpleNamespace(cluster=SimpleNamespace(), chain=chain)
    assert RunningUpstream(config, listener, names).amqp is None


def test_everything_about_a_port() -> None:
    it, view = broker()
    stats = view.stats
    stats.connections, stats.channels, stats.consumers, stats.unacked, stats.delivered, stats.stalled = (
        2,
        5,
        1,
        7,
        90,
        3,
    )
    stats.blocked_seconds, stats.detached = 12.3456, 1
    view.exchange("/", "", published=5, forwarded=5)
    view.exchange(
        "/agents", "ai.tasks", published=40, forwarded=30, confirmed=25, nacked=1, nacked_here=2, returned=3,
        held=12, held_messages=6, held_bytes=600, held_seconds=1.23456, dropped=2,
    )  # fmt: skip
    view.refusing = {"overloaded": "it is full"}
    view.held_bytes = 600
    view.waiting = [("the queue tasks", 4), ("the rate of ai.tasks", 2)]
    view.unkeyed = {"ai.tasks": 5}
    view.queue("tasks", depth=11, full=True)
    view.queue("gone", depth=-1, problem="no such queue")
    view.session(1, held=6, blocked=True, stalled=3)
    assert listed(it) == [
        {
            "name": "rabbitmq",
            "refusing": {"overloaded": "it is full"},
            "blocked": False,
            "blocked_seconds": 12.346,
            "connections": 2,
            "detached": 1,
            "channels": 5,
            "consumers": 1,
            "unacked": 7,
            "delivered": 90,
            "paused": False,
            "stalled": 3,
            "held": {
                "messages": 6,
                "bytes": 600,
                "waiting_for": [
                    {"what": "the queue tasks", "messages": 4},
                    {"what": "the rate of ai.tasks", "messages": 2},
                ],
            },
            "unkeyed": {"ai.tasks": 5},
            "spool": None,
            "exchanges": [
                {
                    "vhost": "/", "exchange": "", "published": 5, "forwarded": 5, "confirmed": 0, "nacked": 0,
                    "refused": 0, "returned": 0, "held": 0, "dropped": 0, "held_messages": 0, "held_bytes": 0,
                    "held_seconds": 0.0,
                },
                {
                    "vhost": "/agents", "exchange": "ai.tasks", "published": 40, "forwarded": 30, "confirmed": 25,
                    "nacked": 1, "refused": 2, "returned": 3, "held": 12, "dropped": 2, "held_messages": 6,
                    "held_bytes": 600, "held_seconds": 1.235,
                },
            ],
            "queues": [
                {
                    "vhost": "/", "queue": "tasks", "depth": 11, "consumers": 1, "high": 10, "low": 8, "full": True,
                    "problem": "",
                },
                {
                    "vhost": "/", "queue": "gone", "depth": None, "consumers": None, "high": 10, "low": 8,
                    "full": False, "problem": "no such queue",
                },
            ],
            "sessions": [
                {
                    "client": "10.0.0.1:1", "product": "pika", "user": "guest", "vhost": "/",
                    "endpoint": "10.0.0.9:5672", "since": 60.0, "channels": 1, "consumers": 0, "unacked": 0, "held": 6,
                    "blocked": True, "stalled": 3,
                }
            ],
        }
    ]  # fmt: skip


def test_an_alarm_that_lasts_counts_already() -> None:
    it, view = broker()
    view.stats.blocked, view.stats.blocked_since, view.stats.blocked_seconds = True, time.monotonic() - 5, 2.0
    (port,) = listed(it)
    assert port["blocked"] is True
    assert port["blocked_seconds"] == pytest.approx(7.0, abs=1)


def test_of_many_connections_those_that_matter_are_listed() -> None:
    it, view = broker()
    for number in range(1, 1001):
        view.session(number, since=float(number), held=number % 2)
    (port,) = listed(it)
    assert len(port["sessions"]) == MAX_SESSIONS
    assert [session["client"] for session in port["sessions"][:2]] == ["10.0.0.1:999", "10.0.0.1:997"]
    assert all(session["held"] for session in port["sessions"])


@pytest.mark.asyncio
async def test_names_that_are_no_text_are_shown_all_the_same(admin: Asking) -> None:
    it, view = broker()
    name = b"\xff\x00tasks".decode("utf-8", "surrogateescape")
    view.exchange(name, name)
    view.session(1, product=name, user=name, vhost=name)
    client = await admin(it)
    reply = await client.get("/amqp")
    assert reply.status == 200
    (port,) = reply.json["upstreams"]
    assert port["exchanges"][0]["exchange"] == "\\udcff\x00tasks"
    assert port["sessions"][0]["product"] == "\\udcff\x00tasks"
    assert (await client.get("/metrics")).status == 200
