"""A kept connection that its upstream closes in the very moment in which it is used (RFC 9112 §9.3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.core.methods import IDEMPOTENT
from sidecar.exchange.attempt import RACE
from sidecar.exchange.filter import Failed

if TYPE_CHECKING:
    from sidecar.http.exchange import HttpExchange


def again_after_race(x: HttpExchange) -> bool:
    """Send it again, if it may be; return whether it was seen to. The upstream has not read the request, as far as one
    can know, so an idempotent one goes again, once, on a fresh connection. That is no failure."""
    if x.fresh or not x.replayable or x.method not in IDEMPOTENT:
        return False
    x.fresh = True
    failed: Failed | None = None
    for hook in x.chain.on_failure:
        verdict = hook(x, RACE)
        if isinstance(verdict, Failed):
            failed = verdict
    if x.attempt is not None:
        x.attempt.failure = RACE
    x.leave_endpoint()
    if failed is not None:
        x.reply(failed)
        return True
    x.attempts -= 1
    x.listener.stats.retried("race")
    x.begin_try()
    return True
