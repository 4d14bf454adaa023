"""Stores requests that could not be delivered, or all of them, and lets clients ask what became of them.

A request can be stored as long as all of it is at hand: its method is one of ``queue.methods``, it is no upgrade, and
its body is at most ``queue.max_body``. What would have been refused because it certainly did not reach the app is then
stored instead; the client is answered 202 once it is on the disk, and as if there were no queue when it cannot be. What
may have reached the app is not stored: its client knows better whether it may come twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final

from sidecar.core.replies import STATUS, Reply
from sidecar.exchange.delivery import HEADER
from sidecar.exchange.filter import HELD, Filter, Wait
from sidecar.exchange.phases import PENDING
from sidecar.http_queue import answers
from sidecar.http_queue.lane import UNDELIVERED
from sidecar.http_queue.record import Found, Request, digest_of, id_for_key, new_id, short
from sidecar.http_queue.settings import QueueDeclaration, QueueSettings
from sidecar.storage.errors import InDoubtError

if TYPE_CHECKING:
    from sidecar.exchange.message import ResponseHead
    from sidecar.exchange.request import Request as Incoming
    from sidecar.http_queue.lane import Lane
    from sidecar.http_queue.queue import HttpQueue
    from sidecar.storage.errors import SpoolError

_KEY: Final = b"idempotency-key"
#: What is said when the disk takes too long.
_TOO_LONG: Final = Reply("timeout", "what is stored of this request could not be looked up in time")
#: Codes of a peer sidecar that say that its app did not get the request.
_PEERS: Final = frozenset(code.encode() for code in UNDELIVERED)


class Scope:
    """Whose an Idempotency-Key is, and for what: method, target, host, and all values of those ``fields``, also with
    underscores in their names, which many apps read as hyphens."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[str]) -> None:
        names = b"|".join(re.escape(name.encode()) for name in sorted({*fields, "host", "idempotency-key"}))
        self._fields = re.compile(rb"\r\n(?i:(" + names.replace(rb"\-", b"[-_]") + rb")):([^\r]*+)")

    def of(self, method: str, target: bytes, raw: bytes) -> list[bytes]:
        """The same for requests that are in the same scope and have the same key, and for no others. Fields may come
        in any order, the values of one may not."""
        given = sorted(((name.lower(), value.strip(b" \t")) for name, value in self._fields.findall(raw)), key=_first)
        scope = [method.encode(), target]
        for pair in given:
            scope += pair
        return scope


def _first(pair: tuple[bytes, bytes]) -> bytes:
    return pair[0]


