"""Breakers that an operator holds open or closed, or leaves to themselves again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from math import inf

from sidecar.admin.holds import Wish
from sidecar.core.events import EVENTS
from sidecar.resilience.breaker import CircuitBreaker, Hold, held_words

logger = logging.getLogger("sidecar.admin")

_SAID = {"open": "open", "close": "closed"}


def force(name: str, breakers: Iterable[CircuitBreaker], mode: str, wish: Wish) -> None:
    """Do it with all breakers of the upstream ``name``. ``mode`` is ``open``, ``close`` or ``auto``. When the time that
    was wished is over, the first call notices, or else a timer: one for all of them."""
    now = time.time()
    hold = Hold(wish.by, wish.reason, now, now + wish.seconds if wish.seconds != inf else 0.0)
    forced = list(breakers)
    for breaker in forced:
        breaker.force(mode, hold, wish.seconds)  # type: ignore[arg-type]  # the API has checked it
    if mode == "auto":
        by = f" by {wish.by}" if wish.by else ""
        text = f"the breaker of {name} is left to itself again{by}{f': {wish.reason}' if wish.reason else ''}"
    else:
        text = f"the breaker of {name} is {held_words(_SAID[mode], hold)}"
        if wish.seconds != inf:
            asyncio.get_running_loop().call_later(wish.seconds + 0.01, _look, forced)
    EVENTS.tell(
        logger, logging.INFO if mode == "auto" else logging.WARNING, "breaker", text, name,
        forced=forced[0].forced if forced else mode, by=wish.by, reason=wish.reason,
        seconds=None if wish.seconds == inf else wish.seconds,
    )  # fmt: skip


def _look(breakers: Iterable[CircuitBreaker]) -> None:
    for breaker in breakers:
        breaker.look()
