"""A cluster: the endpoints of one upstream, and which of them are in the rotation.

The registry says which endpoints exist (:meth:`Cluster.update`). What their tries come to says which of them are
ejected for a while: at once when an endpoint cannot be reached, after several failures in a row otherwise. Each
ejection in a row lasts twice as long as the one before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
from random import Random
from typing import Any, Final

from sidecar.core.events import EVENTS
from sidecar.core.instance import Instance
from sidecar.core.text import counted
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.endpoint import Endpoint, LastError
from sidecar.net.causes import cause_of, words_for
from sidecar.net.dial import dial, pace
from sidecar.net.shortage import is_local

logger = logging.getLogger("sidecar.upstreams")

#: Soft failures in a row that eject an endpoint.
SOFT_FAILURES: Final = 5
#: Endpoints that are told of when a choice is explained.
MOST_CANDIDATES: Final = 20
#: Seconds: the first ejection, and the longest; each is stretched or shortened by up to :data:`JITTER`, so that
#: sidecars that lost an endpoint together do not all come back to it together.
FIRST_EJECTION: Final = 1.0
LONGEST_EJECTION: Final = 30.0
JITTER: Final = 0.2

#: Is told of a try: where it went, the seconds to the head of its answer (TCP: to the connection) or to its failure,
#: the answer's status (0: none, or not HTTP), and the word for its failure ("": none), as
#: :mod:`sidecar.exchange.attempt` has them.
Watcher = Callable[[Endpoint, float, int, str], None]


class Cluster:
    """The endpoints of the upstream ``name``. ``on_change()`` is called whenever :attr:`endpoints` or
    :attr:`eligible` have changed; ``on_removed(endpoint)`` for each one that left the set.

    Read :attr:`endpoints` (all of them) and :attr:`eligible` (those in the rotation; when failures have ejected
    every one of them, all: then the breaker decides, not this). Both are replaced, never edited.
    """

    __slots__ = (
        "_by_address", "_clock", "_next_return", "_on_change", "_rng", "_told", "_wall", "balancer", "cause",
        "connect_failures", "ejections", "eligible", "endpoints", "key_of", "name", "on_removed", "problem", "source",
        "watchers",
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
        #: Why endpoints were ejected → how often: ``unreachable``, or ``consecutive`` failures.
        self.ejections: dict[str, int] = {}
        self.endpoints: tuple[Endpoint, ...] = ()
        self.eligible: tuple[Endpoint, ...] = ()
        self._by_address: dict[tuple[str, int], Endpoint] = {}
        #: When the next ejected endpoint comes back; inf: none is ejected.
        self._next_return = inf
        self._have_told(balancer)

    def pick(self, key: str = "", tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """Where the next try should go; None when the cluster is empty. ``tried`` are the endpoints that this
        exchange has already been sent to: they are avoided as long as there are others in the rotation."""
        if self._next_return != inf:
            self.refresh()
        endpoints: Sequence[Endpoint] = self.eligible
        if tried:
            endpoints = (
                [e for e in endpoints if e not in tried]
                # In a warning state, but better than one that has just failed.
                or [e for e in self.endpoints if e.weight and not e.ejected_until and e not in tried]
                or endpoints
            )
        if not endpoints:
            return None
        return self.balancer.pick(endpoints, key)

    def candidates(self) -> list[dict[str, Any]]:
        """What there was to choose from, for people and as plain JSON: at most :data:`MOST_CANDIDATES`."""
        now = self._clock()
        found: list[dict[str, Any]] = []
        for endpoint in self.endpoints[:MOST_CANDIDATES]:
            told: dict[str, Any] = {"endpoint": endpoint.address, "state": endpoint.state, "weight": endpoint.weight}
            if endpoint.failures:
                told["failures"] = endpoint.failures
            if endpoint.ejected_until > now:
                told["ejected_ms"] = round((endpoint.ejected_until - now) * 1000)
            told |= self.balancer.known(endpoint)
            error = endpoint.last_error
            if error is not None:
                told["last_error"] = error.kind
                told["last_error_ms_ago"] = round((self._wall() - error.at) * 1000)
            found.append(told)
        return found

    def use(self, balancer: Balancer) -> None:
        """Choose by another balancer from now on; all else that is known stays."""
        self.balancer = balancer
        self._have_told(balancer)
        self._changed()

    def _have_told(self, balancer: Balancer) -> None:
        """The balancer, and no other one, is told of tries, if it is to be."""
        others = tuple(it for it in self.watchers if it is not self._told)
        self._told = balancer.told if balancer.watches else None
        self.watchers = others if self._told is None else (self._told, *others)

    def beside(self, endpoint: Endpoint) -> tuple[Endpoint, ...]:
        """Other addresses in the rotation of the name that this one was found for, in the order in which to try them
        when it is silent: the families in turn, the other one first (RFC 8305 §4). Empty when there was no name."""
        hostname = endpoint.hostname
        if not hostname:
            return ()
        others = [
            e for e in self.eligible
            if e is not endpoint and e.hostname == hostname and e.port == endpoint.port
        ]  # fmt: skip
        same = [e for e in others if (":" in e.host) == (":" in endpoint.host)]
        other = [e for e in others if e not in same]
        found: list[Endpoint] = []
        while other or same:
            if other:
                found.append(other.pop(0))
            if same:
                found.append(same.pop(0))
        return tuple(found)

    def succeeded(self, endpoint: Endpoint) -> None:
        """A try at the endpoint went well."""
        if not endpoint.failures and not endpoint.ejections:
            return
        if endpoint.ejected_until:
            # Begun before the ejection, unless everyone was ejected: then it was tried in spite of it, and is well.
            if endpoint not in self.eligible:
                return
            endpoint.ejected_until = 0.0
            endpoint.failures = endpoint.ejections = 0
            self._readmitted(endpoint, "a try went well")
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
        if endpoint.ejected_until or not (hard or endpoint.failures >= SOFT_FAILURES):
            return
        if self._by_address.get((endpoint.host, endpoint.port)) is not endpoint:
            return
        # The exponent is bounded because 2 to the power of a count that grows for days would overflow.
        length = min(FIRST_EJECTION * 2 ** min(endpoint.ejections, 16), LONGEST_EJECTION)
        endpoint.ejections += 1
        length *= self._rng.uniform(1 - JITTER, 1 + JITTER)
        endpoint.ejected_until = self._clock() + length
        self._ejected(endpoint, "unreachable" if hard else "consecutive", length)
        self._changed()

    async def dial(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: object,
        endpoint: Endpoint,
        within: float,
        chosen: Callable[[Endpoint], None],
    ) -> None:
        """Connect ``protocol`` to an endpoint, or to another address of its host name when that is quicker: then
        ``chosen`` is told. ``within``: the seconds
        that there are for it; the caller ends it after that. Raises OSError."""
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
        if now < self._next_return:
            return
        for endpoint in self.endpoints:
            if endpoint.ejected_until and endpoint.ejected_until <= now:
                endpoint.ejected_until = 0.0
                self._readmitted(endpoint, "its time out is over")
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
                endpoint = Endpoint(
                    instance.host, instance.port, instance.weight, instance.state, instance.id, instance.hostname,
                    instance.sidecar, instance.admin,
                )  # fmt: skip
            else:
                endpoint.weight = instance.weight
                endpoint.state = instance.state
                endpoint.id = instance.id
                endpoint.hostname = instance.hostname
                endpoint.sidecar = instance.sidecar
                endpoint.admin = instance.admin
            after[address] = endpoint
        self._by_address = after
        self.endpoints = tuple(after.values())
        self._came_and_went(before, after)
        for address, endpoint in before.items():
            if address not in after:
                endpoint.gone = True
        self._changed()
        if self.on_removed is not None:
            for address, endpoint in before.items():
                if address not in after:
                    self.on_removed(endpoint)

    def _ejected(self, endpoint: Endpoint, reason: str, length: float) -> None:
        self.ejections[reason] = self.ejections.get(reason, 0) + 1
        last = endpoint.last_error
        words = last.text if last is not None else "it cannot be reached"
        why = (
            words if reason == "unreachable" else f"{counted(endpoint.failures, 'failure')} in a row, the last: {words}"
        )
        EVENTS.tell(
            logger, logging.WARNING, "ejection", f"{self.name}: {endpoint.where} is ejected for {length:.1f} s: {why}",
            self.name, endpoint=endpoint.address, reason=reason, cause=last.kind if last is not None else "",
            seconds=round(length, 1), failures=endpoint.failures,
        )  # fmt: skip

    def _readmitted(self, endpoint: Endpoint, why: str) -> None:
        EVENTS.tell(
            logger, logging.INFO, "readmission", f"{self.name}: {endpoint.where} is in the rotation again: {why}",
            self.name, endpoint=endpoint.address,
        )  # fmt: skip

    def _came_and_went(self, before: dict[tuple[str, int], Endpoint], after: dict[tuple[str, int], Endpoint]) -> None:
        came = [endpoint.address for address, endpoint in after.items() if address not in before]
        gone = [endpoint.address for address, endpoint in before.items() if address not in after]
        if came or gone:
            EVENTS.tell(
                logger, logging.INFO if after else logging.WARNING, "endpoints",
                f"{self.name}: {counted(len(came), 'endpoint')} came, {len(gone)} went; there are {len(after)}",
                self.name, came=came, gone=gone, endpoints=len(after),
            )  # fmt: skip

    def _changed(self) -> None:
        """Work out who is in the rotation."""
        ejections = [e.ejected_until for e in self.endpoints if e.ejected_until]
        self._next_return = min(ejections, default=inf)
        # A weight of 0 is how an instance in the warning state asks for no traffic.
        candidates = [e for e in self.endpoints if e.weight and not e.ejected_until]
        if not self.balancer.weighs:
            candidates = [e for e in candidates if e.state == "healthy"] or candidates
        self.eligible = tuple(candidates) or self.endpoints
        self.balancer.update(self.eligible)
        if self._on_change is not None:
            self._on_change()
