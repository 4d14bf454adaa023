"""The exchange: one request and its answer, or one TCP connection, on its way through a listener's chain.

This file holds what HTTP and TCP share: running the hooks, waiting when a filter says so, one attempt after the other,
and exactly one end. What leads from which phase to which is the table in :mod:`sidecar.exchange.phases`.

The hot path allocates one exchange and one attempt, and nothing else: no task, no future, no timer.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any

from sidecar.core.replies import Reply
from sidecar.exchange import tries
from sidecar.exchange.attempt import HEDGED, RACE, Attempt
from sidecar.exchange.filter import HELD, Again, Answer, Filter, Wait
from sidecar.exchange.hedge import unanswered
from sidecar.exchange.phases import BACKOFF, CONNECTING, ENDED, NEW, PENDING, SENT
from sidecar.exchange.silence import check_silence
from sidecar.exchange.story import MOST_NOTES, Note, milliseconds, note_choice
from sidecar.net.causes import CAUSES

if TYPE_CHECKING:
    from sidecar.core.trace import Trace
    from sidecar.endpoints.endpoint import Endpoint
    from sidecar.exchange.listener import Listener
    from sidecar.exchange.routes import Route


class Exchange:
    """What every exchange has. Subclasses say how a try is begun and how a reply is given."""

    __slots__ = (
        "ahead", "attempt", "attempts", "bytes_in", "bytes_out", "chain", "client_ip", "cluster", "deadline", "ended",
        "error", "fresh", "granted", "head_at", "hedge_at", "listener", "method", "permit", "phase", "replayable",
        "request_id", "retried", "rival", "started", "state", "status", "story", "suspended", "touched", "trace",
        "tried", "undrained",
    )  # fmt: skip

    def __init__(
        self, listener: Listener, route: Route, client_ip: str, started: float, method: str = "", granted: float = inf
    ) -> None:
        self.listener = listener
        self.chain = chain = route.chain
        self.cluster = route.cluster
        self.client_ip = client_ip
        #: The request's; a TCP connection has none.
        self.method = method
        #: Time (of the listener's clock) at which it began.
        self.started = started
        #: Time by which an answer must have begun, all attempts included.
        self.deadline = 0.0
        #: The seconds until then that its caller has left for it; inf: it does not say.
        self.granted = granted
        #: Time (of the listener's clock) of the last byte in either direction.
        self.touched = started
        #: Time (of the listener's clock) at which the head of an answer came that was not all there at once; 0: none.
        self.head_at = 0.0
        #: Time (of the listener's clock) at which it ended; 0: it has not.
        self.ended = 0.0
        #: Bytes that the peers had left to read at the last look.
        self.undrained = 0
        self.phase = NEW
        #: The attempt under way; the one that began beside it, when it had been silent for long; how many there were,
        #: with these; and those before them.
        self.attempt: Attempt | None = None
        self.rival: Attempt | None = None
        self.attempts = 0
        self.tried: tuple[Attempt, ...] = ()
        #: When another attempt may begin beside the first (0: never); inf: one did, of which nothing is counted yet.
        self.hedge_at = 0.0
        #: The breaker's permit for the next attempt.
        self.permit = 0
        #: The tries after which it was given up, here or by a peer, so that no hop above tries again; -1: it was not.
        self.retried = -1
        #: The next attempt must not use a kept connection.
        self.fresh = False
        self.request_id = ""
        #: Its place in a trace, where more than passing it on is done with it.
        self.trace: Trace | None = None
        #: What filters remember of it, each at its own place.
        self.state: list[Any] = chain.blank[:]
        #: What happened to it besides the ordinary, for those who ask why: see :meth:`note`.
        self.story: list[Note] | None = None
        #: While it waits: for how long.
        self.suspended: Wait | None = None
        #: Whether everything that the client sent is still at hand for another try.
        self.replayable = True
        #: How it ended: the status the client saw (0: none), and our own code if the answer was ours.
        self.status = 0
        self.error = ""
        self.bytes_in = 0
        self.bytes_out = 0
        #: The filters that are still to be asked.
        self.ahead: Iterator[Filter] = iter(chain.on_request)

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the attempt under way goes."""
        attempt = self.attempt
        return attempt.endpoint if attempt is not None else None

    def been(self, endpoint: Endpoint) -> bool:
        """Whether an attempt before this one went there."""
        rival = self.rival
        return any(attempt.endpoint is endpoint for attempt in self.tried) or (
            rival is not None and rival.endpoint is endpoint
        )

    @property
    def in_vain(self) -> bool:
        """Whether there was an attempt that came to nothing, and not because another one beside it was quicker."""
        return any(attempt.failure != HEDGED for attempt in self.tried)

    def note(self, what: str, detail: dict[str, Any]) -> None:
        """Remember a step, and what was known when it was taken. Only for what is out of the ordinary: an exchange that
        is simply passed on notes nothing. ``detail`` is plain JSON, without anything of bodies or secrets."""
        story = self.story
        if story is None:
            self.story = story = []
        if len(story) < MOST_NOTES:
            story.append(Note(self.listener.clock(), what, detail))

    # -- the way through the chain ---------------------------------------------------------------------------------

    def run(self, now: float = 0.0) -> None:
        """Call the request hooks from where they stopped, then begin the first try. ``now`` as in :meth:`end`."""
        for it in self.ahead:
            verdict = it.on_request(self)
            if verdict is not None:
                if isinstance(verdict, Reply):
                    self.reply(verdict)
                elif isinstance(verdict, Wait):
                    self._wait(verdict)
                else:
                    self.give(verdict)
                return
        self.begin_try(now)

    def _wait(self, wait: Wait) -> None:
        if wait is not HELD:
            self.phase = PENDING
            self.suspended = wait
            self.set_timer(wait.until)

    def grant(self) -> None:
        """What it has waited for is there. It goes on from the event loop: whoever grants it may be in the middle of
        another exchange's end, and a queue of exchanges that all fail at once must not become a stack."""
        self.suspended = None
        self.listener.loop.call_soon(self._granted)

    def _granted(self) -> None:
        if self.suspended is None:  # else it waits for something else by now
            self.resume()

    def resume(self) -> None:
        """Go on with the next hook, if one of them made it wait."""
        if self.phase == PENDING:
            self.phase = NEW
            self.suspended = None
            self.run()

    def take_over(self, wait: Wait = HELD) -> Wait:
        """A filter takes it over instead of the answer that it would have got, and gives one later. It may have ended
        by then, and even when this returns: its times go on. With another ``wait`` it is one like any other."""
        while self.attempt is not None:  # its connection is cut; nothing more is to come of it
            self.leave_endpoint()
        self.phase = PENDING
        self.suspended = wait
        self.touched = self.listener.clock()
        if wait is HELD:
            self.check_idle(self.touched)
        else:
            self.set_timer(wait.until)
        return wait

    def begin_try(self, now: float = 0.0) -> None:
        """Ask the breaker, pick an endpoint, and get a connection to it."""
        for it in self.chain.on_try:
            verdict = it.on_try(self)
            if verdict is not None:
                if isinstance(verdict, Reply):
                    self.reply(verdict)
                else:
                    self.give(verdict)
                return
        cluster = self.cluster
        tried = [attempt.endpoint for attempt in self.tried] if self.tried else ()
        key_of = cluster.key_of
        endpoint = cluster.pick(self.client_ip if key_of is None else key_of(self), tried)
        if endpoint is None or tried:
            note_choice(self, endpoint)
            if endpoint is None:
                why = f": {cluster.problem}" if cluster.problem else ""
                if cluster.cause:
                    cluster.count(cluster.cause)
                self.reply(Reply("no_endpoints", f"no healthy instance of {self.listener.name} is known{why}"))
                return
            for differ in self.chain.on_again:
                differ(self)
        self.attempt = attempt = Attempt(endpoint, now or self.listener.clock(), self.permit)
        self.permit = 0
        endpoint.active += 1  # begin(), without the call, as in end()
        if endpoint.followers:
            endpoint.tell(1)
        endpoint.tries += 1
        self.attempts += 1
        self.phase = CONNECTING
        self.open(attempt)

    # -- how a try can go wrong --------------------------------------------------------------------------------------

    def try_failed(self, attempt: Attempt, kind: str) -> None:
        """This attempt will bring no answer."""
        tries.failed(self, attempt, kind)

    def tell(self, attempt: Attempt, status: int) -> None:
        """Tell those who watch the cluster's tries what came of this one."""
        self.say(attempt, self.listener.clock() - attempt.began, status, attempt.failure)

    def say(self, attempt: Attempt, took: float, status: int, failure: str) -> None:
        """Tell them this."""
        subsets = self.listener.cluster.subsets
        if subsets is not None:
            subsets.again = any(it.failure != RACE and not it.moved for it in self.tried)
        for watch in self.cluster.watchers:
            watch(attempt.endpoint, took, status, failure)

    def retry_later(self, again: Again) -> None:
        """Wait as long as the filter says, then begin another try."""
        self.listener.stats.retried(again.reason)
        self.note("again", {"because": again.reason, "delay_ms": milliseconds(again.delay)})
        if again.delay > 0:
            self.phase = BACKOFF
            self.set_timer(self.listener.clock() + again.delay)
        else:
            self.begin_try()

    def leave_endpoint(self) -> None:
        """The attempt is over; remember where it went, so that the next one goes elsewhere. If there were two, the
        other one is the attempt now."""
        attempt = self.attempt
        if attempt is not None:
            attempt.endpoint.end()
            attempt.took = self.listener.clock() - attempt.began
            attempt.endpoint.seconds += attempt.took
            self.attempt = self.rival
            self.rival = None
            if self.hedge_at != inf:
                self.hedge_at = 0.0
            self.tried += (attempt,)

    def attend(self, attempt: Attempt) -> None:
        """What happens now happens to this one of the attempts under way: it is the one that filters see."""
        if attempt is self.rival:
            self.rival = self.attempt
            self.attempt = attempt

    def moved(self, attempt: Attempt, endpoint: Endpoint) -> None:
        """The connection of this attempt will be to another address of the same name, which was quicker."""
        attempt.endpoint.end()
        blamed = attempt.endpoint.last_error  # a moment ago, by Cluster.attempt_failed
        cause = blamed.kind if blamed is not None and blamed.kind in CAUSES else "timeout"
        self.tried += (attempt.left(cause, self.listener.clock()),)
        attempt.endpoint = endpoint
        endpoint.begin()
        endpoint.tries += 1

    def connect_failed(self, attempt: Attempt, error: Exception | None) -> None:
        """The connection could not be made (``None``: not in time)."""
        attempt.connecting = None
        if self.phase == CONNECTING or (self.phase == SENT and not attempt.sent):
            tries.not_connected(self, attempt, error)

    def check_timer(self, now: float) -> None:
        """The client's timer went off: do what the phase has been waiting for, or set the timer again."""
        phase = self.phase
        if phase == BACKOFF:
            self.phase = NEW
            self.begin_try()
        elif phase == PENDING:
            wait = self.suspended
            if wait is HELD:
                self.check_idle(now)
            elif wait is not None:  # else it was granted, and goes on in a moment
                if wait.otherwise is not None:
                    self.note("waited_too_long", {})
                    self.reply(wait.otherwise)
                else:
                    self.resume()
        elif phase in (CONNECTING, SENT):
            self.check_attempts(now)
        else:
            self.check_idle(now)

    def check_attempts(self, now: float) -> None:
        """The same while attempts are under way."""
        tries.check(self, now)

    def check_idle(self, now: float) -> None:
        """Bytes are flowing, or should be: end it when neither side has said anything for too long."""
        check_silence(self, now)

    def count_in(self, size: int) -> None:
        """Bytes from the client. Counted as they pass, not at the end: a tunnel may live for days."""
        self.bytes_in += size
        self.listener.stats.bytes_in += size

    def count_out(self, size: int) -> None:
        """Bytes to the client."""
        self.bytes_out += size
        self.listener.stats.bytes_out += size

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self, now: float = 0.0) -> bool:
        """Give everything back, once; whether this call was the one that did. ``now``: the listener's time, if it is at
        hand."""
        if self.phase == ENDED:
            return False
        self.phase = ENDED
        self.ended = now or self.listener.clock()
        for it in self.chain.on_end:
            it.on_end(self)
        attempt = self.attempt
        if attempt is not None:
            endpoint = attempt.endpoint
            endpoint.active -= 1
            if endpoint.followers:
                endpoint.tell(-1)
            if attempt.connecting is not None:
                attempt.stop_connecting()
        if self.hedge_at:
            unanswered(self)
        return True

    # -- what HTTP and TCP do differently --------------------------------------------------------------------------

    def open(self, attempt: Attempt) -> None:
        """Get a connection to the attempt's endpoint and send what there is."""
        raise NotImplementedError

    def reply(self, reply: Reply) -> None:
        """Answer the client ourselves and end."""
        raise NotImplementedError

    def give(self, answer: Answer) -> None:
        """Answer what a filter has made, and end."""
        self.status = answer.status
        self.abort()

    def reset(self) -> None:
        """Cut its client off with a reset, in place of any answer, and end."""
        raise NotImplementedError

    def cut(self) -> None:
        """Let go of the connections of what is under way."""
        raise NotImplementedError

    def cut_one(self, attempt: Attempt) -> None:
        """Let go of that attempt's connection, if it has one."""
        self.cut()

    def abort(self) -> None:
        """End it so that both sides notice that it is incomplete."""
        raise NotImplementedError

    def client_stalls(self) -> bool:
        """Whether it is the client that is waited for. That says nothing about the endpoint."""
        return False

    def longest_silence(self) -> float:
        """Seconds after which :meth:`check_idle` ends it; 0: never."""
        return self.chain.timeout.idle

    def least_read(self, seconds: float) -> float:
        """Bytes of what was written that a peer must read in that time, or it is silent."""
        return 0.0

    def undelivered(self) -> int:
        """Bytes that were written to either side and that it has not read, as far as can be known."""
        return 0

    def set_timer(self, deadline: float) -> None:
        """Have :meth:`check_timer` called at that time."""
        raise NotImplementedError
