"""A client that speaks AMQP 0-9-1 frame by frame over a blocking socket, for what a library's API does not show. Frames
are made and read by pamqp, which has nothing in common with the code that is tested."""

from __future__ import annotations

import itertools
import select
import socket
import struct
import threading
import time
from collections import deque
from typing import Any, NamedTuple, Self, TypeVar

from pamqp import base, body, commands, constants, frame, header, heartbeat

from support.patience import PATIENCE

F = TypeVar("F", bound=base.Frame)

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"


class Received(NamedTuple):
    """One frame as it came; ``payload`` is without the frame's head and end, ``at`` is when."""

    kind: int
    channel: int
    payload: bytes
    at: float

    @property
    def method(self) -> base.Frame:
        """What it says, for a method frame."""
        assert self.kind == METHOD, f"not a method: {self}"
        _, _, value = frame.unmarshal(head(self.kind, self.channel, len(self.payload)) + self.payload + END)
        assert isinstance(value, base.Frame)
        return value


class RawClient:
    """A connection that has done its handshake, unless ``open`` is false. ``heartbeat``: what it asks for, seconds."""

    def __init__(
        self,
        port: int,
        *,
        vhost: str = "/",
        user: str = "guest",
        password: str = "guest",
        heartbeat: int = 0,
        open: bool = True,
        capabilities: dict[str, Any] | None = None,
        frame_max: int = 131072,
        timeout: float = PATIENCE,
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout = timeout
        self.frame_max = frame_max
        self._login = f"\0{user}\0{password}"
        self._data = bytearray()
        self._kept: deque[Received] = deque()
        if open:
            try:
                self._handshake(vhost, heartbeat, capabilities)
            except BaseException:
                self.sock.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _handshake(self, vhost: str, seconds: int, capabilities: dict[str, Any] | None) -> None:
        self.send_bytes(b"AMQP\x00\x00\x09\x01")
        self.expect(commands.Connection.Start)
        known: Any = {"product": "raw", "version": "1", "capabilities": capabilities or {}}
        self.send(0, commands.Connection.StartOk(known, "PLAIN", self._login, "en_US"))
        tune = self.expect(commands.Connection.Tune)
        self.send(0, commands.Connection.TuneOk(tune.channel_max, min(self.frame_max, tune.frame_max), seconds))
        self.send(0, commands.Connection.Open(vhost))
        self.expect(commands.Connection.OpenOk)

    # -- sending

    def send_bytes(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, channel: int, *methods: base.Frame) -> None:
        self.send_bytes(b"".join(frame.marshal(method, channel) for method in methods))

    def send_heartbeat(self) -> None:
        self.send_bytes(frame.marshal(heartbeat.Heartbeat(), 0))

    def publish(
        self,
        channel: int,
        exchange: str,
        routing_key: str,
        content: bytes,
        properties: commands.Basic.Properties | None = None,
        *,
        mandatory: bool = False,
    ) -> None:
        self.send_bytes(self.publishing(channel, exchange, routing_key, content, properties, mandatory=mandatory))

    def publishing(
        self,
        channel: int,
        exchange: str,
        routing_key: str,
        content: bytes,
        properties: commands.Basic.Properties | None = None,
        *,
        mandatory: bool = False,
    ) -> bytes:
        """The frames of one message."""
        largest = self.frame_max - 8
        parts: list[Any] = [
            commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory),
            header.ContentHeader(0, len(content), properties or commands.Basic.Properties()),
        ]
        parts += [body.ContentBody(content[at : at + largest]) for at in range(0, len(content), largest)]
        return b"".join(frame.marshal(part, channel) for part in parts)

    # -- receiving

    def read(self, seconds: float | None = None) -> Received | None:
        """The next frame; ``None`` when none comes in that time. ``EOFError``: the connection has ended."""
        deadline = time.monotonic() + (self.timeout if seconds is None else seconds)
        while (found := self._cut()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if not select.select([self.sock], [], [], left)[0]:  # not a timeout, which would be the writers' too
                return None
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError("the connection has ended")
            self._data += data
        return found

    def _cut(self) -> Received | None:
        if len(self._data) < 7:
            return None
        kind, channel, size = struct.unpack_from(">BHI", self._data)
        if len(self._data) < size + 8:
            return None
        assert self._data[size + 7] == constants.FRAME_END, "a frame without its end"
        payload = bytes(self._data[7 : size + 7])
        del self._data[: size + 8]
        return Received(kind, channel, payload, time.monotonic())

    def next(self, channel: int | None = None, seconds: float | None = None) -> Received:
        """The next frame that is no heartbeat, of that channel if one is given; others wait for their turn."""
        for kept in self._kept:
            if channel in (None, kept.channel):
                self._kept.remove(kept)
                return kept
        deadline = time.monotonic() + (self.timeout if seconds is None else seconds)
        while (found := self.read(deadline - time.monotonic())) is not None:
            if found.kind == HEARTBEAT:
                continue
            if channel in (None, found.channel):
                return found
            self._kept.append(found)
        raise AssertionError(f"nothing came on channel {channel}")

    def expect(self, wanted: type[F], channel: int = 0, seconds: float | None = None) -> F:
        """The next method of a channel, which must be this one."""
        method = self.next(channel, seconds).method
        assert isinstance(method, wanted), f"not {wanted.name} but {method.name}: {dict(method)}"
        return method

    def call(self, channel: int, method: base.Frame, wanted: type[F]) -> F:
        self.send(channel, method)
        return self.expect(wanted, channel)

    def content(self, channel: int, seconds: float | None = None) -> tuple[bytes, bytes]:
        """Header payload and body of the message whose method was just read."""
        head_frame = self.next(channel, seconds)
        assert head_frame.kind == HEADER
        size = struct.unpack_from(">Q", head_frame.payload, 4)[0]
        parts: list[bytes] = []
        while size > 0:
            part = self.next(channel, seconds)
            assert part.kind == BODY
            parts.append(part.payload)
            size -= len(part.payload)
        return head_frame.payload, b"".join(parts)

    # -- the usual steps

    def open_channel(self, channel: int = 1) -> Self:
        self.call(channel, commands.Channel.Open(), commands.Channel.OpenOk)
        return self

    def queue(self, channel: int = 1, name: str = "", **flags: Any) -> str:
        """Declare one, exclusive if nothing else is said, and return its name."""
        flags = flags or {"exclusive": True}
        return str(self.call(channel, commands.Queue.Declare(queue=name, **flags), commands.Queue.DeclareOk).queue)

    def confirms(self, channel: int = 1) -> Self:
        self.call(channel, commands.Confirm.Select(), commands.Confirm.SelectOk)
        return self

    def close(self) -> None:
        """An orderly end."""
        self.call(0, commands.Connection.Close(200, "", 0, 0), commands.Connection.CloseOk)
        self.sock.close()


class Listener:
    """Reads all that comes to a raw client, in a thread; answers with heartbeats twice a second. ``error`` is how the
    connection ended, if it did."""

    def __init__(self, client: RawClient, *, ack: bool = False) -> None:
        self.client = client
        self.frames: list[Received] = []
        self.error: BaseException | None = None
        self._ack = ack
        self._ending = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()
        self.client.sock.close()

    def publish(self, key: str, body: bytes) -> None:
        self.publish_many(key, body, 1)

    def publish_many(self, key: str, body: bytes, count: int) -> None:
        with self._lock:
            self.client.send_bytes(self.client.publishing(1, "", key, body) * count)

    def send(self, *methods: base.Frame) -> None:
        """On channel 1."""
        self.send_on(1, *methods)

    def send_on(self, channel: int, *methods: base.Frame) -> None:
        with self._lock:
            self.client.send(channel, *methods)

    def _run(self) -> None:
        beat = 0.0
        try:
            while not self._ending:
                if time.monotonic() > beat:
                    beat = time.monotonic() + 0.4
                    with self._lock:
                        self.client.send_heartbeat()
                frame = self.client.read(0.1)
                if frame is None:
                    continue
                self.frames.append(frame)
                if self._ack and frame.kind == METHOD and isinstance(frame.method, commands.Basic.Deliver):
                    with self._lock:
                        self.client.send(1, commands.Basic.Ack(frame.method.delivery_tag or 0))
        except (OSError, EOFError, AssertionError) as error:
            self.error = error

    def methods(self, kind: Any) -> list[Any]:
        return [f.method for f in list(self.frames) if f.kind == METHOD and isinstance(f.method, kind)]

    def longest_silence(self, since: float, until: float) -> float:
        times = [since, *(f.at for f in list(self.frames) if since < f.at < until), until]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def heartbeats(self) -> int:
        return sum(f.kind == HEARTBEAT for f in list(self.frames))

    def answered(self) -> set[int]:
        """The publishes that were confirmed or refused, each of them once."""
        done: set[int] = set()
        for answer in self.methods(commands.Basic.Ack | commands.Basic.Nack):
            tag = answer.delivery_tag
            assert tag not in done, f"{tag} was answered twice"
            done |= set(range(1, tag + 1)) if answer.multiple else {tag}
        return done

    def confirmed(self) -> int:
        """How many publishes were confirmed; none may have been refused."""
        assert not self.methods(commands.Basic.Nack)
        return len(self.answered())


def head(kind: int, channel: int, size: int) -> bytes:
    return struct.pack(">BHI", kind, channel, size)


def raw_frame(kind: int, channel: int, payload: bytes, end: bytes = END) -> bytes:
    """A frame of any bytes."""
    return head(kind, channel, len(payload)) + payload + end
