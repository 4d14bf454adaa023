"""What an AMQP port does with its spool: puts publishes into it, and answers for them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.gates import SwitchGate
from sidecar.amqp.flow.publish import ID_HEADER
from sidecar.amqp.spool.message import SpooledMessage, from_frames

if TYPE_CHECKING:
    from sidecar.amqp.flow.lanes import Sender
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.flow.publish import Publish
    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.amqp.flow.tracing import MessageTracing
    from sidecar.amqp.spool.lifetimes import Lifetimes
    from sidecar.amqp.spool.shares import Shares
    from sidecar.amqp.spool.store import Spool
    from sidecar.amqp.spool.transaction import StreamName
    from sidecar.core.amqp_settings import AmqpSpool
    from sidecar.storage.errors import SpoolError

logger = logging.getLogger("sidecar.amqp")

#: Its entry in a table up to its value: the name, the tag of a long string, and the upper octets of a short length.
_ENTRY: Final = bytes((len(ID_HEADER),)) + ID_HEADER.encode() + b"S\x00\x00\x00"


class Intake:
    """Puts publishes of one AMQP port into its spool, and answers for them. ``wall`` is Unix time."""

    __slots__ = (
        "_acks", "_count", "_crowds", "_lifetimes", "_prefix", "_shares", "_stats", "_trouble", "_wall", "full",
        "on_added", "settings", "spool", "tracing",
    )  # fmt: skip

    def __init__(
        self,
        settings: AmqpSpool,
        spool: Spool,
        stats: AmqpStats,
        wall: Callable[[], float],
        lifetimes: Lifetimes,
        shares: Shares,
    ) -> None:
        self.settings = settings
        self._lifetimes = lifetimes
        self._shares = shares
        #: Where publishes wait whose stream has its share of the room.
        self._crowds: dict[StreamName, SwitchGate] = {}
        self.spool = spool
        self._stats = stats
        self._wall = wall
        #: Where publishes wait while nothing more can be stored.
        self.full = SwitchGate("room in the spool", apart=True)
        #: Called with what is on the disk now.
        self.on_added: Callable[[list[SpooledMessage]], None] | None = None
        #: Takes the spans of publishes that are on the disk.
        self.tracing: MessageTracing | None = None
        self._prefix = secrets.token_hex(6)
        self._count = 0
        #: Why storing did not work, as it was logged last.
        self._trouble = ""
        #: Id in the spool → the publish whose client waits until the broker has confirmed it (``ack: broker``).
        self._acks: dict[int, Publish] = {}

    def mark(self) -> bytes:
        """The table entry with a new message's id."""
        self._count += 1
        value = f"{self._prefix}-{self._count:x}".encode()
        return _ENTRY + bytes((len(value),)) + value

    def queued(self, route: PublishRoute) -> bool:
        """Messages of the route's stream are in the spool: what comes now has to go behind them."""
        return (route.vhost, route.lane) in self.spool.streams

    def take(self, publishes: list[Publish], urgent: bool = False) -> bool:
        """Store them, in this order; each one's channel hears of it. ``False``: there is no room, and nothing was
        taken. ``urgent``: only room on the disk matters, as they cannot wait where they are."""
        if not urgent and self._crowded(publishes[0].route):  # such come one by one
            return False
        now = self._wall()
        messages = [self._message(publish, now) for publish in publishes]
        # While storing does not work, nothing may get ahead of what has come back from the disk.
        shut = self.full.closed and (self._trouble != "" or not urgent)
        if shut or not self.spool.put(messages, _Stored(self, publishes).done, urgent):
            self.full.set(True)
            return False
        self._stats.spooled += len(publishes)
        return True

    def _crowded(self, route: PublishRoute) -> bool:
        name = (route.vhost, route.lane)
        gate = self._crowds.get(name)
        if gate is not None and gate.closed:
            return True
        if not self._shares.refuses(name):
            return False
        if gate is None:
            gate = self._crowds[name] = SwitchGate(f"room in the spool, for {route.lane} of {route.vhost}", apart=True)
        gate.set(True)
        return True

    def gate(self, route: PublishRoute) -> SwitchGate:
        """Where what was not taken waits until there is room for it."""
        gate = self._crowds.get((route.vhost, route.lane))
        return gate if gate is not None and gate.closed else self.full

    @property
    def held(self) -> int:
        """Messages that wait for room."""
        return self.full.messages + sum([gate.messages for gate in self._crowds.values()])

    def look(self) -> None:
        """Now and then: what waits for its stream's share may have room, or need none any more."""
        for name, gate in list(self._crowds.items()):
            if gate.closed and self._shares.refuses(name, True):
                if gate.waiting:
                    gate.changed()  # some may go past the spool by now
            elif gate.closed:
                gate.set(False)
            elif not gate.waiting:
                del self._crowds[name]

    def _message(self, publish: Publish, now: float) -> SpooledMessage:
        route = publish.route
        sender = publish.sender
        life = self._lifetimes.find(route)
        return from_frames(
            publish.frames,
            route.vhost,
            route.lane,
            now,
            route.expires,
            sender.origin,
            sender.user,
            life.ttl,
            life.lasting,
            self.settings.transient if life.fleeting else 0.0,
        )

    def stored(self, publishes: list[Publish], messages: list[SpooledMessage]) -> None:
        """They are on disk."""
        early = self.settings.ack == "spool"
        channels: dict[Sender, list[Publish]] = {}
        stories = self._stats.stories
        for publish, message in zip(publishes, messages, strict=True):
            if stories is not None:
                stories.spooled(publish)
            publish.frames = b""
            if publish.trace is not None and self.tracing is not None:
                self.tracing.published(publish.trace, publish.route, publish.since)
                publish.trace = None  # what becomes of it is another span
            channels.setdefault(publish.sender, []).append(publish)
            if not early and publish.tag:
                self._acks[message.id] = publish
        for channel, mine in channels.items():
            if early:
                self._stats.acks_by_spool += channel.confirmed(mine)
            channel.stored(len(mine))
        if self.on_added is not None:
            self.on_added(messages)

    def failed(self, publishes: list[Publish], error: SpoolError) -> None:
        """They could not be stored: they wait in memory, or are refused, as for a full spool."""
        if error.text != self._trouble:
            self._trouble = error.text
            logger.error("the spool cannot store messages: %s", error.text)
        self.full.set(True)
        for publish in publishes:
            channel = publish.sender
            channel.no_room(publish)
            channel.stored(1)

    def room(self) -> None:
        """There is room again; and if storing works, what waited for that goes on."""
        if not self.spool.works:
            return
        self._trouble = ""
        self.full.set(False)

    def delivered(self, messages: list[SpooledMessage]) -> None:
        """The broker has confirmed them at last."""
        if self._acks:
            for message in messages:
                publish = self._acks.pop(message.id, None)
                if publish is not None:
                    self._stats.acks_by_broker += publish.sender.confirmed([publish])

    def died(self, message: SpooledMessage) -> None:
        """It went to the dead letters: whoever still waits for its confirm is told so."""
        publish = self._acks.pop(message.id, None)
        if publish is not None:
            publish.sender.refuse(publish)


class _Stored:
    """Waits for a batch to be stored."""

    __slots__ = ("_intake", "_publishes")

    def __init__(self, intake: Intake, publishes: list[Publish]) -> None:
        self._intake = intake
        self._publishes = publishes

    def done(self, messages: list[SpooledMessage], error: SpoolError | None) -> None:
        if error is None:
            self._intake.stored(self._publishes, messages)
        else:
            self._intake.failed(self._publishes, error)
