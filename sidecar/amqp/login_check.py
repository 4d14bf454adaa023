"""Finds out whether a login is good at a broker: opens a connection, and closes it. Declares nothing."""

from __future__ import annotations

import asyncio

from sidecar.amqp.wire.client_handshake import ClientHandshake, own_properties, plain
from sidecar.amqp.wire.constants import METHOD, PROTOCOL_HEADER
from sidecar.amqp.wire.frames import FrameReader
from sidecar.amqp.wire.handshake import HANDSHAKE_FRAME_MAX
from sidecar.amqp.wire.methods import connection_close
from sidecar.core.amqp_settings import AmqpCredentials


class Refused(Exception):
    """The broker does not let it in; the text is the broker's. ``login``: it is the login that is wrong, rather than
    the virtual host that is not allowed or not there."""

    def __init__(self, text: str, login: bool) -> None:
        super().__init__(text)
        self.login = login


async def log_in(host: str, port: int, credentials: AmqpCredentials | None, vhost: str) -> str:
    """Return what the broker has come to: ``open``, or without credentials ``start``, its first word. For as long as
    the caller allows. Raises :class:`OSError`, :class:`EOFError` where what answers is no broker, and
    :class:`Refused`."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        if credentials is None:
            writer.write(PROTOCOL_HEADER)
            first = await reader.read(1)
            if not first or first[0] != METHOD:
                raise EOFError("what listens there speaks no AMQP 0-9-1")
            return "start"
        response = plain(credentials.username, credentials.password.reveal())
        handshake = ClientHandshake("PLAIN", response, vhost, own_properties("sidecar diagnose"), heartbeat=0)
        await _shake_hands(reader, writer, handshake)
        writer.write(connection_close(200, "diagnosed"))
        return "open"
    finally:
        writer.close()


async def _shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handshake: ClientHandshake) -> None:
    frames = FrameReader(HANDSHAKE_FRAME_MAX)
    writer.write(handshake.greeting())
    while not handshake.done:
        data = await reader.read(HANDSHAKE_FRAME_MAX)
        found = frames.feed(data)
        if not data or frames.error is not None:
            raise EOFError("what listens there speaks no AMQP 0-9-1, or closed the connection")
        for _, _, start, end in found:
            writer.write(handshake.feed(frames.data, start, end))
            if handshake.failure is not None:
                raise Refused(handshake.failure.text, login=not handshake.accepted)