class Queue(QueueDeclaration):
    """One chain's. ``lane`` may be shared by chains."""

    def __init__(self, config: QueueSettings, queue: HttpQueue, lane: Lane) -> None:
        self._config = config
        self._queue = queue
        self._lane = lane
        self._scope = Scope(config.scope)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def on_request(self, x: Incoming) -> Reply | Wait | None:
        """Known by its key already, or to be queued at once; everything else is tried."""
        if x.method not in self._config.methods:
            return None
        if self._queue.keyed and x.head.get(_KEY):
            if not self._fits(x):
                return None
            self._queue.find(self._id(x), _Known(self, x).found)
            return Wait(x.deadline, _TOO_LONG)
        return self._at_once(x)

    def _at_once(self, x: Incoming) -> Reply | None:
        config = self._config
        if (config.when == "always" or (config.in_order and self._lane.waiting)) and self._fits(x):
            return Reply("overloaded", f"no more requests to {x.listener.name} can be queued", 1.0)
        return None

    def on_answer(self, x: Incoming, head: ResponseHead) -> Reply | None:
        """An answer of a peer sidecar in place of its app can be queued."""
        if head.status < 500:
            self._lane.well()
            return None
        code = head.peer_error
        if code not in _PEERS or not self._fits(x):
            return None
        name = code.decode()
        return Reply(name, f"the sidecar of {x.listener.name} says: {name}") if STATUS[name] == head.status else None

    def on_reply(self, x: Incoming, reply: Reply) -> Wait | None:
        """Take it, if it can be stored, instead of giving this answer."""
        if x.state[self.place] is not None:
            return None  # it was taken, and cannot be stored
        code = reply.code
        # Our own draining comes before any try: whoever is told that goes to another instance.
        if code not in UNDELIVERED or (code == "draining" and not x.tried) or not self._fits(x):
            return None
        if not self._queue.room(self._lane, x.kept_size):
            self._queue.stats.outcomes["refused"] += 1
            x.note("not_stored", {"why": "there is no room left"})
            return None
        x.state[self.place] = taken = _Taken(reply)
        held = x.take_over()
        if x.phase != PENDING:
            return held  # its time was over
        if x.request_done:
            self._store(x)
        else:
            taken.coming = True
            self._more(x, taken)
            x.ask_for_body()
        return held

    def on_body(self, x: Incoming, data: bytes) -> None:
        taken: _Taken | None = x.state[self.place]
        if taken is not None and taken.coming and taken.refusal is not None:
            self._more(x, taken)

    def on_end(self, x: Incoming) -> None:
        taken: _Taken | None = x.state[self.place]
        if taken is not None:
            taken.refusal = None
            self._queue.receive(-taken.size)
            taken.size = 0

    # -- storing -------------------------------------------------------------------------------------------------------

    def _more(self, x: Incoming, taken: _Taken) -> None:
        """What has come of its body is one part more."""
        size = x.kept_size
        grown = size - taken.size
        taken.size = size
        if not self._queue.receive(grown):
            self._queue.stats.outcomes["refused"] += 1
        elif size <= self._config.max_body:
            if x.request_done:
                self._store(x)
            return
        # From the event loop: whoever reads from the client is in the middle of that.
        x.listener.loop.call_soon(self._refuse, x, taken.refuse())

    def _fits(self, x: Incoming) -> bool:
        head = x.head
        limit = self._config.max_body
        return (
            x.method in self._config.methods
            and x.replayable
            and not head.upgrade
            and head.length <= limit
            and x.kept_size <= limit
        )

    def _store(self, x: Incoming) -> None:
        queue = self._queue
        head = x.head
        body = x.body_so_far()
        key = head.get(_KEY)
        for name in (b"expect", HEADER):
            head.remove(name)
        now = queue.wall()
        request = Request(
            id=self._id(x) if key else new_id(), lane=self._lane.name, at=now, expires=now + self._config.expires,
            client=x.client_ip, request_id=x.request_id, head=head.as_http1(), body=body,
            digest=digest_of(queue.store.secret, body) if key else b"",
        )  # fmt: skip
        if not queue.room(self._lane, request.size):
            queue.stats.outcomes["refused"] += 1
            x.listener.loop.call_soon(self._give_up, x)
            return
        queue.put(self._lane, request, _Storing(self, x, request).done)

    def _id(self, x: Incoming) -> str:
        """Of a request with a key: the same key of somebody else, or for something else, is another one."""
        head = x.head
        return id_for_key(self._queue.store.secret, self._scope.of(head.method, head.target, head.as_http1()))

    def _give_up(self, x: Incoming) -> None:
        """It cannot be stored: answer as if there were no queue."""
        taken: _Taken = x.state[self.place]
        x.note("not_stored", {"why": "there is no room left, or the disk does not take it"})
        self._refuse(x, taken.refuse())

    def _refuse(self, x: Incoming, reply: Reply | None) -> None:
        if reply is not None and x.suspended is HELD and x.phase == PENDING:
            x.reply(reply)

    def stored(self, x: Incoming, request: Request, found: Found | None, error: SpoolError | None) -> None:
        """It is on the disk, or cannot be."""
        outcomes = self._queue.stats.outcomes
        if isinstance(error, InDoubtError):
            outcomes["unknown"] += 1
            if x.phase == PENDING:
                x.error = "outcome_unknown"
                x.respond(*answers.doubtful(request.id, x.listener.name, x.request_id))
            return
        if error is not None:
            outcomes["refused"] += 1
            self._give_up(x)
            return
        if found is None:
            outcomes["queued"] += 1
        if x.phase != PENDING:
            return  # the client has left; what is stored is delivered all the same
        x.note("stored", {"queue_id": short(request.id)})
        if found is None:
            x.respond(*answers.accepted(request.id, answers.QUEUED, x.request_id))
        elif found.digest != request.digest:
            x.reply(Reply("bad_request", "this idempotency-key came with another body before"))
        else:
            outcomes["repeated"] += 1
            x.respond(*answers.accepted(found.id, self._state(found), x.request_id))

    def known(self, x: Incoming, found: Found | None, error: SpoolError | None) -> None:
        """Whether a request with that key is here already."""
        if x.phase != PENDING:
            return
        if error is None and found is not None:
            # It goes the way of one that is to be stored, for its body must be compared.
            x.reply(Reply("overloaded", "a request with this idempotency-key is known", 1.0))
            return
        reply = self._at_once(x)
        if reply is not None:
            x.reply(reply)
        else:
            x.resume()

    def _state(self, found: Found) -> str:
        return answers.state(found, self._queue.delivering(found.number))


