"""Tells what has changed about a running sidecar: see :mod:`sidecar.core.events`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson

from sidecar.config.errors import ConfigError
from sidecar.core.events import EVENTS
from sidecar.core.health import Health
from sidecar.core.metrics import Family, counter, gauge
from sidecar.resilience.breaker import BY_HAND, CircuitBreaker

logger = logging.getLogger("sidecar.agent")

_BREAKER_STATES: Final = ("closed", "half-open", "open")


def breaker(name: str, breaker: CircuitBreaker) -> None:
    """The breaker of that upstream, or of a route of it, has another state."""
    if breaker.cause == BY_HAND:
        return  # that has been told, with who and why
    level = logging.INFO if breaker.state == 0 else logging.WARNING
    state = _BREAKER_STATES[breaker.state]
    because = f": {breaker.cause}" if breaker.cause else ""
    EVENTS.tell(
        logger, level, "breaker", f"the breaker of {name} is {state}{because}", name,
        state=state.replace("-", "_"), failures=breaker.failures,
    )  # fmt: skip


def app(health: Health) -> None:
    """The app's own check has another result."""
    level = logging.INFO if health.status == "healthy" else logging.WARNING
    EVENTS.tell(logger, level, "app", f"the app is {health.status}", status=health.status, output=health.output)


def ready(**details: Any) -> None:
    """It serves."""
    EVENTS.tell(logger, logging.INFO, "ready", "ready", **details)


def draining(timeout: float, active: int, by: str) -> None:
    """It takes no new work; ``by``: who asked for that, where that is known."""
    EVENTS.tell(
        logger, logging.INFO, "drain", "draining", timeout=timeout, active=active, **({"client": by} if by else {})
    )


def setting(key: str, value: str, by: str) -> None:
    """Something is another than the file says; ``by`` is who wanted that."""
    EVENTS.tell(logger, logging.INFO, "setting", f"{key} is {value} until it is changed again", client=by)


class LastReload:
    """How the last reload went; the configuration of the start counts as a good one. ``config`` gives what runs,
    without secrets."""

    def __init__(self, config: Callable[[], Mapping[str, Any]]) -> None:
        self._config = config
        self.version = _version(config())
        self.good = True
        #: Unix time of the last good one.
        self.at = time.time()

    def done(self, changes: Sequence[str]) -> None:
        """All of the file is applied; ``changes`` has a line each."""
        self.version = _version(self._config())
        self.good = True
        self.at = time.time()
        EVENTS.tell(logger, logging.INFO, "reload", "reloaded", changes=changes)

    def refused(self, error: ConfigError) -> None:
        """Nothing is."""
        self.good = False
        EVENTS.tell(
            logger, logging.ERROR, "reload_refused", f"not reloaded, nothing has changed:\n{error}",
            problems=[f"{it.path}: {it.message}" if it.path else it.message for it in error.problems],
        )  # fmt: skip

    def families(self) -> Iterable[Family]:
        """For Prometheus, by the names that other servers have for it."""
        good = gauge("sidecar_config_last_reload_successful", "Whether the last reload was applied.")
        good.add((), float(self.good))
        at = gauge("sidecar_config_last_reload_timestamp_seconds", "When the configuration that runs was applied.")
        at.add((), self.at)
        version = gauge(
            "sidecar_config_info", "Always 1: a hash of the configuration that runs, without its secrets.", ("hash",)
        )
        version.add((self.version,), 1.0)
        return good, at, version


def _version(config: Mapping[str, Any]) -> str:
    """Short, and the same for the same configuration."""
    return sha256(orjson.dumps(config, default=str, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def families() -> Iterable[Family]:
    """Return how many events there were, by what they are about."""
    events = counter("sidecar_events", "Changes of this sidecar's state, by what they are about.", ("kind",))
    for kind, count in EVENTS.counts.items():
        events.add((kind,), count)
    return (events,)
