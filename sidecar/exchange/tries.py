"""How attempts go wrong, one alone or one of two: what is told to whom, and how the exchange goes on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sidecar.core.replies import Reply
from sidecar.exchange.attempt import CAUSE, CONNECT, TIMEOUT
from sidecar.exchange.filter import Again, Failed, weightier
from sidecar.exchange.hedge import begin_beside
from sidecar.exchange.phases import CONNECTING, SENT
from sidecar.exchange.story import explain, note_stalled, note_time_over
from sidecar.exchange.time_left import in_haste
from sidecar.net.causes import CAUSES, cause_of, words_for
from sidecar.net.shortage import SHORTAGE, is_local

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.exchange import Exchange

#: What is said to a client whose request does not come.
STALLED: Final = "the rest of the request did not arrive in time"


def failed(x: Exchange, attempt: Attempt, kind: str) -> None:
    """This attempt will bring no answer: tell the filters, then try again or answer for the upstream."""
    attempt.failure = kind
    hasty = kind is TIMEOUT and in_haste(x)
    if x.cluster.watchers and not hasty:
        x.tell(attempt, 0)
    if kind in CAUSE:
        attempt.cause = CAUSE[kind]
    if kind in CAUSE and not hasty:
        x.cluster.failed(attempt.endpoint, False, attempt.cause, attempt.problem or CAUSES[attempt.cause])
    x.attend(attempt)
    verdict: Again | Reply | None = None
    for hook in x.chain.on_failure:
        said = hook(x, kind)
        if said is not None:
            verdict = said if verdict is None else weightier(verdict, said)
    x.leave_endpoint()
    if x.attempt is not None and not isinstance(verdict, Failed):
        go_on(x)
    elif isinstance(verdict, Again):
        x.retry_later(verdict)
    else:
        x.reply(verdict or explain(x, kind, attempt))


def go_on(x: Exchange) -> None:
    """One of two attempts is over: wait for the other one."""
    attempt = x.attempt
    assert attempt is not None
    if x.phase == SENT and not attempt.sent:
        x.phase = CONNECTING
    x.set_timer(attempt.deadline)


def due(x: Exchange) -> float:
    """When something is to be done about what is under way."""
    attempt, rival = x.attempt, x.rival
    assert attempt is not None
    when = attempt.deadline
    if rival is not None and rival.deadline < when:
        when = rival.deadline
    return x.hedge_at if x.phase == SENT and 0.0 < x.hedge_at < when else when


def not_connected(x: Exchange, attempt: Attempt, error: Exception | None) -> None:
    """There is no connection for this attempt, for that reason (``None``: not in time)."""
    attempt.cause = cause_of(error)
    attempt.problem = words_for(error)
    x.cluster.attempt_failed(attempt.endpoint, error)
    if isinstance(error, OSError) and is_local(error):
        _fall_short(x, attempt, error)
    else:
        failed(x, attempt, CONNECT)


def _fall_short(x: Exchange, attempt: Attempt, error: OSError) -> None:
    """This host lacks something for another connection. Neither the endpoint nor the upstream is to blame, so no
    filter hears of it: the breaker's permit goes back unused at the end."""
    SHORTAGE.met(error)
    attempt.failure = CONNECT
    if _one_less(x, attempt):
        return
    reason = os.strerror(error.errno or 0)
    x.note("shortage", {"reason": reason})
    x.reply(Reply("local_shortage", f"the sidecar cannot open another connection: {reason}", 1.0))


def _one_less(x: Exchange, attempt: Attempt) -> bool:
    """There is no connection for this attempt; return whether there is another one to wait for."""
    x.attend(attempt)
    x.leave_endpoint()
    if x.attempt is None:
        return False
    go_on(x)
    return True


def refuse_connection(x: Exchange, attempt: Attempt) -> None:
    """All connections that the bulkhead allows are in use."""
    if _one_less(x, attempt):
        return
    x.note("connections_in_use", {})
    x.reply(Reply("overloaded", f"all connections to {x.listener.name} are in use", 1.0))


def check(x: Exchange, now: float) -> None:
    """The timer went off while attempts are under way: give up the one whose time is over, or set it again."""
    if 0.0 < x.hedge_at <= now < x.deadline and x.phase == SENT:
        begin_beside(x)
        if x.phase != SENT:
            return  # no time was left for it, nor for the first
    attempt, rival = x.attempt, x.rival
    assert attempt is not None
    if rival is not None and rival.deadline < attempt.deadline:
        attempt = rival
    if now < attempt.deadline:
        x.set_timer(due(x))
    elif x.client_stalls():
        note_stalled(x, now)
        x.reply(Reply("timeout", STALLED))
    else:
        note_time_over(x, attempt, now)
        x.cut_one(attempt)
        if (x.phase == CONNECTING or not attempt.sent) and now < x.deadline:
            x.connect_failed(attempt, None)
        else:
            x.try_failed(attempt, TIMEOUT)
