"""Lets exchanges wait for an upstream that is away, in place of an error at once."""

from __future__ import annotations

import itertools
import sys
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final

from sidecar.config.declared import Settings, key
from sidecar.config.values import Duration, Integer
from sidecar.core.replies import STATUS, Reply
from sidecar.exchange.attempt import RACE
from sidecar.exchange.filter import Filter, Site, Wait
from sidecar.exchange.story import milliseconds
from sidecar.resilience.waiting_room import WaitingRoom

if TYPE_CHECKING:
    from sidecar.exchange.exchange import Exchange
    from sidecar.exchange.filter import Chain
    from sidecar.exchange.message import ResponseHead
    from sidecar.resilience.breaker import CircuitBreaker

#: What is waited for: each of these says that nothing of the request has reached an app.
AWAITED: Final = frozenset({"no_endpoints", "circuit_open", "connect_failed", "connect_timeout"})
#: Seconds between two looks at whether the upstream is back, while somebody waits for it.
LOOK: Final = 0.05
#: Answers that say that an upstream, or what is before it, is not well.
_ILL: Final = frozenset({502, 503, 504})


class WaitSettings(Settings):
    """Each exchange waits within its own deadline, ``timeout.request``; a connection of tcp has this time beside it."""

    short = "timeout"

    timeout: float = key(Duration("1ms", "10m"), "The longest that one waits.", default=10.0, example="10s")
    max: int = key(Integer(1, 10_000), "Most that wait; more are answered as without it.", default=100)


#: Where a waiter is: in its room; let go, and nothing is known yet of its try; on its way as any other; it may not wait
#: any more.
WAITS: Final = 0
OUT: Final = 1
AWAY: Final = 2
OVER: Final = 3


class Waiter:
    """One exchange's stay: since when, until when, the answer that it would have got, and where it is. ``passed``: it
    has been through the bulkhead before. ``notes``: how many steps were noted of it before it was first let go."""

    __slots__ = ("at", "notes", "passed", "reply", "ticket", "until", "where")

    def __init__(self, at: float, until: float, reply: Reply) -> None:
        self.at = at
        self.until = until
        self.reply = reply
        self.ticket = 0
        self.where = WAITS
        self.passed = False
        self.notes = -1


