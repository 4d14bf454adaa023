"""A concurrency limit that is found by trying: how much more gets done with a few more in flight?

A server with room for k requests ends n/s of them per second while n ≤ k are in flight (s: the seconds of one), and
k/s however many more there are: those wait inside of it. So the limit is let down a little below the estimate, then up
a little above it, in turns. At the lower level a request takes s, at the higher one the server ends as many as it can,
and by Little's law

    k = (ended per second at the higher level) · (seconds of those let in at the lower one)

Above k the seconds at the lower level hold the waiting, and the result is that level; below k the higher level ends
fewer than the server could, and the result is that one. Either way, the next turn is nearer.

It needs no memory of how quick the server once was, which is what other limits drift by (Envoy's minimum that creeps
up under load, Gradient2's long window): a server that takes longer for reasons of its own does so at both levels, and
the product stays. Nothing is refused for the sake of measuring: the lower level makes requests wait, a fifth at most
and for a part of the time. The steps grow while they lead the same way, so a limit that is far off is left quickly;
each estimate counts as much as it is worth by the number of its answers (a Kalman filter for one number).

Only a limit that is reached says anything. While nothing has to wait, nothing is tried and the estimate stays.
"""

from __future__ import annotations

import math
from typing import Final

#: How a request ended, as a limit sees it: it was answered; nobody waited for its answer any more (it was too late, or
#: the client had left); or it says nothing about how much the server can do (it was not delivered, or refused).
GOOD: Final = 0
LOST: Final = 1
NEITHER: Final = 2

#: Where the search begins: more than most apps can do at once, and little enough for none to suffer from.
START: Final = 20
#: The least that both levels differ from the estimate, as a logarithm: a fifth.
_NARROW: Final = 0.2
_WIDE: Final = math.log(2)
#: Seconds without a turn when the ceiling is reached, and the most otherwise.
_SETTLED: Final = 5.0
#: Answers that one look takes; of the higher level twice as many, as that is the one that costs nothing.
_ANSWERS: Final = 40
#: The limit is a little more than what was found: too little costs throughput, too much some waiting.
_MARGIN: Final = 1.06
#: Of the logarithm of the estimate: its variance at first, when it moves, and what is added with each turn. Answers
#: come a bit less evenly than at random.
_UNKNOWN: Final = 0.5
_MOVING: Final = 0.15
_DRIFT: Final = 0.003
_UNEVEN: Final = 1.3
#: With so many times the answers, and so many for each slot, a look is over in any case: requests take less time now.
_PLENTY: Final = 4
_PLENTY_EACH: Final = 12
#: The longest that one look takes, in seconds and in those of a request; then a few answers have to be enough.
_LONGEST: Final = 2.0
_LONGEST_REQUESTS: Final = 10.0
_FEW: Final = 4

_REST: Final = 0
_EMPTYING: Final = 1
_LOW: Final = 2
_FILLING: Final = 3
_HIGH: Final = 4


