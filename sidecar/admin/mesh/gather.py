"""Asks all sidecars that the registry knows for their summaries: few at once, each for a short while, one gathering for
all who ask together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import shuffle
from typing import Any, Final

from sidecar.admin.mesh.merge import merge
from sidecar.admin.mesh.summary import BadSummary, Call, Summary, read
from sidecar.admin.snapshots import PeerSnapshot

#: Sidecars asked at once, and at most; seconds that each has, and all together.
AT_ONCE: Final = 16
MOST_PEERS: Final = 5000
SECONDS: Final = 1.0
ALL_SECONDS: Final = 8.0
#: Bytes of an answer, and of all of one gathering.
MOST_BYTES: Final = 128 * 1024
ALL_BYTES: Final = 32 * 1024 * 1024
#: For so many seconds a map is good; and who there is, which costs a registry a query for each service.
FRESH: Final = 1.5
KNOWN: Final = 5.0
PATH: Final = "/mesh/self"
#: The address, the path, the query and the most bytes → status and body.
Get = Callable[[str, str, str, int], Awaitable[tuple[int, bytes]]]


class Gathering:
    """``peers`` are the others, ``own`` tells of this sidecar, ``get`` asks, ``clock`` gives seconds."""

    def __init__(
        self,
        peers: Callable[[], Awaitable[Sequence[PeerSnapshot]]],
        own: Callable[[], Summary],
        get: Get,
        clock: Callable[[], float],
    ) -> None:
        self._peers = peers
        self._own = own
        self._get = get
        self._clock = clock
        self._last: tuple[float, dict[str, Any]] | None = None
        #: Service and id of those that said nothing the last time.
        self._silent: set[tuple[str, str]] = set()
        self._known: tuple[float, Sequence[PeerSnapshot]] | None = None
        self._running: asyncio.Task[dict[str, Any]] | None = None

    async def map(self) -> dict[str, Any]:
        """The mesh, at most :data:`FRESH` seconds old."""
        if self._last is not None and self._clock() - self._last[0] < FRESH:
            return self._last[1]
        if self._running is None:
            self._running = asyncio.ensure_future(self._gather())
            self._running.add_done_callback(self._ended)
        return await asyncio.shield(self._running)

    def _ended(self, _: asyncio.Task[dict[str, Any]]) -> None:
        self._running = None

    async def _gather(self) -> dict[str, Any]:
        problem = ""
        peers: Sequence[PeerSnapshot] = ()
        try:
            peers = await self._there()
        except (OSError, TimeoutError) as error:
            problem = f"the registry cannot be asked for sidecars: {str(error) or type(error).__name__}"
            peers = self._known[1] if self._known else ()  # those of before are better than none
        # Those that said nothing the last time come last, in another order each time: they keep nobody from a turn.
        peers = [*peers[:MOST_PEERS]]
        shuffle(peers)
        peers.sort(key=lambda it: (it.service, it.id) in self._silent)
        told = await _Round(self._get).ask(peers)
        self._silent = {(it.service, it.id) for it in told if it.problem}
        own = self._own()
        found = await asyncio.to_thread(merge, [own, *told])  # a large one takes a while
        found = {"seen_by": own.service, "problem": problem, **found}
        self._last = (self._clock(), found)
        return found

    async def _there(self) -> Sequence[PeerSnapshot]:
        """The other sidecars, as they were known at most :data:`KNOWN` seconds ago."""
        if self._known is None or self._clock() - self._known[0] >= KNOWN:
            self._known = self._clock(), await self._peers()
        return self._known[1]


class _Round:
    """One time of asking."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._bytes = 0

    async def ask(self, peers: Sequence[PeerSnapshot]) -> list[Summary]:
        """What each said, or that it said nothing."""
        if not peers:
            return []
        tasks = [asyncio.ensure_future(self._ask(peer)) for peer in peers]
        _, late = await asyncio.wait(tasks, timeout=ALL_SECONDS)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return [
            silent(peer, f"its turn did not come within {ALL_SECONDS:g} s", "unknown")
            if task in late
            else task.result()
            for peer, task in zip(peers, tasks, strict=True)
        ]

    async def _ask(self, peer: PeerSnapshot) -> Summary:
        if not peer.admin:
            return silent(peer, "its admin API cannot be reached from other hosts (admin.bind)")
        async with self._turn:
            if self._bytes > ALL_BYTES:
                return silent(peer, "other sidecars have said too much")
            try:
                async with asyncio.timeout(SECONDS):
                    status, body = await self._get(peer.admin, PATH, "", MOST_BYTES)
            except TimeoutError:
                return silent(peer, f"its sidecar did not answer within {SECONDS:g} s")
            except (OSError, ValueError) as error:
                return silent(peer, f"its sidecar could not be asked: {_said(error)}")
            self._bytes += len(body)
        if status in (401, 403):
            return silent(peer, "its sidecar has another admin token")
        if status != 200:
            return silent(peer, f"its sidecar answered {status}")
        try:
            return read(body, peer.admin, peer.service)
        except BadSummary as error:
            return silent(peer, str(error))


def silent(peer: PeerSnapshot, problem: str, status: str = "not_answering") -> Summary:
    """One that does not answer, with what its registration says."""
    calls = [Call(to, "http", "unknown", "", None) for to in peer.calls]
    return Summary(peer.service, peer.id, peer.admin, status, problem, None, calls)


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
