"""Stops calling an upstream that keeps failing, and finds out when it works again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.config.containers import ListOf
from sidecar.config.declared import Settings, key
from sidecar.config.values import Duration, Failure, Integer
from sidecar.core.replies import Reply
from sidecar.exchange.attempt import TIMEOUT
from sidecar.exchange.filter import Filter, Site
from sidecar.exchange.story import milliseconds
from sidecar.exchange.time_left import in_haste
from sidecar.resilience.breaker import CircuitBreaker as Mechanism
from sidecar.resilience.breaker import held_words

if TYPE_CHECKING:
    from sidecar.exchange.attempt import Attempt
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.message import ResponseHead


class CircuitBreakerSettings(Settings):
    """``failure_on`` holds ``connect``, ``timeout``, ``reset``, ``5xx`` or single statuses."""

    short = "failure_threshold"

    failure_threshold: int = key(Integer(1, 10_000), "So many failures in a row open it.", default=5)
    timeout_duration: float = key(
        Duration(), "A call without an answer's head after this is cut and is a failure.", default=30.0, example=30
    )
    reset_timeout: float = key(Duration(), "From open to half-open.", default=60.0, example=60)
    half_open_requests: int = key(
        Integer(1, 10_000), "So many trial calls, all of which have to go well to close it.", default=3
    )
    failure_on: frozenset[str] = key(
        ListOf(Failure("connect", "timeout", "reset", "5xx"), minimum=1, maximum=64, into=frozenset),
        "What is a failure.",
        default=frozenset({"connect", "timeout", "reset", "5xx"}),
        example=["connect", "timeout", 503],
    )


class CircuitBreaker(Filter):
    """Asks before each try, and counts how the try went. Stands after the bulkhead, because a permit of a half-open
    breaker must not be spent on waiting in a queue.

    What says nothing about the upstream as a whole gives its permit back unused: a lost keep-alive race, a client that
    leaves, a peer that is draining, a model's server that has no room or no answer yet, and the failure of an endpoint
    that is already out of the rotation while others are in it. Otherwise one instance that dies under many connections
    would open the breaker of all the others.
    """

    name: ClassVar[str] = "circuit_breaker"
    settings_class: ClassVar[Any] = CircuitBreakerSettings
    doc: ClassVar[str] = "Stop calling what keeps failing, and try it again later."
    key_docs: ClassVar[dict[str, str]] = {"route": "In place of the listener's, with a state of its own."}
    by_default: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp", "amqp")
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: a failing app is not called less, or again, by its own sidecar"
    replies: ClassVar[dict[str, int]] = {"circuit_open": 503}

    def __init__(self, config: CircuitBreakerSettings, site: Site) -> None:
        super().__init__(config, site)
        self.mechanism = Mechanism(
            config.failure_threshold,
            config.reset_timeout,
            config.half_open_requests,
            site.clock,
            site.breaker_changed,
        )
        self._read(config)

    def _read(self, config: CircuitBreakerSettings) -> None:
        self._longest: float = config.timeout_duration
        failure_on = config.failure_on
        self._kinds = failure_on | ({"malformed"} if "reset" in failure_on else frozenset())
        statuses = {int(item) for item in failure_on if item.isdigit()}
        if "5xx" in failure_on:
            statuses.update(range(500, 600))
        self._statuses = frozenset(statuses)
        #: Of the failures in a row: when the first one was; of the last one, when, where and what.
        self._row_began = self._last_at = 0.0
        self._last_endpoint = self._last_what = ""

    def adapt(self, config: CircuitBreakerSettings) -> bool:
        """One that an operator holds stays so; another begins anew with other settings."""
        if self.mechanism.forced == "auto":
            return False
        self.mechanism.configure(config.failure_threshold, config.reset_timeout, config.half_open_requests)
        self._read(config)
        return True

    def patience(self) -> float:
        return self._longest

    def on_try(self, x: Exchange) -> Reply | None:
        if x.permit:  # for a try that another filter did not let begin
            self.mechanism.cancel(x.permit)
            x.permit = 0
        permit = self.mechanism.allow()
        if permit:
            x.permit = permit
            return None
        mechanism = self.mechanism
        x.retried = x.attempts
        x.note("circuit_open", self._told())
        if mechanism.forced == "open":
            why = f"{x.listener.name} is not being called: its circuit breaker is {held_words('open', mechanism.held)}"
        else:
            why = f"{x.listener.name} has failed too often and is not being called"
        return Reply("circuit_open", why, mechanism.retry_after())

    def on_answer(self, x: Exchange, head: ResponseHead) -> None:
        attempt = x.attempt
        permit = 0
        if attempt is not None:  # as _taken() does, without a call
            permit = attempt.permit
            attempt.permit = 0
        if head.status not in self._statuses:
            self.mechanism.success(permit)
        elif _one_of_many(x) or head.peer_error == b"draining" or (x.chain.patient and head.status == 503):
            self.mechanism.cancel(permit)
        else:
            self._failed(x, permit, head.peer_error.decode("latin-1")[:64] or str(head.status))

    def on_failure(self, x: Exchange, kind: str) -> None:
        permit = _taken(x)
        if kind in self._kinds and not _one_of_many(x) and not (kind is TIMEOUT and in_haste(x)):
            attempt = x.attempt
            self._failed(x, permit, (attempt.cause if attempt is not None else "") or kind)
        else:
            self.mechanism.cancel(permit)

    def _failed(self, x: Exchange, permit: int, what: str) -> None:
        """Count a failure, and remember what it was."""
        mechanism = self.mechanism
        before = mechanism.failures
        mechanism.failure(permit)
        if mechanism.failures == before:
            return  # it belongs to an earlier state
        self._last_at = now = x.listener.clock()
        if before == 0:
            self._row_began = now
        endpoint = x.endpoint
        self._last_endpoint = endpoint.address if endpoint is not None else ""
        self._last_what = what

    def _told(self) -> dict[str, Any]:
        """Why it lets nothing through, as plain JSON."""
        mechanism, site = self.mechanism, self.site
        assert site is not None
        told: dict[str, Any] = {
            "state": ("closed", "half_open", "open")[mechanism.state],
            "forced": mechanism.forced != "auto",
            "failures": mechanism.failures,
            "open_ms": milliseconds(site.clock() - mechanism.opened_at),
            "again_in_ms": milliseconds(mechanism.retry_after()),
        }
        if mechanism.held is not None:
            told["held"] = held_words("open", mechanism.held)
        if self._last_what:
            told["failed_within_ms"] = milliseconds(self._last_at - self._row_began)
            told["last_endpoint"] = self._last_endpoint
            told["last_failure"] = self._last_what
        return told

    def on_connected(self, x: Exchange) -> None:
        """TCP: a connection that stands is a success, nothing more is known about it."""
        self.mechanism.success(_taken(x))

    def on_end(self, x: Exchange) -> None:
        if x.permit:
            self.mechanism.cancel(x.permit)
            x.permit = 0
        attempt = x.attempt
        if attempt is not None and attempt.permit:
            self._cancel(attempt)
        if x.rival is not None:
            self._cancel(x.rival)
        if x.tried:
            for attempt in x.tried:  # some end without a verdict
                self._cancel(attempt)

    def _cancel(self, attempt: Attempt) -> None:
        """Give back the permit of an attempt, if it has had no verdict."""
        self.mechanism.cancel(attempt.permit)
        attempt.permit = 0


def _taken(x: Exchange) -> int:
    """The permit of the attempt that this is about, which is used up."""
    attempt = x.attempt
    if attempt is None:
        return 0
    permit = attempt.permit
    attempt.permit = 0
    return permit


def _one_of_many(x: Exchange) -> bool:
    """Whether the endpoint was taken out of the rotation, by this failure or before, and others are left. (When all are
    out, all are in again.)"""
    return x.endpoint not in x.listener.cluster.eligible
