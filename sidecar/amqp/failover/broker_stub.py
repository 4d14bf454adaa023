"""What a client's methods are answered while there is no broker, sans-I/O.

The stub is in the broker's place: what would be written to the broker goes to :meth:`BrokerStub.takes`, and what that
returns is treated as if the broker had said it. So everything that the relay knows (consumers, prefetch, confirm
mode, what an empty queue name means) stays right without a case of its own. Publishes never come here.

========================================  ==============================================================================
asked                                     answered
========================================  ==============================================================================
channel open, flow, close                 yes
confirm.select, basic.qos                 yes, and said to the broker when it is back
declarations and bindings, passive ones   yes, when the broker has said yes to the very same before (broker_catalog.py),
                                          and said to the broker when it is back; otherwise they wait for it
a new queue of the client's own           yes, too (exclusive or auto-delete: say, for answers), and its bindings
                                          to exchanges that are known; without a name it waits: the broker makes one up
basic.consume                             yes for a queue that is known; deliveries begin when the broker is back
basic.cancel, basic.recover               yes
basic.get                                 empty
ack, nack, reject                         nothing: the broker has put those messages back into their queues
delete, purge, unbind, tx.select          wait for the broker
tx.commit, tx.rollback                    406: the channel has no transaction
========================================  ==============================================================================

Counts in answers (messages, consumers) are 0. Behind what waits, everything else on its channel waits too (order!);
other channels go on. When something has waited for ``patience`` seconds, the whole connection is closed with 320
(connection-forced), which is what a broker says that shuts down. Of all codes it is the one that clients recover from
by themselves: py-amqp (and so kombu and Celery) has it among its recoverable errors, aio-pika's robust connections
reconnect, amqplib takes it for no error (any other code is an ``error`` event, which ends a Node process that has no
handler), and pika raises what apps catch to connect anew. A channel.close would be an exception that apps take for
a mistake of their own: pika's advice is not to recover from it, py-amqp's 403, 404, 406 and 540 are not recoverable.

Publishes that cannot be spooled (mandatory ones, unless configured; those of transactions; requests and answers of
direct reply-to) wait for the broker too, as what is held does: a ``basic.return`` with 312 would claim that nobody
wants the message, which is not known, and aio-pika (whose publishes are mandatory unless it is told otherwise) and pika
raise an exception for it.

It is asked by offline.py. What a client has set up (client_state.py) is noted by both: by what is said here, and
by what passes while there is a broker.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from math import inf
from struct import pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.topology import declarations
from sidecar.amqp.topology.client_state import DIRECT_REPLY_TO, ChannelState, ClientState
from sidecar.amqp.topology.declarations import STATING, Declaration
from sidecar.amqp.wire import constants
from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.methods import Arguments, channel_close, method, method_name, short
from sidecar.amqp.wire.rpc import ANSWERS, methods_in, no_wait

if TYPE_CHECKING:
    from sidecar.amqp.topology.broker_catalog import BrokerCatalog

#: How long something may wait for the broker, seconds, when nobody says otherwise: longer than a broker takes to start.
PATIENCE: Final = 120.0
#: Bytes of methods that wait, on all channels of a session.
MAX_WAITING: Final = 1024 * 1024

_NAMES: Final[dict[int, str]] = {
    constants.EXCHANGE_DECLARE: "exchange.declare",
    constants.EXCHANGE_DELETE: "exchange.delete",
    constants.EXCHANGE_BIND: "exchange.bind",
    constants.EXCHANGE_UNBIND: "exchange.unbind",
    constants.QUEUE_DECLARE: "queue.declare",
    constants.QUEUE_BIND: "queue.bind",
    constants.QUEUE_PURGE: "queue.purge",
    constants.QUEUE_DELETE: "queue.delete",
    constants.QUEUE_UNBIND: "queue.unbind",
    constants.BASIC_CONSUME: "basic.consume",
    constants.TX_SELECT: "tx.select",
}


def made_up_tag() -> str:
    """A consumer's tag, where the client wants one to be made up; it looks as RabbitMQ's do."""
    return "amq.ctag-" + secrets.token_urlsafe(16)


class PendingRequests:
    """What waits for the broker on one channel: its frames, until when they may, and what the first of them is."""

    __slots__ = ("due", "frames", "what")

    def __init__(self, due: float, what: str) -> None:
        self.due = due
        self.what = what
        self.frames: list[bytes] = []


class BrokerStub:
    """In the broker's place for one session. ``patience`` is how long something may wait, seconds."""

    __slots__ = ("_catalog", "_client_state", "_make_tag", "_patience", "_size", "_vhost", "_waiting")

    def __init__(
        self,
        client_state: ClientState,
        catalog: BrokerCatalog,
        vhost: str,
        patience: float = PATIENCE,
        make_tag: Callable[[], str] = made_up_tag,
    ) -> None:
        self._client_state = client_state
        self._catalog = catalog
        self._vhost = vhost
        self._patience = patience
        self._make_tag = make_tag
        #: By channel.
        self._waiting: dict[int, PendingRequests] = {}
        self._size = 0

    def takes(self, data: bytes, now: float) -> bytes:
        """Whole frames that a broker would get now; what a broker would say. Raises :class:`AmqpError` for what ends
        the connection."""
        out: list[bytes] = []
        for number, found, start, end in methods_in(data):
            if self._client_state.forgotten:
                raise AmqpError(
                    constants.RESOURCE_ERROR, f"RESOURCE_ERROR - {self._client_state.irretrievable()}", found
                )
            if found == constants.CHANNEL_CLOSE and not self._client_state.recovering:
                self._drop(number)
            if number in self._waiting:
                self._wait(number, found, data, start, end, now)
                continue
            # What would be answered now would be missing from what is being said again: the broker shall answer it.
            answer = None if self._client_state.recovering else self._answer(number, found, data, start, end)
            if answer is None:
                self._wait(number, found, data, start, end, now)
            elif answer:
                out.append(answer)
        return b"".join(out)

    def lost(self, now: float) -> bytes:
        """The broker connection is gone, or a new one in the middle of a restoration: what it would have said to what
        it was asked and did not answer. Raises :class:`AmqpError`."""
        client_state = self._client_state
        client_state.recovering = False
        before, self._waiting = self._waiting, {}
        self._size = 0
        out = [self.takes(client_state.unanswered(each), now) for each in list(client_state.channels.values())]
        patience = self._patience
        out.extend([self.takes(b"".join(each.frames), each.due - patience) for each in before.values()])
        return b"".join(out)

    def back(self) -> bytes:
        """The broker is there, with everything set up: what has waited for it, to be written to it."""
        frames = b"".join([b"".join(waiting.frames) for waiting in self._waiting.values()])
        self._waiting.clear()
        self._size = 0
        self._client_state.recovering = False
        self._client_state.asks(frames)
        return frames

    @property
    def due(self) -> float:
        """When what has waited the longest has waited too long; inf: nothing waits."""
        return min([waiting.due for waiting in self._waiting.values()], default=inf)

    def waits(self, number: int) -> bool:
        """Whether a channel waits for the broker; nothing of it may go on before that."""
        return number in self._waiting

    def gives_up(self, found: int, waiting: list[bytes]) -> bool:
        """Whether a method that has come on a channel where these frames ``waiting`` are behind what the broker is
        needed for need not wait itself: the client closes the channel, as it does when it has waited long enough, and
        has published nothing on it meanwhile. Then all of them can be forgotten."""
        return found == constants.CHANNEL_CLOSE and all(frame[0] == constants.METHOD for frame in waiting)

    def late(self, now: float) -> None:
        """It is :attr:`due`. Raises the :class:`AmqpError` to close the client's connection with."""
        for waiting in self._waiting.values():
            if now >= waiting.due:
                raise AmqpError(
                    constants.CONNECTION_FORCED,
                    f"CONNECTION_FORCED - there has been no broker for {self._patience:g} seconds, and without one the "
                    f"sidecar cannot answer {waiting.what}",
                )

    # -- one method ----------------------------------------------------------------------------------------------------

    def _answer(self, number: int, found: int, data: bytes, start: int, end: int) -> bytes | None:
        """What to answer; ``None``: it has to wait."""
        client_state = self._client_state
        if found == constants.CHANNEL_OPEN:
            client_state.open(number)
            return method(number, constants.CHANNEL_OPEN_OK, b"\x00\x00\x00\x00")
        channel = client_state.channels.get(number)
        if found not in ANSWERS or channel is None:
            # Settlements of deliveries, recover-async and what answers us.
            return b""
        if found == constants.CONFIRM_SELECT and channel.tx:
            return self._refuse(number, found, "cannot switch from tx to confirm mode")
        if found in (constants.TX_COMMIT, constants.TX_ROLLBACK):
            return self._refuse(number, found, "channel is not transactional")
        arguments = self._arguments(channel, found, data, start, end)
        if arguments is None:
            return None
        answering = constants.BASIC_GET_EMPTY if found == constants.BASIC_GET else ANSWERS[found]
        answer = method(number, answering, arguments)
        quiet = no_wait(found, data, start, end)
        client_state.done(number, found, data[start:end], b"" if quiet else answer)
        return b"" if quiet else answer

    def _arguments(self, channel: ChannelState, found: int, data: bytes, start: int, end: int) -> bytes | None:
        """Those of the answer, ``None`` when only the broker has one."""
        if found in STATING:
            declaration, _ = declarations.read(found, data, start, end, channel.last_queue)
            if not self._states(declaration):
                return None
            return short(declaration.name) + pack(">II", 0, 0) if found == constants.QUEUE_DECLARE else b""
        if found == constants.BASIC_CONSUME:
            return self._consumes(channel, Arguments(data, start, end))
        if found == constants.BASIC_CANCEL:
            return short(Arguments(data, start, end).short())
        if found == constants.CHANNEL_FLOW:
            return bytes((Arguments(data, start, end).u8() & 1,))
        if found == constants.ACCESS_REQUEST:
            return b"\x00\x01"
        if found == constants.BASIC_GET:
            return b"\x00"
        if found in (constants.BASIC_QOS, constants.BASIC_RECOVER, constants.CONFIRM_SELECT, constants.CHANNEL_CLOSE):
            return b""
        return None

    def _states(self, declaration: Declaration) -> bool:
        """Whether the broker will surely say yes to this."""
        client_state = self._client_state
        catalog = self._catalog
        vhost = self._vhost
        name = declaration.name
        if not name:
            return False
        if declaration.key in client_state.declared or catalog.knows(vhost, declaration):
            return True
        if declaration.method == constants.QUEUE_DECLARE:
            there = client_state.has_queue(name) or catalog.has_queue(vhost, name)
            return there if declaration.passive else declaration.own and not there and not name.startswith("amq.")
        if declaration.method == constants.QUEUE_BIND:
            return client_state.has_own_queue(name) and catalog.has_exchange(vhost, declaration.other)
        return False

    def _consumes(self, channel: ChannelState, arguments: Arguments) -> bytes | None:
        arguments.skip(2)
        queue = arguments.short() or channel.last_queue
        tag = arguments.short_bytes()
        if tag in channel.consumers:
            return None  # the broker will say what it thinks of that
        if (
            queue != DIRECT_REPLY_TO
            and not self._client_state.has_queue(queue)
            and not self._catalog.has_queue(self._vhost, queue)
        ):
            return None
        return bytes((len(tag),)) + tag if tag else short(self._make_tag())

    def _refuse(self, number: int, found: int, text: str) -> bytes:
        self._client_state.channel_gone(number)
        return channel_close(number, constants.PRECONDITION_FAILED, f"PRECONDITION_FAILED - {text}", found)

    # -- what waits ----------------------------------------------------------------------------------------------------

    def _wait(self, number: int, found: int, data: bytes, start: int, end: int, now: float) -> None:
        waiting = self._waiting.get(number)
        if waiting is None:
            waiting = PendingRequests(now + self._patience, self._describe(found, data, start, end))
            self._waiting[number] = waiting
        waiting.frames.append(data[start:end])
        self._size += end - start
        if self._size > MAX_WAITING:
            raise AmqpError(constants.RESOURCE_ERROR, "RESOURCE_ERROR - too much waits for the broker", found)

    def _drop(self, number: int) -> None:
        """A client closes a channel: what waited on it need not be done."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._size -= sum(map(len, waiting.frames))

    def _describe(self, found: int, data: bytes, start: int, end: int) -> str:
        name = _NAMES.get(found)
        if name is None:
            return method_name(found)
        if found == constants.TX_SELECT:
            return name
        arguments = Arguments(data, start, end)
        arguments.skip(2)
        return f"{name} of '{arguments.short()[:100]}'"
