"""Stops calling an upstream that keeps failing, and finds out when it works again."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sidecar.config.model import CircuitBreaker as Config
from sidecar.core.replies import Reply
from sidecar.exchange.filter import Filter
from sidecar.resilience.breaker import CircuitBreaker as Mechanism

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.message import ResponseHead


class CircuitBreaker(Filter):
    """Asks before each try, and counts how the try went. Stands after the bulkhead, because a permit of a half-open
    breaker must not be spent on waiting in a queue.

    What says nothing about the upstream as a whole gives its permit back unused: a lost keep-alive race, a client that
    leaves, a peer that is draining, and the failure of an endpoint that is already out of the rotation while others are
    in it. Otherwise one instance that dies under many connections would open the breaker of all the others.
    """

    name: ClassVar[str] = "circuit_breaker"
    stateful: ClassVar[bool] = True

    def __init__(self, mechanism: Mechanism, settings: Config) -> None:
        self.mechanism = mechanism
        self.settings = settings
        failure_on = settings.failure_on
        self._kinds = failure_on | ({"malformed"} if "reset" in failure_on else frozenset())
        statuses = {int(item) for item in failure_on if item.isdigit()}
        if "5xx" in failure_on:
            statuses.update(range(500, 600))
        self._statuses = frozenset(statuses)

    def on_try(self, x: Exchange) -> Reply | None:
        permit = self.mechanism.allow()
        if permit:
            x.state[self.place] = permit
            return None
        return Reply(
            "circuit_open",
            f"{x.listener.name} has failed too often and is not being called",
            self.mechanism.retry_after(),
        )

    def on_answer(self, x: Exchange, head: ResponseHead) -> None:
        state, place = x.state, self.place
        permit = state[place] or 0
        state[place] = None
        if head.status not in self._statuses:
            self.mechanism.success(permit)
        elif _one_of_many(x) or head.peer_error == b"draining":
            self.mechanism.cancel(permit)
        else:
            self.mechanism.failure(permit)

    def on_failure(self, x: Exchange, kind: str) -> None:
        state, place = x.state, self.place
        permit = state[place] or 0
        state[place] = None
        if kind in self._kinds and not _one_of_many(x):
            self.mechanism.failure(permit)
        else:
            self.mechanism.cancel(permit)

    def on_connected(self, x: Exchange) -> None:
        """TCP: a connection that stands is a success, nothing more is known about it."""
        state, place = x.state, self.place
        permit = state[place] or 0
        state[place] = None
        self.mechanism.success(permit)

    def on_end(self, x: Exchange) -> None:
        permit = x.state[self.place] or 0
        if permit:
            x.state[self.place] = None
            self.mechanism.cancel(permit)


def _one_of_many(x: Exchange) -> bool:
    """Whether the endpoint was taken out of the rotation, by this failure or before, and others are left. (When all are
    out, all are in again.)"""
    return x.endpoint not in x.listener.cluster.eligible
