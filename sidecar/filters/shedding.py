"""What a bulkhead does with a limit that is found, or with priorities (:mod:`sidecar.resilience.priority_limiter`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.core.replies import Reply
from sidecar.exchange.attempt import TIMEOUT
from sidecar.exchange.filter import HELD, Site, Wait
from sidecar.exchange.phases import ENDED, PENDING
from sidecar.exchange.story import milliseconds
from sidecar.resilience.adaptive_limit import GOOD, LOST, NEITHER
from sidecar.resilience.priority_limiter import CRITICAL, LOW, NORMAL, PRIORITIES, Candidate, PriorityLimiter

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange

#: Values of the header; any other is normal.
_WORDS: Final = {b"critical": CRITICAL, b"normal": NORMAL, b"low": LOW}


class Shedding:
    """Who is let in at once, who waits and who is shed, at one bulkhead whose place in ``x.state`` is ``place``. There
    stands the time at which an exchange took its slot, or the :class:`Waiting` that it waits as."""

    __slots__ = ("_clock", "_header", "_name", "_stats", "by", "limiter", "pending_timeout", "place", "shed", "shown")

    def __init__(self, limiter: PriorityLimiter, site: Site, by: str, priority: str, pending_timeout: float) -> None:
        self.limiter = limiter
        self._name = site.name
        self._stats = site.stats
        self._clock = site.clock
        self.place = 0
        #: Whether its limit is the one that the port shows: it is no route's.
        self.shown = False
        self.shed = dict.fromkeys(PRIORITIES, 0)
        self.configure(by, priority, pending_timeout)

    def configure(self, by: str, priority: str, pending_timeout: float) -> None:
        """Other settings: which key of the section the limit is from, which header has the priority."""
        self.by = by
        self._header = priority.partition(":")[2].encode()
        self.pending_timeout = pending_timeout

    def ask(self, x: Exchange) -> Reply | Wait | None:
        """Let an exchange in, make it wait, or refuse it."""
        now = self._clock()
        limiter = self.limiter
        if limiter.admit(now):
            x.state[self.place] = now
            return None
        priority = self._priority(x)
        waiting = Waiting(self, x, priority, now)
        full = not self.pending_timeout or not limiter.join(waiting)
        if self.shown:
            self._stats.limit = limiter.limit
        self._note(x, "bulkhead_full" if full else "bulkhead_wait", priority)
        if full:
            self.count(priority)
            return Reply(
                "overloaded",
                f"{limiter.active} in progress and {limiter.pending} waiting: {self._name} takes no more"
                + self._of(priority),
                1.0,
            )
        x.state[self.place] = waiting
        self._stats.pending += 1
        waiting.wait = Wait(
            min(x.deadline, now + self.pending_timeout),
            Reply("overloaded", f"waited too long for a free slot of {self._name}", 1.0),
        )
        return waiting.wait

    def leave(self, x: Exchange, held: Any) -> None:
        """An exchange ends; ``held`` is what stood at its place."""
        if isinstance(held, Waiting):
            self._stats.pending -= 1
            self.limiter.leave(held)
            if x.error == "overloaded" or x.phase != ENDED:  # or something else is answered in place of that
                self.count(held.priority)
        else:
            self.give_back(held, outcome(x))

    def give_back(self, since: float, how: int) -> None:
        """A slot that was taken at that time is free."""
        self.limiter.done(how, since, self._clock())
        if self.shown:
            self._stats.limit = self.limiter.limit

    def granted(self, waiting: Waiting) -> None:
        """A slot has become free, and is its."""
        x = waiting.x
        now = self._clock()
        self._stats.pending -= 1
        if x.suspended is HELD:  # its time was over, and another filter has taken it over
            x.state[self.place] = None
            self.limiter.done(NEITHER, now, now)
            return
        x.state[self.place] = now
        x.note("bulkhead_passed", {})
        x.grant()

    def give_up(self, waiting: Waiting, reason: str) -> None:
        """It will get none. It is told from the event loop: what has led to this may be in the middle of its end."""
        x = waiting.x
        x.state[self.place] = None
        self._stats.pending -= 1
        self.count(waiting.priority)
        waited = milliseconds(self._clock() - waiting.since)
        x.note("bulkhead_shed", {"because": reason, "waited_ms": waited, **self._told(waiting.priority)})
        x.listener.loop.call_soon(waiting.answer, reason)

    def answer(self, x: Exchange, priority: int, reason: str) -> None:
        """Tell an exchange that it was shed."""
        why = "what is more important came" if reason == "displaced" else "it waited for too long in an overload"
        x.reply(Reply("overloaded", f"{why}: {self._name} takes no more{self._of(priority)}", 1.0))

    def count(self, priority: int) -> None:
        """One of that priority was shed."""
        name = PRIORITIES[priority]
        self.shed[name] += 1
        self._stats.shed[name] += 1

    def view(self) -> dict[str, Any]:
        """What the admin API shows."""
        limiter = self.limiter
        shown: dict[str, Any] = {"limit": limiter.limit, "in_flight": limiter.active}
        if limiter.adaptive is not None:
            shown["level"] = limiter.adaptive.level
            shown["latency_ms"] = milliseconds(limiter.adaptive.latency)
        return {**shown, "waiting": limiter.waiting(), "shed": dict(self.shed)}

    def _priority(self, x: Exchange) -> int:
        if not self._header:
            return NORMAL
        request: Any = x
        value: bytes | None = request.head.get(self._header)
        return NORMAL if value is None else _WORDS.get(value.strip(b" \t").lower(), NORMAL)

    def _of(self, priority: int) -> str:
        return f" of priority {PRIORITIES[priority]}" if self._header else ""

    def _note(self, x: Exchange, what: str, priority: int) -> None:
        timeout = milliseconds(self.pending_timeout)
        x.note(what, {**self._told(priority), "pending_timeout_ms": timeout})

    def _told(self, priority: int) -> dict[str, Any]:
        limiter = self.limiter
        return {
            "active": limiter.active, "limit": limiter.limit, "by": self.by, "pending": limiter.pending,
            "max_pending": limiter.max_pending, "priority": PRIORITIES[priority] if self._header else "",
        }  # fmt: skip


class Waiting(Candidate):
    """An exchange that waits for a slot."""

    __slots__ = ("_shedding", "wait", "x")

    def __init__(self, shedding: Shedding, x: Exchange, priority: int, since: float) -> None:
        Candidate.__init__(self, priority, since)
        self._shedding = shedding
        self.x = x
        #: For how long.
        self.wait: Wait | None = None

    def granted(self) -> None:
        self._shedding.granted(self)

    def shed(self, reason: str) -> None:
        self._shedding.give_up(self, reason)

    def answer(self, reason: str) -> None:
        """Answer, unless it has ended meanwhile or does something else."""
        x = self.x
        if x.phase == PENDING and x.suspended is self.wait:
            self._shedding.answer(x, self.priority, reason)


def outcome(x: Exchange) -> int:
    """What the end of an exchange that had a slot says about its upstream. Our own answers say nothing, and neither do
    failures to reach it; that an answer was too late does, for the client too, who leaves without one."""
    http: Any = x
    answer = http.answer
    if answer is None:
        last = x.attempt or (x.tried[-1] if x.tried else None)
        late = x.status == 499 or (last is not None and last.failure == TIMEOUT)
        return LOST if late else NEITHER
    if x.error or answer.status >= 500 or answer.status == 429:
        return NEITHER
    return GOOD
