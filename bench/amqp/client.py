"""One connection of the load: plain sockets, so that little of the core that it shares with the proxy is its own."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from bench.amqp import wire
from bench.amqp.wire import Confirms, WireError
from sidecar.amqp.wire import constants

#: Seconds within which anything that was asked for must come.
PATIENCE: Final = 20.0
_SOCKET_BUFFER: Final = 1 << 18


class Connection:
    """Dialled and past its handshake, with one open channel; it then does not block any more."""

    def __init__(self, port: int) -> None:
        self.confirms = Confirms()
        #: Delivery tag of the newest delivery.
        self.delivered = 0
        self._buffer = b""
        self._unsent = memoryview(b"")
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            self._socket.sendall(constants.PROTOCOL_HEADER)
            self.expect(constants.CONNECTION_START)
            self._socket.sendall(wire.start_ok("guest", "guest"))
            tune = self.expect(constants.CONNECTION_TUNE)
            channel_max, frame_max = struct.unpack_from(">HI", tune)
            self._socket.sendall(wire.tune_ok(channel_max, frame_max) + wire.open_vhost("/"))
            self.expect(constants.CONNECTION_OPEN_OK)
            self.call(wire.open_channel())
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Say goodbye, as a client should; to a peer that has already gone, or closed the channel, just go."""
        with suppress(WireError, OSError):
            self.call(wire.close_connection())
        self._socket.close()

    def call(self, method: bytes) -> bytes:
        """Send a method and wait for the one that answers it; its arguments."""
        self._socket.settimeout(PATIENCE)
        self._socket.sendall(method)
        return self.expect(int.from_bytes(method[7:11], "big") + 1)  # all of those used here are numbered so

    def expect(self, answer: int) -> bytes:
        """Wait for a method; its arguments. Confirms and deliveries that come before it are counted."""
        self._socket.settimeout(PATIENCE)
        while True:
            for kind, start, end in wire.frames(self._buffer):
                data, number = self._buffer, self._method(kind, start)
                if number == answer:
                    self._buffer = data[end + 1 :]
                    return data[start + 4 : end]
                self._count(data, number, start)
            self._keep(self._whole())
            self._buffer += self._receive()

    def get(self, queue: str) -> bytes:
        """The content header frame's payload of the next message in a queue; the queue must hold one."""
        self.call(wire.get(queue))
        while len(found := [(start, end) for kind, start, end in wire.frames(self._buffer)]) < 2:
            self._buffer += self._receive()
        header = self._buffer[found[0][0] : found[0][1]]
        self._keep(found[1][1] + 1)
        return header

    def send(self, data: memoryview | bytes) -> bool:
        """As much as goes now, the rest by :meth:`flush`; whether there is a rest. Earlier bytes must be gone."""
        if self._unsent:
            raise WireError("sending more while the last has not gone")
        self._socket.setblocking(False)
        self._unsent = memoryview(data)
        return self.flush()

    def flush(self) -> bool:
        """Send what is left; whether there still is some."""
        while self._unsent:
            try:
                count = self._socket.send(self._unsent)
            except BlockingIOError:
                return True
            self._unsent = self._unsent[count:]
        return False

    def wait(self) -> None:
        """Until something has come or, when something is left to send, could be sent."""
        ready = select.select([self], [self] if self._unsent else [], [], PATIENCE)
        if not ready[0] and not ready[1]:
            raise WireError(f"nothing came within {PATIENCE:g} s")
        if ready[1]:
            self.flush()
        if ready[0]:
            self.read()

    @property
    def sending(self) -> bool:
        return bool(self._unsent)

    def read(self) -> None:
        """Take what has come: ``confirms`` and ``delivered`` move on."""
        self._socket.setblocking(False)
        try:
            self._buffer += self._receive()
        except BlockingIOError:
            return
        self.take()

    def take(self) -> None:
        """The same for what came together with the answer to :meth:`call`, and will not make the socket readable."""
        data, done = self._buffer, 0
        for kind, start, end in wire.frames(data):
            if kind == constants.METHOD:
                self._count(data, self._method(kind, start), start)
            done = end + 1
        self._keep(done)

    def _count(self, data: bytes, number: int, start: int) -> None:
        if number == constants.BASIC_ACK:
            self.confirms.confirmed(int.from_bytes(data[start + 4 : start + 12], "big"), data[start + 12] & 1 == 1)
        elif number == constants.BASIC_DELIVER:
            at = start + 5 + data[start + 4]
            tag = int.from_bytes(data[at : at + 8], "big")
            if tag != self.delivered + 1:
                raise WireError(f"delivery {tag} after {self.delivered}")
            self.delivered = tag
        elif number:
            raise WireError(_text(data, number, start))

    def _method(self, kind: int, start: int) -> int:
        """0: no method frame."""
        return int.from_bytes(self._buffer[start : start + 4], "big") if kind == constants.METHOD else 0

    def _whole(self) -> int:
        end = 0
        for _, _, frame_end in wire.frames(self._buffer):
            end = frame_end + 1
        return end

    def _keep(self, done: int) -> None:
        """Forget what was read up to there."""
        self._buffer = self._buffer[done:]

    def _receive(self) -> bytes:
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError:
            raise WireError(f"no answer within {PATIENCE:g} s") from None
        if not data:
            raise WireError("the connection was closed")
        return data


def wait_open(port: int, deadline: float, check: Callable[[], None] | None = None) -> Connection:
    """A connection as soon as there is one; the last error when there is none until ``deadline`` (monotonic).
    ``check`` is called before each try and may raise."""
    while True:
        if check is not None:
            check()
        try:
            return Connection(port)
        except (OSError, WireError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _text(data: bytes, number: int, start: int) -> str:
    """What the peer says in a close, or which method it is."""
    if number in (constants.CONNECTION_CLOSE, constants.CHANNEL_CLOSE):
        code = int.from_bytes(data[start + 4 : start + 6], "big")
        return f"closed with {code} {data[start + 7 : start + 7 + data[start + 6]].decode(errors='replace')}"
    return f"method {number >> 16}.{number & 0xFFFF} out of turn"