class _Taken:
    """A request that was taken instead of an answer: ``refusal`` is that answer, until it is stored or refused. Its
    body is ``coming``; ``size`` is what has come of that and is counted."""

    __slots__ = ("coming", "refusal", "size")

    def __init__(self, refusal: Reply) -> None:
        self.refusal: Reply | None = refusal
        self.coming = False
        self.size = 0

    def refuse(self) -> Reply | None:
        """The answer after all, once."""
        refusal = self.refusal
        self.refusal = None
        return refusal


class _Storing:
    """Waits for a request to be stored."""

    __slots__ = ("_filter", "_request", "_x")

    def __init__(self, filter: Queue, x: Incoming, request: Request) -> None:
        self._filter = filter
        self._x = x
        self._request = request

    def done(self, found: Found | None, error: SpoolError | None) -> None:
        self._filter.stored(self._x, self._request, found, error)


class _Known:
    """Waits for an answer about a key."""

    __slots__ = ("_filter", "_x")

    def __init__(self, filter: Queue, x: Incoming) -> None:
        self._filter = filter
        self._x = x

    def found(self, found: Found | None, error: SpoolError | None) -> None:
        self._filter.known(self._x, found, error)


class QueueDoor(Filter):
    """Answers what is asked at ``/.sidecar/queue/``; nothing of that goes to an upstream."""

    name: ClassVar[str] = "queue_door"

    def __init__(self, queue: HttpQueue) -> None:
        self._queue = queue

    def on_request(self, x: Incoming) -> Reply | Wait:
        id = x.head.path.decode("latin-1").removeprefix(answers.PREFIX)
        wants_outcome = id.endswith(answers.OUTCOME)
        id = id.removesuffix(answers.OUTCOME)
        # Who knows the whole of it may ask, so it is not for logs and spans.
        x.head.target = (answers.PREFIX + short(id) + (answers.OUTCOME if wants_outcome else "")).encode("latin-1")
        wait = Wait(x.deadline, _TOO_LONG)
        if x.method not in ("GET", "HEAD"):
            x.listener.loop.call_soon(_respond, x, answers.not_allowed(x.listener.name, x.request_id))
            return wait
        asked = _Asked(self._queue, x, wants_outcome)
        if not wants_outcome:
            self._queue.find(id, asked.found)
        elif self._queue.outcomes.crowded:
            return Reply("overloaded", "too many outcomes wait for clients that do not read them", 1.0)
        else:
            self._queue.outcomes.ask(x, id, asked.found)
        return wait


class _Asked:
    """Waits for what is known of a request."""

    __slots__ = ("_outcome", "_queue", "_x")

    def __init__(self, queue: HttpQueue, x: Incoming, outcome: bool) -> None:
        self._queue = queue
        self._x = x
        self._outcome = outcome

    def found(self, found: Found | None, error: SpoolError | None) -> None:
        x = self._x
        if x.phase != PENDING:
            return
        if error is not None:
            x.reply(Reply("overloaded", error.text, 1.0))
        elif found is None:
            _respond(x, answers.unknown(x.listener.name, x.request_id))
        else:
            delivering = self._queue.delivering(found.number)
            if not self._outcome:
                _respond(x, answers.status(found, delivering, x.request_id))
            elif found.outcome is None:
                _respond(x, answers.status(found, delivering, x.request_id, 202))
            else:
                _respond(x, answers.replay(found, x.listener.name, x.request_id))


def _respond(x: Incoming, answer: tuple[int, bytes, bytes]) -> None:
    if x.phase == PENDING:
        x.respond(*answer)
