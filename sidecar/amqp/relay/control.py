"""Everything that is neither a publish nor a delivery nor an acknowledgement: what the relay makes of it.

A handler says what goes on in place of a frame: ``None``, the frame as it is; empty bytes, nothing; other bytes, those.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.channel import ACK, NO_ACK, REPLIES, Channel, Removal
from sidecar.amqp.relay.deliveries import PausedDelivery
from sidecar.amqp.relay.subscription import Subscription
from sidecar.amqp.topology.declarations import PASSIVE
from sidecar.amqp.wire import constants
from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.methods import (
    Arguments,
    basic_cancel,
    basic_qos,
    channel_close_ok,
    method,
    method_of,
)
from sidecar.amqp.wire.rpc import EXCHANGE_DECLARE_OK
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
#: All that a client may say on a channel. An unknown method makes RabbitMQ drop the connection without a word.
_KNOWN: Final = _BARRIERS | {
    constants.ACCESS_REQUEST, constants.CHANNEL_OPEN, constants.CHANNEL_FLOW, constants.CHANNEL_FLOW_OK,
    constants.EXCHANGE_DECLARE, constants.EXCHANGE_BIND, constants.QUEUE_DECLARE, constants.QUEUE_BIND,
    constants.BASIC_QOS, constants.BASIC_CONSUME, constants.BASIC_CANCEL, constants.BASIC_CANCEL_OK,
    constants.BASIC_GET, constants.BASIC_RECOVER, constants.BASIC_RECOVER_ASYNC, constants.CONFIRM_SELECT,
}  # fmt: skip
#: The answers to what takes something away.
_REMOVED: Final = frozenset(
    {constants.EXCHANGE_DELETE_OK, constants.EXCHANGE_UNBIND_OK, constants.QUEUE_DELETE_OK, constants.QUEUE_UNBIND_OK}
)
#: RabbitMQ's pseudo-queue for answers.
_DIRECT_REPLY_TO: Final = b"amq.rabbitmq.reply-to"
_TOPOLOGY: Final = frozenset(
    {
        constants.EXCHANGE_DECLARE,
        constants.EXCHANGE_DELETE,
        constants.EXCHANGE_BIND,
        constants.EXCHANGE_UNBIND,
        constants.QUEUE_BIND,
        constants.QUEUE_UNBIND,
        constants.QUEUE_DELETE,
    }
)


# -- from the client ---------------------------------------------------------------------------------------------------


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
            return session.client_closes(data[start:end])
        if found == constants.CONNECTION_UPDATE_SECRET:
            return session.new_secret(Arguments(data, start, end).long_bytes())
        raise AmqpError(constants.COMMAND_INVALID, f"COMMAND_INVALID - {_name(found)} is not for channel 0", found)
    if found != constants.CHANNEL_OPEN:
        raise AmqpError(
            constants.CHANNEL_ERROR, f"CHANNEL_ERROR - {_name(found)} on channel {number}, which is not open", found
        )
    if session.channel_max and number > session.channel_max:
        raise AmqpError(
            constants.NOT_ALLOWED, f"NOT_ALLOWED - channel {number} is above channel_max, {session.channel_max}", found
        )
    session.channels[number] = session.new_channel(number)
    session.amqp_stats.channels += 1
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
    if found == constants.CHANNEL_CLOSE:  # both at once: each is answered
        if ours:
            session.client_write(channel_close_ok(number))
            return b""
        return None
    return b""


def from_client(session: Session, channel: Channel, found: int, data: bytes, start: int, end: int) -> bytes | None:
    """A method of the client on an open channel."""
    if found in _BARRIERS and channel.held:
        channel.pending = []
        session.wait(channel, data[start:end])
        return b""
    if found == constants.BASIC_QOS:
        return _qos(session, channel, data, start, end)
    if found == constants.BASIC_CONSUME:
        return _consume(session, channel, data, start, end)
    if found == constants.BASIC_GET:
        arguments = Arguments(data, start, end)
        arguments.skip(2)
        arguments.short_bytes()
        channel.gets.append(bool(arguments.u8() & 1))
    elif found == constants.QUEUE_DECLARE:
        _declare(session, channel, data, start, end)
    elif found == constants.BASIC_CANCEL:
        arguments = Arguments(data, start, end)
        tag = arguments.short_bytes()
        channel.subscriptions.pop(tag, None)
        if arguments.u8() & 1:
            channel.depart(tag)
            session.consumer_gone(channel, tag)
    elif found == constants.BASIC_RECOVER:
        channel.recovering.append(True)
    elif found == constants.BASIC_RECOVER_ASYNC:
        channel.recovered()
    elif found == constants.CHANNEL_CLOSE:
        channel.ending = True
    elif found == constants.CONFIRM_SELECT:
        channel.select_confirms()
    elif found == constants.TX_SELECT:
        channel.one_lane = True
    elif found == constants.CHANNEL_OPEN:
        raise AmqpError(constants.CHANNEL_ERROR, f"CHANNEL_ERROR - channel {channel.number} is open already", found)
    elif found in _TOPOLOGY:
        _learn(session, channel, found, Arguments(data, start, end))
    elif found not in _KNOWN:
        raise AmqpError(constants.COMMAND_INVALID, f"COMMAND_INVALID - {_name(found)} on a channel", found)
    return None


def _declare(session: Session, channel: Channel, data: bytes, start: int, end: int) -> None:
    """A queue."""
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    name = arguments.short()
    bits = arguments.u8()
    declared = b"" if bits & PASSIVE else data[start + 13 : end - 1]
    if not bits & 16:
        channel.declares.append(declared)
    elif declared and name:
        session.has_queue(name, declared)


def _learn_life(session: Session, name: str, declared: bytes) -> None:
    """A queue was declared so; see :meth:`Session.has_queue`."""
    at = 1 + declared[0]
    durable = declared[at] & 0b1110 == 2  # neither exclusive nor auto-delete
    table = declared[at + 1 :]
    try:
        arguments = decode_table(table, 0, len(table))
    except AmqpError:
        return
    session.policy.bindings.queue_declared(session.vhost, name, not durable, arguments)


def _qos(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """A prefetch limit: none becomes the default, a larger one the largest."""
    arguments = Arguments(data, start, end)
    size, count, scope = arguments.u32(), arguments.u16(), arguments.u8()
    channel.qos_known = True
    channel.qos_asked.append(True)
    wanted = session.prefetch(count)
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
    limit = session.prefetch(0)
    if kind == ACK and limit and not channel.qos_known:
        channel.qos_known = True
        channel.qos_asked.append(False)
        channel.limit = limit
        before = basic_qos(channel.number, limit)
    subscription = Subscription(queue, bits, len(table).to_bytes(4, "big") + table, channel.limit)
    if bits & 8:  # no-wait
        session.consumer_came(channel, tag, kind)
        channel.subscriptions[tag] = subscription
        if session.consumer_pause.returning and kind != REPLIES:
            after = basic_cancel(channel.number, tag)
    else:
        channel.consumes.append((tag, kind, subscription))
    return before + data[start:end] + after if before or after else None


def _learn(session: Session, channel: Channel, found: int, arguments: Arguments) -> None:
    """What the client tells the broker about exchanges, queues and bindings. What is made is taken as true before the
    answer: if it is not, the worst is a message that is held in vain. What is removed, only with the answer; so is
    what limits the life of messages, as another declaration of the same may be refused."""
    topology = session.policy.bindings
    vhost = session.vhost
    arguments.skip(2)
    if found == constants.EXCHANGE_DECLARE:
        name, kind = arguments.short(), arguments.short()
        bits = arguments.u8()
        transient = not bits & 3  # nor passive
        if not bits & 1:
            topology.exchange_declared(vhost, name, kind, None if transient else True)
        if not bits & 16:
            channel.exchanges.append((name, kind) if transient else None)
    elif found == constants.EXCHANGE_DELETE:
        name = arguments.short()
        _remove(session, channel, Removal(found, name, "", "", {}), bool(arguments.u8() & 2))
    elif found == constants.QUEUE_DELETE:
        name = arguments.short() or channel.last_queue
        _remove(session, channel, Removal(found, name, "", "", {}), bool(arguments.u8() & 4))
    elif found in (constants.EXCHANGE_BIND, constants.EXCHANGE_UNBIND):
        destination, source, key = arguments.short(), arguments.short(), arguments.short()
        no_wait = bool(arguments.u8() & 1)
        table = _table(arguments)
        if found == constants.EXCHANGE_BIND:
            topology.exchange_bound(vhost, source, destination, key, table)
        else:
            _remove(session, channel, Removal(found, source, destination, key, table), no_wait)
    else:
        queue, exchange, key = arguments.short() or channel.last_queue, arguments.short(), arguments.short()
        if found == constants.QUEUE_BIND:
            arguments.skip(1)
            topology.bound(vhost, exchange, queue, key, _table(arguments))
        else:
            _remove(session, channel, Removal(found, exchange, queue, key, _table(arguments)), False)


def _remove(session: Session, channel: Channel, removal: Removal, no_wait: bool) -> None:
    if no_wait:
        _removed(session, removal)
    else:
        channel.removals.append(removal)


def _removed(session: Session, removal: Removal) -> None:
    """The broker has deleted or unbound it."""
    topology = session.policy.bindings
    vhost = session.vhost
    if removal.method == constants.EXCHANGE_DELETE:
        topology.exchange_deleted(vhost, removal.name)
    elif removal.method == constants.QUEUE_DELETE:
        topology.queue_deleted(vhost, removal.name)
        session.departure.deleted(removal.name)
    elif removal.method == constants.EXCHANGE_UNBIND:
        topology.exchange_unbound(vhost, removal.name, removal.other, removal.key, removal.arguments)
    else:
        topology.unbound(vhost, removal.name, removal.other, removal.key, removal.arguments)


def _table(arguments: Arguments) -> dict[str, object]:
    table = arguments.long_bytes()
    return decode_table(len(table).to_bytes(4, "big") + table, 0, len(table) + 4) if table else {}


# -- from the broker ---------------------------------------------------------------------------------------------------


def off_channel_of_broker(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """A frame of the broker that belongs to no open channel."""
    if kind == constants.HEARTBEAT:
        return b""
    if number:
        if kind == constants.METHOD and method_of(data, start, end) == constants.CHANNEL_CLOSE_OK:
            return None
        return b""  # said before the broker knew that it is closed
    found = method_of(data, start, end)
    if found == constants.CONNECTION_CLOSE:
        arguments = Arguments(data, start, end)
        session.broker_closes(arguments.u16(), arguments.short(), data[start:end])
        return b""
    if found == constants.CONNECTION_CLOSE_OK:
        session.broker_closed()
        return b""
    if found == constants.CONNECTION_BLOCKED:
        session.broker_blocked(Arguments(data, start, end).short())
        return b""
    if found == constants.CONNECTION_UNBLOCKED:
        session.broker_unblocked()
        return b""
    if found == constants.CONNECTION_UPDATE_SECRET_OK:
        return None
    raise AmqpError(constants.COMMAND_INVALID, f"{_name(found)} from the broker on channel 0", found)


def from_broker(session: Session, channel: Channel, found: int, data: bytes, start: int, end: int) -> bytes | None:
    """A method of the broker on an open channel."""
    if found == constants.BASIC_GET_OK:
        number = Arguments(data, start, end).u64() + channel.offset
        frame = data[start : start + 11] + number.to_bytes(8, "big") + data[start + 19 : end]
        no_ack = bool(channel.gets.pop(0)) if channel.gets else False
        if channel.paused:
            # Behind what is kept back: delivery tags must reach the client in their order.
            channel.incoming = paused = PausedDelivery(channel, number, b"", no_ack, frame)
            channel.paused.append(paused)
            session.consumer_pause.count(1, len(frame))
            return b""
        channel.delivered(number, b"", no_ack)
        channel.passing = -1
        return frame
    elif found == constants.BASIC_GET_EMPTY:
        if channel.gets:
            channel.gets.pop(0)
    elif found == constants.BASIC_RETURN:
        arguments = Arguments(data, start, end)
        arguments.skip(2)
        arguments.short_bytes()
        session.amqp_stats.exchange(session.vhost, arguments.short()).returned += 1
        channel.passing = -1
    elif found == constants.BASIC_QOS_OK:
        if channel.qos_asked and not channel.qos_asked.pop(0):
            return b""
    elif found == constants.BASIC_CONSUME_OK:
        tag = Arguments(data, start, end).short_bytes()
        kind = channel.consume_ok(tag)
        session.consumer_came(channel, tag, kind)
        if kind != REPLIES and not channel.ending and session.speaks:
            if channel.freed:
                session.broker_write(session.departure.cancel(channel, tag))
            elif session.consumer_pause.returning:
                session.broker_write(basic_cancel(channel.number, tag))
    elif found in (constants.BASIC_CANCEL_OK, constants.BASIC_CANCEL):
        session.consumer_gone(channel, Arguments(data, start, end).short_bytes())
    elif found == constants.BASIC_RECOVER_OK:
        channel.recovered()
        if channel.recovering and not channel.recovering.pop(0):
            return b""
    elif found == constants.CHANNEL_OPEN_OK:
        channel.open = True
    elif found == constants.QUEUE_DECLARE_OK:
        channel.last_queue = name = Arguments(data, start, end).short()
        declared = channel.declares.pop(0) if channel.declares else b""
        if declared:
            session.has_queue(name, declared)
            _learn_life(session, name, declared)
        session.queue_declared(name)
    elif found == EXCHANGE_DECLARE_OK:
        exchange = channel.exchanges.pop(0) if channel.exchanges else None
        if exchange is not None:
            session.policy.bindings.exchange_declared(session.vhost, *exchange, False)
    elif found in _REMOVED:
        if channel.removals:
            _removed(session, channel.removals.popleft())
    elif found == constants.CHANNEL_CLOSE:
        session.closing[channel.number] = False
        if channel.closes():
            # The client's own close stands behind held publishes that are lost now: nobody else will answer it.
            session.client_write(data[start:end] + channel_close_ok(channel.number))
            session.channel_gone(channel)
            return b""
        session.channel_gone(channel)
    elif found == constants.CHANNEL_CLOSE_OK:
        session.channel_gone(channel)
    elif found >> 16 == 10:
        raise AmqpError(constants.COMMAND_INVALID, f"{_name(found)} from the broker on a channel", found)
    return None


def _name(found: int) -> str:
    return f"method {found >> 16}.{found & 0xFFFF}"
