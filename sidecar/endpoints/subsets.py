"""The subsets of a cluster: endpoints of one kind, as the instances of a version are, with a balancer of their own.

What is known of an endpoint (its ejections, its checks, its load) is known in the whole cluster, and is one thing
whichever way its tries came. A :class:`Subset` is that cluster as it looks to an exchange that was sent there: it
chooses among its own endpoints, and tells the whole what came of it. So every balancer, retries and hedges work in it
as they do without.

Each endpoint is in the first subset whose :class:`Selector` takes it; one that none takes is in none.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, Final, NamedTuple

from sidecar.core.events import EVENTS
from sidecar.core.stats import STATUSES, Histogram
from sidecar.core.text import counted
from sidecar.endpoints.balancers.balancer import Balancer
from sidecar.endpoints.cluster import Cluster, Watcher
from sidecar.endpoints.endpoint import Endpoint, usable

logger: Final = logging.getLogger("sidecar.upstreams")

#: No answer of anybody: a kept connection closed just as it was used; or another try, beside this one, was quicker.
_NO_ANSWER: Final = ("race", "hedged")
#: What a try without an answer counts as: the status that its client would be answered with.
_STATUS: Final = {"timeout": 504}
_OTHER: Final = 502


class Selector(NamedTuple):
    """Which endpoints a subset takes: those that were found under that name (empty: the upstream's own service), with
    that tag (empty: any), and with all of those pairs in their meta."""

    service: str = ""
    tag: str = ""
    meta: tuple[tuple[str, str], ...] = ()

    def takes(self, endpoint: Endpoint) -> bool:
        """Whether it takes this one."""
        if endpoint.service != self.service or (self.tag and self.tag not in endpoint.tags):
            return False
        return all(endpoint.meta.get(name) == value for name, value in self.meta)


class Subset(Cluster):
    """A part of the cluster ``whole``. ``usable`` says whether one of its endpoints is in the
    rotation. ``requests`` counts its tries by status, those without an answer by the status that a client would get for
    that (502, 504), connections that could be made by 200, those that a hedge outran not at all; ``duration`` the
    seconds to their answers' heads."""

    __slots__ = ("duration", "requests", "selector", "usable", "whole")

    def __init__(
        self,
        whole: Cluster,
        label: str,
        selector: Selector,
        balancer: Balancer,
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        Cluster.__init__(self, whole.name, balancer, clock, rng, None, whole._wall)
        self.whole = whole
        self.label = label
        self.selector = selector
        self.usable = False
        self.requests: defaultdict[int, int] = defaultdict(int)
        self.duration = Histogram()

    def untried(self, tried: list[Endpoint]) -> bool:
        """Whether an endpoint in the rotation is none of those."""
        return self.usable and any(endpoint not in tried for endpoint in self.eligible)

    def keep_up(self, endpoints: tuple[Endpoint, ...], others: tuple[Watcher, ...], anew: bool) -> None:
        """Be what the whole is, but for the endpoints and the balancer."""
        whole = self.whole
        self.endpoints = endpoints
        self.watchers = others if self._told is None else (self._told, *others)
        self.outliers = whole.outliers
        self.key_of = whole.key_of
        self.refuse = whole.refuse
        self.unproven = whole.unproven
        self.source = whole.source
        self.cause = whole.cause
        self._slow_start = whole._slow_start
        self.usable = any(usable(endpoint) for endpoint in endpoints)
        self.problem = whole.problem
        if not endpoints and whole.endpoints:
            none = counted(len(whole.endpoints), "instance")
            self.problem = f"none of its {none} is in the subset {self.label}"
        self._changed(anew)

    # -- what is known of endpoints, the whole knows -------------------------------------------------------------------

    def refresh(self) -> None:
        self.whole.refresh()

    def succeeded(self, endpoint: Endpoint) -> None:
        if endpoint.failures or endpoint.ejections:
            self.whole.went_well(endpoint, self.eligible)

    def failed(self, endpoint: Endpoint, hard: bool, kind: str = "", text: str = "") -> None:
        self.whole.failed(endpoint, hard, kind, text)

    def eject(self, endpoint: Endpoint, reason: str, words: str) -> bool:
        return self.whole.eject(endpoint, reason, words)

    def count(self, cause: str) -> None:
        self.whole.count(cause)


class Subsets:
    """All subsets of the cluster ``whole``. ``create`` makes a balancer for one, ``key_of`` finds what an exchange has
    that decides for good which subset it goes to (None: nothing does)."""

    __slots__ = (
        "_clock", "_create", "_parts", "_rng", "_started", "_whole", "again", "by_name", "canary", "key_of", "present",
        "usable",
    )  # fmt: skip

    def __init__(
        self,
        whole: Cluster,
        create: Callable[[], Balancer],
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self._whole = whole
        self._create = create
        self._clock = clock
        self._rng = rng
        self.by_name: dict[str, Subset] = {}
        self.key_of: Callable[[Any], str] | None = None
        #: While watchers are told of a try: whether it followed another one of the same exchange.
        self.again = False
        #: The one that is tried at present, and its share in percent.
        self.canary: tuple[str, int] | None = None
        #: The names of those with an endpoint in the rotation, and of those with any. Replaced, never edited.
        self.usable: tuple[str, ...] = ()
        self.present: tuple[str, ...] = ()
        self._parts: dict[str, tuple[Endpoint, ...]] = {}
        self._started = False
        whole.watch(self.told)

    def configure(self, selectors: Mapping[str, Selector]) -> None:
        """Have these subsets from now on. One whose name stays goes on with what it has counted."""
        before = self.by_name
        _done_with([subset for name, subset in before.items() if name not in selectors])
        found: dict[str, Subset] = {}
        for name, selector in selectors.items():
            subset = before.get(name)
            if subset is None:
                subset = Subset(self._whole, name, selector, self._create(), self._clock, self._rng)
            subset.selector = selector
            found[name] = subset
        self.by_name = found
        self.keep_up(True)

    def use(self, create: Callable[[], Balancer]) -> None:
        """Choose by other balancers from now on."""
        self._create = create
        for subset in self.by_name.values():
            subset.use(create())
        self.keep_up(True)

    def leave(self) -> None:
        """The cluster is not divided any more."""
        self._whole.subsets = None
        self._whole.unwatch(self.told)
        _done_with(self.by_name.values())
        for endpoint in self._whole.endpoints:
            endpoint.subset = ""

    def of(self, endpoint: Endpoint) -> Cluster:
        """The subset that an endpoint is in; the whole if it is in none."""
        return self.by_name.get(endpoint.subset) or self._whole

    def told(self, endpoint: Endpoint, seconds: float, status: int, failure: str) -> None:
        """A try has come to its end: see :data:`~sidecar.endpoints.cluster.Watcher`."""
        subset = self.by_name.get(endpoint.subset)
        if subset is None or failure in _NO_ANSWER:
            return
        if failure and not status:
            subset.requests[_STATUS.get(failure, _OTHER)] += 1
            return
        status = status or 200
        subset.requests[status if status in STATUSES else status // 100] += 1
        subset.duration.observe(seconds)

    def keep_up(self, anew: bool) -> None:
        """The whole has changed. ``anew``: endpoints may be others, or their weights."""
        whole = self._whole
        if anew:
            self._sort()
        others = tuple([it for it in whole.watchers if it is not whole._told])
        now: list[str] = []
        for name, subset in self.by_name.items():
            subset.keep_up(self._parts.get(name, ()), others, anew)
            if subset.usable:
                now.append(name)
        before = self.usable
        if now != list(before):
            self.usable = tuple(now)
            if self._started:
                self._tell(before)
        self._started = self._started or bool(whole.endpoints)

    def _sort(self) -> None:
        """Have each endpoint in the first subset that takes it."""
        parts: dict[str, list[Endpoint]] = {name: [] for name in self.by_name}
        for endpoint in self._whole.endpoints:
            endpoint.subset = ""
            for name, subset in self.by_name.items():
                if subset.selector.takes(endpoint):
                    endpoint.subset = name
                    parts[name].append(endpoint)
                    break
        self._parts = {name: tuple(part) for name, part in parts.items()}
        self.present = tuple([name for name, part in self._parts.items() if part])

    def _tell(self, before: tuple[str, ...]) -> None:
        """Some have become empty, or are so no more."""
        upstream = self._whole.name
        for name, subset in self.by_name.items():
            if name in before and not subset.usable:
                known = counted(len(subset.endpoints), "endpoint")
                EVENTS.tell(
                    logger, logging.WARNING, "subset",
                    f"{upstream}: the subset {name} is empty, of {known} none is in the rotation; its share goes to "
                    "the others",
                    upstream, subset=name, usable=False,
                )  # fmt: skip
            elif name not in before and subset.usable:
                EVENTS.tell(
                    logger, logging.INFO, "subset", f"{upstream}: the subset {name} has an endpoint in the rotation",
                    upstream, subset=name, usable=True,
                )  # fmt: skip


def _done_with(subsets: Iterable[Subset]) -> None:
    """Their balancers follow no endpoint any more."""
    for subset in subsets:
        subset.balancer.update(())
