"""The exchange: one request and its answer, or one TCP connection, on its way through a listener's chain.

This file holds what HTTP and TCP share: running the hooks, waiting when a filter says so, one try after the other, and
exactly one end. An exchange is always in one of the phases below; every timer and every peer's event is read against
it, so a late event (a connect that succeeds after the client has left, say) finds nothing to do.

The hot path allocates one exchange and nothing else: no task, no future, no timer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sidecar.filters.api import WAIT, Hook, Retry
from sidecar.net.shortage import SHORTAGE, is_local
from sidecar.proxy.errors import Reply

if TYPE_CHECKING:
    from sidecar.filters.api import Chain
    from sidecar.proxy.listener import Listener
    from sidecar.proxy.trace import Trace
    from sidecar.resilience.limiter import Limiter
    from sidecar.upstreams.endpoint import Endpoint

#: Phases, in the order in which they are passed through; BACKOFF leads back to CONNECTING. STORING comes instead of an
#: answer of our own, where requests are queued.
NEW, PENDING, BACKOFF, CONNECTING, SENT, STORING, ANSWERING, TUNNEL, ENDED = range(9)

#: Looks at how much the peers have read, per ``timeout.idle``.
LOOKS: Final = 8
#: Failures of a try, as the policies name them: could not connect; no answer in time; cut off before an answer; a kept
#: connection that closed just as it was used; an answer that is not HTTP.
CONNECT: Final = "connect"
TIMEOUT: Final = "timeout"
RESET: Final = "reset"
RACE: Final = "race"
MALFORMED: Final = "malformed"
#: What is said to a client whose request does not come.
STALLED: Final = "the rest of the request did not arrive in time"


class Exchange:
    """What every exchange has. Subclasses say how a try is begun and how a reply is given."""

    __slots__ = (
        "attempts", "bytes_in", "bytes_out", "chain", "client_ip", "connecting", "deadline", "endpoint", "error",
        "fresh", "hooks", "listener", "method", "permit", "phase", "queue", "queue_deadline", "replayable",
        "request_id", "slot", "started", "status", "timed_out_connecting", "touched", "trace", "tried", "try_deadline",
        "undrained",
    )  # fmt: skip

    def __init__(self, listener: Listener, chain: Chain, client_ip: str, started: float) -> None:
        self.listener = listener
        self.chain = chain
        self.client_ip = client_ip
        #: The request's; a TCP connection has none.
        self.method = ""
        #: Time (of the listener's clock) at which it began.
        self.started = started
        #: Times by which an answer must have begun, all tries included; and by which this try must have.
        self.deadline = 0.0
        self.try_deadline = 0.0
        #: Time (of the listener's clock) of the last byte in either direction.
        self.touched = started
        #: Bytes that the peers had left to read at the last look.
        self.undrained = 0
        self.phase = NEW
        self.attempts = 0
        self.endpoint: Endpoint | None = None
        self.tried: tuple[Endpoint, ...] = ()
        #: The next try must not use a kept connection.
        self.fresh = False
        self.connecting: asyncio.Task[None] | None = None
        self.timed_out_connecting = False
        self.request_id = ""
        #: Its place in a trace, where more than passing it on is done with it.
        self.trace: Trace | None = None
        #: The bulkhead slot and the breaker permit it holds, to be given back at the end.
        self.slot: Limiter | None = None
        self.permit = 0
        #: The bulkhead's queue it stands in, and until when.
        self.queue: Limiter | None = None
        self.queue_deadline = 0.0
        #: Whether everything that the client sent is still at hand for another try.
        self.replayable = True
        #: How it ended: the status the client saw (0: none), and our own code if the answer was ours.
        self.status = 0
        self.error = ""
        self.bytes_in = 0
        self.bytes_out = 0
        self.hooks: Iterator[Hook] = iter(chain.on_request)

    # -- the way through the chain ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Call the request hooks from where they stopped, then begin the first try."""
        for hook in self.hooks:
            verdict = hook(self)
            if verdict is not None:
                if verdict is WAIT:
                    self.phase = PENDING
                    self.set_timer(self.queue_deadline)
                else:
                    self.reply(verdict)
                return
        self.begin_try()

    def granted(self) -> None:
        """The bulkhead hands over a slot. What follows runs from the event loop: the giver is in the middle of its own
        end, and a queue of exchanges that all fail at once must not become a stack."""
        queue = self.queue
        assert queue is not None
        self.queue = None
        self.slot = queue
        self.listener.stats.pending -= 1
        self.listener.loop.call_soon(self.resume)

    def resume(self) -> None:
        """Go on with the next hook, if one of them made it wait."""
        if self.phase == PENDING:
            self.phase = NEW
            self.run()

    def begin_try(self) -> None:
        """Ask the breaker, pick an endpoint, and get a connection to it."""
        for hook in self.chain.on_try:
            verdict = hook(self)
            if verdict is not None:
                self.reply(verdict)
                return
        listener = self.listener
        endpoint = listener.cluster.pick(self.client_ip, self.tried)
        if endpoint is None:
            problem = listener.cluster.problem
            why = f": {problem}" if problem else ""
            self.reply(Reply("no_endpoints", f"no healthy instance of {listener.name} is known{why}"))
            return
        self.endpoint = endpoint
        endpoint.active += 1
        self.attempts += 1
        self.phase = CONNECTING
        self.open(endpoint)

    # -- how a try can go wrong --------------------------------------------------------------------------------------

    def try_failed(self, kind: str) -> None:
        """This try will bring no answer: tell the filters, then try again or answer for the upstream."""
        endpoint = self.endpoint
        assert endpoint is not None
        if kind is not RACE:
            self.listener.cluster.failed(endpoint, hard=kind is CONNECT)
        retry = None
        for hook in self.chain.on_failure:
            retry = hook(self, kind) or retry
        self.leave_endpoint()
        if retry is not None:
            self.retry_later(retry)
        else:
            self.reply(self.explain(kind, endpoint))

    def retry_later(self, retry: Retry) -> None:
        """Wait as long as the retry filter says, then begin another try."""
        self.listener.stats.retries[retry.reason] += 1
        if retry.delay > 0:
            self.phase = BACKOFF
            self.set_timer(self.listener.clock() + retry.delay)
        else:
            self.begin_try()

    def leave_endpoint(self) -> None:
        """The try is over; remember where it went, so that the next one goes elsewhere."""
        endpoint = self.endpoint
        if endpoint is not None:
            endpoint.active -= 1
            self.endpoint = None
            self.tried += (endpoint,)

    def moved(self, endpoint: Endpoint) -> None:
        """The connection of this try will be to another address of the same name, which was quicker."""
        self.leave_endpoint()
        self.endpoint = endpoint
        endpoint.active += 1

    def connect_failed(self, error: Exception | None) -> None:
        """The connection could not be made (``None``: not in time)."""
        self.connecting = None
        if self.phase == CONNECTING:
            if isinstance(error, OSError) and is_local(error):
                self._fall_short(error)
                return
            self.timed_out_connecting = error is None
            self.try_failed(CONNECT)

    def _fall_short(self, error: OSError) -> None:
        """This host lacks something for another connection. Neither the endpoint nor the upstream is to blame, so no
        filter hears of it: the breaker's permit goes back unused at the end."""
        SHORTAGE.met(error)
        self.leave_endpoint()
        reason = os.strerror(error.errno or 0)
        self.reply(Reply("local_shortage", f"the sidecar cannot open another connection: {reason}", 1.0))

    def refuse_connection(self) -> None:
        """All connections that the bulkhead allows are in use."""
        self.leave_endpoint()
        self.reply(Reply("overloaded", f"all connections to {self.listener.name} are in use", 1.0))

    def explain(self, kind: str, endpoint: Endpoint) -> Reply:
        """The answer that stands for a failed try."""
        where = f"{self.listener.name} at {endpoint.where}"
        tries = f" ({self.attempts} tries)" if self.attempts > 1 else ""
        if kind is CONNECT:
            if self.timed_out_connecting:
                return Reply("connect_timeout", f"no connection to {where} in time{tries}")
            return Reply("connect_failed", f"could not connect to {where}{tries}")
        if kind is TIMEOUT:
            return Reply("timeout", f"no answer from {where} in time{tries}")
        if kind is MALFORMED:
            return Reply("bad_upstream", f"the answer from {where} was not valid HTTP{tries}")
        return Reply("upstream_reset", f"{where} closed the connection before it answered{tries}")

    def check_timer(self, now: float) -> None:
        """The client's timer went off: do what the phase has been waiting for, or set the timer again."""
        phase = self.phase
        if phase == BACKOFF:
            self.phase = NEW
            self.begin_try()
        elif phase == PENDING:
            if self.queue is not None:
                self.reply(Reply("overloaded", f"waited too long for a free slot of {self.listener.name}", 1.0))
            elif self.slot is None:  # else a slot has just been granted
                self.reply(Reply("timeout", "what is stored of this request could not be looked up in time"))
        elif phase in (CONNECTING, SENT):
            if now < self.try_deadline:
                self.set_timer(self.try_deadline)
            elif self.client_stalls():
                self.reply(Reply("timeout", STALLED))
            else:
                self.cut()
                if phase == CONNECTING and now < self.deadline:
                    self.connect_failed(None)
                else:
                    self.try_failed(TIMEOUT)
        else:
            self.check_idle(now)

    def check_idle(self, now: float) -> None:
        """Bytes are flowing, or should be: end it when neither side has said anything for too long. While a peer reads
        what it was sent before, there is no silence; so this is looked at :data:`LOOKS` times as often."""
        timeout = self.chain.timeout
        idle = self.longest_silence()
        due = float("inf")
        look = due
        if idle:
            look = now + idle / LOOKS
            if now > self.touched:
                left = self.undelivered()
                if left < self.undrained - self.least_read(idle / LOOKS):
                    self.touched = now
                elif left and not self.undrained:  # what was read of it before this first look is not known
                    self.touched = max(self.touched, now - idle / LOOKS)
                self.undrained = left
            due = self.touched + idle
        if timeout.total and self.phase != TUNNEL:
            due = min(due, self.started + timeout.total)
        if now < due:
            self.set_timer(min(due, look))
        else:
            self.error = "timeout"
            self.abort()

    def count_in(self, size: int) -> None:
        """Bytes from the client. Counted as they pass, not at the end: a tunnel may live for days."""
        self.bytes_in += size
        self.listener.stats.bytes_in += size

    def count_out(self, size: int) -> None:
        """Bytes to the client."""
        self.bytes_out += size
        self.listener.stats.bytes_out += size

    # -- the end ---------------------------------------------------------------------------------------------------

    def end(self) -> bool:
        """Give everything back, once; whether this call was the one that did."""
        if self.phase == ENDED:
            return False
        self.phase = ENDED
        for hook in self.chain.on_end:
            hook(self)
        endpoint = self.endpoint
        if endpoint is not None:
            endpoint.active -= 1
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        return True

    # -- what HTTP and TCP do differently --------------------------------------------------------------------------

    def open(self, endpoint: Endpoint) -> None:
        """Get a connection to the endpoint and send what there is."""
        raise NotImplementedError

    def reply(self, reply: Reply) -> None:
        """Answer the client ourselves and end."""
        raise NotImplementedError

    def cut(self) -> None:
        """Let go of this try's connection, if it has one."""
        raise NotImplementedError

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
