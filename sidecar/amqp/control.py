"""Everything that is neither a publish nor a delivery nor an acknowledgement: what the relay makes of it.

A handler says what goes on in place of a frame: ``None``, the frame as it is; empty bytes, nothing; other bytes, those.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.channel import ACK, NO_ACK, REPLIES, Channel, Removal
from sidecar.amqp.incoming import Stalled
from sidecar.amqp.legs import OPEN
from sidecar.amqp.methods import (
    Arguments,
    basic_cancel,
    basic_qos,
    channel_close_ok,
    method,
    method_of,
)
from sidecar.amqp.spec import (
    ACCESS_REQUEST,
    BASIC_CANCEL,
    BASIC_CANCEL_OK,
    BASIC_CONSUME,
    BASIC_CONSUME_OK,
    BASIC_GET,
    BASIC_GET_EMPTY,
    BASIC_GET_OK,
    BASIC_QOS,
    BASIC_QOS_OK,
    BASIC_RECOVER,
    BASIC_RECOVER_ASYNC,
    BASIC_RECOVER_OK,
    BASIC_RETURN,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CHANNEL_ERROR,
    CHANNEL_FLOW,
    CHANNEL_FLOW_OK,
    CHANNEL_OPEN,
    CHANNEL_OPEN_OK,
    COMMAND_INVALID,
    CONFIRM_SELECT,
    CONNECTION_BLOCKED,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_UNBLOCKED,
    CONNECTION_UPDATE_SECRET,
    CONNECTION_UPDATE_SECRET_OK,
    EXCHANGE_BIND,
    EXCHANGE_DECLARE,
    EXCHANGE_DELETE,
    EXCHANGE_DELETE_OK,
    EXCHANGE_UNBIND,
    EXCHANGE_UNBIND_OK,
    HEARTBEAT,
    METHOD,
    NOT_ALLOWED,
    QUEUE_BIND,
    QUEUE_DECLARE,
    QUEUE_DECLARE_OK,
    QUEUE_DELETE,
    QUEUE_DELETE_OK,
    QUEUE_PURGE,
    QUEUE_UNBIND,
    QUEUE_UNBIND_OK,
    TX_COMMIT,
    TX_ROLLBACK,
    TX_SELECT,
    UNEXPECTED_FRAME,
    AmqpError,
)
from sidecar.amqp.tables import decode_table

if TYPE_CHECKING:
    from sidecar.amqp.session import Session

#: What must not overtake a held publish: it ends the channel or a transaction, or changes where the publish leads.
_BARRIERS: Final = frozenset(
    {
        CHANNEL_CLOSE,
        TX_SELECT,
        TX_COMMIT,
        TX_ROLLBACK,
        EXCHANGE_DELETE,
        EXCHANGE_UNBIND,
        QUEUE_DELETE,
        QUEUE_PURGE,
        QUEUE_UNBIND,
    }
)
#: All that a client may say on a channel. An unknown method makes RabbitMQ drop the connection without a word.
_KNOWN: Final = _BARRIERS | {
    ACCESS_REQUEST, CHANNEL_OPEN, CHANNEL_FLOW, CHANNEL_FLOW_OK, EXCHANGE_DECLARE, EXCHANGE_BIND, QUEUE_DECLARE,
    QUEUE_BIND, BASIC_QOS, BASIC_CONSUME, BASIC_CANCEL, BASIC_CANCEL_OK, BASIC_GET, BASIC_RECOVER, BASIC_RECOVER_ASYNC,
    CONFIRM_SELECT,
}  # fmt: skip
#: The answers to what takes something away.
_REMOVED: Final = frozenset({EXCHANGE_DELETE_OK, EXCHANGE_UNBIND_OK, QUEUE_DELETE_OK, QUEUE_UNBIND_OK})
#: RabbitMQ's pseudo-queue for answers.
_DIRECT_REPLY_TO: Final = b"amq.rabbitmq.reply-to"
_TOPOLOGY: Final = frozenset(
    {EXCHANGE_DECLARE, EXCHANGE_DELETE, EXCHANGE_BIND, EXCHANGE_UNBIND, QUEUE_BIND, QUEUE_UNBIND, QUEUE_DELETE}
)


# -- from the client ---------------------------------------------------------------------------------------------------


def off_channel(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """A frame of the client that belongs to no open channel."""
    if kind == HEARTBEAT:
        if number:
            raise AmqpError(UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a heartbeat on a channel")
        return b""  # each leg has its own
    if number in session.closing:
        return _on_closing(session, kind, number, data, start, end)
    if kind != METHOD:
        raise AmqpError(UNEXPECTED_FRAME, f"UNEXPECTED_FRAME - content on channel {number}, which is not open")
    found = method_of(data, start, end)
    if number == 0:
        if found == CONNECTION_CLOSE:
            return session.client_closes(data[start:end])
        if found == CONNECTION_UPDATE_SECRET:
            return session.new_secret(Arguments(data, start, end).long_bytes())
        raise AmqpError(COMMAND_INVALID, f"COMMAND_INVALID - {_name(found)} is not for channel 0", found)
    if found != CHANNEL_OPEN:
        raise AmqpError(CHANNEL_ERROR, f"CHANNEL_ERROR - {_name(found)} on channel {number}, which is not open", found)
    if session.channel_max and number > session.channel_max:
        raise AmqpError(
            NOT_ALLOWED, f"NOT_ALLOWED - channel {number} is above channel_max, {session.channel_max}", found
        )
    session.channels[number] = session.new_channel(number)
    session.amqp_stats.channels += 1
    return None


def _on_closing(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """A frame of the client on a channel that the broker or we have closed: it may not know yet."""
    if kind != METHOD:
        return b""
    found = method_of(data, start, end)
    ours = session.closing[number]
    if found == CHANNEL_CLOSE_OK:
        del session.closing[number]
        return b"" if ours else None
    if found == CHANNEL_CLOSE:  # both at once: each is answered
        if ours:
            session.client_write(channel_close_ok(number))
            return b""
        return None
    return b""


def from_client(session: Session, channel: Channel, found: int, data: bytes, start: int, end: int) -> bytes | None:
    """A method of the client on an open channel."""
    if found in _BARRIERS and channel.held:
        channel.waiting = []
        session.wait(channel, data[start:end])
        return b""
    if found == BASIC_QOS:
        return _qos(session, channel, data, start, end)
    if found == BASIC_CONSUME:
        return _consume(session, channel, data, start, end)
    if found == BASIC_GET:
        arguments = Arguments(data, start, end)
        arguments.skip(2)
        arguments.short_bytes()
        channel.gets.append(bool(arguments.u8() & 1))
    elif found == BASIC_CANCEL:
        arguments = Arguments(data, start, end)
        tag = arguments.short_bytes()
        if arguments.u8() & 1:
            channel.depart(tag)
            session.consumer_gone(channel, tag)
    elif found == BASIC_RECOVER:
        channel.recovering += 1
    elif found == BASIC_RECOVER_ASYNC:
        channel.recovered()
    elif found == CHANNEL_CLOSE:
        channel.ending = True
    elif found == CONFIRM_SELECT:
        channel.select_confirms()
    elif found == TX_SELECT:
        channel.one_lane = True
    elif found == CHANNEL_OPEN:
        raise AmqpError(CHANNEL_ERROR, f"CHANNEL_ERROR - channel {channel.number} is open already", found)
    elif found in _TOPOLOGY:
        _learn(session, channel, found, Arguments(data, start, end))
    elif found not in _KNOWN:
        raise AmqpError(COMMAND_INVALID, f"COMMAND_INVALID - {_name(found)} on a channel", found)
    return None


def _qos(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """A prefetch limit: none becomes the default, a larger one the largest."""
    arguments = Arguments(data, start, end)
    size, count, scope = arguments.u32(), arguments.u16(), arguments.u8()
    channel.qos_known = True
    channel.qos_asked.append(True)
    wanted = session.prefetch(count)
    return None if wanted == count else method(channel.number, BASIC_QOS, pack(">IHB", size, wanted, scope))


def _consume(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    """A consumer that nobody gave a limit gets the default one."""
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    queue = arguments.short_bytes()
    tag = arguments.short_bytes()
    bits = arguments.u8()
    kind = REPLIES if queue == _DIRECT_REPLY_TO else NO_ACK if bits & 2 else ACK
    before = after = b""
    if bits & 8:  # no-wait
        session.consumer_came(channel, tag, kind)
        if session.stalling.returning and kind != REPLIES:
            after = basic_cancel(channel.number, tag)
    else:
        channel.consumes.append((tag, kind))
    limit = session.prefetch(0)
    if kind == ACK and limit and not channel.qos_known:
        channel.qos_known = True
        channel.qos_asked.append(False)
        before = basic_qos(channel.number, limit)
    return before + data[start:end] + after if before or after else None


def _learn(session: Session, channel: Channel, found: int, arguments: Arguments) -> None:
    """What the client tells the broker about exchanges and bindings. What is made is taken as true before the answer:
    if it is not, the worst is a message that is held in vain. What is removed, only with the answer."""
    topology = session.policy.topology
    vhost = session.vhost
    arguments.skip(2)
    if found == EXCHANGE_DECLARE:
        name, kind = arguments.short(), arguments.short()
        if not arguments.u8() & 1:  # not passive
            topology.exchange_declared(vhost, name, kind)
    elif found == EXCHANGE_DELETE:
        name = arguments.short()
        _remove(session, channel, Removal(found, name, "", "", {}), bool(arguments.u8() & 2))
    elif found == QUEUE_DELETE:
        name = arguments.short() or channel.last_queue
        _remove(session, channel, Removal(found, name, "", "", {}), bool(arguments.u8() & 4))
    elif found in (EXCHANGE_BIND, EXCHANGE_UNBIND):
        destination, source, key = arguments.short(), arguments.short(), arguments.short()
        no_wait = bool(arguments.u8() & 1)
        table = _table(arguments)
        if found == EXCHANGE_BIND:
            topology.exchange_bound(vhost, source, destination, key, table)
        else:
            _remove(session, channel, Removal(found, source, destination, key, table), no_wait)
    else:
        queue, exchange, key = arguments.short() or channel.last_queue, arguments.short(), arguments.short()
        if found == QUEUE_BIND:
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
    topology = session.policy.topology
    vhost = session.vhost
    if removal.method == EXCHANGE_DELETE:
        topology.exchange_deleted(vhost, removal.name)
    elif removal.method == QUEUE_DELETE:
        topology.queue_deleted(vhost, removal.name)
    elif removal.method == EXCHANGE_UNBIND:
        topology.exchange_unbound(vhost, removal.name, removal.other, removal.key, removal.arguments)
    else:
        topology.unbound(vhost, removal.name, removal.other, removal.key, removal.arguments)


def _table(arguments: Arguments) -> dict[str, object]:
    table = arguments.long_bytes()
    return decode_table(len(table).to_bytes(4, "big") + table, 0, len(table) + 4) if table else {}


# -- from the broker ---------------------------------------------------------------------------------------------------


def off_channel_of_broker(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """A frame of the broker that belongs to no open channel."""
    if kind == HEARTBEAT:
        return b""
    if number:
        if kind == METHOD and method_of(data, start, end) == CHANNEL_CLOSE_OK:
            return None
        return b""  # said before the broker knew that it is closed
    found = method_of(data, start, end)
    if found == CONNECTION_CLOSE:
        arguments = Arguments(data, start, end)
        session.broker_closes(arguments.u16(), arguments.short(), data[start:end])
        return b""
    if found == CONNECTION_CLOSE_OK:
        session.broker_closed()
        return b""
    if found == CONNECTION_BLOCKED:
        session.broker_blocked(Arguments(data, start, end).short())
        return b""
    if found == CONNECTION_UNBLOCKED:
        session.broker_unblocked()
        return b""
    if found == CONNECTION_UPDATE_SECRET_OK:
        return None
    raise AmqpError(COMMAND_INVALID, f"{_name(found)} from the broker on channel 0", found)


def from_broker(session: Session, channel: Channel, found: int, data: bytes, start: int, end: int) -> bytes | None:
    """A method of the broker on an open channel."""
    if found == BASIC_GET_OK:
        number = Arguments(data, start, end).u64() + channel.offset
        frame = data[start : start + 11] + number.to_bytes(8, "big") + data[start + 19 : end]
        no_ack = channel.gets.popleft() if channel.gets else False
        if channel.stalled:
            # Behind what is kept back: delivery tags must reach the client in their order.
            channel.incoming = stalled = Stalled(channel, number, b"", no_ack, frame)
            channel.stalled.append(stalled)
            session.stalling.count(1, len(frame))
            return b""
        channel.delivered(number, b"", no_ack)
        channel.passing = -1
        return frame
    elif found == BASIC_GET_EMPTY:
        if channel.gets:
            channel.gets.popleft()
    elif found == BASIC_RETURN:
        arguments = Arguments(data, start, end)
        arguments.skip(2)
        arguments.short_bytes()
        session.amqp_stats.exchange(session.vhost, arguments.short()).returned += 1
        channel.passing = -1
    elif found == BASIC_QOS_OK:
        if channel.qos_asked and not channel.qos_asked.popleft():
            return b""
    elif found == BASIC_CONSUME_OK:
        tag = Arguments(data, start, end).short_bytes()
        kind = channel.consume_ok(tag)
        session.consumer_came(channel, tag, kind)
        if session.stalling.returning and kind != REPLIES and not channel.ending and session.client.state == OPEN:
            session.broker_write(basic_cancel(channel.number, tag))
    elif found in (BASIC_CANCEL_OK, BASIC_CANCEL):
        session.consumer_gone(channel, Arguments(data, start, end).short_bytes())
    elif found == BASIC_RECOVER_OK:
        channel.recovered()
    elif found == CHANNEL_OPEN_OK:
        channel.open = True
    elif found == QUEUE_DECLARE_OK:
        channel.last_queue = name = Arguments(data, start, end).short()
        session.queue_declared(name)
    elif found in _REMOVED:
        if channel.removals:
            _removed(session, channel.removals.popleft())
    elif found == CHANNEL_CLOSE:
        session.closing[channel.number] = False
        if channel.closes():
            # The client's own close stands behind held publishes that are lost now: nobody else will answer it.
            session.client_write(data[start:end] + channel_close_ok(channel.number))
            session.channel_gone(channel)
            return b""
        session.channel_gone(channel)
    elif found == CHANNEL_CLOSE_OK:
        session.channel_gone(channel)
    elif found >> 16 == 10:
        raise AmqpError(COMMAND_INVALID, f"{_name(found)} from the broker on a channel", found)
    return None


def _name(found: int) -> str:
    return f"method {found >> 16}.{found & 0xFFFF}"
