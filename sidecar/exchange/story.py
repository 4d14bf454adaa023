"""What happened to an exchange, for those who ask why: the steps that it noted, and words for a failed attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.core.replies import Reply
from sidecar.exchange.attempt import CONNECT, MALFORMED, TIMEOUT, Attempt

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange

#: Steps that are remembered of one exchange, at most.
MOST_NOTES: Final = 64


class Note(NamedTuple):
    """A step of an exchange: when (by the listener's clock), what, and what was known."""

    at: float
    what: str
    detail: dict[str, Any]


def explain(x: Exchange, kind: str, attempt: Attempt) -> Reply:
    """The answer that stands for a failed attempt."""
    name = x.listener.name
    where = f"{name} at {attempt.endpoint.where}"
    tries = f" ({x.attempts} tries)" if x.attempts > 1 else ""
    if kind is CONNECT:
        if attempt.cause == "timeout":
            return Reply("connect_timeout", f"no connection to {where} in time{tries}")
        return Reply("connect_failed", f"could not connect to {where}: {attempt.problem}{tries}")
    if kind is TIMEOUT:
        return Reply("timeout", f"no answer from {where} in time{tries}")
    if kind is MALFORMED:
        return Reply("bad_upstream", f"{name} at {attempt.endpoint.address}: {attempt.problem}")
    return Reply("upstream_reset", f"{where} closed the connection before it answered{tries}")
