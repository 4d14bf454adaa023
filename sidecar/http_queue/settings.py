"""What the configuration knows of the queue. What it takes besides is loaded only where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from sidecar.config import cross_schema
from sidecar.config.containers import ListOf
from sidecar.config.declared import Settings, key
from sidecar.config.kinds import BROKEN, VARIABLE
from sidecar.config.values import HEADER, Boolean, Duration, Enum, Integer, Method, Size, Text
from sidecar.core.identity import IDENTITY
from sidecar.exchange.filter import Filter

#: Methods whose requests are worth keeping when nobody waits for their answer.
CHANGING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class QueueSettings(Settings):
    """``methods`` are upper case, ``scope`` holds lower-case fields."""

    cross: ClassVar[Sequence[dict[str, Any]]] = (
        cross_schema.never(cross_schema.is_("spool", False)),
        {
            "if": cross_schema.is_("in_order", True),
            "then": {"properties": {"concurrency": {"anyOf": [{"const": 1}, VARIABLE]}}},
        },
    )

    spool: bool = key(Boolean(), "Store them on disk; there is no other way yet.", default=True, example=True)
    path: str = key(
        Text("an absolute path, as /var/lib/sidecar/queue", r"/[^\x00-\x1f\x7f]{0,1023}"),
        "The directory, on a local disk, the same for all routes; it is made when there is none.",
        default="/var/lib/sidecar/queue",
        example="/var/lib/sidecar/queue",
    )
    when: str = key(
        Enum("unavailable", "always"),
        "unavailable: what could not be delivered, once it was tried as ever; always: everything, at once.",
        default="unavailable",
    )
    methods: frozenset[str] = key(
        ListOf(Method(), minimum=1, maximum=64, into=frozenset),
        "Requests with these methods only.",
        default=CHANGING,
        example=["POST"],
    )
    max_body: int = key(
        Size("1B", "16MiB"),
        "Requests with a larger body are not stored; of an answer, no more is kept.",
        default=1 << 20,
        example="1MiB",
    )
    max_bytes: int = key(
        Size("1MiB", "1024TiB"),
        "The most that waits; and the most of outcomes that is kept.",
        default=256 << 20,
        example="256MiB",
    )
    expires: float = key(
        Duration("1s", "3650d"), "What could not be delivered for so long has failed.", default=3600.0, example="1h"
    )
    attempts: int = key(
        Integer(0, 1000),
        "So many tries that may have reached the app, and it has failed; 0: any number. Tries that certainly "
        "did not reach it do not count.",
        default=10,
    )
    keep: float = key(Duration("1s", "3650d"), "How long an outcome can be asked for.", default=3600.0, example="1h")
    concurrency: int = key(Integer(1, 1000), "Most that are delivered at once.", default=4,
                           told="4; 1 with in_order")  # fmt: skip
    in_order: bool = key(
        Boolean(), "Deliver one after the other; while some wait, whatever comes queues behind them.", default=False
    )
    scope: frozenset[str] = key(
        ListOf(HEADER, maximum=64, into=frozenset),
        "Headers that say who asks. An Idempotency-Key belongs to clients that send the same values of all these.",
        default=IDENTITY,
        example=["authorization", "x-api-key"],
    )

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        """What keeps the order delivers singly."""
        if given.get("in_order"):
            given.setdefault("concurrency", 1)

    @staticmethod
    def check(given: Sequence[Any], protocol: str) -> None:
        """Queues are on disk, those of one listener in one place, and one that keeps the order delivers singly."""
        first = ""
        for queue in given:
            if queue.value("spool") is False:
                queue.places["spool"].report("is not built yet: a queue in memory", allowed="true; or queue: off")
            path = queue.value("path")
            if path is not BROKEN:
                if first and path != first:
                    queue.places.get("path", queue.place).report(
                        "is another directory than that of a queue before it", found=path, allowed=first
                    )
                first = first or path
            if queue.value("in_order") is True and queue.get("concurrency", 1) != 1:
                queue.places["concurrency"].report(
                    "does not go with in_order", found=str(queue["concurrency"]), allowed="1, or in_order: false"
                )


class QueueDeclaration(Filter):
    """The filter itself is :class:`sidecar.http_queue.filter.Queue`."""

    name: ClassVar[str] = "queue"
    stateful: ClassVar[bool] = True
    settings_class: ClassVar[Any] = QueueSettings
    doc: ClassVar[str] = (
        "Requests are stored on disk and answered 202 with a location to ask for the outcome, and delivered later."
    )
    key_docs: ClassVar[dict[str, str]] = {
        "inbound": "There is none unless it is given, here or for a route.",
        "outbound": "There is none unless it is given, here or for a route.",
    }
