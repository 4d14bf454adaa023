"""What an AMQP port counts: plain integers that the relay adds to, read when somebody asks (see
:mod:`sidecar.core.stats`)."""

from __future__ import annotations

from typing import Any, Final

#: Exchanges that are counted by name; what is published to further ones is counted together.
MAX_EXCHANGES: Final = 200
OTHER: Final = "(other)"


class ExchangeStats:
    """What became of the messages published to one exchange. ``held_messages`` and ``held_bytes`` are now; the rest
    only grows."""

    __slots__ = (
        "confirmed", "dropped", "forwarded", "held", "held_bytes", "held_messages", "held_seconds", "nacked",
        "nacked_here", "name", "published", "returned", "vhost",
    )  # fmt: skip

    def __init__(self, vhost: str, name: str) -> None:
        self.vhost = vhost
        #: The exchange's; empty: the default exchange.
        self.name = name
        #: Whole messages taken from clients, and those passed on to the broker.
        self.published = 0
        self.forwarded = 0
        #: Answers of the broker to publishes in confirm mode; and refusals of our own (``over: nack``, hold timeout).
        self.confirmed = 0
        self.nacked = 0
        self.nacked_here = 0
        #: Sent back by the broker because no queue took them (``mandatory``).
        self.returned = 0
        #: Messages that had to wait, all of them; those waiting now; and seconds waited by those that have left.
        self.held = 0
        self.held_messages = 0
        self.held_bytes = 0
        self.held_seconds = 0.0
        #: Held messages that could never be passed on, because their channel or connection was closed meanwhile.
        self.dropped = 0


class QueueDepth:
    """One watched queue. ``depth`` is the number of ready messages when it was last asked, -1: not known;
    ``consumers`` likewise. ``problem`` says why it cannot be watched, and is empty when it can."""

    __slots__ = ("consumers", "depth", "full", "high", "low", "name", "problem", "vhost")

    def __init__(self, vhost: str, name: str, high: int, low: int) -> None:
        self.vhost = vhost
        self.name = name
        self.high = high
        self.low = low
        self.depth = -1
        self.consumers = -1
        #: Publishes that lead there are held or refused at present.
        self.full = False
        self.problem = ""


class AmqpStats:
    """One AMQP port's counters."""

    __slots__ = (
        "acks_by_broker", "acks_by_spool", "blocked", "blocked_seconds", "blocked_since", "channels", "connections",
        "consumers", "delivered", "detached", "exchanges", "queues", "spooled", "stalled", "stories", "unacked",
    )  # fmt: skip

    def __init__(self) -> None:
        #: Open now: connections past their handshake, channels, consumers; deliveries not yet acknowledged.
        self.connections = 0
        self.channels = 0
        self.consumers = 0
        self.unacked = 0
        #: Open connections of clients that have no broker at present.
        self.detached = 0
        #: Publishes that went into the spool; and the positive answers that clients got, by who stood for them.
        self.spooled = 0
        self.acks_by_broker = 0
        self.acks_by_spool = 0
        #: Messages handed to clients so far, and those kept back from consumers now.
        self.delivered = 0
        self.stalled = 0
        #: Whether the broker has raised an alarm and takes no publishes; since when (loop time); seconds before that.
        self.blocked = False
        self.blocked_since = 0.0
        self.blocked_seconds = 0.0
        #: (vhost, exchange) → its counters. Use :meth:`exchange`.
        self.exchanges: dict[tuple[str, str], ExchangeStats] = {}
        #: Remembers messages that did not simply pass (:class:`sidecar.amqp.flow.stories.MessageStories`); None: nobody
        #: asks.
        self.stories: Any = None
        #: (vhost, queue) → what is known of a watched queue.
        self.queues: dict[tuple[str, str], QueueDepth] = {}

    def exchange(self, vhost: str, name: str) -> ExchangeStats:
        """The counters for an exchange: its own, or the shared ones when there are too many names already."""
        found = self.exchanges.get((vhost, name))
        if found is None:
            if len(self.exchanges) >= MAX_EXCHANGES:
                vhost = name = OTHER
                found = self.exchanges.get((vhost, name))
            if found is None:
                found = self.exchanges[vhost, name] = ExchangeStats(vhost, name)
        return found
