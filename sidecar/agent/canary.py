"""A canary of a running sidecar: its state is followed in the registry, judged here, and put into the split.

Each sidecar judges what it sees itself and what others tell of (:mod:`sidecar.agent.canary_pool`). One that has proof
changes the state in the registry, and all follow. A guard that is broken is acted upon here at once, be the registry
away or not; everything else waits for the registry, so that no sidecar goes ahead of the others.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from sidecar.agent.canary_pool import Pool
from sidecar.agent.canary_time import Timing
from sidecar.agent.canary_weights import guard_of, key_of, split_of, weights
from sidecar.config.canary import CanarySettings
from sidecar.config.traffic import Upstream
from sidecar.core.events import EVENTS
from sidecar.endpoints.cluster import Cluster
from sidecar.endpoints.endpoint import Endpoint
from sidecar.exchange.listener import Listener
from sidecar.registry import Found, LocalValue, Registry, SharedValue
from sidecar.resilience import rollout
from sidecar.resilience.canary_counts import Known
from sidecar.resilience.canary_evidence import Step
from sidecar.resilience.canary_judge import Judge, Verdict
from sidecar.resilience.rollout import NotNow, State

logger = logging.getLogger("sidecar.canary")

#: Seconds between two looks.
LOOK: Final = 1.0
#: Seconds after which a canary that is done begins anew, when its instances are gone: the next one comes there. Where
#: none was seen yet, that is so when one comes after it.
GONE: Final = 60.0


class Conflict(Exception):
    """The state was changed by somebody else meanwhile; the text says what it is now."""


class Away(Exception):
    """The registry cannot be asked, or has not said what came of it; the text says why."""


class Canary:
    """The canary of one upstream, for as long as that has one. ``by`` is what this sidecar is called."""

    def __init__(self, listener: Listener, config: Upstream, by: str, timing: Timing | None = None) -> None:
        assert config.canary is not None
        self._listener = listener
        self._by = by
        self.timing = timing or Timing()
        self.config = config
        self.settings: CanarySettings = config.canary
        self.key = key_of(config)
        self.state: State | None = None
        #: What it is as far as this sidecar goes, while the registry cannot be told.
        self.broken: State | None = None
        self._version: object = None
        self._known = Known()
        self.judge: Judge | None = None
        self.pool = Pool(None, self.key, self.timing, self._heard)
        self.verdict = Verdict("", False, "the registry has not answered yet")
        self._ready_told = False
        #: Its instances were seen here in this attempt; since when they are gone.
        self._seen = False
        self._gone: float | None = None
        #: Instances that come now are of the next version, and get nothing until it begins.
        self._next = False
        self._value: SharedValue | None = None
        self._timer: Any = None
        self._writing = False
        #: The registry has nothing, or something older than what is known here.
        self._owed = False
        self.unreadable = ""
        self._others: frozenset[str] = frozenset()
        self._watched: Cluster | None = None
        self.steer()

    @property
    def now(self) -> State | None:
        """What is acted upon."""
        return self.broken or self.state

    @property
    def weight(self) -> int:
        """The percentage that its subset gets."""
        now = self.now
        return now.weight if now is not None else 0

    @property
    def sidecars(self) -> int:
        """By the evidence of how many sidecars it is judged; 0: it is not judged."""
        return self.judge.sidecars if self.judge is not None else 0

    def follow(self, registry: Registry | None) -> None:
        """Begin: the state is there, or is made."""
        self.close()
        self._watched = self._listener.cluster
        self._watched.watch(self.told)
        if registry is None:
            self._value = LocalValue(self.found, lambda do: self.timing.later(0.0, do))
        else:
            self._value = registry.share(self.key, self.found)
            self.pool = Pool(registry, self.key, self.timing, self._heard)
        self._timer = self.timing.later(LOOK, self.look)

    def close(self) -> None:
        """Follow nothing any more. The weights stay."""
        if (subsets := self._listener.cluster.subsets) is not None:
            subsets.canary = None
        if self._watched is not None:
            self._watched.unwatch(self.told)
            self._watched = None
        self.pool.close()
        if self._value is not None:
            self._value.close()
            self._value = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def change(self, config: Upstream) -> None:
        """Go on with other settings, of the same subsets."""
        assert config.canary is not None
        self.config, self.settings = config, config.canary
        guard, judge, now = guard_of(self.settings), self.judge, self.now
        if judge is not None and now is not None:
            if (judge.guard.error_rate, judge.guard.p99) != (guard.error_rate, guard.p99):
                self._begin(now)  # what is proof by one guard is none by another
            else:
                judge.guard = guard
        self.steer()

    def steer(self) -> None:
        """Give the split the weights that are due. The others get all while the subset has all, and is empty, or waits
        for the next version: they are still there."""
        split, subsets = split_of(self._listener), self._listener.cluster.subsets
        if subsets is not None:
            moving = self.now is not None and self.now.moving
            subsets.canary = (self.settings.subset, self.weight) if moving else None
        if split is None:
            return
        base = dict(self.config.policies.get("split") or ())
        self._others = frozenset([it for it, weight in base.items() if weight and it != self.settings.subset])
        percent = self.weight
        usable = subsets.usable if subsets is not None else ()
        none = self._next or (percent == 100 and subsets is not None and self.settings.subset not in usable)
        if none and not self._others.isdisjoint(usable):
            percent = 0
        wanted = weights(base, self.settings.subset, percent)
        if wanted != split.split.weights:
            split.split.set(wanted)

    # -- what comes in -------------------------------------------------------------------------------------------------

    def told(self, endpoint: Endpoint, seconds: float, status: int, failure: str) -> None:
        """A try has ended: see :data:`sidecar.endpoints.cluster.Watcher`. Only the first one of a request counts: what
        fails wherever it goes would else count against whoever gets it next."""
        judge, subsets = self.judge, self._listener.cluster.subsets
        if judge is None or failure == "race" or subsets is None or subsets.again:
            return
        subset = endpoint.subset
        if subset == self.settings.subset:
            side = judge.new
        elif subset in self._others:
            side = judge.old
        else:
            return
        if failure == "hedged":
            judge.outrun(side, seconds)
            return
        answered = not failure or status > 0
        side.told(seconds, status >= 500 or not answered, answered)

    def found(self, found: Found) -> None:
        """The registry says what the state is."""
        self._version = found.version
        state = None
        if found.data is not None:
            try:
                state = rollout.decode(found.data)
            except rollout.Unreadable as error:
                self._spoiled(str(error))
                return
        replaced, self.unreadable = bool(self.unreadable), ""
        known = self.state.revision if self.state is not None and not replaced else 0
        self._owed = state is None or state.revision < known
        if self._owed:
            self._pay()
        elif state is not None:
            self._use(state)

    def _pay(self) -> None:
        """Nobody has begun yet; or the registry has lost what it had, and all put it there again."""
        self._write(self.now or rollout.begin(self.settings.steps, self._by, self.timing.wall()))

    def _spoiled(self, text: str) -> None:
        self._owed = False
        if text != self.unreadable:
            self.unreadable = text
            EVENTS.tell(
                logger, logging.WARNING, "canary",
                f"{self.config.name}: the state of the canary cannot be read ({text}); what was known stays, until an "
                "operator says what to do",
                self.config.name, key=self.key,
            )  # fmt: skip

    # -- what comes of it ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Judge, and act."""
        self._timer = self.timing.later(LOOK, self.look)
        if self._there() and not self._next:
            self._seen, self._gone = True, None
        self.steer()
        if self._owed:
            self._pay()
        if (now := self.now) is not None:
            self._act_on(now, self.judge)
            self._share()

    def _act_on(self, now: State, judge: Judge | None) -> None:
        if self.broken is not None:
            self._write(self.broken)
        elif judge is not None and now.moving:
            self._go_by(judge.look(self.timing.clock()), now, judge)
        elif now.phase == rollout.DONE and not self.unreadable:
            self._await_next(now)

    def _heard(self, judge: Judge, verdict: Verdict) -> None:
        """Others have told something, and this is what comes of it."""
        now = self.now
        if judge is self.judge and now is not None and now.moving and self._value is not None:
            self._go_by(verdict, now, judge)

    def _go_by(self, verdict: Verdict, now: State, judge: Judge) -> None:
        self.verdict = verdict
        if verdict.broken:
            self._roll_back(now, verdict.broken)
        elif verdict.good and now.phase == rollout.RUNNING and not self.unreadable:
            self._is_good(now, judge)

    def _share(self) -> None:
        now, guard = self.now, self.settings.guard
        if now is None or self.judge is None or not now.moving:
            self.pool.turn(None, None)
        else:
            step = Step(now.attempt, now.weight, now.since, guard.error_rate, guard.p99)
            self.pool.turn(step, self.judge)

    def _roll_back(self, now: State, reason: str) -> None:
        self.broken = rollout.rolled_back(now, reason, self._by, self.timing.wall())
        self._apply(now, self.broken)
        self._write(self.broken)

    def _is_good(self, now: State, judge: Judge) -> None:
        if judge.judged(self.timing.clock()) < self.settings.each:
            return
        if self.settings.promote == "auto":
            reason = "it does as well as the others" if not judge.alone else "it does as well as the others did"
            if judge.sidecars > 1:
                reason += f"; {judge.sidecars} sidecars have counted"
            self._write(rollout.promoted(now, self.settings.steps, reason, self._by, self.timing.wall()))
        elif not self._ready_told:
            self._ready_told = True
            EVENTS.tell(
                logger, logging.INFO, "canary",
                f"{self.config.name}: the canary does as well as the others with {now.weight} %, and can be promoted",
                self.config.name, subset=self.settings.subset, weight=now.weight,
            )  # fmt: skip

    def _there(self) -> bool:
        subsets = self._listener.cluster.subsets
        return subsets is not None and self.settings.subset in subsets.present

    def _await_next(self, now: State) -> None:
        there, at, subsets = self._there(), self.timing.clock(), self._listener.cluster.subsets
        if not self._seen and (subsets is None or self._others.isdisjoint(subsets.present)):
            self._next, self._gone = False, None  # it is not known yet which there are; or they are needed
        elif there and not self._next:
            return
        elif self._gone is None:
            self._gone = at
        elif at - self._gone >= GONE:
            if self._seen or there:
                self._write(rollout.begin(self.settings.steps, self._by, self.timing.wall(), now))
            elif not self._next:  # others may know of some that are not seen here
                self._next = True
                self.steer()

    def _use(self, state: State) -> None:
        """This is the state in the registry."""
        before, acted = self.state, self.now
        self.state = state
        if self.broken is not None:
            if state.phase != rollout.ROLLED_BACK and state.attempt <= self.broken.attempt:
                broken = self.broken  # whoever has moved it, or found it done, did not know of this
                self.broken = rollout.rolled_back(state, broken.reason, self._by, broken.at)
            else:
                self.broken = None
        if before != state or acted != self.now:
            self._apply(acted, self.now or state)

    def _apply(self, before: State | None, state: State) -> None:
        """Go by this from now on."""
        self._next = False
        same = before is not None and (before.attempt, before.weight) == (state.attempt, state.weight)
        if before is not None and before.attempt != state.attempt:
            self._seen, self._gone = self._there(), None
        if not state.moving:
            self.judge = None
            self.verdict = Verdict("", False, "")
        elif self.judge is None or not same:
            self._begin(state)
        self.steer()
        if before is None or (same, before.revision, before.phase) != (True, state.revision, state.phase):
            self._tell(before, state)

    def _begin(self, state: State) -> None:
        """Judge its step from now on."""
        steps, alone = self.settings.steps, state.weight == 100
        self.judge = Judge(guard_of(self.settings), state.step(steps), len(steps), self._known, alone=alone)
        self.verdict = Verdict("", False, "the first requests")
        self._ready_told = False

    def _tell(self, before: State | None, state: State) -> None:
        joined = "; joined" if before is None and state.by != self._by else ""
        EVENTS.tell(
            logger, logging.WARNING if state.phase == rollout.ROLLED_BACK else logging.INFO, "canary",
            f"{self.config.name}: the canary {self.settings.subset} {rollout.sentence(state)}: {state.reason} "
            f"({state.by}){joined}",
            self.config.name, subset=self.settings.subset, phase=state.phase, weight=state.weight,
            attempt=state.attempt, revision=state.revision, by=state.by,
        )  # fmt: skip

    # -- the registry --------------------------------------------------------------------------------------------------

    async def act(self, action: str, by: str) -> State:
        """Do one of :data:`sidecar.resilience.rollout.ACTIONS` for an operator. Raises
        :class:`~sidecar.resilience.rollout.NotNow`, :class:`Conflict` or :class:`Away`."""
        seen, version, wall = self.now, self._version, self.timing.wall()
        steps = self.settings.steps
        if self.unreadable and action in ("resume", "rollback"):
            following = begun = rollout.above(rollout.begin(steps, by, wall, seen), wall)
            if action == "rollback":
                seen, following = begun, rollout.asked(action, begun, steps, by, wall)
        elif seen is None:
            raise Away("what state the canary is in is not known yet: the registry has not answered")
        elif self.unreadable:
            raise NotNow(f"its state cannot be read, {self.unreadable}; resume or rollback replace it")
        else:
            following = rollout.asked(action, seen, steps, by, wall)
        if action == "rollback":
            self.broken = following  # here at once
            self._apply(seen, following)
        try:
            done = await self._put(following, version)
        except Away:
            if action != "rollback":
                raise
            return following  # the others follow when the registry is back
        now = self.now
        if not done and not (action == "rollback" and now is not None and now.phase == rollout.ROLLED_BACK):
            it_is = f": it is {rollout.summary(now)}" if now else ""
            raise Conflict(f"it was changed by somebody else meanwhile{it_is}")
        return following

    def _write(self, state: State) -> None:
        """Bring it to the registry, in the background: what comes of that, the registry tells, or it is tried again
        with the next look."""
        if not self._writing and self._value is not None:
            self._writing = True
            self.timing.spawn(self._try(state, self._version))

    async def _try(self, state: State, version: object) -> None:
        try:
            await self._put(state, version)
        except Away as error:
            logger.debug("%s: the registry cannot be told of the canary: %s", self.config.name, error)
        except Exception:
            logger.exception("%s: the canary's state cannot be written", self.config.name)
        finally:
            self._writing = False

    async def _put(self, state: State, version: object) -> bool:
        value = self._value
        if value is None:
            raise Away("the sidecar stops")
        try:
            found = await value.put(rollout.encode(state), version)
        except (OSError, TimeoutError) as error:
            why = str(error) or "it took too long"
            raise Away(f"the registry cannot be asked, or has not said what came of it: {why}") from error
        if found is not None and self._value is value:
            self.found(found)
        return found is not None
