"""Faults of a running sidecar: those of its configuration, and those that were put for a while; seen to be told of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from sidecar.config.faults import FaultSettings
from sidecar.config.keys import INHERIT
from sidecar.core.events import EVENTS
from sidecar.core.stats import ListenerStats
from sidecar.filters.faults import told

if TYPE_CHECKING:
    from sidecar.agent.assembly import Assembly
    from sidecar.exchange.listener import Listener

logger = logging.getLogger("sidecar.faults")

#: Seconds between two lines of the log that say what is on.
REMIND: Final = 60.0


class Active(NamedTuple):
    """A fault that is on: where (``inbound``, ``upstreams.NAME``, ``upstreams.NAME.routes[0]``), and what it is."""

    where: str
    fault: FaultSettings


class FaultBoard:
    """Which faults are on. Chains are made with what :meth:`merged` gives, and made anew when that changes: by
    :meth:`put`, by :meth:`off`, by a reload, or with time. ``wall`` is Unix time; ``later`` calls a function in so many
    seconds."""

    def __init__(
        self, wall: Callable[[], float] = time.time, later: Callable[[float, Callable[[], None]], Any] | None = None
    ) -> None:
        self._wall = wall
        self._later = later or (lambda seconds, do: asyncio.get_running_loop().call_later(seconds, do))
        self._listeners: Callable[[], Sequence[Listener]] = tuple
        #: Those that were put, by the path of their listener's section.
        self._put: Mapping[str, tuple[FaultSettings, ...]] = {}
        #: Those of the file are off, until it is read again.
        self._silent = False
        #: By listener: what was on at the last look.
        self._shown: dict[str, tuple[Active, ...]] = {}
        self._timer: Any = None
        self._reminded = 0.0

    def watch(self, listeners: Callable[[], Sequence[Listener]]) -> None:
        """Begin to look after those listeners."""
        self._listeners = listeners
        self.look()

    def merged(self, stats: ListenerStats, own: Sequence[FaultSettings] | None) -> tuple[FaultSettings, ...]:
        """What a port, or a route that has faults of its own, is to do: what was put goes first."""
        now = self._wall()
        every = (*self._put.get(section_of(stats), ()), *(() if self._silent else own or ()))
        return tuple(it for it in every if it.until is None or it.until > now)

    def active(self) -> list[Active]:
        """Those that are on."""
        return [it for listener in self._listeners() for it in self._of(listener)]

    def active_at(self, listener: Listener) -> list[Active]:
        """Those of one listener."""
        return list(self._of(listener))

    def _of(self, listener: Listener) -> Iterator[Active]:
        assembly, stats = cast("Assembly", listener.assembly), listener.stats
        if assembly.config is None:
            return
        where = section_of(stats)
        policies = assembly.config.policies
        for it in self.merged(stats, policies.get("faults")):
            yield Active(where, it)
        for number, route in enumerate(assembly.config.routes):
            own = route.policies.get("faults", INHERIT)
            if own is not INHERIT:
                put = self._put.get(where, ())
                for it in self.merged(stats, own):
                    if it not in put:
                        yield Active(f"{where}.routes[{number}]", it)

    # -- changes -------------------------------------------------------------------------------------------------------

    def put(self, faults: Mapping[str, Sequence[FaultSettings]]) -> None:
        """Have these beside those of the file, in place of all that were put before; by section of their listener."""
        self._put = {where: tuple(found) for where, found in faults.items()}
        self.look()

    def off(self) -> None:
        """Have none: also none of the file, until it is read again."""
        self._put = {}
        self._silent = True
        self.look()

    def reloaded(self) -> None:
        """The file was read again: what it says is on."""
        self._silent = False
        self.look()

    def look(self) -> None:
        """Bring the chains to what is on now, tell what has changed, and look again when the next one is over."""
        now = self._wall()
        self._put = {
            where: left
            for where, found in self._put.items()
            if (left := tuple(it for it in found if it.until is None or it.until > now))
        }
        shown: dict[str, tuple[Active, ...]] = {}
        for listener in self._listeners():
            where = section_of(listener.stats)
            before, found = self._shown.get(where, ()), tuple(self._of(listener))
            if found:
                shown[where] = found
            if found != before:
                cast("Assembly", listener.assembly).refresh()
                _tell(listener.name, before, found)
        self._shown = shown
        self._remind(now)

    def _remind(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        every = [it for found in self._shown.values() for it in found]
        if not every:
            self._reminded = 0.0
            return
        if not self._reminded:
            self._reminded = now  # they were told a moment ago
        elif now >= self._reminded + REMIND:
            self._reminded = now
            texts = [f"{where}: {told(fault)}" for where, fault in every]
            logger.warning("faults are injected on purpose: %s", "; ".join(texts[:10]), extra={"faults": len(texts)})
        ends = [it.fault.until for it in every if it.fault.until is not None]
        due = min([self._reminded + REMIND, *ends])
        self._timer = self._later(max(0.0, due - now) + 0.01, self.look)

    def close(self) -> None:
        """Look no more."""
        self._listeners = tuple
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def section_of(stats: ListenerStats) -> str:
    """The path of a listener's section."""
    return "inbound" if stats.direction == "inbound" else f"upstreams.{stats.upstream}"


def _tell(name: str, before: Sequence[Active], found: Sequence[Active]) -> None:
    for where, fault in found:
        if Active(where, fault) not in before:
            EVENTS.tell(
                logger, logging.WARNING, "fault", f"a fault is injected at {where}: {told(fault)}", name,
                kinds=list(fault.kinds), share=fault.share, by=fault.by or "configuration",
            )  # fmt: skip
    over = sum(1 for it in before if it not in found)
    if over:
        left = f"{len(found)} left" if found else "none are left"
        EVENTS.tell(
            logger, logging.INFO, "fault", f"{over} of the faults injected at {name} are over; {left}", name,
            left=len(found),
        )  # fmt: skip
