"""What a line of the access log says: made of a record in the writer's thread, so that the hot path only builds that.

docs/logs.md has every field with its meaning.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core.records import AccessRecord, Try
from sidecar.core.text import timestamp

#: The logger that access lines are of.
LOGGER: Final = "sidecar.access"
#: Seconds below which a wait is none: every exchange has a few microseconds before its first attempt.
LEAST_WAIT: Final = 0.001


def access_fields(record: AccessRecord, service: str) -> dict[str, Any]:
    """Return the fields of an access line; what is not there (no error, no endpoint, …) is left out."""
    good = record.status < 500 and not record.error
    fields = {
        "ts": timestamp(record.time),
        "level": "info" if good else "warning",
        "logger": LOGGER,
        "msg": " ".join(part for part in (record.method, record.target, str(record.status)) if part),
        "service": service,
        "direction": record.direction,
        "upstream": record.upstream,
        "method": record.method,
        "target": record.target,
        "status": record.status,
        "error": record.error,
        "cause": record.cause,
        "peer_error": record.peer_error,
        "reason": record.reason,
        "fallback": record.fallback or None,
        "duration": round(record.duration, 6),
        "waited": _waited(record),
        "connecting": _connecting(record),
        "first_byte": round(record.head, 6) if record.head >= 0 else None,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "endpoint": record.endpoint,
        "attempts": record.attempts,
        "tries": [_try(it) for it in record.tries] or None,
        "dialled": record.dialled,
        "client": record.client,
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
    }
    return {key: value for key, value in fields.items() if value is not None and value != ""}


def _waited(record: AccessRecord) -> float | None:
    """Seconds in which no attempt was under way: in the bulkhead's queue, between two attempts."""
    if not record.tries:
        waited = record.began if record.began >= 0 else record.duration
    else:
        waited = until = 0.0
        for it in record.tries:  # addresses of one name may have been tried side by side
            waited += max(0.0, it.at - until)
            until = max(until, it.at + it.seconds)
        waited += max(0.0, record.duration - until)
    return round(waited, 6) if waited >= LEAST_WAIT else None


def _connecting(record: AccessRecord) -> float | None:
    """Seconds for the connection of the last attempt, if it was a new one."""
    if record.kept or record.began < 0:
        return None
    if record.sent >= 0:
        return round(record.sent - record.began, 6)
    return round(record.tries[-1].seconds, 6) if record.tries else None


def _try(it: Try) -> dict[str, Any]:
    fields: dict[str, Any] = {"endpoint": it.endpoint, "at": round(it.at, 6), "seconds": round(it.seconds, 6)}
    if it.status:
        fields["status"] = it.status
    said = {"failure": it.failure, "cause": it.cause, "peer_error": it.peer_error}
    return fields | {key: value for key, value in said.items() if value}
