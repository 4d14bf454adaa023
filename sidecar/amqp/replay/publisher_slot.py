"""The connection for one user and virtual host."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sidecar.amqp.publisher.connection import Publisher

if TYPE_CHECKING:
    from sidecar.amqp.replay.outcomes import Outcomes
    from sidecar.amqp.replay.publisher_pool import PublisherPool
    from sidecar.amqp.replay.stream import Stream
    from sidecar.amqp.wire.constants import AmqpError


class SaslLogin:
    """What to log in with: a SASL mechanism and its response. It never appears anywhere as text."""

    __slots__ = ("mechanism", "response")

    def __init__(self, mechanism: str, response: bytes) -> None:
        self.mechanism = mechanism
        self.response = response

    def same(self, other: SaslLogin) -> bool:
        """Whether both are one user's."""
        return self.mechanism == other.mechanism and self.response == other.response


class PublisherSlot:
    """A place for one user's connection to one virtual host. It is there with or without the connection, which is made
    when there is something to send. As its publisher's callbacks it tells ``pool`` what becomes of the connection, and
    ``outcomes`` what becomes of messages."""

    __slots__ = (
        "_outcomes",
        "_pool",
        "_waiting",
        "failures",
        "idle_since",
        "login",
        "looks",
        "problem",
        "publisher",
        "rejected",
        "retry_at",
        "since",
        "user",
        "vhost",
        "wary",
    )  # fmt: skip

    def __init__(self, pool: PublisherPool, outcomes: Outcomes, vhost: str, user: str) -> None:
        self._pool = pool
        self._outcomes = outcomes
        self.vhost = vhost
        #: Empty: the sidecar's own account.
        self.user = user
        self.publisher: Publisher | None = None
        #: What it was last made with.
        self.login: SaslLogin | None = None
        #: How often in a row it came to nothing (-1: never tried), when to try again, and why it does not work (empty:
        #: it does).
        self.failures = -1
        self.retry_at = 0.0
        self.problem = ""
        #: The broker does not let this user in.
        self.rejected = False
        self.idle_since = inf
        #: When its connection came to stand.
        self.since = 0.0
        #: So many messages are to be sent one by one (see :class:`Publisher`).
        self.wary = 0
        #: Exchanges are looked for before they are used.
        self.looks = True
        #: The streams that wait for it.
        self._waiting: dict[Stream, None] = {}

    @property
    def source(self) -> str:
        """As it is called in the log."""
        user = f"user {self.user[:80]!r} in " if self.user else ""
        return f"spool, {user}vhost {self.vhost[:80]!r}"

    @property
    def open(self) -> bool:
        """Messages can be given to it now."""
        publisher = self.publisher
        return publisher is not None and publisher.open

    @property
    def awaited(self) -> bool:
        """Some stream waits for it."""
        return bool(self._waiting)

    def wait(self, stream: Stream) -> None:
        """The stream sends nothing until it is told about the slot."""
        self._waiting[stream] = None
        stream.waiting = True

    def release(self) -> list[Stream]:
        """The streams that have waited; they may see whether they can go on."""
        streams = list(self._waiting)
        self._waiting.clear()
        for stream in streams:
            stream.waiting = False
        return streams

    # -- the publisher's news ------------------------------------------------------------------------------------------

    def ready(self, publisher: Publisher) -> None:
        self.failures = 0
        self.since = self._pool.now()
        self.problem = ""
        self.rejected = False
        self.wary = 0
        self._pool.works(self)

    def writable(self, publisher: Publisher) -> None:
        self._pool.works(self)

    def blocked(self, publisher: Publisher, on: bool, reason: str) -> None:
        self._pool.blocked(self, on)

    def lost(self, publisher: Publisher, left: list[object], error: AmqpError) -> None:
        self.publisher = None
        self.wary = publisher.suspects
        self.looks = publisher.looks
        self._pool.lost(self, publisher, left, error)

    def answered(self, publisher: Publisher, tokens: list[object], taken: bool) -> None:
        self._outcomes.answered(tokens, taken)

    def returned(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        self._outcomes.returned(token, code, text, self.since)

    def refused(self, publisher: Publisher, token: object, code: int, text: str) -> None:
        self._outcomes.refused(publisher, token, code, text)
