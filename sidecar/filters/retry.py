"""Decides whether a try that went wrong is followed by another one, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from sidecar.config.model import Retry as Config
from sidecar.core.replies import NOT_DELIVERED
from sidecar.exchange.attempt import CONNECT, MALFORMED, RACE
from sidecar.exchange.filter import Again, Filter
from sidecar.resilience.backoff import Backoff, parse_retry_after

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request


class Retry(Filter):
    """Only before the first byte of an answer has gone back, only while the whole request is at hand, never past the
    deadline. What certainly did not reach an app (no connection, or a peer sidecar said so) may be repeated whatever
    its method is, and at once if there is another endpoint. Everything else needs a method of ``retry.methods`` and
    waits: for the upstream's own ``Retry-After`` where it gave one, else for the backoff. A TCP connection has no
    method and is only ever repeated while it is being made.

    ``wall`` gives Unix time, which the dates in ``Retry-After`` are compared with.
    """

    name: ClassVar[str] = "retry"

    def __init__(
        self, config: Config, backoff: Backoff, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._backoff = backoff
        self._clock = clock
        self._wall = wall
        #: Answers after which it is tried again.
        self.statuses = frozenset(int(item) for item in config.on if item.isdigit()) | (
            frozenset(range(500, 600)) if "5xx" in config.on else frozenset()
        )

    def on_answer(self, x: Request, head: ResponseHead) -> Again | None:
        status = head.status
        if status < 400:
            return None
        code = head.peer_error
        if status >= 500 and code in NOT_DELIVERED and CONNECT in self._config.on:
            return self._again(x, str(status), at_once=True)
        if status not in self.statuses or x.method not in self._config.methods:
            return None
        told = head.fields.get(b"retry-after")
        return self._again(x, str(status), told=told)

    def on_failure(self, x: Exchange, kind: str) -> Again | None:
        if kind is RACE:
            return None
        if kind is CONNECT:
            return self._again(x, kind, at_once=True) if CONNECT in self._config.on else None
        if kind is MALFORMED:
            allowed = 502 in self.statuses
        else:
            allowed = kind in self._config.on
        return self._again(x, kind) if allowed and x.method in self._config.methods else None

    def _again(self, x: Exchange, reason: str, *, at_once: bool = False, told: bytes | None = None) -> Again | None:
        if x.attempts >= self._config.max_attempts or not x.replayable:
            return None
        delay = None
        if at_once and any(e is not x.endpoint and e not in x.tried for e in x.listener.cluster.eligible):
            delay = 0.0
        elif told is not None:
            delay = parse_retry_after(told, self._wall())
        if delay is None:
            delay = self._backoff.delay(x.attempts)
        if self._clock() + delay >= x.deadline:
            return None
        return Again(delay, reason)