class Waiting(Filter):
    """Takes an exchange over in place of an error that says that its upstream is not there. What it took on its way (a
    slot of the bulkhead, a permit of the breaker) is given back while it waits, so that it is in nobody's way; it is
    asked for again when the exchange is let go.

    While any wait, those that come wait behind them. Each chain has a room of its own, as each may have a breaker of
    its own.
    """

    name: ClassVar[str] = "wait"
    stateful: ClassVar[bool] = True
    settings_class: ClassVar[Any] = WaitSettings
    doc: ClassVar[str] = "Wait for an upstream to come back, in place of no_endpoints, circuit_open, connect_failed."
    key_docs: ClassVar[dict[str, str]] = {"outbound": f"{doc} There is none unless it is given."}
    protocols: ClassVar[tuple[str, ...]] = ("http", "tcp")
    sides: ClassVar[tuple[str, ...]] = ("outbound",)
    refused: ClassVar[str] = "is for upstreams only: who calls this service has a sidecar that can wait"
    counters: ClassVar[dict[str, str]] = {
        "began": "Exchanges that began to wait for their upstream to come back.",
        "passed": "Exchanges that went on because it was back.",
        "timed_out": "Exchanges that waited in vain.",
        "full": "Exchanges that found no room to wait in.",
    }

    config: WaitSettings

    def __init__(self, config: WaitSettings, site: Site) -> None:
        super().__init__(config, site)
        self._clock = site.clock
        self._stats = site.stats
        self._rooms: dict[Chain, _Room] = {}

    def adapt(self, config: WaitSettings) -> bool:
        """Other settings, for what begins to wait from now on."""
        self.config = config
        return True

    def view(self) -> dict[str, Any]:
        rooms = list(self._rooms.values())
        return {"waiting": self._waiting(), "max": self.config.max, "under_trial": sum(it.places.out for it in rooms)}

    def _waiting(self) -> int:
        return sum(len(it.places) for it in self._rooms.values())

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def on_request(self, x: Exchange) -> Wait | None:
        """Behind those that wait already, if there are any."""
        if not self._rooms:
            return None
        room = self._rooms.get(x.chain)
        if room is None or not room.places:
            return None
        waiter = self._waiter(x, room.reply, newcomer=True)
        if waiter is None:
            return None
        x.state[self.place] = waiter
        self._enter(x, room, waiter)
        return Wait(waiter.until, waiter.reply)

    def on_reply(self, x: Exchange, reply: Reply) -> Wait | None:
        waiter: Waiter | None = x.state[self.place]
        if waiter is not None and waiter.where == WAITS:
            self._leave(x, waiter)
            if reply is waiter.reply:
                self.count("timed_out")  # else something is wrong with what came of it meanwhile
        elif waiter is not None and waiter.where == OUT:
            self._back(x, waiter, None)
        if reply.code not in AWAITED or not x.replayable:
            return None
        if waiter is None:
            waiter = self._waiter(x, reply)
            if waiter is None:
                return None
        elif waiter.where == OVER:
            return None
        elif self._clock() >= waiter.until:
            waiter.where = OVER
            return None
        x.state[self.place] = waiter
        waiter.reply = reply
        waiter.passed = True
        give_back(x)
        room = self._rooms.get(x.chain)
        if room is None:
            room = self._rooms[x.chain] = _Room(self, x)
        self._enter(x, room, waiter)
        return x.take_over(Wait(waiter.until, reply))

    def on_answer(self, x: Exchange, head: ResponseHead) -> Reply | None:
        """A peer sidecar's word that its app is not there is waited for, too."""
        waiter: Waiter | None = x.state[self.place]
        status = head.status
        if waiter is not None and waiter.where == OUT:
            self._back(x, waiter, status not in _ILL)
        if status < 500 or not head.peer_error:
            return None
        code = head.peer_error.decode("latin-1")
        if code not in AWAITED or STATUS[code] != status or not x.replayable or x.retried >= 0:
            return None  # the last: it was tried again below, and is not tried again here
        return Reply(code, f"the sidecar of {x.listener.name} says: {code}")

    def on_failure(self, x: Exchange, kind: str) -> None:
        waiter: Waiter | None = x.state[self.place]
        if waiter is not None and waiter.where == OUT and kind is not RACE:
            self._back(x, waiter, False)

    def on_connected(self, x: Exchange) -> None:
        waiter: Waiter | None = x.state[self.place]
        if waiter is not None and waiter.where == OUT:
            self._back(x, waiter, True)

    def on_end(self, x: Exchange) -> None:
        waiter: Waiter | None = x.state[self.place]
        if waiter is None:
            return
        if waiter.where == WAITS:
            self._leave(x, waiter)
        elif waiter.where == OUT:
            self._back(x, waiter, None)
        room = self._rooms.get(x.chain)
        if room is not None:
            self._clear(room)

    # -- the room ------------------------------------------------------------------------------------------------------

    def _waiter(self, x: Exchange, reply: Reply, newcomer: bool = False) -> Waiter | None:
        """A stay for that exchange; ``None``: there is no room for it, or no time."""
        now = self._clock()
        config = self.config
        tcp = self._stats.protocol == "tcp"
        until = now + config.timeout if tcp else min(now + config.timeout, x.deadline)
        if now >= until:
            return None
        waiting = self._waiting()
        if waiting >= config.max:
            if newcomer:
                return None  # it is tried, and may be well off with that
            self.count("full")
            x.note("no_room_to_wait", {"waiting": waiting, "max": config.max})
            return None
        if tcp:
            x.deadline += config.timeout
        self.count("began")
        x.note("wait", {"for": reply.code, "waiting": waiting, "timeout_ms": milliseconds(until - now)})
        return Waiter(now, until, reply)

    def _enter(self, x: Exchange, room: _Room, waiter: Waiter) -> None:
        waiter.where = WAITS
        waiter.ticket = room.places.enter((x, waiter), waiter.ticket)
        room.reply = waiter.reply
        self._stats.waiting += 1
        if room.timer.deadline == inf:  # else those who come would put it off for ever
            room.timer.set(self._clock() + LOOK)

    def _leave(self, x: Exchange, waiter: Waiter) -> None:
        waiter.where = OVER
        self._stats.waiting -= 1
        self._rooms[x.chain].places.leave(waiter.ticket)

    def _back(self, x: Exchange, waiter: Waiter, well: bool | None) -> None:
        """One that was let go has found out how the upstream is, or never will."""
        waiter.where = AWAY
        room = self._rooms[x.chain]
        now = self._clock()
        room.places.back(now, well)
        if well:
            self.count("passed")
            x.note("wait_over", {"waited_ms": milliseconds(now - waiter.at)})
            if not self._clear(room):
                room.timer.set(now)  # from the wheel: this one's answer is being handled
        # Else it may come back to its place, and what the room knows has to be there then.

    def _clear(self, room: _Room) -> bool:
        """Forget a room that is empty; whether it was."""
        if room.places or room.places.out:
            return False
        room.timer.close()
        self._rooms.pop(room.chain, None)
        return True

    def let_go(self, x: Exchange, waiter: Waiter) -> None:
        """It is its turn: it goes through the bulkhead again if it has been through it before, and on."""
        waiter.where = OUT
        self._stats.waiting -= 1
        if x.story is not None:  # of all that it has tried in vain, the last time is told
            if waiter.notes < 0:
                waiter.notes = len(x.story)
            del x.story[waiter.notes :]
        if waiter.passed:
            x.ahead = itertools.chain([it for it in x.chain.filters if it.name == "bulkhead"], x.ahead)
        x.grant()


def give_back(x: Exchange) -> None:
    """Give back what an exchange that goes no further has taken on its way: a slot of the bulkhead, a permit of the
    breaker."""
    for it in x.chain.filters:
        if it.name in ("bulkhead", "circuit_breaker"):
            it.on_end(x)


class _Room:
    """Those who wait in one chain, and what they wait for. ``reply`` is what the last one of them would have got."""

    __slots__ = ("_breaker", "_cluster", "_filter", "_listener", "chain", "places", "reply", "timer")

    def __init__(self, filter: Waiting, x: Exchange) -> None:
        self._filter = filter
        self._listener = listener = x.listener
        self._cluster = x.cluster
        self.chain = x.chain
        found: Any = next((it for it in x.chain.filters if it.name == "circuit_breaker"), None)
        self._breaker: CircuitBreaker | None = found and found.mechanism
        self.places = WaitingRoom()
        self.reply = Reply("no_endpoints", f"{listener.name} is not there")
        self.timer = listener.wheel.timer(self._look)

    def _look(self) -> None:
        """Let those go whose turn it is, as far as the upstream is back."""
        now = self._listener.clock()
        if self._listener.draining:
            for x, waiter in self.places.everyone():
                x.reply(waiter.reply)
            return
        for x, waiter in self.places.go(now, self._room()):
            self._filter.let_go(x, waiter)
        if self.places:
            self.timer.set(now + LOOK)

    def _room(self) -> int:
        """How many could be sent at this moment."""
        self._cluster.refresh()
        if not self._cluster.eligible:
            return 0
        return self._breaker.room() if self._breaker is not None else sys.maxsize
