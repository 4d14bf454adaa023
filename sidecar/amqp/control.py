"""Everything that is neither a publish nor a delivery nor an acknowledgement: what the relay makes of it.

A handler says what goes on in place of a frame: ``None``, the frame as it is; empty bytes, nothing; other bytes, those.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Final

from sidecar.amqp.channel import Channel
from sidecar.amqp.confirms import Confirms
from sidecar.amqp.methods import (
    Arguments,
    basic_cancel,
    basic_qos,
    channel_close_ok,
    method,
    method_of,
)
from sidecar.amqp.spec import (
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
    BASIC_RETURN,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CHANNEL_ERROR,
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
    EXCHANGE_UNBIND,
    HEARTBEAT,
    METHOD,
    NOT_ALLOWED,
    QUEUE_BIND,
    QUEUE_DECLARE_OK,
    QUEUE_DELETE,
    QUEUE_PURGE,
    QUEUE_UNBIND,
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
            return None
        raise AmqpError(COMMAND_INVALID, f"COMMAND_INVALID - {_name(found)} is not for channel 0", found)
    if found != CHANNEL_OPEN:
        raise AmqpError(CHANNEL_ERROR, f"CHANNEL_ERROR - {_name(found)} on channel {number}, which is not open", found)
    if session.channel_max and number > session.channel_max:
        raise AmqpError(
            NOT_ALLOWED, f"NOT_ALLOWED - channel {number} is above channel_max, {session.channel_max}", found
        )
    session.channels[number] = Channel(session, number)
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
            session.consumer_gone(channel, tag)
    elif found in (BASIC_RECOVER, BASIC_RECOVER_ASYNC):
        # The broker delivers again whatever is not settled, what is kept back here too.
        session.broker_write(channel.give_back())
        session.amqp_stats.unacked -= channel.unacked.count
        channel.unacked.clear()
    elif found == CONFIRM_SELECT:
        if channel.confirms is None:
            channel.confirms = Confirms()
    elif found == TX_SELECT:
        channel.one_lane = True
    elif found == CHANNEL_OPEN:
        raise AmqpError(CHANNEL_ERROR, f"CHANNEL_ERROR - channel {channel.number} is open already", found)
    elif found in _TOPOLOGY:
        _learn(session, channel, found, Arguments(data, start, end))
    elif found >> 16 == 10:
        raise AmqpError(COMMAND_INVALID, f"COMMAND_INVALID - {_name(found)} is for channel 0 only", found)
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
    arguments.short_bytes()
    tag = arguments.short_bytes()
    bits = arguments.u8()
    no_ack = bool(bits & 2)
    if bits & 8:  # no-wait
        channel.consumers[tag] = no_ack
        session.amqp_stats.consumers += 1
    else:
        channel.consumes.append(no_ack)
    limit = session.prefetch(0)
    if no_ack or channel.qos_known or not limit:
        return None
    channel.qos_known = True
    channel.qos_asked.append(False)
    return basic_qos(channel.number, limit) + data[start:end]


def _learn(session: Session, channel: Channel, found: int, arguments: Arguments) -> None:
    """What the client tells the broker about exchanges and bindings. Taken as true before the answer: if it is not,
    the worst is a message that is held in vain."""
    topology = session.policy.topology
    vhost = session.vhost
    arguments.skip(2)
    if found == EXCHANGE_DECLARE:
        name, kind = arguments.short(), arguments.short()
        if not arguments.u8() & 1:  # not passive
            topology.exchange_declared(vhost, name, kind)
    elif found == EXCHANGE_DELETE:
        topology.exchange_deleted(vhost, arguments.short())
    elif found == QUEUE_DELETE:
        topology.queue_deleted(vhost, arguments.short() or channel.last_queue)
    elif found in (EXCHANGE_BIND, EXCHANGE_UNBIND):
        destination, source, key = arguments.short(), arguments.short(), arguments.short()
        arguments.skip(1)
        table = _table(arguments)
        if found == EXCHANGE_BIND:
            topology.exchange_bound(vhost, source, destination, key, table)
        else:
            topology.exchange_unbound(vhost, source, destination, key, table)
    else:
        queue, exchange, key = arguments.short() or channel.last_queue, arguments.short(), arguments.short()
        if found == QUEUE_BIND:
            arguments.skip(1)
            topology.bound(vhost, exchange, queue, key, _table(arguments))
        else:
            topology.unbound(vhost, exchange, queue, key, _table(arguments))


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
            ours = number in session.refused
            session.refused.discard(number)
            return b"" if ours else None
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
        arguments = Arguments(data, start, end)
        channel.delivered(arguments.u64(), b"", channel.gets.popleft() if channel.gets else False)
    elif found == BASIC_GET_EMPTY:
        if channel.gets:
            channel.gets.popleft()
    elif found == BASIC_RETURN:
        arguments = Arguments(data, start, end)
        arguments.skip(2)
        arguments.short_bytes()
        session.amqp_stats.exchange(session.vhost, arguments.short()).returned += 1
    elif found == BASIC_QOS_OK:
        if channel.qos_asked and not channel.qos_asked.popleft():
            return b""
    elif found == BASIC_CONSUME_OK:
        tag = Arguments(data, start, end).short_bytes()
        no_ack = channel.consumes.popleft() if channel.consumes else False
        channel.consumers[tag] = no_ack
        session.amqp_stats.consumers += 1
        if session.returning:
            session.broker_write(basic_cancel(channel.number, tag))
    elif found in (BASIC_CANCEL_OK, BASIC_CANCEL):
        session.consumer_gone(channel, Arguments(data, start, end).short_bytes())
    elif found == CHANNEL_OPEN_OK:
        channel.open = True
    elif found == QUEUE_DECLARE_OK:
        channel.last_queue = Arguments(data, start, end).short()
    elif found == CHANNEL_CLOSE:
        session.channel_gone(channel)
        # Both at once: the client's own close is answered by the broker, and its answer to this one comes too.
        session.closing[channel.number] = False
    elif found == CHANNEL_CLOSE_OK:
        if channel.number in session.refused:  # its number is in use again already
            session.refused.discard(channel.number)
            return b""
        session.channel_gone(channel)
    elif found >> 16 == 10:
        raise AmqpError(COMMAND_INVALID, f"{_name(found)} from the broker on a channel", found)
    return None


def _name(found: int) -> str:
    return f"method {found >> 16}.{found & 0xFFFF}"
