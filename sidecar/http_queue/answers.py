"""What a client of a queue is told."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import orjson

from sidecar.core.replies import STATUS
from sidecar.http_queue.record import DONE, FAILED, Found

#: Where a client asks for what it has queued: this, and the id.
PREFIX: Final = "/.sidecar/queue/"
#: Behind that, for the upstream's own answer.
OUTCOME: Final = "/outcome"

QUEUED: Final = "queued"
DELIVERING: Final = "delivering"


def location(id: str) -> str:
    """Where to ask for it."""
    return PREFIX + id


def lines(status: int, request_id: str, *fields: tuple[str, str]) -> bytes:
    """A status line and fields."""
    text = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"]
    text += [f"{name}: {value}\r\n" for name, value in fields]
    if request_id:
        text.append(f"x-request-id: {request_id}\r\n")
    return "".join(text).encode("latin-1")


def accepted(id: str, status: str, request_id: str) -> tuple[int, bytes, bytes]:
    """It is stored."""
    where = location(id)
    body = orjson.dumps({"id": id, "status": status, "location": where})
    return 202, lines(202, request_id, ("content-type", "application/json"), ("location", where)), body


def unknown(upstream: str, request_id: str) -> tuple[int, bytes, bytes]:
    """There is none of that id, or no more."""
    message = "there is no such request, or its outcome is not kept any longer"
    return _error(404, "not_found", message, upstream, request_id)


def doubtful(id: str, upstream: str, request_id: str) -> tuple[int, bytes, bytes]:
    """It may be stored, or not."""
    where = location(id)
    message = f"the disk failed while the request was stored; whether it will be delivered can be asked for at {where}"
    return _error(STATUS["outcome_unknown"], "outcome_unknown", message, upstream, request_id, ("location", where))


def not_allowed(upstream: str, request_id: str) -> tuple[int, bytes, bytes]:
    """One can only ask."""
    message = "what is queued can only be asked for: GET and HEAD"
    return _error(405, "method_not_allowed", message, upstream, request_id, ("allow", "GET, HEAD"))


def state(found: Found, delivering: bool) -> str:
    """How far it is."""
    if found.outcome is None:
        return DELIVERING if delivering else QUEUED
    return FAILED if found.outcome.reason else DONE


def status(found: Found, delivering: bool, request_id: str, code: int = 200) -> tuple[int, bytes, bytes]:
    """How far it is, with all details."""
    outcome = found.outcome
    body: dict[str, Any] = {
        "id": found.id,
        "status": state(found, delivering),
        "location": location(found.id),
        "request_id": found.request_id,
        "queued_at": round(found.at, 3),
        "expires_at": round(found.expires, 3),
        "attempts": found.attempts,
    }
    if outcome is None:
        return _json(code, request_id, body, ("retry-after", "1"))
    body["finished_at"] = round(outcome.finished, 3)
    body["kept_until"] = round(outcome.forget, 3)
    if outcome.reason:
        body["reason"] = outcome.reason
    if outcome.status:
        body["answer"] = {"status": outcome.status, "whole": outcome.whole}
        body["outcome"] = location(found.id) + OUTCOME
    return _json(code, request_id, body)


def replay(found: Found, upstream: str, request_id: str) -> tuple[int, bytes, bytes]:
    """The upstream's own answer, as it was; or why there is none."""
    outcome = found.outcome
    assert outcome is not None
    queued = ("x-sidecar-queued", found.id)
    if outcome.status and outcome.head and outcome.whole:
        return outcome.status, outcome.head + b"x-sidecar-queued: %b\r\n" % found.id.encode(), outcome.body
    if outcome.status and not outcome.reason:
        message = f"the request was answered {outcome.status}, and the answer was too large to be kept"
        return _error(410, "not_kept", message, upstream, request_id, queued)
    code = 504 if outcome.reason == "expired" else STATUS.get(outcome.reason, 502)
    return _error(code, outcome.reason, "the request could not be delivered", upstream, request_id, queued)


def _error(
    code: int, error: str, message: str, upstream: str, request_id: str, *fields: tuple[str, str]
) -> tuple[int, bytes, bytes]:
    """As all that a sidecar answers itself (:func:`sidecar.core.replies.render`)."""
    body = {"error": error, "message": message, "upstream": upstream, "request_id": request_id}
    return _json(code, request_id, body, ("x-sidecar-error", error), *fields)


def _json(code: int, request_id: str, body: dict[str, Any], *fields: tuple[str, str]) -> tuple[int, bytes, bytes]:
    always = (("content-type", "application/json"), ("cache-control", "no-store"))
    return code, lines(code, request_id, *always, *fields), orjson.dumps(body)
