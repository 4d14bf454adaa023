"""Remembers what happened to messages that did not simply pass, for those who ask why: held for longer than a moment,
refused, spooled, dead letters."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sidecar.amqp.flow.publish import ID_HEADER
from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import AmqpError
from sidecar.resilience.token_bucket import TokenBucket

if TYPE_CHECKING:
    from sidecar.amqp.flow.publish import Publish
    from sidecar.core.records import Stories

#: Seconds: who was held for less was hardly held.
MOMENT: Final = 0.25
#: Stories of one kind per second, and at once: an outage spools thousands, and the rest of the ring is others'.
RATE: Final = 100.0
BURST: Final = 500
#: What stands around a content header's payload in its frame; nobody reads it.
_HEAD: Final = bytes(7)
_END: Final = b"\xce"
#: As it stands in a table.
_ID: Final = bytes((len(ID_HEADER),)) + ID_HEADER.encode()
#: Characters of a name from a client that are kept.
_LONGEST: Final = 255

#: What becomes of a message, as ``error`` of its story has it.
HELD: Final = "held"
NACKED: Final = "nacked"
SPOOLED: Final = "spooled"
DEAD: Final = "dead_lettered"


class MessageStories:
    """Those of one AMQP port. ``clock`` is the loop's, ``wall`` Unix time; ``timeout`` gives ``hold.timeout``."""

    def __init__(
        self,
        upstream: str,
        stories: Stories,
        clock: Callable[[], float],
        wall: Callable[[], float],
        timeout: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._stories = stories
        self._clock = clock
        self._wall = wall
        self._timeout = timeout
        self._buckets = {kind: TokenBucket(RATE, BURST, clock()) for kind in (HELD, NACKED, SPOOLED, DEAD)}

    def held(self, publish: Publish, now: float) -> None:
        """It was held for longer than a moment, and is not any more."""
        self._tell(publish, HELD, {"waited_for": publish.waits_for}, now)

    def nacked(self, publish: Publish) -> None:
        """The sidecar refuses it."""
        now = self._clock()
        detail: dict[str, Any] = {"by": "sidecar", "waited_for": publish.waits_for}
        timeout = self._timeout()
        if timeout and publish.arrival and now - publish.since >= timeout:
            detail["timeout_ms"] = round(timeout * 1000)
        self._tell(publish, NACKED, detail, now)

    def refused(self, publish: Publish) -> None:
        """The broker has refused it."""
        self._tell(publish, NACKED, {"by": "broker"}, self._clock())

    def spooled(self, publish: Publish) -> None:
        """It is in the spool."""
        self._tell(publish, SPOOLED, {"waited_for": publish.waits_for}, self._clock())

    def dead(self, message: Any, reason: str, code: int, text: str) -> None:
        """A message of the spool has become a dead letter; ``code`` and ``text`` are the broker's."""
        if not self._wanted(DEAD):
            return
        detail: dict[str, Any] = {"reason": reason, "attempts": message.attempts}
        if code:
            detail |= {"code": code, "text": text[:300]}
        frame = _HEAD + message.header + _END
        ids = _ids(frame, 0, len(frame))
        where = {"vhost": message.vhost, "exchange": message.exchange, "routing_key": message.routing_key}
        self._put(ids, DEAD, where, message.origin, self._wall() - message.at, detail)

    def _tell(self, publish: Publish, kind: str, detail: dict[str, Any], now: float) -> None:
        if not self._wanted(kind):
            return
        frames = publish.frames
        ids = ("", "")
        if len(frames) > 7:
            start = int.from_bytes(frames[3:7], "big") + 8
            ids = _ids(frames, start, start + int.from_bytes(frames[start + 3 : start + 7], "big") + 8)
        elif publish.trace is not None and not isinstance(publish.trace, str):
            ids = (publish.trace.message_id, "")
        route = publish.route
        where = {"vhost": route.vhost, "exchange": route.exchange, "routing_key": route.routing_key}
        self._put(ids, kind, where, publish.sender.origin, now - publish.since, detail)

    def _wanted(self, kind: str) -> bool:
        return self._stories.enabled and not self._buckets[kind].take(self._clock())

    def _put(
        self,
        ids: tuple[str, str],
        kind: str,
        where: dict[str, str],
        client: str,
        seconds: float,
        detail: dict[str, Any],
    ) -> None:
        given, own = ids
        took = round(seconds * 1000, 1)
        story: dict[str, Any] = {
            "request_id": given or own or secrets.token_hex(8),
            "began": round(self._wall() - seconds, 3),
            "direction": "outbound",
            "upstream": self._upstream,
            "protocol": "amqp",
            "kind": "message",
            "client": client,
            **{name: text[:_LONGEST] for name, text in where.items()},
            "error": kind,
            "duration_ms": took,
            "events": [{"at_ms": took, "what": kind, "after_ms": took, **detail}],
        }
        if own:
            story["sidecar_id"] = own
        self._stories.put(story)


def _ids(data: bytes, start: int, end: int) -> tuple[str, str]:
    """The message's own id and the one that it has for the spool, from its content header; empty: there is none."""
    try:
        given = content.properties(data, start, end).message_id or ""
        own = content.text_header(data, start, end, _ID) or b""
    except (AmqpError, IndexError):
        return "", ""
    return given[:128], own[:128].decode("utf-8", "replace")
