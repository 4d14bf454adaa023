"""Settings of AMQP ports. The configuration reads them and the AMQP room carries them out; neither imports the other.

Every class is frozen; durations are seconds, sizes are bytes, rates are messages per second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.core.secret import NO_SECRET, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpCredentials:
    """The sidecar's own account at the broker."""

    username: str
    password: Secret = NO_SECRET


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpPublish:
    """A limit for what is published. ``vhost`` is one by name, or ``*``; ``exchange`` a pattern as of topic exchanges,
    or ``*`` for any (the default exchange too); ``routing_key`` such a pattern. ``rate`` is messages per second (0: no
    limit), ``burst`` how many may go at once. ``over`` is ``hold``, ``nack`` or ``spool``. ``expires`` is how long such
    a message may be in the spool (0: for ever)."""

    vhost: str = "*"
    exchange: str = "*"
    routing_key: str = "#"
    rate: float = 0.0
    burst: int = 1
    over: str = "hold"
    expires: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpQueue:
    """A queue whose depth is watched: what leads there is held (or nacked, or spooled) from ``high`` messages on until
    there are ``low`` again."""

    name: str
    vhost: str = "/"
    high: int = 10_000
    low: int = 8_000
    over: str = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpHold:
    """How much is held in all before clients are no longer read from, and after how long a held publish in confirm
    mode is refused (0: never)."""

    messages: int = 10_000
    bytes: int = 64 << 20
    timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpPrefetch:
    """What a consumer without a prefetch limit gets, and the most that one may ask for; 0 leaves it alone. By default
    both do: a consumer that acknowledges late (Celery's tasks with a countdown, a batch) would wait for ever."""

    default: int = 0
    max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpSpool:
    """Where publishes are kept that the broker cannot take now: a directory (absolute), and the bytes of all that is in
    it. A spooled publish is acknowledged when it is on disk (``ack`` is ``spool``), or when the broker has confirmed it
    at last (``broker``). Publishes that find it full are handled by ``over``: ``hold`` or ``nack``. ``window`` is how
    many unconfirmed ones a channel may have. ``mandatory``: mandatory and immediate ones are spooled, too.
    ``transient``: seconds for which one may be there whose exchange is not durable and leads to no queue that is known
    (0: as long as others)."""

    path: str
    max_bytes: int = 1 << 30
    ack: str = "spool"
    over: str = "hold"
    window: int = 256
    mandatory: bool = False
    transient: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpDeadLetters:
    """What was spooled and cannot be delivered: after how many nacks of the broker that is so, and how long it is
    kept."""

    after: int = 5
    keep: float = 7 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpPartition:
    """Publishes to an exchange are spread over ``count`` routing keys, by the value of a header (its name), of a
    property (``property:<name>``, with dashes) or of a word of the routing key (``key:<n>``, from 1)."""

    count: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpBatch:
    """Small publishes are collected for ``linger`` seconds, and then written at once."""

    linger: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Amqp:
    """What is particular to an AMQP upstream. ``vhosts``: those that clients may open (empty: any). ``pause_on``: names
    of upstreams whose open breaker pauses deliveries; ``pause_keep``: seconds for which they are kept back then, before
    they go back into their queues. ``management``: base URL of RabbitMQ's management API, or empty.
    ``dead_letters`` counts only with a ``spool``. ``partitions``: by the name of the exchange, in any vhost.
    """

    vhosts: tuple[str, ...] = ()
    credentials: AmqpCredentials | None = None
    management: str = ""
    publish: tuple[AmqpPublish, ...] = ()
    queues: tuple[AmqpQueue, ...] = ()
    watch_interval: float = 0.25
    hold: AmqpHold = AmqpHold()
    max_message_size: int = 16 << 20
    prefetch: AmqpPrefetch = AmqpPrefetch()
    pause_on: tuple[str, ...] = ()
    pause_keep: float = 5.0
    spool: AmqpSpool | None = None
    dead_letters: AmqpDeadLetters = AmqpDeadLetters()
    partitions: dict[str, AmqpPartition] = field(default_factory=dict)
    batch: AmqpBatch | None = None
