"""Prometheus' page, made when it is scraped: of what listeners count, and of families that others contribute."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from time import perf_counter
from typing import Final

from sidecar import __version__
from sidecar.core.build import facts
from sidecar.core.metrics import Family, Source, counter, gauge
from sidecar.core.stats import ListenerStats
from sidecar.telemetry import listener_metrics
from sidecar.telemetry.exposition import CLASSIC, OPENMETRICS, Page, wants_openmetrics
from sidecar.telemetry.process_metrics import process_families, python_families

#: Seconds that a page may hold up the event loop at once, about: then traffic has a turn.
SLICE: Final = 0.001
#: Seconds for which a page is given to all who ask, where anybody may.
FRESH: Final = 0.25


class Metrics:
    """The metrics of one running sidecar. ``listeners`` gives the counters
    of all listeners, inbound first; ``sources`` the families of those who own something else."""

    def __init__(self, listeners: Callable[[], Sequence[ListenerStats]], sources: Sequence[Source]) -> None:
        self._sources: Sequence[Source] = (
            lambda: listener_metrics.families(listeners()),
            *sources,
            process_families,
            python_families,
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics where ``accept`` asks for it, else Prometheus' text format."""
        page, media = _begun(accept)
        for _ in self._steps(page):
            pass
        return page.finish(), media

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The same, in pieces: what else is ready has its turn between them."""
        page, media = _begun(accept)
        began = perf_counter()
        for _ in self._steps(page):
            if perf_counter() - began > SLICE:
                await asyncio.sleep(0)
                began = perf_counter()
        return page.finish(), media

    def _steps(self, page: Page) -> Iterator[None]:
        for source in self._sources:
            for family in source():
                page.add(family)
                yield


def _begun(accept: str) -> tuple[Page, str]:
    openmetrics = wants_openmetrics(accept)
    return Page(openmetrics), OPENMETRICS if openmetrics else CLASSIC


class Shared:
    """Pages for everybody: one is made at most once in :data:`FRESH` seconds, however many ask."""

    def __init__(self, make: Callable[[str], Awaitable[tuple[bytes, str]]]) -> None:
        self._make = make
        #: Fresh ones, and those that are being made, by their format.
        self._pages: dict[str, asyncio.Future[tuple[bytes, str]]] = {}

    async def page(self, accept: str) -> tuple[bytes, str]:
        """As :meth:`Metrics.page`."""
        media = OPENMETRICS if wants_openmetrics(accept) else CLASSIC
        page = self._pages.get(media)
        if page is None:
            page = self._pages[media] = asyncio.ensure_future(self._make(media))
            asyncio.get_running_loop().call_later(FRESH, self._pages.pop, media)
        return await asyncio.shield(page)


def own_families(service: str, log_lines_dropped: int, memory_limit: int) -> Sequence[Family]:
    """Return what logs have lost, how much memory there may be, and which sidecar this is."""
    lines = counter("sidecar_log_lines_dropped", "Log lines that could not be written.")
    lines.add((), log_lines_dropped)
    which = {"version": __version__, "service": service, **facts()}
    info = gauge("sidecar_build_info", "Which sidecar this is.", tuple(which))
    info.add(tuple(which.values()), 1)
    memory = gauge("sidecar_memory_limit_bytes", "The memory that its container, or else its machine, has.")
    memory.add((), memory_limit)
    return lines, memory, info
