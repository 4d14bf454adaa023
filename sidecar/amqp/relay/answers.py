"""What a broker says besides deliveries and confirms: what the relay makes of each method.

A handler says what goes on in place of a frame, as in control.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.amqp.relay.channel import REPLIES, Channel, Removal
from sidecar.amqp.relay.deliveries import PartialMessage, PausedDelivery, ReturnSpan
from sidecar.amqp.wire import constants
from sidecar.amqp.wire.constants import AmqpError
from sidecar.amqp.wire.methods import Arguments, basic_cancel, channel_close_ok, method_name, method_of
from sidecar.amqp.wire.rpc import EXCHANGE_DECLARE_OK
from sidecar.amqp.wire.tables import decode_table

if TYPE_CHECKING:
    from sidecar.amqp.relay.session import Session

#: Among the bits of ``queue.declare``.
_EXCLUSIVE: Final = 4


def off_channel(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
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
        session.lifecycle.broker_closes(arguments.u16(), arguments.short(), data[start:end])
    elif found == constants.CONNECTION_CLOSE_OK:
        session.lifecycle.broker_closed()
    elif found == constants.CONNECTION_BLOCKED:
        session.broker_blocked(Arguments(data, start, end).short())
    elif found == constants.CONNECTION_UNBLOCKED:
        session.broker_unblocked()
    elif found == constants.CONNECTION_UPDATE_SECRET_OK:
        return None
    else:
        text = f"{method_name(found)} from the broker on channel 0"
        raise AmqpError(constants.COMMAND_INVALID, text, found)
    return b""


def on_refused(session: Session, kind: int, number: int, data: bytes, start: int, end: int) -> bytes | None:
    """A frame on a channel that we have closed: the broker still talks about the old one, until it has answered."""
    if kind == constants.METHOD:
        method = method_of(data, start, end)
        if method == constants.CHANNEL_CLOSE_OK:
            closes = session.refused[number] - 1
            if closes:
                session.refused[number] = closes
            else:
                del session.refused[number]
        elif method == constants.CHANNEL_CLOSE:  # both at once
            session.broker_write(channel_close_ok(number))
    return b""


def end_content(channel: Channel) -> None:
    """A method ends the content that was coming in."""
    if channel.passing or isinstance(channel.incoming, PartialMessage):
        raise AmqpError(constants.UNEXPECTED_FRAME, "UNEXPECTED_FRAME - a method inside a message")
    channel.incoming = None


def from_broker(session: Session, channel: Channel, found: int, data: bytes, start: int, end: int) -> bytes | None:
    """A method of the broker on an open channel."""
    handler = _HANDLERS.get(found)
    if handler is not None:
        return handler(session, channel, data, start, end)
    if found >> 16 == 10:
        text = f"{method_name(found)} from the broker on a channel"
        raise AmqpError(constants.COMMAND_INVALID, text, found)
    return None


# -- messages and consumers --------------------------------------------------------------------------------------------


def _get_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    number = Arguments(data, start, end).u64() + channel.offset
    frame = data[start : start + 11] + number.to_bytes(8, "big") + data[start + 19 : end]
    no_ack = bool(channel.gets.pop(0)) if channel.gets else False
    if channel.paused:
        # Behind paused deliveries: delivery tags must reach the client in their order.
        channel.incoming = paused = PausedDelivery(channel, number, b"", no_ack, frame)
        channel.paused.append(paused)
        session.count_paused(1, len(frame))
        return b""
    channel.delivered(number, b"", no_ack)
    channel.passing = -1
    return frame


def _get_empty(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    if channel.gets:
        channel.gets.pop(0)
    return None


def _return(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    arguments = Arguments(data, start, end)
    arguments.skip(2)
    arguments.short_bytes()
    session.amqp_stats.exchange(session.vhost, arguments.short()).returned += 1
    if session.tracing.recording:
        channel.delivery = note = ReturnSpan(b"", 0.0)
        note.frame = data[start:end]
    channel.passing = -1
    return None


def _qos_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    return b"" if channel.qos_asked and not channel.qos_asked.pop(0) else None


def _consume_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    tag = Arguments(data, start, end).short_bytes()
    kind = channel.consume_ok(tag)
    channel.consumer_came(tag, kind)
    if kind != REPLIES and not channel.ending and session.speaks:
        if channel.freed:
            session.broker_write(session.departure.cancel(channel, tag))
        elif session.consumer_pause.returning:
            session.broker_write(basic_cancel(channel.number, tag))
    return None


def _cancelled(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.consumer_gone(Arguments(data, start, end).short_bytes())
    return None


def _recover_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.recovered()
    return b"" if channel.recovering and not channel.recovering.pop(0) else None


# -- channels ----------------------------------------------------------------------------------------------------------


def _open_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.open = True
    return None


def _close(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    session.closing[channel.number] = False
    if not channel.closes:
        session.channel_gone(channel)
        return None
    # The client's own close stands behind held publishes that are lost now: nobody else will answer it.
    session.client_write(data[start:end] + channel_close_ok(channel.number))
    session.channel_gone(channel)
    return b""


def _close_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    session.channel_gone(channel)
    return None


# -- topology ----------------------------------------------------------------------------------------------------------


def _queue_declare_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    channel.last_queue = name = Arguments(data, start, end).short()
    declared = channel.declares.pop(0) if channel.declares else b""
    if declared:
        has_queue(session, name, declared)
        _learn_lifetime(session, name, declared)
    session.port.queue_declared(session.vhost, name)
    return None


def has_queue(session: Session, name: str, declared: bytes) -> None:
    """The client has declared a queue, not passively. ``declared``: the arguments, behind the reserved short."""
    bits = declared[1 + declared[0]]
    if bits & _EXCLUSIVE:
        session.departure.owns(name, declared)
    session.port.ephemeral.declared(session.vhost, name, bits, declared)


def _learn_lifetime(session: Session, name: str, declared: bytes) -> None:
    """A queue was declared so; see :func:`has_queue`."""
    at = 1 + declared[0]
    durable = declared[at] & 0b1110 == 2  # neither exclusive nor auto-delete
    table = declared[at + 1 :]
    try:
        arguments = decode_table(table, 0, len(table))
    except AmqpError:
        return
    session.policy.bindings.queue_declared(session.vhost, name, not durable, arguments)


def _exchange_declare_ok(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    exchange = channel.exchanges.pop(0) if channel.exchanges else None
    if exchange is not None:
        name, kind = exchange
        session.policy.bindings.exchange_declared(session.vhost, name, kind, False)
    return None


def _removed(session: Session, channel: Channel, data: bytes, start: int, end: int) -> bytes | None:
    if channel.removals:
        removed(session, channel.removals.popleft())
    return None


def removed(session: Session, removal: Removal) -> None:
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


#: What matters of what a broker says on a channel; all else passes, but for what belongs on channel 0.
_HANDLERS: Final[dict[int, Callable[[Session, Channel, bytes, int, int], bytes | None]]] = {
    constants.BASIC_CANCEL: _cancelled,
    constants.BASIC_CANCEL_OK: _cancelled,
    constants.BASIC_CONSUME_OK: _consume_ok,
    constants.BASIC_GET_EMPTY: _get_empty,
    constants.BASIC_GET_OK: _get_ok,
    constants.BASIC_QOS_OK: _qos_ok,
    constants.BASIC_RECOVER_OK: _recover_ok,
    constants.BASIC_RETURN: _return,
    constants.CHANNEL_CLOSE: _close,
    constants.CHANNEL_CLOSE_OK: _close_ok,
    constants.CHANNEL_OPEN_OK: _open_ok,
    constants.EXCHANGE_DELETE_OK: _removed,
    EXCHANGE_DECLARE_OK: _exchange_declare_ok,
    constants.EXCHANGE_UNBIND_OK: _removed,
    constants.QUEUE_DECLARE_OK: _queue_declare_ok,
    constants.QUEUE_DELETE_OK: _removed,
    constants.QUEUE_UNBIND_OK: _removed,
}
