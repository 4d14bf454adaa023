"""Sends each exchange to a subset of its upstream, by weights or by what it has that is to stay with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sidecar.config.keys import Key
from sidecar.config.subsets import Shares
from sidecar.exchange.filter import Filter, Site
from sidecar.resilience.split import Split

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange


class SplitTraffic(Filter):
    """Chooses before the first try, when all that wait have waited: then it is known which subsets have endpoints. The
    choice is the exchange's ``cluster``, so what comes behind it needs to know nothing of subsets.

    A subset without an endpoint in the rotation is empty: the others get its share. When all are, one that has any
    endpoint gets it, and goes by ``health.when_none``. A try that follows another one stays in its subset while that
    has an endpoint that was not tried."""

    name: ClassVar[str] = "split"
    setting: ClassVar[Any] = Key(
        Shares(),
        "How many of all requests go to which subset, as weights; 0: none, and none of the others' either.",
        {"stable": 90, "next": 10},
        default="no subset is chosen: all instances are one set",
    )
    routed: ClassVar[bool] = True
    key_docs: ClassVar[dict[str, str]] = {
        "route": "In place of the upstream's, for these requests; off: among all instances."
    }
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp")
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: behind an inbound port there is one app"

    def __init__(self, config: tuple[tuple[str, int], ...], site: Site) -> None:
        super().__init__(config, site)
        #: Whoever has this may change the weights while requests come: :meth:`~sidecar.resilience.split.Split.set`.
        self.split = Split(dict(config), site.rng)

    def adapt(self, config: tuple[tuple[str, int], ...]) -> bool:
        """Other weights, for what comes from now on."""
        self.config = config
        self.split.set(dict(config))
        return True

    def view(self) -> dict[str, Any]:
        return {"weights": self.split.weights}

    def on_try(self, x: Exchange) -> None:
        if x.attempt is not None:
            return  # a second try beside the first: in the same subset
        whole = x.listener.cluster
        subsets = whole.subsets
        if subsets is None:
            return  # a rehearsal: what was chosen is chosen again
        whole.refresh()
        split, usable = self.split, subsets.usable
        here = subsets.by_name.get(x.tried[-1].endpoint.subset) if x.tried else None
        if here is not None:
            x.cluster = here
            tried = [attempt.endpoint for attempt in x.tried]
            if not here.untried(tried):
                for name in split.others(here.label, usable):
                    if subsets.by_name[name].untried(tried):
                        x.cluster = subsets.by_name[name]
                        x.note("subset", {"subset": name, "instead_of": here.label})
                        return
            return
        key_of = subsets.key_of
        key = key_of(x) if key_of is not None else ""
        name = self._pick(key, usable) or self._pick(key, subsets.present) or self._pick(key, tuple(subsets.by_name))
        if name:
            x.cluster = subsets.by_name[name]

    def _pick(self, key: str, usable: tuple[str, ...]) -> str:
        return self.split.pick_for(key, usable) if key else self.split.pick(usable)
