"""A second attempt beside the first, when that has been silent for long; the quicker one counts, the other is cut off.

Only requests that may be repeated get one, and all of the request has to be at hand (Jeffrey Dean and Luiz André
Barroso, "The Tail at Scale", CACM 56 (2), 2013). An exchange gets one at most. Whatever happens to one of
the two, filters see that one as the exchange's attempt, and the other as its rival.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from sidecar.exchange.attempt import HEDGED, Attempt
from sidecar.exchange.story import milliseconds

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange


def begin_beside(x: Exchange) -> None:
    """Begin a second attempt, if filters have it so."""
    x.hedge_at = 0.0
    first = x.attempt
    assert first is not None
    wanted = False
    for ask in x.chain.on_late:
        if ask(x):
            wanted = True
    if not wanted:
        return
    cluster = x.cluster
    tried = [attempt.endpoint for attempt in (*x.tried, first)]
    endpoint = cluster.pick(x.client_ip if cluster.key_of is None else cluster.key_of(x), tried)
    if endpoint is None or endpoint in tried:
        return
    for it in x.chain.on_try:
        if it.on_try(x) is not None:
            x.retried = -1  # the first one goes on
            x.listener.stats.hedges["refused"] += 1
            return
    for differ in x.chain.on_again:
        differ(x)
    x.rival = rival = Attempt(endpoint, x.listener.clock(), x.permit)
    x.permit = 0
    rival.hedge = True
    x.hedge_at = inf
    endpoint.begin()
    endpoint.tries += 1
    x.attempts += 1
    x.note("hedge", {"endpoint": endpoint.address, "after_ms": milliseconds(rival.began - first.began)})
    x.open(rival)


def settle(x: Exchange) -> None:
    """The attempt has the answer that the client gets: its rival, if there is one, has lost."""
    winner, loser = x.attempt, x.rival
    assert winner is not None
    if x.hedge_at == inf:
        x.listener.stats.hedges["won" if winner.hedge else "lost"] += 1
    x.hedge_at = 0.0
    if loser is not None:
        _lose(x, winner, loser)


def _lose(x: Exchange, winner: Attempt, loser: Attempt) -> None:
    x.attempt = loser
    x.rival = None
    loser.failure = HEDGED
    x.cut_one(loser)
    if x.cluster.watchers and not loser.hedge:
        # It has taken so long at least. What began later says nothing by that.
        x.say(loser, x.listener.clock() - loser.began, 0, HEDGED)
    for hook in x.chain.on_failure:
        hook(x, HEDGED)
    x.leave_endpoint()
    x.attempt = winner


def unanswered(x: Exchange) -> None:
    """It has ended, and neither of the two had an answer."""
    if x.hedge_at != inf:
        return
    x.listener.stats.hedges["failed"] += 1
    rival = x.rival
    if rival is not None:
        rival.endpoint.end()
        rival.stop_connecting()
