"""What can be seen of a running AMQP port. Its listener implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.amqp.spool.dead_letters import DeadLetter


@dataclass(frozen=True, slots=True)
class SessionView:
    """One client's connection to an AMQP port. ``client`` is its address, ``product`` what it calls itself, ``since``
    how long ago it came, in seconds; ``endpoint`` is empty until there is one. ``held`` counts its publishes that wait,
    ``unacked`` the deliveries that it has not settled, ``stalled`` those kept back from it; ``blocked``: it was told to
    publish nothing for now."""

    client: str
    product: str
    user: str
    vhost: str
    endpoint: str
    since: float
    channels: int
    consumers: int
    unacked: int
    held: int
    blocked: bool
    stalled: int


class SpoolKey(Protocol):
    """What is in the spool of one virtual host and lane."""

    @property
    def count(self) -> int: ...

    @property
    def bytes(self) -> int: ...


class DeadLettersView(Protocol):
    """Messages of an upstream that nobody will send any more. The attributes are as of the last transaction; the
    coroutines ask the disk, and may raise :class:`sidecar.storage.errors.SpoolError`."""

    @property
    def count(self) -> int: ...

    @property
    def bytes(self) -> int: ...

    @property
    def reasons(self) -> Mapping[str, int]:
        """Of each reason, how many there are."""
        ...

    @property
    def dropped(self) -> int:
        """How many had to go for newer ones."""
        ...

    async def list(
        self, limit: int, after: int = 0, reason: str = "", exchange: str | None = None
    ) -> Sequence[DeadLetter]:
        """The next ones behind number ``after``, in the order of their numbers; only those of a reason (empty: any) and
        of an exchange (None: any)."""
        ...

    async def get(self, number: int) -> DeadLetter | None:
        """One of them."""
        ...

    async def replay(self, numbers: Sequence[int]) -> int:
        """Put them behind the other messages of their keys, as if they came now; how many there were. Those that
        cannot be read any more stay."""
        ...

    async def drop(self, numbers: Sequence[int]) -> int:
        """Forget them; how many there were."""
        ...


class SpoolView(Protocol):
    """An AMQP upstream's spool."""

    @property
    def messages(self) -> int:
        """Kept for the broker now; ``bytes`` is what they count as, and ``max_bytes`` the most that may."""
        ...

    @property
    def bytes(self) -> int: ...

    @property
    def max_bytes(self) -> int: ...

    @property
    def full(self) -> bool:
        """It takes no more."""
        ...

    @property
    def problem(self) -> str:
        """Why it does not work at present; empty when it does."""
        ...

    @property
    def keys(self) -> Mapping[tuple[str, str], SpoolKey]:
        """By virtual host and lane: exchange, or queue behind the default exchange."""
        ...

    @property
    def still(self) -> float:
        """For how long nothing has left it though something is there, seconds."""
        ...

    @property
    def parked(self) -> int:
        """Messages that wait for the login of the user they have to be sent as."""
        ...

    @property
    def obstacles(self) -> Sequence[tuple[str, str, str]]:
        """Connections that are wanted for sending what is in it and cannot be made: virtual host, user (empty: the
        sidecar's own account), why."""
        ...

    @property
    def spooled(self) -> int:
        """Messages that were put into it since the start. ``replayed`` left it for the broker, which confirmed them;
        ``expired`` were too old by then; ``corrupt`` could not be read again."""
        ...

    @property
    def replayed(self) -> int: ...

    @property
    def expired(self) -> int: ...

    @property
    def corrupt(self) -> int: ...

    @property
    def acks(self) -> Mapping[str, int]:
        """Publishes confirmed to clients since the start, by who vouched for them: ``broker`` or ``spool``."""
        ...

    @property
    def dead_letters(self) -> DeadLettersView: ...


class AmqpView(Protocol):
    """What is particular to an AMQP upstream."""

    @property
    def stats(self) -> AmqpStats: ...

    @property
    def held_bytes(self) -> int:
        """Of all messages held now."""
        ...

    @property
    def spool(self) -> SpoolView | None:
        """None: it has none."""
        ...

    @property
    def unkeyed(self) -> Mapping[str, int]:
        """By partitioned exchange, how many messages had nothing by which to find their partition."""
        ...

    @property
    def refusing(self) -> Mapping[str, str]:
        """Why clients are refused, :data:`sidecar.amqp.admission.REASONS` → words; empty: they are not."""
        ...

    @property
    def stalled(self) -> bool:
        """Deliveries are paused, for what the app needs is away."""
        ...

    def holding(self) -> list[tuple[str, int]]:
        """What messages wait for, and how many each."""
        ...

    def sessions(self) -> list[SessionView]:
        """All clients' connections."""
        ...
