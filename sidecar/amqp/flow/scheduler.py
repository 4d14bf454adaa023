"""Publishes that wait on an AMQP port, and how they leave.

The publishes of a channel that must stay in order (to one exchange, see AMQP 0-9-1 §4.7) are a *lane*. A lane waits as
a whole, in the line of the gate that its first publish waits for; lanes do not wait for each other. Inside a lane, and
between the lanes of a line, the higher priority leaves first, then what came first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.gates import Gate, SwitchGate, all_pass
from sidecar.amqp.flow.lanes import Handle, Lane, Sender
from sidecar.amqp.flow.stories import MOMENT

if TYPE_CHECKING:
    from sidecar.amqp.flow.policy import PublishRoute
    from sidecar.amqp.flow.publish import Publish
    from sidecar.amqp.flow.stats import AmqpStats
    from sidecar.core.amqp_settings import AmqpHold

#: The most that is done at a time: publishes that leave, lanes that change their line.
_AT_ONCE: Final = 500
#: Seconds between two looks at the lines when nothing has happened but time, and between two looks for what was held
#: for too long.
_PAUSE: Final = 0.002
_EXPIRY_PAUSE: Final = 0.05
#: There is room again below this part of both bounds.
_ROOM: Final = 0.9
#: Lines that are shorter than this part of the bounds may go on when they are reached, until this much is held in all.
_SHARE: Final = 0.125
_RESERVE: Final = 1.25


class Scheduler:
    """Lets publishes of one port wait until their gates open. ``call_at`` is the loop's, ``clock`` must be the same
    time.

    It counts the ``held…`` numbers of the exchanges' counters and the ``blocked…`` ones of the port's."""

    __slots__ = (
        "_alarm", "_alarm_seconds", "_alarm_since", "_arrivals", "_call_at", "_clock", "_expired_at", "_gates",
        "_handle", "_looked_at", "_ready", "_settings", "_tagged", "_when", "bytes", "full", "messages", "on_room",
        "stats",
    )  # fmt: skip

    def __init__(
        self,
        settings: AmqpHold,
        stats: AmqpStats,
        clock: Callable[[], float],
        call_at: Callable[[float, Callable[[], None]], Handle],
    ) -> None:
        self._settings = settings
        self.stats = stats
        self._clock = clock
        self._call_at = call_at
        #: Held now.
        self.messages = 0
        self.bytes = 0
        #: A bound was reached, and there is no room again yet. It is for the clients' legs not to read on then, as far
        #: as :meth:`crowded` says.
        self.full = False
        #: Called when there is room again: less than nine tenths of both bounds.
        self.on_room: Callable[[], None] | None = None
        self._alarm = SwitchGate("alarm of the broker")
        self._alarm_since = 0.0
        #: How long alarms have lasted in all, before the present one.
        self._alarm_seconds = 0.0
        #: Where lanes stand that wait for nothing known any more.
        self._ready = Gate("next turn")
        #: The gates that have lines, in the order in which they are seen to.
        self._gates: dict[Gate, None] = {}
        self._arrivals = 0
        #: Number of arrival → (when it expires but for the timeout and the alarms before, the publish, its lane), for
        #: those in confirm mode, oldest first.
        self._tagged: OrderedDict[int, tuple[float, Publish, Lane]] = OrderedDict()
        self._handle: Handle | None = None
        #: When the timer is due; inf: there is none, -inf: none may be set just now.
        self._when = inf
        self._looked_at = -inf
        self._expired_at = -inf

    def configure(self, settings: AmqpHold) -> None:
        """Take other bounds and another timeout."""
        self._settings = settings
        self._measure()
        self._see_to_room()
        self._arm(self._clock())

    def closed_gate(self, sender: Sender, route: PublishRoute, now: float) -> Gate | None:
        """None: a publish may go now, and is counted as gone by its gates. Otherwise the gate it has to wait for, or
        its lane has."""
        if sender.held:
            lane = sender.lanes.get("" if sender.one_lane else route.lane)
            if lane is not None:
                return lane.gate
        window = sender.window
        if window is not None and not window.open(now):
            return window
        alarm = self._alarm
        if alarm.closed or alarm.waiting:
            return alarm
        gates = route.gates
        if not gates:
            return None
        for gate in gates:
            if not gate.open(now):
                return gate
        for gate in gates:
            gate.passed(now)
        return None

    def admits(self, sender: Sender, route: PublishRoute, count: int, now: float) -> bool:
        """Whether so many publishes may go now, all of them: then they are counted as gone by their gates."""
        if sender.held or sender.window is not None or self._alarm.closed or self._alarm.waiting:
            return False
        return all_pass(route.gates, count, now)

    def enqueue(self, publish: Publish, gate: Gate, now: float) -> None:
        """Let a publish wait until its gates are open; ``gate`` is what :meth:`closed_gate` said."""
        sender = publish.sender
        name = "" if sender.one_lane else publish.route.lane
        arrival = publish.arrival or self.arrival()
        publish.arrival = arrival
        size = len(publish.frames)
        lane = sender.lanes.get(name)
        if lane is None:
            lane = sender.lanes[name] = Lane(sender, name, gate)
            lane.push(publish, size)
            self._line_up(lane, gate, now)
        else:
            lane.push(publish, size)
            lane.gate.messages += 1
            lane.gate.bytes += size
            if lane.heap[0][1] == arrival:
                lane.gate.leave(lane)
                self._line_up(lane, gate if gate.apart else self._place(lane), now)
        sender.held += 1
        stats = publish.route.stats
        stats.held += 1
        stats.held_messages += 1
        stats.held_bytes += size
        self.messages += 1
        self.bytes += size
        if publish.tag:
            since = now - self._alarm_time(now)
            self._tagged[arrival] = (since, publish, lane)
            if len(self._tagged) == 1:
                self._arm(self._expires_at(now))
        self._measure()

    def crowded(self, gate: Gate) -> bool:
        """Whether nobody may bring more that waits for this gate: a bound was reached, and this line has a good part of
        it. Who waits for something else is not to suffer for that, within a reserve."""
        if not self.full:
            return False
        messages, size = self._settings.messages, self._settings.bytes
        if self.messages >= messages * _RESERVE or self.bytes >= size * _RESERVE:
            return True
        return gate.messages >= messages * _SHARE or gate.bytes >= size * _SHARE

    def arrival(self) -> int:
        """A number for a publish that came just now. One that is held later, or again, has its place by it."""
        self._arrivals += 1
        return self._arrivals

    def alarm(self, on: bool, now: float) -> None:
        """The broker has an alarm, or none any more."""
        if on == self._alarm.closed:
            return
        stats = self.stats
        if on:
            self._alarm_since = now
            stats.blocked_since = now
        else:
            self._alarm_seconds += now - self._alarm_since
            stats.blocked_seconds += now - self._alarm_since
        stats.blocked = on
        self._alarm.set(on)
        self._arm(now)

    def forget(self, sender: Sender) -> list[Publish]:
        """The channel is gone: what was held for it, in order of arrival, and is not any more."""
        if not sender.held:
            return []
        now = self._clock()
        found: dict[int, Publish] = {}
        for lane in sender.lanes.values():
            lane.gate.leave(lane)
            for entry in lane.heap:
                self._tagged.pop(entry[1], None)
                found[entry[1]] = entry[2]
                self._gone(entry[2], now)
        sender.lanes.clear()
        self._see_to_room()
        return [found[arrival] for arrival in sorted(found)]

    def expire(self, now: float) -> None:
        """Refuse what is in confirm mode and was held for longer than the timeout. Time during which the broker had an
        alarm does not count. At most 500 at once; a timer does this by itself."""
        self._expired_at = now
        timeout = self._settings.timeout
        if not timeout or self._alarm.closed:
            return
        tagged = self._tagged
        latest = now - self._alarm_time(now) - timeout
        expired: dict[int, Publish] = {}
        lanes: dict[Lane, None] = {}
        while tagged and len(expired) < _AT_ONCE:
            arrival, entry = tagged.popitem(last=False)
            if entry[0] > latest:
                tagged[arrival] = entry
                tagged.move_to_end(arrival, last=False)
                break
            expired[arrival] = entry[1]
            lanes[entry[2]] = None
        for lane in lanes:
            lane.gate.leave(lane)
            lane.drop(expired)
            if lane.heap:
                self._line_up(lane, self._place(lane), now)
            else:
                del lane.sender.lanes[lane.name]
        for publish in expired.values():
            self._gone(publish, now)
        for publish in expired.values():
            publish.sender.refuse(publish)
        for lane in lanes:
            if not lane.sender.held:
                lane.sender.emptied()
        if lanes:
            self._see_to_room()

    def wake(self) -> None:
        """See to every line now: a gate may have opened."""
        self._arm(self._clock())

    def waiting(self) -> list[tuple[str, int]]:
        """The gates that publishes wait for, and how many there are."""
        return [(gate.name, gate.messages) for gate in self._gates if gate.messages]

    def _place(self, lane: Lane) -> Gate:
        """The gate in whose line a lane is to stand, with the first publish that it has now: where it stood, if that
        one has to pass there too."""
        gate = lane.gate
        if gate is self._alarm or gate.apart or gate is lane.sender.window:
            return gate
        if gate in lane.heap[0][2].route.gates:
            return gate
        return self._ready

    def _line_up(self, lane: Lane, gate: Gate, now: float) -> None:
        head = lane.heap[0]
        lane.rank = head[0]
        lane.arrival = head[1]
        if gate is not self._ready:
            head[2].waits_for = gate.name
        gate.join(lane)
        if gate not in self._gates:
            self._gates[gate] = None
            gate.on_change = self.wake
        if self._when > now:
            self._arm(max(gate.wake_at(now), self._looked_at + _PAUSE))

    def _gone(self, publish: Publish, now: float) -> None:
        """Count one held publish less."""
        size = len(publish.frames)
        stats = publish.route.stats
        stats.held_messages -= 1
        stats.held_bytes -= size
        stats.held_seconds += now - publish.since
        if now - publish.since >= MOMENT and self.stats.stories is not None:
            self.stats.stories.held(publish, now)
        publish.sender.held -= 1
        self.messages -= 1
        self.bytes -= size

    def _look(self) -> None:
        """The timer: let go what may go."""
        self._handle = None
        # Whatever happens meanwhile, the timer is set once, at the end.
        self._when = -inf
        now = self._looked_at = self._clock()
        left = _AT_ONCE
        try:
            for gate in list(self._gates):
                left = self._release(gate, now, left)
                del self._gates[gate]
                if gate.waiting:
                    self._gates[gate] = None
                if left == 0:
                    break
            if self._tagged and self._expires_at(now) <= now:
                self.expire(now)
            self._see_to_room()
        finally:
            self._when = inf
            self._arm(now if left == 0 else self._next(now))

    def _release(self, gate: Gate, now: float, left: int) -> int:
        """Let go those in the line of one gate who may go, at most ``left``; how many could be more."""
        while left:
            waiter = gate.first()
            if waiter is None:
                break
            assert isinstance(waiter, Lane)
            publish = waiter.heap[0][2]
            exempt = publish.sender.exempt(publish)
            shut = self._shut(publish, gate, exempt, now)
            spooled = shut is not None and shut.over == "spool" and publish.sender.spoolable(publish)
            # What goes into the spool waits for room there, and for nothing else.
            if (gate.apart and not gate.admit(now)) if spooled else (shut is gate):
                break
            left -= 1
            if spooled:
                self._take(waiter, now)
                publish.sender.spool(publish)
            elif shut is None:
                if not exempt:
                    for passed in publish.route.gates:
                        passed.passed(now)
                self._take(waiter, now)
                publish.sender.forward(publish)
            elif publish.tag and shut.over == "nack":
                self._take(waiter, now)
                publish.waits_for = shut.name
                publish.sender.refuse(publish)
            else:
                gate.leave(waiter)
                self._line_up(waiter, shut, now)
                continue
            if not publish.sender.held:
                publish.sender.emptied()
        return left

    def _shut(self, publish: Publish, mine: Gate, exempt: bool, now: float) -> Gate | None:
        """The first closed gate for the first of the line of ``mine``; None: it may go, and has its token."""
        if mine.apart and not mine.admit(now) and not publish.sender.bypasses(publish):
            return mine
        if exempt:
            return None
        window = publish.sender.window
        if window is not None and not (window.admit(now) if window is mine else window.open(now)):
            return window
        if self._alarm.closed:
            return self._alarm
        for gate in publish.route.gates:
            if not (gate.admit(now) if gate is mine else gate.open(now)):
                return gate
        return None

    def _take(self, lane: Lane, now: float) -> None:
        """Take the first publish out of its lane."""
        gate = lane.gate
        gate.leave(lane)
        publish = lane.pop()
        if publish.tag:
            self._tagged.pop(publish.arrival, None)
        if lane.heap:
            self._line_up(lane, self._place(lane), now)
        else:
            del lane.sender.lanes[lane.name]
        self._gone(publish, now)

    def _measure(self) -> None:
        if self.messages >= self._settings.messages or self.bytes >= self._settings.bytes:
            self.full = True

    def _see_to_room(self) -> None:
        if self.full and self.messages < self._settings.messages * _ROOM and self.bytes < self._settings.bytes * _ROOM:
            self.full = False
            if self.on_room is not None:
                self.on_room()

    def _alarm_time(self, now: float) -> float:
        """Seconds of alarm so far."""
        return self._alarm_seconds + (now - self._alarm_since if self._alarm.closed else 0.0)

    def _expires_at(self, now: float) -> float:
        """When to look for what was held for too long; inf: not before something else happens."""
        tagged = self._tagged
        if not tagged or not self._settings.timeout or self._alarm.closed:
            return inf
        first = tagged[next(iter(tagged))]
        return max(first[0] + self._alarm_seconds + self._settings.timeout, self._expired_at + _EXPIRY_PAUSE)

    def _next(self, now: float) -> float:
        when = min([gate.wake_at(now) for gate in self._gates if gate.waiting], default=inf)
        return min(max(when, now + _PAUSE), self._expires_at(now))

    def _arm(self, when: float) -> None:
        if when < self._when:
            if self._handle is not None:
                self._handle.cancel()
            self._when = when
            self._handle = self._call_at(when, self._look)
