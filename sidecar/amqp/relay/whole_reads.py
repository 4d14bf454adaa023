"""Readings that are nothing but one run: the client's publishes or acks, the broker's confirms or deliveries.

With many connections a reading has few messages, and what counts is what it costs by itself. So one that is all one run
is told by a single call into C, and passes without what a mixture needs: no list of frames, no places, no pieces. It
only does if that is sure to be right for all of it; else each frame or run is looked at (forward.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.amqp.flow.policy import KnownRoute
from sidecar.amqp.relay.acks import acked
from sidecar.amqp.relay.connections import OPEN
from sidecar.amqp.wire.constants import BASIC_ACK, BASIC_DELIVER, BASIC_PUBLISH
from sidecar.amqp.wire.runs import ACK_SIZE, whole_acks, whole_deliveries

if TYPE_CHECKING:
    from sidecar.amqp.relay.channel import Channel
    from sidecar.amqp.relay.connections import BrokerConnection
    from sidecar.amqp.relay.session import Session

#: Where a method's number has its last octet, and what that is: enough to guess by. No message or ack is shorter than
#: an ack.
_METHOD_AT: Final = 10
_PUBLISH: Final = BASIC_PUBLISH & 0xFF
_DELIVER: Final = BASIC_DELIVER & 0xFF
_ACK: Final = BASIC_ACK & 0xFF


def pass_to_broker(session: Session, data: bytes) -> bool:
    """Take what has come on an open connection, if it is one run and may pass on at once."""
    client = session.client
    if len(data) < ACK_SIZE or client.state != OPEN:
        return False
    reader = client.reader
    if not reader.between_frames or session.detached or session.lifecycle.close_frame:
        return False
    method = data[_METHOD_AT]
    if method == _PUBLISH:
        return not session.buffers and _pass_publishes(session, data, reader.limit)
    return method == _ACK and _pass_acks(session, data, reader.limit)


def pass_to_client(session: Session, broker: BrokerConnection, data: bytes) -> bool:
    """Take what has come from the broker, if it is one run and the client may be told so as it came."""
    if len(data) < ACK_SIZE or not broker.reader.between_frames:
        return False
    method = data[_METHOD_AT]
    if method == _DELIVER:
        return _pass_deliveries(session, data, broker.reader.limit)
    return method == _ACK and not session.buffers and _pass_confirms(session, data, broker.reader.limit)


def _pass_publishes(session: Session, data: bytes, limit: int) -> bool:
    known = session.known
    run = session.tracing.whole_run(data, limit, b"" if known is None else known.key)
    if run is None:
        return False
    count, number, key, traced = run
    channel = _from_client(session, number)
    if channel is None:
        return False
    if known is None or known.key is not key or known.version != session.policy.version:
        session.known = known = KnownRoute(key, session.routes.find(key), session.policy.version)
    now = session.listener.clock()
    if not channel.path.pass_whole(known.route, len(data), count, 0 if traced is data else count, now):
        return False
    session.touched = now
    session.broker_publish(traced)
    return True


def _pass_acks(session: Session, data: bytes, limit: int) -> bool:
    found_by = whole_acks
    if found_by is None:
        return False
    acks = found_by(data, limit)
    if acks is None:
        return False
    number, first, last = acks
    channel = _from_client(session, number)
    if channel is None or not acked(session, channel, first, last):
        return False
    session.touched = session.listener.clock()
    session.broker_publish(data)
    return True


def _pass_confirms(session: Session, data: bytes, limit: int) -> bool:
    found_by = whole_acks
    if found_by is None:
        return False
    acks = found_by(data, limit)
    if acks is None:
        return False
    number, first, last = acks
    channel = _from_broker(session, number)
    if channel is None:
        return False
    path = channel.path
    if not (path.acked(first, last) if first else path.acked_up_to(last)):
        return False
    channel.delivery = None
    session.client_write(data)
    return True


def _pass_deliveries(session: Session, data: bytes, limit: int) -> bool:
    found_by = whole_deliveries
    if found_by is None:
        return False
    run = found_by(data, limit, session.consumer)
    if run is None:
        return False
    number, first, last, consumer = run
    session.consumer = consumer
    channel = _from_broker(session, number)
    if channel is None or not session.consumer_pause.deliver_run(channel, consumer, first, last):
        return False
    channel.delivery = None
    session.client_write(data)
    return True


def _from_client(session: Session, number: int) -> Channel | None:
    """The channel, if nothing of the client waits on it, and it is not in the middle of a publish."""
    channel = session.channels.get(number)
    if channel is None or channel.pending is not None or channel.publish.route is not None:
        return None
    return channel


def _from_broker(session: Session, number: int) -> Channel | None:
    """The channel, if the broker is not in the middle of a message on it, and we have not refused it."""
    channel = session.channels.get(number)
    if channel is None or channel.incoming is not None or channel.passing:
        return None
    if session.refused and number in session.refused:
        return None
    return channel
