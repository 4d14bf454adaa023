"""``GET /why`` and ``GET /why/{request_id}``: what the admin API answers about requests that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.core.json_schema import COUNT, FLAG, NUMBER, TEXT, array, or_null, record
from sidecar.core.operations import REFUSED, Answer, Call, Contribution, NotKnown, Operation, Query
from sidecar.core.text import timestamp
from sidecar.why.peers import MOST_HOPS, Peers
from sidecar.why.ring import Ring

#: Stories in a list: unless asked otherwise, and at most.
DEFAULT_LIMIT: Final = 50
MOST_LIMIT: Final = 1000

#: What is told of a request or of a part of its way, if it is known.
_KNOWN: Final = {
    **dict.fromkeys(("method", "path", "client", "protocol", "route", "trace_id"), TEXT),
    **dict.fromkeys(("kind", "vhost", "exchange", "routing_key", "sidecar_id"), TEXT),
    **dict.fromkeys(("status", "attempts", "earlier", "events_left_out"), COUNT),
    "duration_ms": NUMBER,
}
_PLACE: Final = {
    "service": TEXT, "direction": TEXT, "upstream": TEXT, "error": TEXT, "began": TEXT, "cause": TEXT,
    "setting": or_null(TEXT),
}  # fmt: skip
#: Beside when and what, an event has whatever was known.
_EVENT: Final = {**record(at_ms={"type": "number"}, what=TEXT), "additionalProperties": {}}

_HOP: Final = {**_KNOWN, **_PLACE, "failed": FLAG, "problem": TEXT, "at": TEXT}


def _object(required: dict[str, Any]) -> dict[str, Any]:
    found = record(**required)
    return {**found, "properties": {**_KNOWN, **required}}


SCHEMAS: Final[Mapping[str, Any]] = {
    "Why": _object({
        "request_id": TEXT, "cause_at": TEXT, **_PLACE, "events": array(_EVENT),
        "hops": array({"type": "object", "properties": _HOP}),
    }),
    "WhyRecent": record(
        records=COUNT, remembered=COUNT,
        requests=array(_object({"request_id": TEXT, **{key: it for key, it in _PLACE.items() if key != "service"}})),
    ),
}  # fmt: skip


class Api:
    """The handlers. ``service`` is the name of this sidecar's; ``peers`` asks the next ones."""

    def __init__(self, ring: Ring, service: str, peers: Peers) -> None:
        self._ring = ring
        self._service = service
        self._peers = peers

    def contribution(self) -> Contribution:
        """What the admin API serves."""
        queries = (
            Query("upstream", "Of this upstream, or inbound of this service"),
            Query("error", "With this code"),
            Query("limit", f"How many, {DEFAULT_LIMIT} by default and {MOST_LIMIT} at most", "integer"),
        )
        depth = Query("hops", f"How many hops behind this one are asked, {MOST_HOPS} at most", "integer")
        return Contribution(
            (
                Operation("GET", "/why", "Requests that did not simply go well, the newest first", self.recent,
                          {200: "a list", 400: "the limit is no number", **REFUSED}, "WhyRecent", query=queries,
                          private=True),
                Operation("GET", "/why/{request_id}", "Why a request went as it did", self.why,
                          {200: "its story", 404: "nothing is known of it", **REFUSED}, "Why",
                          query=(depth,), private=True),
            ),
            SCHEMAS,
        )  # fmt: skip

    async def recent(self, call: Call) -> Answer:
        """The newest stories, one line each."""
        asked = dict(call.query)
        limit = asked.get("limit", str(DEFAULT_LIMIT))
        if not limit.isascii() or not limit.isdigit() or len(limit) > 9 or not 0 < int(limit) <= MOST_LIMIT:
            return Answer({"error": "bad_limit", "message": f"limit is a number from 1 to {MOST_LIMIT}"}, 400)
        found = []
        for entry in self._ring.recent(asked.get("upstream", ""), asked.get("error", "")):
            found.append(_line(entry.story))
            if len(found) >= int(limit):
                break
        return Answer({"records": self._ring.records, "remembered": len(self._ring), "requests": found})

    async def why(self, call: Call) -> Answer:
        """One request."""
        from sidecar.why.told import as_one, next_sidecars  # words that only those who ask need in memory

        request_id = call.parts["request_id"]
        stories = self._ring.find(request_id)
        if not stories:
            raise NotKnown(self._unknown(request_id))
        hops = dict(call.query).get("hops", "")
        depth = min(int(hops), MOST_HOPS) if hops.isascii() and hops.isdigit() and len(hops) < 3 else MOST_HOPS
        if hops and self._peers.leads_back(request_id):  # a sidecar asks for what is told here anyway
            return Answer(as_one(request_id, self._service, stories) | {"events": [], "hops": []})
        said = await self._peers.ask(next_sidecars(stories), request_id, depth)
        return Answer(as_one(request_id, self._service, stories, said))

    def _unknown(self, request_id: str) -> str:
        ring = self._ring
        shown = request_id[:128]
        if not ring.records:
            return f"nothing is known of the request {shown!r}: why.records is 0, so nothing is remembered"
        return (
            f"nothing is known of the request {shown!r}: it went well and is in no sample (why.sample), another "
            f"sidecar had it, or it is not among the last {ring.records} (why.records; {len(ring)} are remembered). "
            "An id is a request's x-request-id; the sidecar's own answers have it in that header, the access log has "
            "it as request_id, and GET /why (sidecar why) lists those that are remembered"
        )


def _line(story: Mapping[str, Any]) -> dict[str, Any]:
    from sidecar.why.causes import cause_of

    cause, setting = cause_of(story)
    shown = (
        "request_id", "direction", "upstream", "protocol", "method", "path", "status", "error", "attempts", "kind",
        "exchange", "routing_key",
    )  # fmt: skip
    line = {key: story[key] for key in shown if key in story}
    began = timestamp(story.get("began", 0.0))
    return {**line, "began": began, "duration_ms": story.get("duration_ms", 0.0), "cause": cause, "setting": setting}
