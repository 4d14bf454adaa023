"""A story as causes read it: what happened last, where a setting stands, figures in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.net.causes import CAUSES

Event = Mapping[str, Any]

#: What an endpoint did, by the word for why a connection failed.
_DID: Final = {
    "refused": "refused the connection",
    "no_route": "cannot be reached: there is no route to it",
    "timeout": "did not take the connection in time",
    "reset": "closed the connection",
    "denied": "cannot be reached: a firewall on this host forbids it",
    "no_answer": "gave no answer in time",
    "malformed": "gave an answer that is not valid HTTP",
}
#: The same by the kind of failure, where there was a connection.
_FAILED: Final = {
    "timeout": "gave no answer in time",
    "reset": "closed the connection before it answered",
    "race": "closed the kept connection just as it was used",
    "hedged": "was slower than another one, which was asked beside it",
    "malformed": "gave an answer that is not valid HTTP",
}
#: Why there was no other try, and the key that decides it.
_NOT_AGAIN: Final = {
    "on": ("such a failure is not tried again", "retry.on"),
    "method": ("{method} is not tried again", "retry.methods"),
    "attempts": ("all {max_attempts} tries were used", "retry.max_attempts"),
    "body": ("its body was too large to be kept for another try", ""),
    "deadline": ("there was no time left for another try", "timeout.request"),
    "retried": ("the sidecar there has tried again itself, and given up", ""),
    "budget": ("the retry budget of the upstream was used up", "retry.budget"),
}


class Reading:
    """One story. ``who`` is what it went to, for people."""

    def __init__(self, story: Mapping[str, Any]) -> None:
        self.story = story
        events = story.get("events")
        self.events: list[Event] = [it for it in events if isinstance(it, Mapping)] if isinstance(events, list) else []
        self.inbound = story.get("direction") == "inbound"
        self.upstream = str(story.get("upstream", ""))
        self.who = "the app" if self.inbound else self.upstream
        self.attempts = [it for it in self.events if it.get("what") == "attempt"]

    def last(self, *kinds: str) -> Event | None:
        """The last event of one of these kinds."""
        return next((it for it in reversed(self.events) if it.get("what") in kinds), None)

    @property
    def message(self) -> str:
        """What the client was told."""
        refused = self.last("refused")
        return str(refused.get("message", "")) if refused is not None else ""

    def at(self, key: str) -> str:
        """The path of a port's key in the configuration: of its route, where that has the policy for itself."""
        base = "inbound" if self.inbound else f"upstreams.{self.upstream}"
        own = self.story.get("own")
        if isinstance(own, list) and key.partition(".")[0] in own:
            base += f".{self.story.get('route')}"
        return f"{base}.{key}"

    def source(self) -> Mapping[str, Any]:
        """Where its endpoints come from."""
        event = self.last("no_endpoint") or {}
        found = self.story.get("source")
        return found if isinstance(found, Mapping) else event

    def source_key(self) -> str:
        """The path of the key that says where its endpoints come from."""
        return "service.app" if self.inbound else self.at(str(self.source().get("from", "endpoints")))

    def tries(self) -> str:
        """How many tries there were, and why there was no other one; with a semicolon before it."""
        made = len(self.attempts)
        parts = [f"{made} tries were made"] if made > 1 else []
        event = self.last("not_again")
        if event is not None and event.get("why") in _NOT_AGAIN:
            text, key = _NOT_AGAIN[event["why"]]
            where = f" ({self.at(key)})" if key else ""
            parts.append(text.format(method=event.get("method", "it"), max_attempts=event.get("max_attempts")) + where)
        return "".join(f"; {part}" for part in parts)

    def retry_key(self) -> str | None:
        """The path of the key because of which there was no other try."""
        if self.inbound:
            return None
        event = self.last("not_again")
        if event is None:
            return self.at("retry")
        key = _NOT_AGAIN.get(str(event.get("why")), ("", ""))[1]
        return self.at(key) if key else None


def did(attempt: Event) -> str:
    """What an endpoint did that made an attempt fail: ``10.0.0.7:80 refused the connection``."""
    failure, cause = attempt.get("failure"), str(attempt.get("cause", ""))
    if failure == "timeout" and attempt.get("waiting_ms") is not None:
        words = f"gave no answer within {seconds(attempt['waiting_ms'])}"
    elif failure == "connect" or not failure:
        told = attempt.get("problem") or CAUSES.get(cause, "the connection failed")
        words = _DID.get(cause) or f"cannot be reached: {told}"
    else:
        words = _FAILED.get(str(failure), "failed")
    return f"{where(attempt)} {words}"


def did_word(endpoint: object, word: object) -> str:
    """The same by a word alone: of a failure, or a status, or a peer's code."""
    text = str(word)
    if text.isdigit():
        return f"{endpoint} answered {text}"
    words = _DID.get(text) or _FAILED.get(text) or CAUSES.get(text)
    return f"{endpoint} {words}" if words else f"the sidecar at {endpoint} said {text}"


def where(event: Event) -> str:
    """An endpoint, with the name that it was found for."""
    host, address = event.get("host"), event.get("endpoint", "?")
    return f"{host} ({address})" if host else str(address)


def seconds(milliseconds: object) -> str:
    """A time in words, to three figures."""
    value = float(milliseconds) / 1000 if isinstance(milliseconds, int | float) else 0.0
    if value < 0.0005:
        return "0 s"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"
