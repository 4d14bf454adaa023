"""Which traces are recorded: a share of them, and what went wrong or took long in any case, as often as is bearable.

The share is decided by the last 56 bits of the trace id (W3C Trace Context, level 2, §3.2.2.3: those are random), the
way that OpenTelemetry's consistent probability samplers do it. So all who go by the same share decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from sidecar.resilience.token_bucket import TokenBucket

#: Unsampled exchanges and messages that are recorded all the same, per second; so many at once.
ALWAYS_RATE: Final = 10.0
ALWAYS_BURST: Final = 10
_BITS: Final = 56
_DIGITS: Final = _BITS // 4


class Sampling:
    """``share`` of new traces, 0 to 1; ``errors``: what failed, too; ``slow``: what took so many seconds, too
    (infinite: none). ``clock`` is that of the exchanges."""

    __slots__ = ("_always", "_clock", "_least", "errors", "least", "share", "slow", "withheld")

    def __init__(self, share: float, errors: bool, slow: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._always = TokenBucket(ALWAYS_RATE, ALWAYS_BURST, clock())
        #: What was to be recorded though it was not sampled, and came too fast for that.
        self.withheld = 0
        self.configure(share, errors, slow)

    def configure(self, share: float, errors: bool, slow: float) -> None:
        """Go by other settings from now on."""
        self.share = share
        self.errors = errors
        self.slow = slow
        rejected = round((1.0 - share) * 2**_BITS)
        #: The least digits that are sampled: as text, which compares as the number does and costs nothing to make.
        self._least = f"{rejected:0{_DIGITS}x}" if rejected < 2**_BITS else "g"
        self.least = self._least.encode()

    def sampled(self, trace_id: str) -> bool:
        """Whether a new trace is recorded; ``trace_id`` has 32 lower-case hexadecimal digits."""
        return self.share > 0.0 and trace_id[-_DIGITS:] >= self._least

    def always(self, failed: bool, seconds: float) -> bool:
        """Whether something unsampled is recorded all the same: it failed, or took so long."""
        if not (failed and self.errors) and seconds < self.slow:
            return False
        if self._always.take(self._clock()) > 0.0:
            self.withheld += 1
            return False
        return True


def slowness(always: tuple[str, ...], slow: float) -> float:
    """The seconds from which something is slow, if slow things are always recorded; else infinite."""
    return slow if "slow" in always else math.inf
