"""Causes of what happened to messages: why one was held, refused, spooled, or became a dead letter."""

from __future__ import annotations

from typing import Final

from sidecar.why.reading import Reading, seconds

#: What messages wait for, by how its name begins; and the key that decides it.
_WAITS: Final = (
    ("rate of ", "amqp.publish"),
    ("queue ", "amqp.queues"),
    ("room in the spool", "amqp.spool.max_bytes"),
    ("confirms of the broker", "amqp.spool.window"),
)
#: The key that decides about dead letters of a reason, and how it is said.
_REASONS: Final = {
    "nacked": ("the broker did not take it {attempts} times", "amqp.dead_letters.after"),
    "expired": ("it expired in the spool, before the broker could take it", "amqp.publish"),
    "unroutable": ("no queue of the broker is bound for it", ""),
    "not_found": ("its exchange is not there", ""),
    "access_refused": ("its user may not publish it", ""),
    "too_large": ("it is larger than the broker takes", ""),
}


def of_message(r: Reading) -> tuple[str, str | None]:
    """The sentence, and the setting that would change it."""
    event = r.last("dead_lettered", "nacked", "spooled", "held") or {}
    what = event.get("what")
    waited = str(event.get("waited_for") or "")
    if what == "dead_lettered":
        text, key = _REASONS.get(str(event.get("reason")), ("the broker refused it for good", ""))
        said = f"; the broker said {event['code']} {event.get('text', '')}".rstrip() if event.get("code") else ""
        kept = f"it is kept among the dead letters of {r.upstream}: {text.format(attempts=event.get('attempts'))}{said}"
        return kept, r.at(key) if key else None
    if what == "nacked":
        if event.get("by") == "broker":
            return f"the broker refused it (basic.nack) after {seconds(event.get('after_ms'))}", None
        if event.get("timeout_ms"):
            held = seconds(event.get("after_ms"))
            sentence = f"it was held for {held}, longer than it may be, {_for(waited)}, and refused"
            return sentence, r.at("amqp.hold.timeout")
        return f"it was refused at once, as it would have had to wait {_for(waited)}", _key(r, waited)
    if what == "spooled":
        return f"it was stored in the spool, as it would have had to wait {_for(waited)}", _key(r, waited)
    return f"it was held for {seconds(event.get('after_ms'))}, waiting {_for(waited)}", _key(r, waited)


def _for(waited: str) -> str:
    return f"for {waited}" if waited else "behind others of its channel"


def _key(r: Reading, waited: str) -> str | None:
    return next((r.at(key) for beginning, key in _WAITS if waited.startswith(beginning)), None)
