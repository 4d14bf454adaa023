"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BODY_BYTES: Final = 256
#: Publishes of one channel that wait for their confirm, at most.
WINDOW: Final = 256
#: Messages in a queue that is published to; the broker then drops the oldest.
MAX_LENGTH: Final = 1000
#: Deliveries that wait for their ack, at most.
PREFETCH: Final = 200
#: Deliveries of one turn of the consuming case.
DELIVERIES: Final = 20_000
EXCHANGE: Final = "bench"
ROUTING_KEY: Final = "bench.publish"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load. ``rate``: messages per second on a schedule that does not wait for anything (0: as fast as
    confirms come); ``consuming``: deliveries with acks instead of publishes with confirms."""

    name: str
    title: str
    connections: int
    rate: int = 0
    consuming: bool = False


CASES: Final = (
    Case("publish1", "confirmed publishes at full speed, 1 connection", 1),
    Case("publish8", "confirmed publishes at full speed, 8 connections", 8),
    Case("paced", "confirmed publishes at 2000 a second, 1 connection", 1, rate=2000),
    Case("consume", "deliveries, each acknowledged, 1 connection", 1, consuming=True),
)
