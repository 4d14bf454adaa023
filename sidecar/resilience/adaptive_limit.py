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
each result counts by how much results differ anyway (a Kalman filter for one number).

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
#: The least that both levels differ from the estimate, as a logarithm: a fifth. Where results differ much by chance it
#: is so many times as much as they do, up to a third.
_NARROW: Final = 0.2
_CHANCES: Final = 1.3
_NARROW_MOST: Final = 0.28
_WIDE: Final = math.log(2)
#: The share of what can be done that looking for more may cost, about.
_LOSS: Final = 0.05
#: Seconds without a turn when the ceiling is reached, and the most otherwise.
_SETTLED: Final = 5.0
#: Answers that one look takes; of the higher level twice as many, as that is the one that costs nothing.
_ANSWERS: Final = 40
#: The limit is a little more than what was found: too little costs throughput, too much some waiting.
_MARGIN: Final = 1.06
#: Of the logarithm of the estimate: its variance at first, when it moves, what is added with each turn, and the least
#: of a result.
_UNKNOWN: Final = 0.5
_MOVING: Final = 0.15
_DRIFT: Final = 0.003
_LEAST_NOISE: Final = 0.003
#: How much the last two results count in what is known of their difference. So much of that is clearly no chance, and
#: so much surely.
_NEW: Final = 0.2
_CLEAR: Final = 0.8
_SURE: Final = 3.0
#: With so many times the answers, and so many for each slot, a look is over in any case: requests take less time now.
_PLENTY: Final = 4
_PLENTY_EACH: Final = 12
#: The longest that one look takes, in seconds and in those of a request; then a few answers have to be enough.
_LONGEST: Final = 2.0
_LONGEST_REQUESTS: Final = 10.0
_FEW: Final = 4

#: The higher level is reached from this share of it on. What was found was exceeded for sure, if it is no more than
#: that share of what was in flight.
_FULL: Final = 0.9
_WAITED: Final = 0.5
#: No request takes less: a clock may stand still.
_INSTANT: Final = 1e-6

_REST: Final = 0
_EMPTYING: Final = 1
_LOW: Final = 2
_LEAVING: Final = 3
_FILLING: Final = 4
_HIGH: Final = 5


