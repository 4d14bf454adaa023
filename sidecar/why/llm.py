"""What is said of a request that has had no slot of an upstream that runs language models."""

from __future__ import annotations

from sidecar.why.reading import Reading, seconds


def of_llm(r: Reading) -> tuple[str, str | None] | None:
    """Return the sentence and the setting, if it was that which it had waited for."""
    event = r.last("waited_too_long", "llm_full", "llm_displaced", "llm_passed", "bulkhead_full")
    what = event.get("what") if event is not None else ""
    if event is not None and what == "llm_full":
        return (
            f"{event.get('active')} answers were being made (llm.slots {event.get('slots')}) and "
            f"{event.get('pending')} requests waited (llm.queue {event.get('queue')}): there was no place left",
            r.at("llm.queue"),
        )
    if event is not None and what == "llm_displaced":
        return (
            f"the queue was full (llm.queue {event.get('queue')}), and it had to give its place to one of those "
            "who had fewer in it",
            r.at("llm.queue"),
        )
    began = r.last("llm_wait", "bulkhead_wait")
    if what == "waited_too_long" and began is not None and began.get("what") == "llm_wait":
        waited = seconds(began.get("wait_ms", began.get("queue_timeout_ms")))
        which = str(began.get("which", "llm.queue_timeout"))
        left = which == "x-sidecar-deadline"
        return (
            f"it waited {waited} for one of {began.get('slots')} slots (llm.slots), at first as number "
            f"{began.get('place')}, and its turn did not come{' in the time that its caller gave it' if left else ''}",
            None if left else r.at(which),
        )
    return None
