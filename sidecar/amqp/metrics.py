"""Prometheus families of AMQP ports."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from sidecar.amqp.admission import REASONS
from sidecar.amqp.flow.stats import OTHER
from sidecar.core.metrics import Family, counter, gauge
from sidecar.core.text import utf8

if TYPE_CHECKING:
    from sidecar.amqp.flow.stats import AmqpStats, ExchangeStats
    from sidecar.amqp.views.protocols import AmqpView, SpoolView

_EXCHANGE: Final = ["upstream", "vhost", "exchange"]
_QUEUE: Final = ["upstream", "vhost", "queue"]

#: Reasons of dead letters that are counted by name; there are a handful, unless the spool's file says otherwise.
MAX_REASONS: Final = 50


def amqp_families(views: Mapping[str, AmqpView]) -> Iterable[Family]:
    """Those of all AMQP upstreams, by name; none where there is no such upstream."""
    if views:
        yield from _ports(views)
        yield from _exchanges(views)
        yield from _queues(views)
        yield _unkeyed(views)
        spools = {name: spool for name, view in views.items() if (spool := view.spool) is not None}
        if spools:
            yield from _spools(spools)
            yield from _dead_letters(spools)


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


def _ports(views: Mapping[str, AmqpView]) -> Iterable[Family]:
    labels = ["upstream"]
    blocked = gauge("sidecar_amqp_blocked", "1 while the broker has an alarm and takes no publishes.", labels)
    blocked_for = counter("sidecar_amqp_blocked_seconds", "Time of such alarms, in all.", labels)
    connections = gauge("sidecar_amqp_connections", "Open connections past their handshake.", labels)
    detached = gauge("sidecar_amqp_detached_connections", "Open connections that have no broker at present.", labels)
    channels = gauge("sidecar_amqp_channels", "Open channels.", labels)
    consumers = gauge("sidecar_amqp_consumers", "Consumers.", labels)
    unacked = gauge("sidecar_amqp_unacked", "Deliveries that are not settled yet.", labels)
    stalled = gauge("sidecar_amqp_stalled", "Deliveries kept back from consumers now.", labels)
    delivered = counter("sidecar_amqp_delivered", "Messages handed to clients.", labels)
    refusing = gauge("sidecar_amqp_refusing", "1 while clients are refused for that reason.", [*labels, "reason"])
    for name, view in views.items():
        stats = view.stats
        blocked.add([name], stats.blocked)
        blocked_for.add([name], blocked_seconds(stats))
        connections.add([name], stats.connections)
        detached.add([name], stats.detached)
        channels.add([name], stats.channels)
        consumers.add([name], stats.consumers)
        unacked.add([name], stats.unacked)
        stalled.add([name], stats.stalled)
        delivered.add([name], stats.delivered)
        for reason in REASONS:
            refusing.add([name, reason], reason in view.refusing)
    return blocked, blocked_for, connections, detached, channels, consumers, unacked, stalled, delivered, refusing


def _exchanges(views: Mapping[str, AmqpView]) -> Iterable[Family]:
    messages = counter("sidecar_amqp_messages", "What became of published messages.", [*_EXCHANGE, "event"])
    held = gauge("sidecar_amqp_held_messages", "Messages held now.", _EXCHANGE)
    held_bytes = gauge("sidecar_amqp_held_bytes", "Bytes of the messages held now.", _EXCHANGE)
    held_for = counter("sidecar_amqp_held_seconds", "Time that messages were held, all of them together.", _EXCHANGE)
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
        messages.add(key, n)
    for key, (count, size, seconds) in sums.items():
        held.add(key, count)
        held_bytes.add(key, size)
        held_for.add(key, seconds)
    return messages, held, held_bytes, held_for


def _queues(views: Mapping[str, AmqpView]) -> Iterable[Family]:
    depth = gauge("sidecar_message_queue_depth", "Ready messages of a watched queue.", _QUEUE)
    consumers = gauge("sidecar_message_queue_consumers", "Its consumers.", _QUEUE)
    full = gauge(
        "sidecar_message_queue_full", "1 while publishes that lead there have to wait, or are refused.", _QUEUE
    )
    watched = gauge("sidecar_message_queue_watched", "0 while its depth cannot be found out.", _QUEUE)
    for name, view in views.items():
        for queue in view.stats.queues.values():
            labels = [name, utf8(queue.vhost), utf8(queue.name)]
            if queue.depth >= 0:
                depth.add(labels, queue.depth)
            if queue.consumers >= 0:
                consumers.add(labels, queue.consumers)
            full.add(labels, queue.full)
            watched.add(labels, not queue.problem and queue.depth >= 0)
    return depth, consumers, full, watched


def _unkeyed(views: Mapping[str, AmqpView]) -> Family:
    unkeyed = counter(
        "sidecar_amqp_unkeyed",
        "Messages that went to partition 0 of an exchange, as they had nothing to go by.",
        ["upstream", "exchange"],
    )
    for name, view in views.items():
        counts: Counter[str] = Counter()
        for exchange, count in view.unkeyed.items():
            counts[utf8(exchange)] += count
        for label, count in counts.items():
            unkeyed.add([name, label], count)
    return unkeyed


def _spools(views: Mapping[str, SpoolView]) -> Iterable[Family]:
    labels = ["upstream"]
    messages = gauge("sidecar_amqp_spool_messages", "Messages kept for the broker.", labels)
    size = gauge("sidecar_amqp_spool_bytes", "Bytes that they count as.", labels)
    most = gauge("sidecar_amqp_spool_max_bytes", "The most bytes that are kept.", labels)
    keys = gauge("sidecar_amqp_spool_keys", "Exchanges and queues that have such messages.", labels)
    full = gauge("sidecar_amqp_spool_full", "1 while the spool takes no more.", labels)
    still = gauge(
        "sidecar_amqp_spool_still_seconds",
        "For how long nothing has left the spool though something is there.",
        labels,
    )
    parked = gauge("sidecar_amqp_spool_parked", "Messages that wait for the login of the user they are from.", labels)
    working = gauge("sidecar_amqp_spool_working", "0 while the spool cannot use its file.", labels)
    spooled = counter("sidecar_amqp_spooled", "Messages put into the spool.", labels)
    replayed = counter(
        "sidecar_amqp_replayed", "Messages that left the spool for the broker, which confirmed them.", labels
    )
    expired = counter("sidecar_amqp_expired", "Spooled messages that were too old when their turn came.", labels)
    corrupt = counter("sidecar_amqp_spool_corrupt", "Spooled messages that could not be read again.", labels)
    acks = counter("sidecar_amqp_acks", "Publishes confirmed to clients, by who vouched for them.", [*labels, "by"])
    for name, view in views.items():
        messages.add([name], view.messages)
        size.add([name], view.bytes)
        most.add([name], view.max_bytes)
        keys.add([name], len(view.keys))
        full.add([name], view.full)
        still.add([name], view.still)
        parked.add([name], view.parked)
        working.add([name], not view.problem)
        spooled.add([name], view.spooled)
        replayed.add([name], view.replayed)
        expired.add([name], view.expired)
        corrupt.add([name], view.corrupt)
        for by, count in view.acks.items():
            acks.add([name, by], count)
    return messages, size, most, keys, full, still, parked, working, spooled, replayed, expired, corrupt, acks


def _dead_letters(views: Mapping[str, SpoolView]) -> Iterable[Family]:
    messages = gauge("sidecar_amqp_dead_letters", "Messages that cannot be delivered.", ["upstream", "reason"])
    size = gauge("sidecar_amqp_dead_letter_bytes", "Bytes that they count as.", ["upstream"])
    dropped = counter("sidecar_amqp_dead_letters_dropped", "Dead letters that had to go for newer ones.", ["upstream"])
    for name, view in views.items():
        dead = view.dead_letters
        for reason, count in _bounded(dead.reasons).items():
            messages.add([name, reason], count)
        size.add([name], dead.bytes)
        dropped.add([name], dead.dropped)
    return messages, size, dropped


def _bounded(reasons: Mapping[str, int]) -> Counter[str]:
    """The reasons of most dead letters; those of the rest are one. Two may look the same once they are readable."""
    counted: Counter[str] = Counter()
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        label = utf8(reason)
        counted[label if label in counted or len(counted) < MAX_REASONS else OTHER] += count
    return counted
