"""What happened to an exchange, for those who ask why: the steps that it noted, and words for a failed attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar.core.replies import Reply
from sidecar.exchange.attempt import CONNECT, MALFORMED, TIMEOUT, Attempt
from sidecar.exchange.phases import CONNECTING

if TYPE_CHECKING:
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.filter import Chain

#: The keys that say how long one try may take, by their filter.
_OF_A_TRY: Final = {"circuit_breaker": "circuit_breaker.timeout_duration", "retry": "retry.per_try_timeout"}
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


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, to a tenth."""
    return round(seconds * 1000, 1)


def note_choice(x: Exchange, endpoint: Endpoint | None) -> None:
    """Note which endpoints there were to choose from: there was none, or it is not the first try."""
    detail: dict[str, Any] = {"candidates": x.cluster.candidates()}
    if x.cluster.label:
        detail["subset"] = x.cluster.label
    if endpoint is not None:
        detail["endpoint"] = endpoint.address
        x.note("chosen", detail)
        return
    if x.cluster.problem:
        detail["problem"] = x.cluster.problem
    x.note("no_endpoint", detail | x.cluster.source())


def note_time_over(x: Exchange, attempt: Attempt, now: float) -> None:
    """Note which time was over when the attempt was given up."""
    times, patience = x.chain.timeout, x.chain.patience
    if now < x.deadline and (x.phase == CONNECTING or not attempt.sent) and times.connect <= patience:
        which, seconds = "timeout.connect", times.connect
    elif now < x.deadline:
        which, seconds = _whose(x.chain), patience
    elif x.granted < times.request:
        which, seconds = "x-sidecar-deadline", x.granted
    elif times.total and times.total <= times.request:
        which, seconds = "timeout.total", times.total
    else:
        which, seconds = "llm.first_byte" if x.chain.patient else "timeout.request", times.request
    x.note("time_over", {"which": which, "after_ms": milliseconds(seconds), "endpoint": attempt.endpoint.address})


def _whose(chain: Chain) -> str:
    """The key that gives one try the time that it has."""
    by = [it.name for it in chain.filters if it.name in _OF_A_TRY and it.patience() == chain.patience]
    if chain.patient:
        return _OF_A_TRY["retry"] if "retry" in by else "llm.first_byte"
    return _OF_A_TRY[by[-1]] if by else "timeout.request"


def note_stalled(x: Exchange, now: float) -> None:
    """Note that the rest of a request did not come: nothing for so long, or too little in all."""
    request = x.chain.timeout.request
    which = "timeout.request" if now - x.touched >= request else "limits.body_rate"
    detail = {"which": which, "silent_ms": milliseconds(now - x.touched), "bytes": x.bytes_in}
    x.note("client_stalled", detail | {"after_ms": milliseconds(request), "body_rate": x.listener.limits.body_rate})
