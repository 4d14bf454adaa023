"""How long an exchange may be silent while bytes flow, or should."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.exchange.phases import TUNNEL
from sidecar.exchange.story import milliseconds

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange

#: Looks at how much the peers have read, per ``timeout.idle``.
LOOKS: Final = 8


def check_silence(x: Exchange, now: float) -> None:
    """End the exchange if neither side has said anything for too long, or it has lasted too long; else set its timer
    for the next look. While a peer reads what it was sent before, there is no silence; so this is looked at
    :data:`LOOKS` times as often."""
    timeout = x.chain.timeout
    idle = x.longest_silence()
    due = float("inf")
    look = due
    if idle:
        look = now + idle / LOOKS
        if now > x.touched:
            left = x.undelivered()
            if left < x.undrained - x.least_read(idle / LOOKS):
                x.touched = now
            elif left and not x.undrained:  # what was read of it before this first look is not known
                x.touched = max(x.touched, now - idle / LOOKS)
            x.undrained = left
        due = x.touched + idle
    if timeout.total and x.phase != TUNNEL:
        due = min(due, x.started + timeout.total)
    if now < due:
        x.set_timer(min(due, look))
    else:
        over = timeout.total and x.phase != TUNNEL and now >= x.started + timeout.total
        which = "timeout.total" if over else "llm.between_chunks" if x.chain.patient else "timeout.idle"
        give_up(x, which, timeout.total if over else idle)


def give_up(x: Exchange, which: str, seconds: float) -> None:
    """End it, as that time is over."""
    x.note("time_over", {"which": which, "after_ms": milliseconds(seconds)})
    x.error = "timeout"
    x.abort()
