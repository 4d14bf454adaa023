"""What was confirmed to publishers, and what has become of it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from support.restarts.tap import Had, Tap


@dataclass(frozen=True, slots=True)
class Target:
    """A queue and how messages come to it; ``durable``: it outlives the broker (what is in it is persistent).
    ``kept``: a client that is connected declares it, so that it is there again whatever happened."""

    queue: str
    exchange: str
    key: str
    durable: bool
    kept: bool = True

    @property
    def name(self) -> str:
        """What bodies begin with."""
        return f"{self.queue}/{self.exchange}"


@dataclass(slots=True)
class Ledger:
    """All threads write to it."""

    tap: Tap
    targets: dict[str, Target]
    published: int = 0
    refused: int = 0
    confirmed: int = 0
    #: Confirms by who vouched for the message: ``broker`` if it had it by then.
    by: Counter[str] = field(default_factory=Counter)
    #: Messages by what became of them.
    fates: Counter[str] = field(default_factory=Counter)
    #: Those that came again, by queue, and whether the broker said so (``redelivered``).
    again: Counter[str] = field(default_factory=Counter)
    #: How connections of clients ended.
    ends: Counter[str] = field(default_factory=Counter)
    #: Confirmed messages that are lost though they would not have been without the sidecar.
    lost: list[str] = field(default_factory=list)
    _open: dict[bytes, str] = field(default_factory=dict)
    _consumed: Counter[bytes] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def publishes(self) -> None:
        with self._lock:
            self.published += 1

    def confirms(self, body: bytes) -> None:
        by = "broker" if self.tap.had(body) else "spool"
        with self._lock:
            self.confirmed += 1
            self.by[by] += 1
            self._open[body] = by

    def nacks(self) -> None:
        with self._lock:
            self.refused += 1

    def consumes(self, body: bytes, redelivered: bool = False) -> None:
        with self._lock:
            if body in self._consumed:
                name = body.partition(b"/")[0].decode()
                self.again[f"{name}, {'marked' if redelivered else 'unmarked'}"] += 1
            self._consumed[body] += 1

    def ended(self, how: str) -> None:
        """A client's connection."""
        with self._lock:
            self.ends[how] += 1

    def missing(self) -> int:
        """Confirmed ones that nobody has had."""
        with self._lock:
            return sum(body not in self._consumed for body in self._open)

    def balance(self, letters: dict[bytes, str]) -> None:
        """When all that could arrive has: each message is consumed, or a dead letter (body → reason), or was the
        broker's and went with it; else it is lost. All of them are forgotten then."""
        with self._lock:
            for body, by in self._open.items():
                target = self.targets[body.partition(b" ")[0].decode()]
                if body in self._consumed:
                    fate = "consumed"
                elif body in letters:
                    fate = f"dead letter ({letters[body]})"
                    if target.kept:
                        self.lost.append(f"{body[:60]!r} had somewhere to go, and is a {fate}")
                else:
                    had = self.tap.had(body)
                    fate = self._excuse(target, by, had)
                    if not fate:
                        fate = "lost"
                        self.lost.append(f"{body[:60]!r}, confirmed by the {by}; the broker had it: {had}")
                self.fates[fate] += 1
            self._open.clear()
            self._consumed.clear()
            self.tap.forget()

    def _excuse(self, target: Target, by: str, had: list[Had]) -> str:
        """Why a message that the broker had confirmed would be lost without the sidecar, too; empty: it would not."""
        for each in had:
            way = self.tap.ways.get((each.life, target.exchange, target.queue))
            if not each.routed and (way is None or way > each.published):
                if by == "broker":  # who publishes to nowhere gets such a confirm
                    return "found no queue at the broker"
            elif any(self.tap.ends[each.life :]):
                return "went with the broker's data"
            elif not target.durable and each.life < self.tap.life:
                left = [it for it in self.tap.left if it[:2] == (each.life, target.queue) and it[2] > each.published]
                return "went with a queue whose client left" if left else "went with a queue that is not durable"
        return ""

    def __str__(self) -> str:
        lines = [
            f"published {self.published}, nacked {self.refused}, confirmed {self.confirmed}: {dict(self.by)}",
            *(f"  {fate}: {count}" for fate, count in sorted(self.fates.items())),
            f"came again: {dict(self.again)}",
            f"connections that ended: {dict(self.ends)}",
            f"lost: {len(self.lost)}",
        ]
        return "\n".join(lines)
