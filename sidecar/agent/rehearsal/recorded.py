"""What was recorded, made whole again: requests with their tries."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.core.decisions import DETAIL, DETAILED, GIVEN_UP, LAST, REPLAYABLE, TRIED, UPGRADE, Shape
from sidecar.exchange.attempt import CONNECT, RACE
from sidecar.filters.decisions import FAILURES, LATE


class Try:
    """One try: where it went, and seconds: to its connection (or until that failed), from there to the head of the
    answer, and of the answer. ``failure`` is its kind; ``late``: no connection came in time. ``silent``: it had no
    answer by the time at which its client left. ``given_up``: a peer sidecar said that it had."""

    __slots__ = (
        "answering", "at", "connecting", "endpoint", "failure", "given_up", "late", "owner", "peer", "status",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, owner: int, at: float, endpoint: str, connecting: float, waiting: float, answering: float, status: int,
        peer: str, failure: str, late: bool = False, given_up: bool = False,
    ) -> None:  # fmt: skip
        self.owner = owner
        self.at = at
        self.endpoint = endpoint
        self.connecting = connecting
        self.waiting = waiting
        self.answering = answering
        self.status = status
        self.peer = peer
        self.failure = failure
        self.late = late
        self.given_up = given_up

    @property
    def silent(self) -> bool:
        return not self.status and not self.failure


class Recorded:
    """A request: when it began (the recording clock's time), what it was, how it ended."""

    __slots__ = (
        "attempts", "began", "client", "error", "generation", "replayable", "seconds", "shape", "status", "tries",
        "upgrade",
    )  # fmt: skip

    def __init__(self, began: float, seconds: float, client: int, generation: int) -> None:
        self.began = began
        self.seconds = seconds
        self.client = client
        self.generation = generation
        self.shape: Shape
        self.tries: Sequence[Try] = ()
        self.status = 0
        self.error = ""
        self.attempts = 1
        self.replayable = True
        self.upgrade = False


def read(segments: Sequence[Mapping[str, Any]]) -> list[Recorded]:
    """All requests of these segments, in the order in which they began."""
    found: list[Recorded] = []
    for segment in segments:
        _read(segment, found)
    found.sort(key=lambda it: it.began)
    return found


def _read(segment: Mapping[str, Any], found: list[Recorded]) -> None:
    shapes = [_shape(it) for it in segment["shapes"]]
    names: Sequence[str] = segment["names"]
    numbered = segment["numbered"]
    details = DETAIL.iter_unpack(segment["details"])
    columns = zip(
        _column("d", segment["began"]), _column("f", segment["seconds"]), _column("I", segment["kinds"]),
        _column("I", segment["clients"]), strict=True,
    )  # fmt: skip
    for began, seconds, kind, client in columns:
        it = Recorded(began, seconds, client, segment["generation"])
        if kind == DETAILED:
            _detailed(it, details, shapes, names, len(found))
        else:
            shape, endpoint, status = numbered[kind]
            it.shape, it.status = shapes[shape], status
            it.tries = (Try(len(found), began, names[endpoint], 0.0, seconds, 0.0, status, "", ""),)
        found.append(it)


def _detailed(
    it: Recorded, details: Iterator[tuple[Any, ...]], shapes: Sequence[Shape], names: Sequence[str], owner: int
) -> None:
    tries: list[Try] = []
    for took, began, sent, head, shape, endpoint, error, peer, status, answer, failure, attempts, flags in details:
        late, last = failure == LATE, bool(flags & LAST)
        kind: str = CONNECT if late else FAILURES[failure]
        if flags & TRIED and kind != RACE:
            end = took if last else began + took
            connecting = sent - began if sent >= 0 else end - began
            waiting = (head if head >= 0 else end) - sent if sent >= 0 else 0.0
            answering = end - head if last and head >= 0 else 0.0
            tries.append(
                Try(owner, it.began + began, names[endpoint], max(connecting, 0.0), max(waiting, 0.0),
                    max(answering, 0.0), answer, names[peer], kind, late, bool(flags & GIVEN_UP))
            )  # fmt: skip
        if last:
            it.shape, it.error, it.status, it.attempts = shapes[shape], names[error], status, attempts
            it.replayable, it.upgrade = bool(flags & REPLAYABLE), bool(flags & UPGRADE)
            break
    tries.sort(key=lambda it: it.at)  # the one that was used may have begun before one that was given up
    it.tries = tries


def _column(code: Any, data: bytes) -> array[Any]:
    found: array[Any] = array(code)
    found.frombytes(data)
    return found


_FIELDS: Final = ("listener", "method", "path", "cut", "route", "names", "watched", "conditions", "matched")


def _shape(taken: Sequence[Any]) -> Shape:
    it = dict(zip(_FIELDS, taken, strict=True))
    shape = Shape(
        it["listener"], it["method"], it["path"], it["route"], it["names"], it["watched"], it["conditions"],
        it["matched"],
    )  # fmt: skip
    shape.cut = it["cut"]
    return shape