class AdaptiveLimit:
    """The limit of one port, between ``floor`` and ``ceiling``. :attr:`level` may be in flight now; :attr:`estimate` is
    what it is made of. Tell it of every change by :meth:`changed`, of every request that ends by :meth:`ended` and of
    every one that had to wait or was refused by :meth:`pressed`; ``now`` is in seconds."""

    __slots__ = (
        "_active", "_again", "_area", "_at", "_began", "_direction", "_ended", "_high", "_last", "_lost", "_low",
        "_low_ended", "_low_from", "_low_seconds", "_low_to", "_narrow", "_phase", "_pressed", "_run", "_seconds",
        "_spread", "_stride", "_took", "_turn_from", "_until", "_variance", "ceiling", "estimate", "floor", "latency",
        "level",
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
        self._stride = _WIDE
        #: No turn before that time.
        self._again = now
        self._turn_from = now
        self._direction = 0
        self._run = 0
        self._variance = _UNKNOWN
        #: The last result, as a step, and how much two of them differ.
        self._last = 0.0
        self._spread = 0.2
        self._narrow = _NARROW
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
        if outcome == NEITHER or (outcome == LOST and now - since < self.latency):
            return  # who leaves sooner than a request takes when none waits would press it down for all others
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
                self._phase = _LEAVING
            elif not self._pressed and now - self._began > max(_LONGEST, _LONGEST_REQUESTS * self._seconds):
                self._rest(now)
        elif phase == _HIGH:
            if now >= self._until or self._plenty(now):
                # Much later it was idle: the seconds of one that takes long would look like those of a full server.
                if now < self._until + self._took:
                    self._judge(min(now, self._until) - self._began, now)
                self._turn(now)
        elif phase == _EMPTYING:
            if self._active <= self._low:
                self._phase = _LOW
                self._low_from = now
                self._begin(now)
        elif phase == _LEAVING:
            if now >= self._low_to + self._seconds or self._ended >= 2 * self._low:
                self.level = (
                    self._high
                )  # by now most of what is measured has ended, at the level that it is measured at
                self._phase = _FILLING
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
        if self._low_ended < _FEW:
            return False
        if self._plenty(now) or (self._ended >= _ANSWERS and took >= 2.0 * self._seconds):
            return True
        return took >= max(_LONGEST, _LONGEST_REQUESTS * self._seconds)

    def _plenty(self, now: float) -> bool:
        return self._ended >= max(_PLENTY * _ANSWERS, _PLENTY_EACH * self.level) and now > self._began

    def _looked_low(self, now: float) -> None:
        took = now - self._began
        self._seconds = max(self._low_seconds / self._low_ended, _INSTANT)
        # The other look takes a time that is known before: what is counted must not decide when to stop. Servers whose
        # requests all take the same time end them in bunches, of which there are as many in each such time.
        answers = 2 * _ANSWERS if self._stride <= self._narrow else _ANSWERS
        requests = max(2.0, min(answers * took / (self._ended * self._seconds), _LONGEST_REQUESTS))
        self._took = math.ceil(requests) * self._seconds
        self._low_to = now
        self._begin(now)

    def _judge(self, took: float, now: float) -> None:
        """Both levels were looked at, the higher one for that many seconds: move the estimate."""
        mean = self._area / took
        seconds = max(self._low_seconds / self._low_ended, _INSTANT)
        found = seconds * self._ended / took
        if self._ended:
            self._seconds = max(self._area / self._ended, _INSTANT)
        if self._lost > self._ended / 2:
            self._move(-1, -self._stride, 1.0, now)  # it is late with most of them: it may be with less
        elif found and (mean >= _FULL * self._high or self._exceeded(found, mean)):  # else there was too little to do
            step = math.log(_MARGIN * found / self.estimate)
            up = math.log(_MARGIN * self._high / self.estimate)
            down = math.log(self.estimate / (_MARGIN * self._low))
            # The same both ways, or chance alone would lead one way.
            most = max(up, down)
            step = min(max(step, -most), most)
            # How much two results differ says how much of one is chance.
            sure = abs(step) > _SURE * self._spread
            self._spread += _NEW * (abs(step - self._last) - self._spread)
            self._last = step
            self._narrow = min(max(_CHANCES * self._spread, _NARROW), _NARROW_MOST)
            clear = max(0.7 * (min(up, down) if down > 0.0 else up), _CLEAR * self._spread)
            if sure and abs(step) > clear:
                self._variance = max(self._variance, _MOVING)
                if not self._direction:  # no need to see it twice
                    self._run = 1
                    self._direction = 1 if step > 0.0 else -1
            noise = max(0.8 * self._spread**2, _LEAST_NOISE)
            variance = self._variance + _DRIFT
            weight = variance / (variance + noise)
            self._variance = (1.0 - weight) * variance
            self._move(1 if step > clear else -1 if step < -clear else 0, step, weight, now)
            self.latency = seconds

    def _exceeded(self, found: float, mean: float) -> bool:
        """Whether so many waited in the server that it does not matter that the higher level was not reached. With
        little to do that must not be so by chance, as there would be no way up again."""
        return found <= _WAITED * mean and mean >= 0.6 * self._high and self._ended >= _ANSWERS

    def _turn(self, now: float) -> None:
        """Take the next turn, if there is a reason for one. When nothing is clearly different, there is a pause as long
        as the turn was, at the limit itself."""
        if not self._direction and self._stride <= self._narrow:
            turn = now - self._turn_from
            lost = (self._low_to - self._low_from) * max(0.0, 1.0 - self._low / self.estimate)
            pause = max(turn if self._narrow <= _NARROW else 0.0, lost / _LOSS - turn)
            self._again = max(self._again, now + min(pause, _SETTLED))
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
            self._stride = max(0.5 * stride, self._narrow)
        self.estimate = min(max(self.estimate * math.exp(weight * step), float(self.floor)), float(self.ceiling))
        if direction > 0 and self.estimate >= self.ceiling:  # there is nothing to find out for a while
            self._run = 0
            self._stride = _NARROW
            self._again = now + _SETTLED
