"""What a try would have come to: as it was, where it was made; else as the one nearest before it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from sidecar.agent.rehearsal.recorded import Recorded, Try
from sidecar.exchange.attempt import CONNECT


class Outcomes:
    """All tries of one listener. ``assumed`` counts tries that were never made, ``cut_short`` those that were cut
    before the time that other settings would have left them; what these would have brought is not known."""

    def __init__(self, requests: Sequence[Recorded]) -> None:
        self.assumed = 0
        self.cut_short = 0
        #: (endpoint, method, path), (endpoint,) or () → tries in the order of their times.
        self._tries: dict[tuple[object, ...], tuple[list[float], list[Try]]] = {}
        found = [
            (it.at, request.shape.method, request.shape.path, it)
            for request in requests for it in request.tries if not it.silent
        ]  # fmt: skip
        found.sort(key=lambda item: item[0])
        for at, method, path, it in found:
            for key in ((it.endpoint, method, path), ("", method, path), (it.endpoint,), ()):
                times, tries = self._tries.setdefault(key, ([], []))
                times.append(at)
                tries.append(it)

    def of(self, request: Recorded, number: int, endpoint: str, now: float) -> Try | None:
        """The outcome of the try with that number (from 0), at that endpoint. ``None``: nothing is known at all."""
        if number < len(request.tries) and request.tries[number].endpoint == endpoint:
            return request.tries[number]
        self.assumed += 1
        owner = request.tries[0].owner if request.tries else -1
        shape = request.shape
        for key in ((endpoint, shape.method, shape.path), ("", shape.method, shape.path), (endpoint,), ()):
            found = self._nearest(key, now, owner)
            if found is not None:
                return found
        return None

    def _nearest(self, key: tuple[object, ...], now: float, owner: int) -> Try | None:
        times, tries = self._tries.get(key, ((), ()))
        at = bisect_right(times, now)
        for index in (*range(at - 1, max(at - 5, -1), -1), *range(at, min(at + 4, len(tries)))):
            it: Try = tries[index]
            if it.owner != owner:
                return it
        return None


def connects(it: Try) -> bool:
    """Whether the try had a connection."""
    return it.failure != CONNECT
