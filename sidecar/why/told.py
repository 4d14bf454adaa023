"""What is told of a request: the stories of one sidecar, and what the next ones say, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar.core.text import timestamp
from sidecar.why.causes import cause_of

#: Events that are told of one request, all hops together.
MOST_EVENTS: Final = 300
#: What is told of each part beside its cause.
_SHOWN: Final = (
    "direction", "upstream", "protocol", "method", "path", "client", "status", "error", "duration_ms", "attempts",
    "route", "trace_id", "events_left_out", "kind", "vhost", "exchange", "routing_key", "sidecar_id",
)  # fmt: skip


def parts_of(stories: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the stories of one id, the oldest first, the newest one of each port; inbound before outbound."""
    newest: dict[tuple[object, object], Mapping[str, Any]] = {}
    for story in stories:
        port = story.get("direction"), story.get("upstream")
        newest[port] = _with(newest.get(port), story)
    return sorted(newest.values(), key=lambda it: (it.get("direction") != "inbound", it.get("began", 0.0)))


def next_sidecars(stories: Sequence[Mapping[str, Any]]) -> list[str]:
    """The admin APIs of the sidecars that a request was sent to, the last one last."""
    return [address for part in parts_of(stories) for address in _led(part)]


def _led(part: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The attempts that led to another sidecar, the last one to each, by the address of its admin API."""
    events = part.get("events", ())
    return {event["admin"]: event for event in events if event["what"] == "attempt" and "admin" in event}


def _with(before: Mapping[str, Any] | None, story: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is told of a port: the newest request; of a message, all that happened to it."""
    if before is None or story.get("kind") != "message":
        return story
    later = round((story["began"] - before["began"]) * 1000, 1)
    # What was told later happened later: the wall clock is read anew for each, and its beginning is rounded.
    if before["events"] and story["events"]:
        later = max(later, round(before["events"][-1]["at_ms"] - story["events"][0]["at_ms"], 1))
    events = [*before["events"], *({**it, "at_ms": round(it["at_ms"] + later, 1)} for it in story["events"])]
    return {**story, "began": before["began"], "events": events}


def hop(story: Mapping[str, Any], service: str) -> dict[str, Any]:
    """One part, without its events."""
    cause, setting = cause_of(story)
    told = {"service": service, "cause": cause, "setting": setting, "failed": failed(story)}
    told |= {key: story[key] for key in _SHOWN if key in story}
    told["began"] = timestamp(story.get("began", 0.0))
    return told


def failed(story: Mapping[str, Any]) -> bool:
    """Whether it did not go well."""
    status = story.get("status")
    return bool(story.get("error")) or (isinstance(status, int) and (status >= 400 or status == 0))


def as_one(
    request_id: str,
    service: str,
    stories: Sequence[Mapping[str, Any]],
    said: Mapping[str, Mapping[str, Any] | str] | None = None,
) -> dict[str, Any]:
    """The whole story. ``said`` is what the next sidecars say, by the address of their admin API, or why they say
    nothing."""
    parts = parts_of(stories)
    first = parts[0]
    hops = [hop(part, service) for part in parts]
    events: list[dict[str, Any]] = []
    for part in parts:
        events += _moved(part.get("events", ()), (part["began"] - first["began"]) * 1000, service)
    for part in parts:
        began = (part["began"] - first["began"]) * 1000
        for address, attempt in _led(part).items():
            answer = (said or {}).get(address)
            if isinstance(answer, str):
                hops.append({"service": part["upstream"], "at": address, "problem": answer})
            elif answer is not None:
                hops += answer["hops"]
                sent = attempt["at_ms"] + attempt.get("connecting_ms", 0.0)
                # What was seen here is told first: others may say what they like, and whenever they like.
                room = max(MOST_EVENTS - len(events), 0)
                events += _moved(answer["events"][:room], began + sent, "")
    events.sort(key=lambda event: float(event["at_ms"]))
    told = {"request_id": request_id, **_deepest(hops, service)}
    told |= {key: value for key, value in hops[0].items() if key not in ("cause", "setting", "failed")}
    if len(stories) > len(parts) and first.get("kind") != "message":
        told["earlier"] = len(stories) - len(parts)
    return told | {"events": events[:MOST_EVENTS], "hops": hops}


def _deepest(hops: Sequence[Mapping[str, Any]], service: str) -> dict[str, Any]:
    """The cause: of the deepest hop that failed, if the first one did."""
    bad = [it for it in hops if it.get("failed") and it.get("cause")] if hops[0]["failed"] else []
    found = bad[-1] if bad else hops[0]
    if found.get("service") == service:
        return {"cause": found["cause"], "setting": found.get("setting"), "cause_at": service}
    cause = f"in the sidecar of {found.get('service')}: {found.get('cause')}"
    return {"cause": cause, "setting": found.get("setting"), "cause_at": found.get("service")}


def _moved(events: Sequence[Mapping[str, Any]], by: float, service: str) -> list[dict[str, Any]]:
    """The same events on the clock of the first part, marked with the service."""
    mark = {"service": service} if service else {}
    return [{**event, "at_ms": round(float(event["at_ms"]) + by, 1), **mark} for event in events]
