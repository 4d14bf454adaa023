"""A cluster: the endpoints of one upstream, and which of them are in the rotation.

The registry says which endpoints exist (:meth:`Cluster.update`). What their tries come to says which of them are
ejected for a while: at once when an endpoint cannot be reached, after several failures in a row otherwise, and as
:mod:`~sidecar.endpoints.outliers` finds them where that is configured. Active checks take some out, too
(:meth:`Cluster.checked`). Those that come back may begin slowly (:mod:`~sidecar.endpoints.slow_start`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sidecar.core.instance import Instance
from sidecar.core.text import counted
from sidecar.endpoints import events
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.endpoint import Checked, Endpoint, LastError, beside, state_of, usable
from sidecar.endpoints.outliers import Outliers
from sidecar.endpoints.slow_start import STEPS, SlowStart, among
from sidecar.net.causes import cause_of, words_for
from sidecar.net.dial import dial, pace
from sidecar.net.shortage import is_local
from sidecar.resilience.ejection import JITTER, STANDARD, TRIAL, EjectionRules

if TYPE_CHECKING:
    from sidecar.endpoints.subsets import Subsets

#: Seconds after the first endpoints within which others are no newer: registries and names answer one after the other.
START: Final = 10.0

#: Is told of a try: where it went, the seconds to the head of its answer (TCP: to the connection) or to its failure,
#: the answer's status (0: none, or not HTTP), and the word for its failure ("": none), as
#: :mod:`sidecar.exchange.attempt` has them. ``race`` is none, nor is ``hedged``: its answer would have taken longer.
Watcher = Callable[[Endpoint, float, int, str], None]


class Cluster:
    """The endpoints of the upstream ``name``. ``on_change()`` is called whenever :attr:`endpoints` or
    :attr:`eligible` have changed; ``on_removed(endpoint)`` for each one that left the set.

    Read :attr:`endpoints` (all of them) and :attr:`eligible` (those in the rotation; when there are none, all: then the
    breaker decides, not this; with ``refuse``, none). Both are replaced, never edited.
    """

    __slots__ = (
        "_by_address", "_clock", "_next_change", "_offered", "_on_change", "_rng", "_rules", "_slow",
        "_slow_start", "_started", "_told", "_wall", "balancer", "cause", "connect_failures", "ejections", "eligible",
        "endpoints", "key_of", "label", "name", "on_removed", "outliers", "problem", "refuse", "source", "subsets",
        "unproven", "watchers",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        balancer: Balancer,
        clock: Callable[[], float],
        rng: Random,
        on_change: Callable[[], None] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.label = ""  #: Of a subset: its name.
        self.balancer = balancer
        self._clock = clock
        self._rng = rng
        self._on_change = on_change
        self._wall = wall
        self.on_removed: Callable[[Endpoint], None] | None = None
        #: Told of each try, as soon as it is known what came of it. Empty unless a policy needs it.
        self.watchers: tuple[Watcher, ...] = ()
        self._told: Watcher | None = None
        #: What an exchange has that the balancer goes by; None: the client's address.
        self.key_of: Callable[[Any], str] | None = None
        #: Why there are no endpoints, where that is known: for people, and a word of :mod:`sidecar.net.causes`.
        self.problem = ""
        self.cause = ""
        #: Says where endpoints come from and how old that knowledge is, as plain JSON.
        self.source: Callable[[], dict[str, Any]] = dict
        #: By such words: connections that could not be made, and exchanges that found no endpoint because of a name.
        self.connect_failures: dict[str, int] = {}
        #: Why endpoints were ejected → how often: ``unreachable``, ``consecutive`` failures, ``error_rate``,
        #: ``latency``.
        self.ejections: dict[str, int] = {}
        #: When no endpoint is eligible, none is used.
        self.refuse = False
        #: What has not been checked is not used.
        self.unproven = False
        self.endpoints: tuple[Endpoint, ...] = ()
        self.eligible: tuple[Endpoint, ...] = ()
        #: What the balancer is normally handed: the eligible ones, mostly without those that start slowly.
        self._offered: tuple[Endpoint, ...] = ()
        self._by_address: dict[tuple[str, int], Endpoint] = {}
        #: When the next ejected endpoint comes back, or one that starts slowly gets more; inf: never.
        self._next_change = inf
        self._rules: EjectionRules = STANDARD
        self.outliers: Outliers | None = None
        self.subsets: Subsets | None = None
        #: Seconds of a slow start (0: there is none), those that are in one, and when the first endpoints came.
        self._slow_start = 0.0
        self._slow: SlowStart | None = None
        self._started = inf
        self._have_told(balancer)

    def pick(self, key: str = "", tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """Where the next try should go; None when the cluster is empty. ``tried`` are the endpoints that this
        exchange has already been sent to: they are avoided as long as there are others in the rotation."""
        if self._next_change != inf:
            self.refresh()
        endpoints: Sequence[Endpoint] = self._offered
        if tried:
            endpoints = (
                [e for e in endpoints if e not in tried]
                # Just begun, or in a warning state, but better than one that has just failed.
                or [e for e in self.endpoints if usable(e) and e not in tried]
                or endpoints
            )
        elif self._slow is not None:
            return self._pick_slowly(self._slow, key)
        return self.balancer.pick(endpoints, key) if endpoints else None

    def _pick_slowly(self, slow: SlowStart, key: str) -> Endpoint:
        """The same while some endpoints start slowly."""
        balancer = self.balancer
        if not balancer.hashes:
            return slow.due() or balancer.pick(self._offered, key)
        picked = balancer.pick(self._offered, key)
        return picked if slow.takes(picked, key) else balancer.pick(slow.steady, key)

    def candidates(self) -> list[dict[str, Any]]:
        """What there was to choose from, for people and as plain JSON."""
        return events.candidates(self.endpoints, self.balancer, self._clock(), self._wall())

    def configure(self, rules: EjectionRules = STANDARD, slow_start: float = 0.0, refuse: bool = False) -> None:
        """Go by these rules of ejection from now on, with so many seconds of a slow start; ``refuse``: when no endpoint
        is eligible, use none. Those that are ejected stay so for their time."""
        if rules != self._rules:
            self._rules = rules
            if self.outliers is not None:
                self.unwatch(self.outliers.tell)
                self.outliers = None
            for endpoint in self.endpoints:
                endpoint.outcomes = None
                endpoint.trial = 0
            if rules.watches:
                self.outliers = Outliers(self, rules, self._clock)
                self.watch(self.outliers.tell)
        if slow_start and not self._slow_start and self.endpoints:
            self._started = self._clock() - START
        elif not slow_start:
            for endpoint in self.endpoints:
                endpoint.share = 1.0
                endpoint.slow_since = inf
        self._slow_start = slow_start
        self.refuse = refuse
        self._changed()

    def watch(self, watcher: Watcher) -> None:
        """Tell it of each try from now on."""
        self._watched((*self.watchers, watcher))

    def unwatch(self, watcher: Watcher) -> None:
        """Tell it no more."""
        self._watched(tuple([it for it in self.watchers if it != watcher]))

    def _watched(self, watchers: tuple[Watcher, ...]) -> None:
        self.watchers = watchers
        if self.subsets is not None:
            self.subsets.keep_up(False)

    def use(self, balancer: Balancer) -> None:
        """Choose by another balancer from now on; all else that is known stays."""
        self.balancer.update(())  # it follows no endpoint any more
        self.balancer = balancer
        self._have_told(balancer)
        self._changed(True)

    def _have_told(self, balancer: Balancer) -> None:
        """The balancer, and no other one, is told of tries, if it is to be."""
        others = tuple([it for it in self.watchers if it is not self._told])
        self._told = balancer.told if balancer.watches else None
        self.watchers = others if self._told is None else (self._told, *others)

    def beside(self, endpoint: Endpoint) -> tuple[Endpoint, ...]:
        """See :func:`~sidecar.endpoints.endpoint.beside`."""
        return beside(endpoint, self.eligible)

    def succeeded(self, endpoint: Endpoint) -> None:
        """A try at the endpoint went well."""
        self.went_well(endpoint, self.eligible)

    def went_well(self, endpoint: Endpoint, eligible: Sequence[Endpoint]) -> None:
        """The same, of a try that was for one of those."""
        if not endpoint.failures and not endpoint.ejections:
            return
        if endpoint.ejected_until:
            # Begun before the ejection, unless everyone was ejected: then it was tried in spite of it, and is well.
            if endpoint not in eligible or endpoint.ejected_for not in ("unreachable", "consecutive"):
                return
            endpoint.ejected_until = 0.0
            endpoint.failures = endpoint.ejections = 0
            self._comes_back(endpoint, "a try went well")
            self._changed()
        else:
            endpoint.failures = endpoint.ejections = 0

    def failed(self, endpoint: Endpoint, hard: bool, kind: str = "", text: str = "") -> None:
        """A try at the endpoint failed. ``hard``: it could not be reached (no connection, or its peer says that it
        cannot reach its app); otherwise it answered badly, too late or only in part. ``kind`` and ``text`` are what is
        remembered of it (:class:`~sidecar.endpoints.endpoint.LastError`)."""
        if kind:
            self.remember(endpoint, kind, text)
        endpoint.failures += 1
        endpoint.failed += 1
        if endpoint.ejected_until:
            return
        rules = self._rules
        if hard and rules.unreachable:
            self.eject(endpoint, "unreachable", text or "it cannot be reached")
        elif rules.consecutive and endpoint.failures >= rules.consecutive:
            in_a_row = f"{counted(endpoint.failures, 'failure')} in a row"
            self.eject(endpoint, "consecutive", f"{in_a_row}, the last: {text}" if text else in_a_row)

    def eject(self, endpoint: Endpoint, reason: str, words: str) -> bool:
        """Take it out of the rotation for a while, unless too many are out already; whether that was done."""
        if self._by_address.get((endpoint.host, endpoint.port)) is not endpoint or self._spared(endpoint, reason):
            return False
        rules = self._rules
        now = self._clock()
        if rules.quick(reason):
            length = rules.length(reason, endpoint.ejections)
            endpoint.ejections += 1
        else:
            well = int((now - endpoint.returned) / rules.first)
            endpoint.relapses = before = max(0, endpoint.relapses - well)
            length = rules.length(reason, before)
            endpoint.relapses += 1
        length *= self._rng.uniform(1 - JITTER, 1 + JITTER)
        endpoint.ejected_until = now + length
        endpoint.ejected_for = reason
        endpoint.ejection = words
        endpoint.trial = 0
        self.ejections[reason] = self.ejections.get(reason, 0) + 1
        events.ejected(self.name, endpoint, length)
        self._changed()
        return True

    def _spared(self, endpoint: Endpoint, reason: str) -> bool:
        """Whether it has to stay in the rotation because too many are out."""
        last = not any(usable(e) for e in self.endpoints if e is not endpoint)
        out = sum([1 for e in self.endpoints if e.ejected_until])
        return self._rules.spare(reason, out, len(self.endpoints), last, self.refuse)

    def passed(self, endpoint: Endpoint) -> None:
        """It has been tried after an ejection, and is as well as the others."""
        endpoint.trial = 0
        endpoint.returned = self._clock()
        self._changed()

    def checked(self, endpoint: Endpoint, checked: Checked, down: bool) -> None:
        """Active checks have a result; ``down``: they keep it out of the rotation."""
        before = endpoint.state
        endpoint.checked = checked
        if endpoint.down and not down:
            self._begins(endpoint)
        endpoint.down = down
        endpoint.state = state_of(endpoint)
        if endpoint.state != before and self._by_address.get((endpoint.host, endpoint.port)) is endpoint:
            events.checked(self.name, endpoint, before)
            self._changed()

    def unchecked(self) -> None:
        """There are no active checks any more, or quite other ones."""
        for endpoint in self.endpoints:
            endpoint.checked = None
            endpoint.down = self.unproven
            endpoint.state = state_of(endpoint)
        self._changed()

    def _comes_back(self, endpoint: Endpoint, why: str) -> None:
        endpoint.returned = self._clock()
        if endpoint.outcomes is not None:
            endpoint.outcomes.clear()
            if not self._rules.quick(endpoint.ejected_for):
                endpoint.trial = TRIAL
        self._begins(endpoint)
        events.readmitted(self.name, endpoint, why)

    def _begins(self, endpoint: Endpoint) -> None:
        if self._slow_start:
            endpoint.slow_since = self._clock()

    async def dial(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: object,
        endpoint: Endpoint,
        within: float,
        chosen: Callable[[Endpoint], None],
    ) -> None:
        """Connect ``protocol`` to an endpoint, or to another address of its host name when that is quicker: then
        ``chosen`` is told. ``within``: the seconds that there are for it; the caller ends it then. Raises OSError."""
        await dial(loop, protocol, endpoint, self.beside(endpoint), pace(within), self.attempt_failed, chosen)

    def attempt_failed(self, endpoint: Endpoint, error: Exception | None) -> None:
        """A connection to the endpoint could not be made (``None``: it was silent), be it the only one of its try or
        one of several addresses that were tried together. What this host lacked is counted and shown, and is no
        failure of the endpoint."""
        cause = cause_of(error)
        self.count(cause)
        if is_local(error):
            self.remember(endpoint, cause, words_for(error))
        else:
            self.failed(endpoint, True, cause, words_for(error))

    def count(self, cause: str) -> None:
        """One more of :attr:`connect_failures`."""
        self.connect_failures[cause] = self.connect_failures.get(cause, 0) + 1

    def remember(self, endpoint: Endpoint, kind: str, text: str) -> None:
        """Have that as the endpoint's last error."""
        endpoint.last_error = LastError(self._wall(), kind, text)

    def refresh(self) -> None:
        """Let endpoints back in whose ejection is over. :meth:`pick` does this itself; call it before showing the
        endpoints to somebody."""
        now = self._clock()
        if now < self._next_change:
            return
        for endpoint in self.endpoints:
            if endpoint.ejected_until and endpoint.ejected_until <= now:
                endpoint.ejected_until = 0.0
                self._comes_back(endpoint, "its time out is over")
        self._changed()

    def update(self, instances: Iterable[Instance]) -> None:
        """Take over a new set. An endpoint whose host and port are in it stays the same object. Of several instances
        with one address the first counts."""
        before = self._by_address
        after: dict[tuple[str, int], Endpoint] = {}
        for instance in instances:
            address = (instance.host, instance.port)
            if address in after:
                continue
            endpoint = before.get(address)
            if endpoint is None:
                endpoint = Endpoint(instance.host, instance.port)
                endpoint.down = self.unproven
            endpoint.take(instance)
            after[address] = endpoint
        self._by_address = after
        self.endpoints = tuple(after.values())
        if self._slow_start and after:
            now = self._clock()
            self._started = min(self._started, now)
            if now - self._started >= START:  # else it is the sidecar that is new
                for address, endpoint in after.items():
                    if address not in before:
                        endpoint.slow_since = now
        events.came_and_went(self.name, before, after)
        removed = [endpoint for address, endpoint in before.items() if address not in after]
        for endpoint in removed:
            endpoint.gone = True
        self._changed(True)
        if self.on_removed is not None:
            for endpoint in removed:
                self.on_removed(endpoint)

    def _changed(self, anew: bool = False) -> None:
        """Work out who is in the rotation. ``anew``: weights may be others, or the balancer is."""
        before = self._offered
        self._next_change = min([e.ejected_until for e in self.endpoints if e.ejected_until], default=inf)
        candidates = [e for e in self.endpoints if usable(e)]
        if not self.balancer.weighs:
            candidates = [e for e in candidates if e.state == "healthy"] or candidates
        self.eligible = self._offered = tuple(candidates) if candidates or self.refuse else self.endpoints
        self._slow = self._slowly(self._slow) if self._slow_start or self.outliers is not None else None
        if anew or self._offered != before:
            self.balancer.update(self._offered)
        else:
            self._offered = before  # balancers know it by that
        if self.subsets is not None:
            self.subsets.keep_up(anew)
        if self._on_change is not None:
            self._on_change()

    def _slowly(self, before: SlowStart | None) -> SlowStart | None:
        """Give each of the eligible its share; those that get less than others are kept from the balancer."""
        now, window, balancer = self._clock(), self._slow_start, self.balancer
        slow = among(self.eligible, now, window, balancer.weighs, self._rng, before)
        if any(e.slow_since != inf for e in self.eligible):
            self._next_change = min(self._next_change, now + window / STEPS)
        if slow is not None and not balancer.hashes:
            self._offered = slow.steady
        return slow
