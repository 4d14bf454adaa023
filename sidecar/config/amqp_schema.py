"""The keys of an upstream's ``amqp`` section; as in ``schema``, the defaults are those of the model."""

from __future__ import annotations

import math
from typing import Any

from sidecar.config import cross_schema
from sidecar.config.addresses import Url
from sidecar.config.amqp_values import MessageKey, ShortString, TopicPattern
from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.keys import Key
from sidecar.config.secrets import SecretValue
from sidecar.config.values import NAME, Boolean, Duration, Enum, Integer, Rate, Size, Text
from sidecar.core.amqp_settings import (
    Amqp,
    AmqpBatch,
    AmqpCredentials,
    AmqpDeadLetters,
    AmqpHold,
    AmqpPartition,
    AmqpPrefetch,
    AmqpPublish,
    AmqpQueue,
    AmqpSpool,
)

_VHOST = ShortString("the name of a vhost", empty=False)
_EXCHANGE = ShortString("the name of an exchange", empty=False)


def _complete_publish(arguments: dict[str, Any]) -> None:
    # A tenth of a second's worth: enough that timers need not be exact, and too little to be a storm.
    arguments.setdefault("burst", max(1, math.ceil(arguments.get("rate", 0.0) / 10)))


def _complete_queue(arguments: dict[str, Any]) -> None:
    if "high" in arguments:
        arguments.setdefault("low", arguments["high"] * 8 // 10)


def _complete_prefetch(arguments: dict[str, Any]) -> None:
    if most := arguments.get("max"):
        arguments.setdefault("default", most)


CREDENTIALS = Section(
    AmqpCredentials,
    "The sidecar's own account at the broker, for watching queues and alarms; clients keep theirs.",
    {
        "username": Key(ShortString("the name of a user"), "Name of the account.", "sidecar", required=True),
        "password": Key(SecretValue(), "Its password.", {"file": "/run/secrets/rabbitmq"}, required=True),
    },
)

PUBLISH = Section(
    AmqpPublish,
    "A limit for what is published; the first rule that matches a message is the one for it.",
    {
        "vhost": Key(_VHOST, "In this vhost; *: in any.", "/agents"),
        "exchange": Key(
            TopicPattern(), "To exchanges with such a name; *: any; empty, in quotes: the default exchange.", "ai.tasks"
        ),
        "routing_key": Key(TopicPattern(), "With such a routing key; #: any.", "ai.inference.#"),
        "rate": Key(Rate(zero=True), "Messages that go on in a time; 0/s: as they come.", "1000/s"),
        "burst": Key(
            Integer(1, 1_000_000),
            "Messages that may go on at once after a pause.",
            2000,
            default="a tenth of a second's worth",
        ),
        "over": Key(
            Enum("hold", "nack", "spool"),
            "What becomes of more: hold makes them wait, nack refuses those of channels in confirm mode; "
            "spool puts them on disk.",
        ),
        "expires": Key(
            Duration("1s", "365d", zero=True),
            "The longest that such a message may be in the spool; then it is a dead letter. 0: no end.",
            "1h",
        ),
    },
    complete=_complete_publish,
    cross=cross_schema.publish(),
)

QUEUE = Section(
    AmqpQueue,
    "A queue that is not to grow: what leads there is held back from high until low.",
    {
        "name": Key(
            ShortString("the name of a queue"), "Name of the queue.", "task.decomposition.request", required=True
        ),
        "vhost": Key(_VHOST, "The vhost it is in.", "/agents"),
        "high": Key(Integer(1, 1_000_000_000), "So many ready messages, and no more go there.", 10_000),
        "low": Key(Integer(0, 1_000_000_000), "So few, and they do again.", 8_000, default="four fifths of high"),
        "over": Key(Enum("hold", "nack", "spool"), "What becomes of more: hold, nack or spool, as for publish."),
    },
    complete=_complete_queue,
)

HOLD = Section(
    AmqpHold,
    "How much may be held in all; at that, clients that publish are not read from until there is room.",
    {
        "messages": Key(Integer(1, 10_000_000), "Most messages."),
        "bytes": Key(Size("64KiB", "1TiB"), "Most bytes.", "64MiB"),
        "timeout": Key(
            Duration(zero=True),
            "The longest a message of a channel in confirm mode is held, but for an alarm of the broker; "
            "then it is refused with a nack. 0: no end.",
            "30s",
        ),
    },
)

PREFETCH = Section(
    AmqpPrefetch,
    "How many messages a consumer may have at once without having acknowledged them.",
    {
        "default": Key(Integer(0, 65535), "For those that set no limit; 0: leaves them alone.", 100, default="max"),
        "max": Key(Integer(0, 65535), "The most that one gets; 0: whatever it asks for.", 1000),
    },
    complete=_complete_prefetch,
)

SPOOL = Section(
    AmqpSpool,
    "Publishes that the broker cannot take now are kept on disk, and delivered later, in order.",
    {
        "path": Key(
            Text("an absolute path, as /var/lib/sidecar/spool", r"/[^\x00-\x1f\x7f]{0,1023}"),
            "The directory, on a local disk; it is made when there is none, for this user alone.",
            "/var/lib/sidecar/spool",
            required=True,
        ),
        "max_bytes": Key(Size("1MiB", "1024TiB"), "The most that is kept.", "1GiB"),
        "ack": Key(
            Enum("spool", "broker"),
            "Who acknowledges a publish that is spooled: spool, as soon as it is on disk; broker, when it has got it.",
        ),
        "over": Key(
            Enum("hold", "nack"),
            "What becomes of more when it is full: hold makes them wait, nack refuses those in confirm mode.",
        ),
        "window": Key(
            Integer(1, 65535),
            "Most publishes of a channel that the broker has not confirmed; so many may arrive twice after a failure.",
            256,
        ),
        "mandatory": Key(
            Boolean(), "Spool mandatory and immediate publishes, too, though nobody can be told what is returned."
        ),
        "transient": Key(
            Duration("1s", "3650d", zero=True),
            "How long one waits for an exchange that is not durable and leads to no known queue; 0: as long as others.",
            "10s",
        ),
    },
)

DEAD_LETTERS = Section(
    AmqpDeadLetters,
    "What was spooled and is refused for good is kept aside, with the reason.",
    {
        "after": Key(Integer(1, 1000), "A message that the broker has nacked so many times is one."),
        "keep": Key(Duration("1m", "3650d"), "How long they are kept.", "7d"),
    },
)

PARTITION = Section(
    AmqpPartition,
    "Publishes to an exchange are spread over routing keys: <routing key>.<partition>, from 0.",
    {
        "count": Key(
            Integer(1, 1000), "Number of partitions; more of them later moves few messages.", 10, required=True
        ),
        "by": Key(
            MessageKey(),
            "What messages have in common that are to stay together: a header, a property, a word of the routing key.",
            "agent_id",
            required=True,
        ),
    },
)

BATCH = Section(
    AmqpBatch,
    "Publishes wait for others for a time of your choice, and leave in one write.",
    {
        "linger": Key(Duration("1ms", "1s"), "The longest that one waits for more of them.", "5ms", required=True),
    },
)


AMQP = Section(
    Amqp,
    "For protocol amqp: limits for what is published, queues that are watched, and how much is held back.",
    {
        "vhosts": Key(ListOf(_VHOST, minimum=1, maximum=1000), "Those that clients may open.", ["/"], default="any"),
        "credentials": Key(CREDENTIALS, CREDENTIALS.doc),
        "management": Key(
            Url(("http", "https")),
            "Base URL of the broker's management API, to learn bindings from; empty: only from what clients declare.",
            "http://rabbitmq:15672",
        ),
        "publish": Key(ListOf(PUBLISH, maximum=1000), "Limits for what is published; there are none unless given."),
        "queues": Key(ListOf(QUEUE, maximum=1000), "Queues whose depth is watched."),
        "watch_interval": Key(Duration("10ms", "1h"), "From one look at them to the next; near high, sooner.", "250ms"),
        "hold": Key(HOLD, HOLD.doc),
        # 512 MiB is the most that RabbitMQ takes, whatever its configuration.
        "max_message_size": Key(Size("1KiB", "512MiB"), "The largest message that a client may publish.", "16MiB"),
        "prefetch": Key(PREFETCH, PREFETCH.doc),
        "pause_on": Key(
            ListOf(NAME, maximum=100),
            "Upstreams of this file; while the breaker of one is open, nothing is delivered to consumers.",
            ["ollama"],
        ),
        "pause_keep": Key(
            Duration("100ms", "24h"),
            "How long deliveries that pause are kept back before they return to their queues: less than the broker's "
            "consumer_timeout.",
        ),
        "spool": Key(SPOOL, SPOOL.doc + " There is none unless it is given."),
        "dead_letters": Key(DEAD_LETTERS, DEAD_LETTERS.doc),
        "partitions": Key(
            MapOf(_EXCHANGE, PARTITION, maximum=1000),
            "Exchanges (in any vhost) whose messages are spread over several routing keys.",
            {"ai.tasks": {"count": 10, "by": "agent_id"}},
        ),
        "batch": Key(BATCH, BATCH.doc + " Otherwise only while nobody misses them."),
    },
    cross=cross_schema.amqp(),
)
