"""Lets the recorded requests of one listener happen once more, with other settings.

Everything that decides is the data plane's own code, put together as for traffic: routes, filters, exchanges, tries,
the cluster with its ejections, timers. Only the clock, the two ends of each exchange and the choice of endpoints are
others: what was chosen is chosen again, and what came back comes back.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, cast

from sidecar.agent.assembly import Assembly, Context
from sidecar.agent.rehearsal.clockwork import Loop, Nowhere
from sidecar.agent.rehearsal.conditions import head_of, route_of
from sidecar.agent.rehearsal.outcomes import Outcomes, connects
from sidecar.agent.rehearsal.recorded import Recorded, Try
from sidecar.config.agent import Tracing
from sidecar.config.traffic import Inbound, Upstream
from sidecar.core.decisions import Shape
from sidecar.core.instance import Instance
from sidecar.core.records import AccessLog
from sidecar.core.replies import ProtocolError, Reply
from sidecar.core.stats import ListenerStats
from sidecar.endpoints.cluster import Cluster
from sidecar.exchange.attempt import MALFORMED, RESET, Attempt
from sidecar.exchange.filter import Filter
from sidecar.exchange.phases import ANSWERING, CONNECTING, ENDED, SENT
from sidecar.exchange.routes import Route
from sidecar.filters.request_id import new_request_id
from sidecar.http.exchange import HttpExchange
from sidecar.http.h1.blocks import RequestBlock, ResponseBlock
from sidecar.http.listener import HttpListener
from sidecar.http.rehearsed import RecordedBalancer, RehearsedClient, RehearsedConnection, RehearsedPool
from sidecar.net.wheel import TimerWheel
from sidecar.resilience.breaker import OPEN

#: What the policy has no say in: it happens again as it did.
GIVEN: Final = ("no_endpoints", "local_shortage", "draining")
#: Seconds for what is still under way when the record ends.
_AFTER: Final = 7200.0
#: An answer shorter than this has come at once.
_AT_ONCE: Final = 1e-4


class Result:
    """How a request ended: its status, our own code, tries, the number of its route (-1: none)."""

    __slots__ = ("attempts", "error", "route", "status", "sure")

    def __init__(self, status: int, error: str, attempts: int, route: int, sure: bool) -> None:
        self.status = status
        self.error = error
        self.attempts = attempts
        self.route = route
        self.sure = sure


class _Ends(Filter):
    """Stands in each chain: names the endpoint before each try, and takes the result."""

    name: ClassVar[str] = "rehearsal"
    after: ClassVar[str] = "retry"

    def __init__(self, balancer: RecordedBalancer, ended: Callable[[HttpExchange], None]) -> None:
        super().__init__()
        self._balancer = balancer
        self._ended = ended

    def on_try(self, x: Any) -> None:
        tries = x.client.plan.tries
        self._balancer.wanted = tries[x.attempts].endpoint if x.attempts < len(tries) else ""

    def on_end(self, x: Any) -> None:
        self._ended(x)


class Replay:
    """One listener with one configuration, and its requests, in their order. After :meth:`run`, ``results`` has how
    each of them ended, and ``openings`` how often a breaker opened."""

    def __init__(self, name: str, config: Inbound | Upstream, requests: Sequence[Recorded], salt: int) -> None:
        self._requests = requests
        self._config = config
        self._salt = salt
        self._loop = loop = Loop(requests[0].began if requests else 0.0)
        self._transport = Nowhere()
        self.outcomes = Outcomes(requests)
        self.openings = 0
        self.results: list[Result | None] = [None] * len(requests)
        self._shapes: dict[int, tuple[RequestBlock, Route, bool]] = {}
        self._heads: dict[tuple[int, str, bool, bool], ResponseBlock] = {}
        self._numbers = {id(it): number for number, it in enumerate(requests)}
        self._wheel = TimerWheel(cast(Any, loop).call_at, loop.time)
        self._balancer = RecordedBalancer()
        self._listener = self._listening(name, config)

    def _listening(self, name: str, config: Inbound | Upstream) -> HttpListener:
        loop, rng = self._loop, random.Random(1)
        stats = ListenerStats("inbound" if isinstance(config, Inbound) else "outbound", name)
        cluster = Cluster(name, self._balancer, loop.time, rng)
        listener = HttpListener(
            name=name, bind=config.bind, stats=stats, cluster=cluster, loop=cast(Any, loop), wheel=self._wheel,
            clock=loop.time, new_request_id=lambda: new_request_id(rng),
        )  # fmt: skip
        pool = RehearsedPool(cast(Any, loop), self._wheel, loop.time, stats)
        pool.asked = self._asked
        listener.pool = pool
        listener.host = b"rehearsal"
        context = Context(
            loop=cast(Any, loop), wheel=self._wheel, clock=loop.time, rng=rng,
            access_log=AccessLog("off", lambda _: None), record_span=None, tracing=Tracing(),
            breaker_changed=self._breaker,
        )  # fmt: skip
        listener.assembly = Assembly(context, name, stats, (_Ends(self._balancer, self._ended),))
        listener.assembly.apply(listener, config)
        cluster.update([_instance(it) for it in self._endpoints()])
        return listener

    def _endpoints(self) -> Sequence[str]:
        return list(dict.fromkeys(it.endpoint for request in self._requests for it in request.tries)) or ["127.0.0.1:1"]

    def run(self, told: Callable[[int], None] = lambda done: None) -> None:
        """Replay all of it; ``told`` hears now and then how many have begun."""
        loop = self._loop
        for number, request in enumerate(self._requests):
            loop.run_until(request.began)
            self._begin(request)
            if number % 1000 == 0:
                told(number)
        loop.run_until(loop.time() + _AFTER)

    def _begin(self, request: Recorded) -> None:
        head, route, _ = self._found(request.shape)
        listener = self._listener
        client = RehearsedClient(str(request.client), self._transport, self._wheel, request)
        x = HttpExchange(client, listener, listener.pool, head, route, self._loop.time())
        x.replayable = request.replayable
        client.exchange = x
        if request.status == 499 and not request.error:
            self._loop.call_later(request.seconds, _leave, x)
        x.run()

    def _found(self, shape: Shape) -> tuple[RequestBlock, Route, bool]:
        found = self._shapes.get(id(shape))
        if found is None:
            head = head_of(shape)
            found = self._shapes[id(shape)] = (head, *route_of(self._listener, self._config, shape, head, self._salt))
        return found

    def _ended(self, x: HttpExchange) -> None:
        request: Recorded = cast(Any, x.client).plan
        sure = self._found(request.shape)[2]
        attempts = 0 if x.error in GIVEN and not request.tries else x.attempts
        number = self._numbers[id(request)]
        self.results[number] = Result(x.status, x.error, attempts, x.chain.number, sure)

    def _breaker(self, name: str, breaker: Any) -> None:
        if breaker.state == OPEN:
            self.openings += 1

    # -- what comes back -----------------------------------------------------------------------------------------------

    def _asked(self, x: HttpExchange, attempt: Attempt) -> None:
        """An attempt wants a connection."""
        request: Recorded = cast(Any, x.client).plan
        if request.error in GIVEN and not request.tries:
            x.reply(Reply(request.error, "as it was", 1.0))
            return
        it = self.outcomes.of(request, x.attempts - 1, attempt.endpoint.address, self._loop.time())
        if it is None:
            x.reply(Reply("no_endpoints", "nothing is known of any endpoint"))
        elif not connects(it):
            if it.late:
                if it.connecting < min(x.chain.timeout.connect, x.deadline - self._loop.time()) - 0.05:
                    self.outcomes.cut_short += 1
                return  # silence, for as long as there is time
            self._loop.call_later(it.connecting, self._refused, x, attempt)
        elif it.connecting > _AT_ONCE:
            self._loop.call_later(it.connecting, self._connected, x, attempt, it)
        else:
            self._connected(x, attempt, it)

    def _refused(self, x: HttpExchange, attempt: Attempt) -> None:
        if _waits(x, attempt):
            x.connect_failed(attempt, ConnectionRefusedError(errno.ECONNREFUSED, "as it was"))

    def _connected(self, x: HttpExchange, attempt: Attempt, it: Try) -> None:
        if not _waits(x, attempt):
            return
        conn = RehearsedConnection(self._transport)
        x.connected(attempt, conn, self._loop.time())
        if it.status or it.failure in (RESET, MALFORMED):
            self._loop.call_later(it.waiting, self._answered, x, attempt, conn, it)
        elif it.waiting < attempt.deadline - self._loop.time() - 0.05 and not it.silent:
            self.outcomes.cut_short += 1

    def _answered(self, x: HttpExchange, attempt: Attempt, conn: RehearsedConnection, it: Try) -> None:
        if (attempt is not x.attempt and attempt is not x.rival) or x.phase != SENT or attempt.conn is not conn:
            return
        if it.failure == RESET:
            x.lost(attempt, conn, False)
        elif it.failure == MALFORMED:
            x.malformed(attempt, ProtocolError("as it was", "bad_upstream"))
        else:
            streams = it.answering > _AT_ONCE
            x.answered(attempt, conn, self._head(it, streams), b"")
            if streams and x.phase == ANSWERING:
                self._loop.call_later(it.answering, self._complete, x, attempt, conn)

    def _complete(self, x: HttpExchange, attempt: Attempt, conn: RehearsedConnection) -> None:
        if x.phase != ANSWERING or x.download is None:
            return
        request: Recorded = cast(Any, x.client).plan
        if request.error and request.status == x.status:  # it broke off then, too
            x.error = request.error
            x.abort()
        else:
            x.download.take(x, attempt, conn, b".")

    def _head(self, it: Try, streams: bool) -> ResponseBlock:
        status = it.status
        key = (status, it.peer, it.given_up, streams)
        found = self._heads.get(key)
        if found is None:
            fields = {b"x-sidecar-error": it.peer.encode("latin-1", "replace")} if it.peer else {}
            if it.given_up:
                fields[b"x-sidecar-retried"] = b"2"
            raw = b"HTTP/1.1 %d As-It-Was\r\n\r\n" % status
            found = self._heads[key] = ResponseBlock(raw, status, fields, 1 if streams else 0, True)
        return found


def _waits(x: HttpExchange, attempt: Attempt) -> bool:
    """Whether that attempt is under way and waits for its connection."""
    return (attempt is x.attempt or attempt is x.rival) and x.phase in (CONNECTING, SENT) and not attempt.sent


def _leave(x: HttpExchange) -> None:
    if x.phase != ENDED:
        x.client_gone()


def _instance(address: str) -> Instance:
    host, _, port = address.rpartition(":")
    return Instance(host=host.strip("[]") or "127.0.0.1", port=int(port) if port.isdigit() else 1, sidecar=True)


#: A request that had not ended when the rehearsal did.
UNENDED: Final = Result(0, "", 0, -1, False)
