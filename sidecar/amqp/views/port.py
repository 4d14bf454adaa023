"""AMQP ports, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.amqp.metrics import blocked_seconds, message_counts
from sidecar.amqp.views import spool
from sidecar.core.text import utf8

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.amqp.flow.stats import ExchangeStats, QueueDepth
    from sidecar.amqp.views.protocols import AmqpView, SessionView

#: Connections that are listed one by one; all of them are counted.
MAX_SESSIONS: Final = 200


def ports(views: Mapping[str, AmqpView]) -> list[dict[str, Any]]:
    """All AMQP upstreams of a sidecar, by name."""
    return [port(name, view) for name, view in views.items()]


def port(name: str, view: AmqpView) -> dict[str, Any]:
    """Everything about one. Of too many connections those are listed that have the most held, then the oldest ones."""
    stats = view.stats
    sessions = sorted(view.sessions(), key=lambda session: (-session.held, -session.since))[:MAX_SESSIONS]
    return {
        "name": name,
        "refusing": {reason: utf8(words) for reason, words in view.refusing.items()},
        "blocked": stats.blocked,
        "blocked_seconds": round(blocked_seconds(stats), 3),
        "connections": stats.connections,
        "detached": stats.detached,
        "channels": stats.channels,
        "consumers": stats.consumers,
        "unacked": stats.unacked,
        "delivered": stats.delivered,
        "paused": view.stalled,
        "stalled": stats.stalled,
        "held": {
            "messages": sum(exchange.held_messages for exchange in stats.exchanges.values()),
            "bytes": view.held_bytes,
            "waiting_for": [{"what": utf8(gate), "messages": n} for gate, n in view.holding()],
        },
        "unkeyed": {utf8(exchange): count for exchange, count in view.unkeyed.items()},
        "spool": spool.state(view.spool),
        "exchanges": [_exchange(exchange) for exchange in stats.exchanges.values()],
        "queues": [_queue(queue) for queue in stats.queues.values()],
        "sessions": [_session(session) for session in sessions],
    }


def summary(view: AmqpView) -> dict[str, int]:
    """Return the few numbers that say how a port is."""
    stats, stored = view.stats, view.spool
    return {
        "connections": stats.connections,
        "detached": stats.detached,
        "held": sum(exchange.held_messages for exchange in stats.exchanges.values()),
        "spooled": stored.messages if stored is not None else 0,
    }


def broken(view: AmqpView) -> str:
    """Return why nothing gets through; empty when something may."""
    return "there is no broker" if "no_broker" in view.refusing else ""


def doubts(view: AmqpView) -> list[str]:
    """What is not as it should be, a phrase each."""
    stats = view.stats
    found = [f"clients are refused: {utf8(words)}" for words in view.refusing.values()]
    if stats.blocked:
        found.append("the broker has an alarm and takes no publishes")
    full = sum(1 for queue in stats.queues.values() if queue.full)
    if full:
        found.append(f"{full} of {len(stats.queues)} watched queues are full")
    if stats.detached:
        found.append(f"{stats.detached} connections are without a broker")
    if view.spool is not None:
        found += spool.doubts(view.spool)
    return found


def _exchange(exchange: ExchangeStats) -> dict[str, Any]:
    return {
        "vhost": utf8(exchange.vhost),
        "exchange": utf8(exchange.name),
        **message_counts(exchange),
        "held_messages": exchange.held_messages,
        "held_bytes": exchange.held_bytes,
        "held_seconds": round(exchange.held_seconds, 3),
    }


def _queue(queue: QueueDepth) -> dict[str, Any]:
    return {
        "vhost": utf8(queue.vhost),
        "queue": utf8(queue.name),
        "depth": queue.depth if queue.depth >= 0 else None,
        "consumers": queue.consumers if queue.consumers >= 0 else None,
        "high": queue.high,
        "low": queue.low,
        "full": queue.full,
        "problem": utf8(queue.problem),
    }


def _session(session: SessionView) -> dict[str, Any]:
    return {
        "client": utf8(session.client),
        "product": utf8(session.product),
        "user": utf8(session.user),
        "vhost": utf8(session.vhost),
        "endpoint": session.endpoint,
        "since": round(session.since, 3),
        "channels": session.channels,
        "consumers": session.consumers,
        "unacked": session.unacked,
        "held": session.held,
        "blocked": session.blocked,
        "stalled": session.stalled,
    }
