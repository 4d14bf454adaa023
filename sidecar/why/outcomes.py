"""Stories that end without an error of the sidecar's own: the upstream's, a peer's, a client that left, slow ones."""

from __future__ import annotations

from typing import Final

from sidecar.why.reading import Event, Reading, did, seconds, where

#: Parts of a slow exchange, as people say it.
_PARTS: Final = {
    "pending": "waiting for a slot",
    "slot": "waiting for a slot of its models",
    "body": "passing the answer's body on",
}


def without_error(r: Reading) -> tuple[str, str | None]:
    """The sentence, and the setting that would change it."""
    status = r.story.get("status")
    stored = r.last("stored")
    if stored is not None:
        refused = r.last("refused") or {}
        return f"{r.who} could not take it ({refused.get('code')}: {refused.get('message')}), so it was stored", None
    if status == 499:
        return _left(r)
    waited = r.last("wait_over")
    if waited is not None:
        began = r.last("wait") or {}
        how_long = seconds(waited.get("waited_ms"))
        return f"it waited {how_long} for {r.who} to come back ({began.get('for')}), and was answered {status}", None
    if isinstance(status, int) and status >= 400:
        return _bad_answer(r, status)
    failed = [it for it in r.attempts if it.get("failure")]
    if len(r.attempts) > 1 or failed:
        first = did(failed[0]) if failed else _said(r, r.attempts[0])
        return f"it was answered {status} by try {len(r.attempts)}: {first}", None
    return _passed(r, status)


def _left(r: Reading) -> tuple[str, str | None]:
    left = r.last("client_left") or {}
    after = seconds(r.story.get("duration_ms"))
    waited = {
        "sent": f"{r.who} had not answered yet",
        "answering": "its answer was under way",
        "connecting": f"a connection to {r.who} was being made",
        "pending": "it waited for its turn",
        "backoff": "it waited for another try",
    }.get(str(left.get("while")), "it was under way")
    return f"the client left after {after}, while {waited}", None


def _bad_answer(r: Reading, status: int) -> tuple[str, str | None]:
    last = r.attempts[-1] if r.attempts else {}
    if "status" not in last:
        return f"{r.who} itself answered {status}", None
    decided = not last.get("peer_error") and r.last("not_again") is not None
    return _said(r, last) + r.tries(), r.retry_key() if decided else None


def _said(r: Reading, attempt: Event) -> str:
    if attempt.get("peer_error"):
        return f"the sidecar at {where(attempt)} answered {attempt['peer_error']} in place of its app"
    if attempt.get("status"):
        app = "the app" if r.story.get("direction") == "inbound" else f"the app of {r.who}"
        return f"{app} at {where(attempt)} itself answered {attempt['status']}"
    return did(attempt)


def _passed(r: Reading, status: object) -> tuple[str, str | None]:
    """It went well; where its time went."""
    spent: dict[str, float] = {}
    began, ended = r.last("bulkhead_wait"), r.last("bulkhead_passed")
    if began is not None and ended is not None:
        spent["pending"] = ended["at_ms"] - began["at_ms"]
    asked, let_in = r.last("llm_wait"), r.last("llm_passed")
    if asked is not None and let_in is not None:
        spent["slot"] = let_in["at_ms"] - asked["at_ms"]
    for attempt in r.attempts:
        at = where(attempt)
        spent[f"connecting to {at}"] = float(attempt.get("connecting_ms", 0.0))
        spent[f"waiting for the answer of {at}"] = float(attempt.get("waiting_ms", 0.0))
    whole = float(r.story.get("duration_ms", 0.0))
    head = r.story.get("head_ms")
    if isinstance(head, int | float):
        spent["body"] = whole - head
    told = f"it was answered {status} after {seconds(whole)}" if status else f"it ended after {seconds(whole)}"
    if not spent or whole <= 0:
        return told, None
    longest = max(spent, key=spent.__getitem__)
    by = began.get("by", "max_requests") if began is not None else ""
    setting = r.at(f"bulkhead.{by}") if longest == "pending" else r.at("llm.slots") if longest == "slot" else None
    return f"{told}, {seconds(spent[longest])} of it {_PARTS.get(longest, longest)}", setting
