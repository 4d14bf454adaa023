"""Prometheus families of AMQP ports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.telemetry.text import utf8

if TYPE_CHECKING:
    from sidecar.admin.view import AmqpView
    from sidecar.amqp.stats import AmqpStats, ExchangeStats

_EXCHANGE: Final = ["upstream", "vhost", "exchange"]
_QUEUE: Final = ["upstream", "vhost", "queue"]


def amqp_families(views: Mapping[str, AmqpView]) -> Iterable[Metric]:
    """Those of all AMQP upstreams, by name; none where there is no such upstream."""
    if views:
        yield from _ports(views)
        yield from _exchanges(views)
        yield from _queues(views)


def message_counts(exchange: ExchangeStats) -> dict[str, int]:
    """What became of an exchange's messages, by the names that are shown. ``refused`` is the sidecar's own word,
    ``nacked`` the broker's."""
    return {
        "published": exchange.published,
        "forwarded": exchange.forwarded,
        "confirmed": exchange.confirmed,
        "nacked": exchange.nacked,
        "refused": exchange.nacked_here,
        "returned": exchange.returned,
        "held": exchange.held,
        "dropped": exchange.dropped,
    }


def blocked_seconds(stats: AmqpStats) -> float:
    """How long the broker's alarms have lasted so far, in all, the present one included."""
    return stats.blocked_seconds + (max(0.0, time.monotonic() - stats.blocked_since) if stats.blocked else 0.0)


def _ports(views: Mapping[str, AmqpView]) -> Iterable[Metric]:
    labels = ["upstream"]
    blocked = GaugeMetricFamily(
        "sidecar_amqp_blocked", "1 while the broker has an alarm and takes no publishes.", labels=labels
    )
    blocked_for = CounterMetricFamily("sidecar_amqp_blocked_seconds", "Time of such alarms, in all.", labels=labels)
    connections = GaugeMetricFamily("sidecar_amqp_connections", "Open connections past their handshake.", labels=labels)
    channels = GaugeMetricFamily("sidecar_amqp_channels", "Open channels.", labels=labels)
    consumers = GaugeMetricFamily("sidecar_amqp_consumers", "Consumers.", labels=labels)
    unacked = GaugeMetricFamily("sidecar_amqp_unacked", "Deliveries that are not settled yet.", labels=labels)
    stalled = GaugeMetricFamily("sidecar_amqp_stalled", "Deliveries kept back from consumers now.", labels=labels)
    delivered = CounterMetricFamily("sidecar_amqp_delivered", "Messages handed to clients.", labels=labels)
    for name, view in views.items():
        stats = view.stats
        blocked.add_metric([name], stats.blocked)
        blocked_for.add_metric([name], blocked_seconds(stats))
        connections.add_metric([name], stats.connections)
        channels.add_metric([name], stats.channels)
        consumers.add_metric([name], stats.consumers)
        unacked.add_metric([name], stats.unacked)
        stalled.add_metric([name], stats.stalled)
        delivered.add_metric([name], stats.delivered)
    return blocked, blocked_for, connections, channels, consumers, unacked, stalled, delivered


def _exchanges(views: Mapping[str, AmqpView]) -> Iterable[Metric]:
    messages = CounterMetricFamily(
        "sidecar_amqp_messages", "What became of published messages.", labels=[*_EXCHANGE, "event"]
    )
    held = GaugeMetricFamily("sidecar_amqp_held_messages", "Messages held now.", labels=_EXCHANGE)
    held_bytes = GaugeMetricFamily("sidecar_amqp_held_bytes", "Bytes of the messages held now.", labels=_EXCHANGE)
    held_for = CounterMetricFamily(
        "sidecar_amqp_held_seconds", "Time that messages were held, all of them together.", labels=_EXCHANGE
    )
    events: Counter[tuple[str, ...]] = Counter()
    sums: dict[tuple[str, ...], tuple[int, int, float]] = {}
    for name, view in views.items():
        for exchange in view.stats.exchanges.values():
            # Summed, as two names may look the same once they are readable, and a page with a sample twice is refused.
            labels = (name, utf8(exchange.vhost), utf8(exchange.name))
            for event, n in message_counts(exchange).items():
                events[*labels, event] += n
            count, size, seconds = sums.get(labels, (0, 0, 0.0))
            sums[labels] = (
                count + exchange.held_messages, size + exchange.held_bytes, seconds + exchange.held_seconds
            )  # fmt: skip
    for key, n in events.items():
        messages.add_metric(key, n)
    for key, (count, size, seconds) in sums.items():
        held.add_metric(key, count)
        held_bytes.add_metric(key, size)
        held_for.add_metric(key, seconds)
    return messages, held, held_bytes, held_for


def _queues(views: Mapping[str, AmqpView]) -> Iterable[Metric]:
    depth = GaugeMetricFamily("sidecar_message_queue_depth", "Ready messages of a watched queue.", labels=_QUEUE)
    consumers = GaugeMetricFamily("sidecar_message_queue_consumers", "Its consumers.", labels=_QUEUE)
    full = GaugeMetricFamily(
        "sidecar_message_queue_full", "1 while publishes that lead there are held or refused.", labels=_QUEUE
    )
    watched = GaugeMetricFamily(
        "sidecar_message_queue_watched", "0 while its depth cannot be found out.", labels=_QUEUE
    )
    for name, view in views.items():
        for queue in view.stats.queues.values():
            labels = [name, utf8(queue.vhost), utf8(queue.name)]
            if queue.depth >= 0:
                depth.add_metric(labels, queue.depth)
            if queue.consumers >= 0:
                consumers.add_metric(labels, queue.consumers)
            full.add_metric(labels, queue.full)
            watched.add_metric(labels, not queue.problem and queue.depth >= 0)
    return depth, consumers, full, watched