class AdaptiveLimit:
    """The limit of one port, between ``floor`` and ``ceiling``. :attr:`level` may be in flight now; :attr:`estimate` is
    what it is made of. Tell it of every change by :meth:`changed`, of every request that ends by :meth:`ended` and of
    every one that had to wait or was refused by :meth:`pressed`; ``now`` is in seconds."""

    __slots__ = (
        "_active", "_again", "_area", "_at", "_began", "_direction", "_ended", "_high", "_lost", "_low", "_low_ended",
        "_low_from", "_low_seconds", "_low_to", "_phase", "_pressed", "_run", "_seconds", "_stride", "_took",
        "_turn_from", "_until", "_variance", "ceiling", "estimate", "floor", "latency", "level",
    )  # fmt: skip

    def __init__(self, floor: int, ceiling: int, now: float, start: int = START) -> None:
        self.floor = floor
        self.ceiling = ceiling
        self.estimate = float(min(max(start, floor), ceiling))
        #: How many may be in flight now.
        self.level = round(self.estimate)
        #: Seconds that a request takes when none waits in front of it, as far as that is known; 0: it is not.
        self.latency = 0.0
        self._active = 0
        self._at = now
        self._phase = _REST
        self._pressed = False
        self._low = self._high = self.level
        #: Of what was let in at the lower level: from when, to when, how many have ended, and their seconds in all.
        self._low_from = self._low_to = math.inf
        self._low_ended = 0
        self._low_seconds = 0.0
        #: Of the look at the higher level: the seconds that it takes, and when it is over.
        self._took = 0.0
        self._until = math.inf
        #: Seconds of a request at the last look.
        self._seconds = 0.0
        self._stride = _WIDE / 2
        #: No turn before that time.
        self._again = now
        self._turn_from = now
        self._direction = 0
        self._run = 0
        self._variance = _UNKNOWN
        self._begin(now)

    def resize(self, floor: int, ceiling: int) -> None:
        """Other bounds; what was learnt stays."""
        self.floor = floor
        self.ceiling = ceiling
        self.estimate = min(max(self.estimate, float(floor)), float(ceiling))
        self._phase = _REST
        self.level = round(self.estimate)

    def changed(self, active: int, now: float) -> None:
        """So many are in flight from now on."""
        self._area += self._active * (now - self._at)
        self._at = now
        self._active = active

    def pressed(self, now: float) -> None:
        """Something had to wait, or was refused: the limit is reached."""
        self._pressed = True
        if self._phase == _REST:
            if now < self._again:
                return
            if now - self._began > 10.0:
                self._variance = max(self._variance, _MOVING)  # it may have changed meanwhile
            self._let_down(now)
        else:
            self._look(now)

    def ended(self, outcome: int, since: float, now: float) -> None:
        """A request that was let in at ``since`` has ended. Call :meth:`changed` before."""
        self._look(now)  # before it is counted: what ends at the same time as this belongs to one look
        if outcome == NEITHER:
            return
        self._ended += 1
        if outcome == LOST:
            self._lost += 1
        if self._low_from <= since < self._low_to:
            self._low_ended += 1
            self._low_seconds += now - since

    # -- the turns ---------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._began = now
        self._area = 0.0
        self._ended = self._lost = 0

    def _let_down(self, now: float) -> None:
        """Begin a turn, at the lower level."""
        estimate, stride = self.estimate, self._stride
        low = min(round(estimate * math.exp(-stride)), int(estimate * 0.9))
        self._low = max(self.floor, low)
        self._high = min(self.ceiling, max(round(estimate * math.exp(stride)), self._low + 1))
        self.level = self._low
        self._phase = _EMPTYING
        self._pressed = False
        self._turn_from = now
        self._low_from = self._low_to = math.inf
        self._low_ended = 0
        self._low_seconds = 0.0
        self._begin(now)

    def _rest(self, now: float) -> None:
        self._phase = _REST
        self.level = round(self.estimate)
        self._begin(now)

    def _look(self, now: float) -> None:
        """Go on to the next part of the turn, if it is time."""
        phase = self._phase
        if phase == _LOW:
            if self._enough(now):
                self._looked_low(now)
            elif not self._pressed and now - self._began > max(_LONGEST, _LONGEST_REQUESTS * self._seconds):
                self._rest(now)
        elif phase == _HIGH:
            if now >= self._until or self._plenty(now):
                self._judge(min(now, self._until) - self._began, now)
                self._turn(now)
        elif phase == _EMPTYING:
            if self._active <= self._low:
                self._phase = _LOW
                self._low_from = now
                self._begin(now)
        elif phase == _FILLING and (now >= self._began + self._seconds or self._ended >= 2 * self._high):
            self._phase = _HIGH  # what ended until now was begun at the lower level
            self._until = now + self._took
            self._begin(now)

    def _enough(self, now: float) -> bool:
        """Whether the look at the lower level has seen what it needs."""
        took = now - self._began
        if took <= 0.0:
            return False
        if self._plenty(now) or (self._ended >= _ANSWERS and took >= 2.0 * self._seconds):
            return True
        return self._ended >= _FEW and took >= max(_LONGEST, _LONGEST_REQUESTS * self._seconds)

    def _plenty(self, now: float) -> bool:
        return self._ended >= max(_PLENTY * _ANSWERS, _PLENTY_EACH * self.level) and now > self._began

    def _looked_low(self, now: float) -> None:
        took = now - self._began
        if self._low_ended:
            self._seconds = self._low_seconds / self._low_ended
        # The other look takes a time that is known before: what is counted must not decide when to stop. Servers whose
        # requests all take the same time end them in bunches, of which there are as many in each such time.
        answers = 2 * _ANSWERS if self._stride <= _NARROW else _ANSWERS
        requests = max(_FEW, min(answers * took / (self._ended * self._seconds), _LONGEST_REQUESTS))
        self._took = math.ceil(requests) * self._seconds
        self._low_to = now
        self.level = self._high
        self._phase = _FILLING
        self._begin(now)

    def _judge(self, took: float, now: float) -> None:
        """Both levels were looked at, the higher one for that many seconds: move the estimate."""
        mean = self._area / took
        if self._ended:
            self._seconds = self._area / self._ended
        if self._lost > self._ended / 2:
            self._move(-1, -self._stride, 1.0, now)  # it is late with most of them: it may be with less
        elif mean >= 0.9 * self._high and self._low_ended:  # else there was too little to do to tell
            seconds = self._low_seconds / self._low_ended
            step = math.log(_MARGIN * seconds * self._ended / took / self.estimate)
            noise = _UNEVEN * (1.0 / self._low_ended + 1.0 / self._ended)
            variance = self._variance + _DRIFT
            weight = variance / (variance + noise)
            self._variance = (1.0 - weight) * variance
            up = math.log(_MARGIN * self._high / self.estimate)
            down = math.log(self.estimate / (_MARGIN * self._low))
            # The same both ways, or chance alone would lead one way.
            most = max(up, down)
            clear = 0.7 * (min(up, down) if down > 0.0 else up)
            step = min(max(step, -most), most)
            self._move(1 if step > clear else -1 if step < -clear else 0, step, weight, now)
            self.latency = seconds

    def _turn(self, now: float) -> None:
        """Take the next turn, if there is a reason for one. When nothing is clearly different, there is a pause as long
        as the turn was, at the limit itself."""
        if not self._direction and self._stride <= _NARROW:
            self._again = max(self._again, now + min(now - self._turn_from, _SETTLED))
        if self._pressed and now >= self._again:
            self._let_down(now)
        else:
            self._rest(now)

    def _move(self, direction: int, step: float, weight: float, now: float) -> None:
        """Change the estimate by that much, as a logarithm. ``direction``: the limit is clearly above it (1) or below
        (-1); steps that lead the same way are longer each time."""
        stride = self._stride
        self._run = (self._run + 1 if direction == self._direction else 1) if direction else 0
        self._direction = direction
        if self._run >= 2:
            self._stride = min(2.0 * stride, _WIDE)
            self._variance = max(self._variance, _MOVING)
            weight = max(weight, 0.8)
        else:
            self._stride = max(0.5 * stride, _NARROW)
        self.estimate = min(max(self.estimate * math.exp(weight * step), float(self.floor)), float(self.ceiling))
        if direction > 0 and self.estimate >= self.ceiling:  # there is nothing to find out for a while
            self._run = 0
            self._stride = _NARROW
            self._again = now + _SETTLED
