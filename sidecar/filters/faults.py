"""Makes a share of the requests go wrong on purpose: late, refused, cut off, slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from sidecar.config.faults import FAULTS, FaultSettings
from sidecar.config.keys import Key
from sidecar.core.replies import Reply
from sidecar.core.text import timestamp
from sidecar.exchange.filter import Filter, Site, Wait
from sidecar.exchange.routes import matcher
from sidecar.exchange.story import milliseconds

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.message import RequestHead, ResponseHead
    from sidecar.exchange.request import Request

#: What stands in a message where the fault comes from the file.
_FILE: Final = "the configuration"


class Fault:
    """One of them, at work. ``until`` is time of the listener's clock."""

    __slots__ = ("matches", "number", "settings", "until")

    def __init__(self, number: int, settings: FaultSettings, until: float) -> None:
        self.number = number
        self.settings = settings
        self.until = until
        #: Whether it is for requests with that head; ``None``: for all.
        match = settings.match
        everything = match.path == "*" and not match.methods and not match.headers
        self.matches: Callable[[RequestHead], bool] | None = None if everything else matcher(match)


class Faults(Filter):
    """At most one fault for each exchange, drawn once: whatever is tried again, a share of 10 % is seen by 10 % of the
    clients. Stands behind the bulkhead, so that what is delayed holds a slot as with an upstream that is slow; before
    the breaker and the retries, which go by what upstreams do.

    ``until`` is looked at here, too, though the chain is made anew when it has come.
    """

    name: ClassVar[str] = "faults"
    stateful: ClassVar[bool] = True
    setting: ClassVar[Any] = Key(
        FAULTS,
        "Faults that the sidecar injects on purpose, into shares of the requests (tcp: connections); off: none.",
        [{"match": {"path": "/slow*"}, "share": "10%", "delay": "2s"}, {"share": "1%", "abort": 503}],
    )
    routed: ClassVar[bool] = True
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp")
    replies: ClassVar[dict[str, int]] = {"fault_injected": 503}

    def __init__(self, config: Sequence[FaultSettings], site: Site) -> None:
        super().__init__(config, site)
        self._clock = site.clock
        self._rng = site.rng
        self._stats = site.stats
        self._name = site.name
        self._read(config)

    def _read(self, config: Sequence[FaultSettings]) -> None:
        self.config = config
        ahead = self._clock() - time.time()
        self._faults = [
            Fault(number, it, inf if it.until is None else it.until + ahead) for number, it in enumerate(config)
        ]

    def adapt(self, config: Sequence[FaultSettings]) -> bool:
        """Other faults, for what comes from now on."""
        self._read(config)
        return True

    def uses(self, hook: str) -> bool:
        if hook == "on_try":
            return any(it.settings.abort or it.settings.reset for it in self._faults)
        return hook != "on_pace" or any(it.settings.throttle for it in self._faults)

    def view(self) -> dict[str, Any]:
        return {"on": [told(it, brief=True) for it in self.config], "injected": dict(self._stats.faults)}

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def on_request(self, x: Exchange) -> Wait | None:
        fault = self._drawn(x)
        if fault is None:
            return None
        x.state[self.place] = fault
        delay = fault.settings.delay
        if delay is None:
            return None
        self._count(x, fault, "delay", {"delay_ms": milliseconds(delay)})
        until = self._clock() + delay
        if self._stats.protocol == "tcp":
            x.deadline += delay
        elif until >= x.deadline:
            late = f"{self._name} gave no answer in time: a fault is injected, which takes {delay:g} s"
            return Wait(x.deadline, Reply("timeout", late))
        return Wait(until)

    def on_try(self, x: Exchange) -> Reply | None:
        fault: Fault | None = x.state[self.place]
        if fault is None:
            return None
        status = fault.settings.abort
        if status is not None:
            self._count(x, fault, "abort", {"status": status})
            return Reply("fault_injected", f"{self._name} was not asked: a fault is injected", status=status)
        if fault.settings.reset:
            self._count(x, fault, "reset", {})
            x.error = "fault_injected"
            x.reset()
            return Reply("fault_injected", "its client was reset")  # of no effect: it has ended
        return None

    def on_pace(self, x: Exchange, head: ResponseHead) -> float | None:
        fault: Fault | None = x.state[self.place]
        if fault is None or fault.settings.throttle is None:
            return None
        self._count(x, fault, "throttle", {"bytes_per_second": fault.settings.throttle})
        return float(fault.settings.throttle)

    def _drawn(self, x: Exchange) -> Fault | None:
        """The fault that this exchange gets, if any. One number is drawn for all of them, so that the share of each is
        one of all that match it."""
        draw = -1.0
        for fault in self._faults:
            if fault.until != inf and self._clock() >= fault.until:
                continue
            # Over TCP there is nothing to match, which the configuration sees to.
            if fault.matches is not None and not fault.matches(cast("Request", x).head):
                continue
            if draw < 0.0:
                draw = self._rng.random()
            if draw < fault.settings.share:
                return fault
            draw -= fault.settings.share
        return None

    def _count(self, x: Exchange, fault: Fault, kind: str, detail: dict[str, Any]) -> None:
        self._stats.faults[kind] += 1
        by = fault.settings.by
        x.note("fault", {"kind": kind, "number": fault.number, "by": by, **detail})


def told(fault: FaultSettings, brief: bool = False) -> str:
    """A fault in words: ``10 % of GET /slow* are delayed by 2 s, until 2026-12-01T10:30:00.000Z (by 127.0.0.1)``. Of
    header fields only the names. ``brief``: nothing of what is matched, for those who need no token."""
    match = fault.match
    which = " ".join(
        [*([",".join(match.methods)] if match.methods else []), *([match.path] if match.path != "*" else []),
         *(f"with {name}" for name in match.headers)]
    )  # fmt: skip
    does = [
        *([f"delayed by {fault.delay:g} s"] if fault.delay else []),
        *([f"answered {fault.abort}"] if fault.abort else []),
        *(["reset"] if fault.reset else []),
        *([f"throttled to {fault.throttle} bytes/s"] if fault.throttle else []),
    ]
    of = "what matches" if which and brief else which or "all"
    until = f", until {timestamp(fault.until)}" if fault.until is not None else ""
    return f"{fault.share * 100:.4g} % of {of} are {' and '.join(does)}{until} (by {fault.by or _FILE})"
