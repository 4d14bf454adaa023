"""Decides whether a try that went wrong is followed by another one, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.config.containers import ListOf
from sidecar.config.declared import Settings, key
from sidecar.config.values import Boolean, Duration, Enum, Failure, Integer, Method
from sidecar.core.methods import IDEMPOTENT
from sidecar.core.replies import NOT_DELIVERED
from sidecar.exchange.attempt import CONNECT, MALFORMED, RACE
from sidecar.exchange.filter import Again, Filter, Site
from sidecar.resilience.backoff import Backoff, parse_retry_after

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request


class RetrySettings(Settings):
    """``max_attempts`` counts the first try; delays are seconds; ``methods`` are upper case."""

    short = "max_attempts"

    max_attempts: int = key(Integer(1, 20), "Most tries, the first included.", default=3)
    backoff_type: str = key(Enum("exponential", "linear", "constant"), "How the delays grow.", default="exponential")
    initial_delay: float = key(Duration(zero=True), "Before the second try.", default=1.0, example=1)
    max_delay: float = key(Duration(zero=True), "The longest delay.", default=30.0, example="30s")
    jitter: bool = key(
        Boolean(), "Spread the delays at random, so that clients do not come back all at once.", default=True
    )
    on: frozenset[str] = key(
        ListOf(Failure("connect", "reset", "timeout", "5xx"), minimum=1, maximum=64, into=frozenset),
        "What is tried again.",
        default=frozenset({"connect", "reset", "502", "503", "504"}),
        example=["connect", "reset", 502, 503, 504],
        protocols=("http",),
    )
    methods: frozenset[str] = key(
        ListOf(Method(), minimum=1, maximum=64, into=frozenset),
        "Methods that may be repeated.",
        default=IDEMPOTENT,
        example=["GET"],
        protocols=("http",),
    )

    @staticmethod
    def check(given: Sequence[Any], protocol: str) -> None:
        for fields in given:
            if not fields.known("initial_delay", "max_delay"):
                continue
            initial, longest = fields.value("initial_delay"), fields.value("max_delay")
            if initial > longest:
                fields.place.report(
                    "has an initial_delay above its max_delay",
                    found=f"initial_delay {initial:g} s, max_delay {longest:g} s",
                    allowed="initial_delay at most max_delay",
                )


class Retry(Filter):
    """Only before the first byte of an answer has gone back, only while the whole request is at hand, never past the
    deadline. What certainly did not reach an app (no connection, or a peer sidecar said so) may be repeated whatever
    its method is, and at once if there is another endpoint. Everything else needs a method of ``retry.methods`` and
    waits: for the upstream's own ``Retry-After`` where it gave one, else for the backoff. A TCP connection has no
    method and is only ever repeated while it is being made.

    ``wall`` gives Unix time, which the dates in ``Retry-After`` are compared with.
    """

    name: ClassVar[str] = "retry"
    settings_class: ClassVar[Any] = RetrySettings
    doc: ClassVar[str] = "Try again, later and elsewhere."
    by_default: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: a failing app is not called less, or again, by its own sidecar"

    def __init__(self, config: RetrySettings, site: Site, wall: Callable[[], float] = time.time) -> None:
        super().__init__(config, site)
        self._config = config
        self._backoff = Backoff(config.initial_delay, config.max_delay, site.rng, config.backoff_type, config.jitter)
        self._clock = site.clock
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
            if status >= 500:
                self._note(x, "on" if status not in self.statuses else "method")
            return None
        told = head.fields.get(b"retry-after")
        return self._again(x, str(status), told=told)

    def on_failure(self, x: Exchange, kind: str) -> Again | None:
        if kind is RACE:
            return None
        if kind is CONNECT:
            if CONNECT in self._config.on:
                return self._again(x, kind, at_once=True)
            self._note(x, "on")
            return None
        if kind is MALFORMED:
            allowed = 502 in self.statuses
        else:
            allowed = kind in self._config.on
        if allowed and x.method in self._config.methods:
            return self._again(x, kind)
        self._note(x, "method" if allowed else "on")
        return None

    def _again(self, x: Exchange, reason: str, *, at_once: bool = False, told: bytes | None = None) -> Again | None:
        if x.attempts >= self._config.max_attempts or not x.replayable:
            self._note(x, "attempts" if x.replayable else "body")
            return None
        delay = None
        if at_once and any(e is not x.endpoint and not x.been(e) for e in x.listener.cluster.eligible):
            delay = 0.0
        elif told is not None:
            delay = parse_retry_after(told, self._wall())
        if delay is None:
            delay = self._backoff.delay(x.attempts)
        if self._clock() + delay >= x.deadline:
            self._note(x, "deadline")
            return None
        return Again(delay, reason)

    def _note(self, x: Exchange, why: str) -> None:
        """Note why there is no other try: by the key ``on``; its ``method``; it had all its ``attempts``; its ``body``
        was too large to be kept; its ``deadline`` comes first."""
        detail: dict[str, Any] = {"why": why, "attempts": x.attempts, "max_attempts": self._config.max_attempts}
        if x.method:
            detail["method"] = x.method
        x.note("not_again", detail)
