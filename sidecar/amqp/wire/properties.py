"""The properties of a message (AMQP 0-9-1 §1.8.1 "basic", §4.2.6.1), in their order on the wire."""

from __future__ import annotations

from typing import Final

from sidecar.amqp.wire.constants import (
    APP_ID,
    CLUSTER_ID,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    CORRELATION_ID,
    DELIVERY_MODE,
    EXPIRATION,
    HEADERS,
    MESSAGE_ID,
    PRIORITY,
    REPLY_TO,
    TIMESTAMP,
    TYPE,
    USER_ID,
)

#: What a property is: a number of so many bytes, or one of these.
SHORT_STRING: Final = 0
TABLE: Final = -1

#: Of each property its name, its flag and what it is.
PROPERTIES: Final[tuple[tuple[str, int, int], ...]] = (
    ("content_type", CONTENT_TYPE, SHORT_STRING),
    ("content_encoding", CONTENT_ENCODING, SHORT_STRING),
    ("headers", HEADERS, TABLE),
    ("delivery_mode", DELIVERY_MODE, 1),
    ("priority", PRIORITY, 1),
    ("correlation_id", CORRELATION_ID, SHORT_STRING),
    ("reply_to", REPLY_TO, SHORT_STRING),
    ("expiration", EXPIRATION, SHORT_STRING),
    ("message_id", MESSAGE_ID, SHORT_STRING),
    ("timestamp", TIMESTAMP, 8),
    ("type", TYPE, SHORT_STRING),
    ("user_id", USER_ID, SHORT_STRING),
    ("app_id", APP_ID, SHORT_STRING),
    ("cluster_id", CLUSTER_ID, SHORT_STRING),
)


class Properties:
    """A message's properties, None where there is none. ``headers`` is the table as it was sent, with its length;
    ``timestamp`` is seconds since 1970, and ``expiration`` milliseconds in digits, if the client did as it should."""

    __slots__ = (
        "app_id", "cluster_id", "content_encoding", "content_type", "correlation_id", "delivery_mode", "expiration",
        "headers", "message_id", "priority", "reply_to", "timestamp", "type", "user_id",
    )  # fmt: skip

    def __init__(self) -> None:
        self.content_type: str | None = None
        self.content_encoding: str | None = None
        self.headers: bytes | None = None
        self.delivery_mode: int | None = None
        self.priority: int | None = None
        self.correlation_id: str | None = None
        self.reply_to: str | None = None
        self.expiration: str | None = None
        self.message_id: str | None = None
        self.timestamp: int | None = None
        self.type: str | None = None
        self.user_id: str | None = None
        self.app_id: str | None = None
        self.cluster_id: str | None = None
