"""What a client says besides publishes and acks: what the relay makes of each method.

A handler says what goes on in place of a frame: ``None``, the frame as it is; empty bytes, nothing; other bytes, those.
The broker's methods are in answers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.answers import has_queue, removed
from sidecar.amqp.relay.channel import ACK, NO_ACK, REPLIES, Channel, Removal, Subscription
from sidecar.amqp.topology.declarations import PASSIVE
from sidecar.amqp.wire import constants
from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.methods import (
    Arguments,
    basic_cancel,
    basic_qos,
    channel_close_ok,
    method,
    method_name,
    method_of,
)
from sidecar.amqp.wire.tables import decode_table

if TYPE_CHECKING:
    from sidecar.amqp.relay.session import Session

#: What must not overtake a held publish: it ends the channel or a transaction, or changes where the publish leads.
_BARRIERS: Final = frozenset(
    {
        constants.CHANNEL_CLOSE,
        constants.TX_SELECT,
        constants.TX_COMMIT,
        constants.TX_ROLLBACK,
        constants.EXCHANGE_DELETE,
        constants.EXCHANGE_UNBIND,
        constants.QUEUE_DELETE,
        constants.QUEUE_PURGE,
        constants.QUEUE_UNBIND,
    }
)
#: RabbitMQ's pseudo-queue for answers.
_DIRECT_REPLY_TO: Final = b"amq.rabbitmq.reply-to"
#: Among the bits of declarations.
_NO_WAIT: Final = 16


# -- on no open channel ------------------------------------------------------------------------------------------------


def off_channel(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """A frame of the client that belongs to no open channel."""
    if kind == constants.HEARTBEAT:
        if number:
            raise AmqpError(constants.UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a heartbeat on a channel")
        return b""  # each connection has its own
    if number in session.closing:
        return _on_closing(session, kind, number, data, start, end)
    if kind != constants.METHOD:
        raise AmqpError(
            constants.UNEXPECTED_FRAME, f"UNEXPECTED_FRAME - content on channel {number}, which is not open"
        )
    found = method_of(data, start, end)
    if number == 0:
        if found == constants.CONNECTION_CLOSE:
            return session.lifecycle.client_closes(data[start:end])
        if found == constants.CONNECTION_UPDATE_SECRET:
            return session.side.new_secret(Arguments(data, start, end).long_bytes())
        text = f"COMMAND_INVALID - {method_name(found)} is not for channel 0"
        raise AmqpError(constants.COMMAND_INVALID, text, found)
    if found != constants.CHANNEL_OPEN:
        text = f"CHANNEL_ERROR - {method_name(found)} on channel {number}, which is not open"
        raise AmqpError(constants.CHANNEL_ERROR, text, found)
    most = session.handshake.channel_max
    if most and number > most:
        text = f"NOT_ALLOWED - channel {number} is above channel_max, {most}"
        raise AmqpError(constants.NOT_ALLOWED, text, found)
    session.new_channel(number)
    return None


def _on_closing(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """A frame of the client on a channel that the broker or we have closed: it may not know yet."""
    if kind != constants.METHOD:
        return b""
    found = method_of(data, start, end)
    ours = session.closing[number]
    if found == constants.CHANNEL_CLOSE_OK:
        del session.closing[number]
        return b"" if ours else None
    if found == constants.CHANNEL_CLOSE:  # both at once: each is answered, even if the broker is lost by then
        session.client_write(channel_close_ok(number))
    return b""


# -- on an open channel ------------------------------------------------------------------------------------------------


def from_client(session: Session, channel: Channel, found: int, data: bytes, start: int, end: int) -> bytes | None:
    """A method of the client on an open channel. An unknown one makes RabbitMQ drop the connection without a word."""
    if found in _BARRIERS and channel.path.held:
        channel.pending = []
        session.wait(channel, data[start:end])
        return b""
    handler = _HANDLERS.get(found)
    if handler is None:
        text = f"COMMAND_INVALID - {method_name(found)} on a channel"
        raise AmqpError(constants.COMMAND_INVALID, text, found)
    return handler(session, channel, data, start, end)


def _pass(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """Nothing that matters here."""
    return None


def _open(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    text = f"CHANNEL_ERROR - channel {channel.number} is open already"
    raise AmqpError(constants.CHANNEL_ERROR, text, constants.CHANNEL_OPEN)


def _close(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.ending = True
    return None


def _confirm_select(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.path.select_confirms()
    return None


def _tx_select(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.path.one_lane = True
    return None


# -- consumers ---------------------------------------------------------------------------------------------------------


def _get(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    arguments.short_bytes()
    channel.gets.append(bool(arguments.u8() & 1))
    return None


def _prefetch(session: Session, count: int) -> int:
    """The prefetch limit that a consumer gets who asks for ``count`` (0: for no limit)."""
    prefetch = session.port.config.prefetch
    if count == 0:
        return prefetch.default
    return min(count, prefetch.max) if prefetch.max else count


def _qos(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """A prefetch limit: none becomes the default, a larger one the largest."""
    arguments = Arguments(data, start, end)
    size, count, scope = arguments.u32(), arguments.u16(), arguments.u8()
    channel.qos_known = True
    channel.qos_asked.append(True)
    wanted = _prefetch(session, count)
    if scope & 1:
        channel.shared_limit = wanted
    else:
        channel.limit = wanted
        channel.shared_limit = -1  # RabbitMQ: a limit of each ends that of all together
    return None if wanted == count else method(channel.number, constants.BASIC_QOS, pack(">IHB", size, wanted, scope))


def _consume(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """A consumer that nobody gave a limit gets the default one."""
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    queue = arguments.short_bytes()
    tag = arguments.short_bytes()
    bits = arguments.u8()
    table = arguments.long_bytes()
    kind = REPLIES if queue == _DIRECT_REPLY_TO else NO_ACK if bits & 2 else ACK
    before = after = b""
    limit = _prefetch(session, 0)
    if kind == ACK and limit and not channel.qos_known:
        channel.qos_known = True
        channel.qos_asked.append(False)
        channel.limit = limit
        before = basic_qos(channel.number, limit)
    subscription = Subscription(queue, bits, len(table).to_bytes(4, "big") + table, channel.limit)
    if bits & 8:  # no-wait
        channel.consumer_came(tag, kind)
        channel.subscriptions[tag] = subscription
        if session.consumer_pause.returning and kind != REPLIES:
            after = basic_cancel(channel.number, tag)
    else:
        channel.consumes.append((tag, kind, subscription))
    return before + data[start:end] + after if before or after else None


def _cancel(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = Arguments(data, start, end)
    tag = arguments.short_bytes()
    channel.subscriptions.pop(tag, None)
    if arguments.u8() & 1:
        channel.depart(tag)
        channel.consumer_gone(tag)
    return None


def _recover(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.recovering.append(True)
    return None


def _recover_async(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.recovered()
    return None


# -- topology ----------------------------------------------------------------------------------------------------------
#
# What is made is taken as true before the answer: if it is not, the worst is a message that is held in vain. What is
# removed, only with the answer; so is what limits the life of messages, as another declaration of the same may be
# refused.


def _queue_declare(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    name = arguments.short()
    bits = arguments.u8()
    declared = b"" if bits & PASSIVE else data[start + 13 : end - 1]
    if not bits & _NO_WAIT:
        channel.declares.append(declared)
    elif declared and name:
        has_queue(session, name, declared)
    return None


def _exchange_declare(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = _behind_short(data, start, end)
    name, kind = arguments.short(), arguments.short()
    bits = arguments.u8()
    transient = not bits & 3  # nor passive
    if not bits & PASSIVE:
        session.policy.bindings.exchange_declared(session.vhost, name, kind, None if transient else True)
    if not bits & _NO_WAIT:
        channel.exchanges.append((name, kind) if transient else None)
    return None


def _exchange_delete(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = _behind_short(data, start, end)
    removal = Removal(constants.EXCHANGE_DELETE, arguments.short(), "", "", {})
    return _remove(session, channel, removal, bool(arguments.u8() & 2))


def _queue_delete(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = _behind_short(data, start, end)
    removal = Removal(constants.QUEUE_DELETE, arguments.short() or channel.last_queue, "", "", {})
    return _remove(session, channel, removal, bool(arguments.u8() & 4))


def _exchange_bind(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = _behind_short(data, start, end)
    destination, source, key = arguments.short(), arguments.short(), arguments.short()
    arguments.skip(1)
    session.policy.bindings.exchange_bound(session.vhost, source, destination, key, _table(arguments))
    return None


def _exchange_unbind(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = _behind_short(data, start, end)
    destination, source, key = arguments.short(), arguments.short(), arguments.short()
    no_wait = bool(arguments.u8() & 1)
    removal = Removal(constants.EXCHANGE_UNBIND, source, destination, key, _table(arguments))
    return _remove(session, channel, removal, no_wait)


def _queue_bind(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = _behind_short(data, start, end)
    queue, exchange, key = arguments.short() or channel.last_queue, arguments.short(), arguments.short()
    arguments.skip(1)
    session.policy.bindings.bound(session.vhost, exchange, queue, key, _table(arguments))
    return None


def _queue_unbind(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = _behind_short(data, start, end)
    queue, exchange, key = arguments.short() or channel.last_queue, arguments.short(), arguments.short()
    return _remove(session, channel, Removal(constants.QUEUE_UNBIND, exchange, queue, key, _table(arguments)), False)


def _behind_short(data: bytes, start: int, end: int) -> Arguments:
    """The arguments behind the reserved short that comes first."""
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    return arguments


def _remove(session: Session, channel: Channel, removal: Removal, no_wait: bool) -> bytes | None:
    if no_wait:
        removed(session, removal)
    else:
        channel.removals.append(removal)
    return None


def _table(arguments: Arguments) -> dict[str, object]:
    table = arguments.long_bytes()
    return decode_table(len(table).to_bytes(4, "big") + table, 0, len(table) + 4) if table else {}


#: All that a client may say on a channel, besides publishes and acks.
_HANDLERS: Final[dict[int, Callable[[Session, Channel, bytes, int, int], bytes | None]]] = {
    constants.ACCESS_REQUEST: _pass,
    constants.BASIC_CANCEL: _cancel,
    constants.BASIC_CANCEL_OK: _pass,
    constants.BASIC_CONSUME: _consume,
    constants.BASIC_GET: _get,
    constants.BASIC_QOS: _qos,
    constants.BASIC_RECOVER: _recover,
    constants.BASIC_RECOVER_ASYNC: _recover_async,
    constants.CHANNEL_CLOSE: _close,
    constants.CHANNEL_FLOW: _pass,
    constants.CHANNEL_FLOW_OK: _pass,
    constants.CHANNEL_OPEN: _open,
    constants.CONFIRM_SELECT: _confirm_select,
    constants.EXCHANGE_BIND: _exchange_bind,
    constants.EXCHANGE_DECLARE: _exchange_declare,
    constants.EXCHANGE_DELETE: _exchange_delete,
    constants.EXCHANGE_UNBIND: _exchange_unbind,
    constants.QUEUE_BIND: _queue_bind,
    constants.QUEUE_DECLARE: _queue_declare,
    constants.QUEUE_DELETE: _queue_delete,
    constants.QUEUE_PURGE: _pass,
    constants.QUEUE_UNBIND: _queue_unbind,
    constants.TX_COMMIT: _pass,
    constants.TX_ROLLBACK: _pass,
    constants.TX_SELECT: _tx_select,
}
