"""An event loop and transports in the hands of a test: nothing happens but what it does, and all of that at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from support.clock import Call, Loop

#: A transport with more than this in its buffer asks its protocol to pause.
HIGH_WATER = 65536


class _Task:
    """Stands for :class:`asyncio.Task`."""

    def __init__(self, loop: FakeLoop, work: Coroutine[Any, Any, None]) -> None:
        self._loop = loop
        self._work = work
        self._callbacks: list[Callable[[Any], object]] = []
        loop.tasks.append(self)
        loop.call_soon(self._step)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    def _step(self) -> None:
        if self in self._loop.tasks:
            try:
                self._work.send(None)
            except StopIteration:
                self._done()

    def cancel(self) -> bool:
        if self not in self._loop.tasks:
            return False
        self._done()
        self._work.close()
        return True

    def _done(self) -> None:
        self._loop.tasks.remove(self)
        for callback in self._callbacks:
            self._loop.call_soon(callback, self)


class _Never:
    """Never comes."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class FakeLoop(Loop):
    """Time, and what the event loop does for a listener."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[_Task] = []
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: Called with the address of each connection to be made: "accept", "refuse" or "silent".
        self.dialled: Callable[[str, int], str] = lambda host, port: "accept"
        self.on_connection: Callable[[Any, FakeTransport], None] = lambda protocol, transport: None

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._soon.append((callback, args))

    def call_later(self, delay: float, callback: Callable[[], None]) -> Call:
        return self.call_at(self.now + delay, callback)

    def create_task(self, work: Coroutine[Any, Any, None]) -> _Task:
        return _Task(self, work)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> None:
        verdict = self.dialled(host, port)
        if verdict == "refuse":
            raise ConnectionRefusedError
        if verdict == "silent":
            await _Never()
        protocol = factory()
        transport = FakeTransport(self, protocol)
        self.on_connection(protocol, transport)
        protocol.connection_made(transport)

    def settle(self) -> None:
        """Everything that was to come soon."""
        while self._soon:
            callback, args = self._soon.popleft()
            callback(*args)

    def run_until(self, when: float) -> None:
        self.settle()
        while due := [call for call in self.armed() if call.when <= when]:
            call = min(due, key=lambda call: call.when)
            self.calls.remove(call)
            self.now = max(self.now, call.when)
            call.callback()
            self.settle()
        self.now = max(self.now, when)


class FakeTransport:
    """One end of a connection, as the port's protocol sees it. ``ip`` is the peer's address."""

    def __init__(self, loop: FakeLoop, protocol: Any, ip: str = "127.0.0.1") -> None:
        self._loop = loop
        self.protocol = protocol
        self._ip = ip
        #: What has reached the peer, and what has not because it does not read.
        self.sent = bytearray()
        self.buffer = bytearray()
        self.stuck = False
        self._asked_to_pause = False
        #: What the peer has said and was not read.
        self._unread: deque[bytes | None] = deque()
        self.paused = False
        self.closing = False
        self.aborted = False
        self.gone = False
        #: The port has finished sending; the connection stays for what the peer says.
        self.half_closed = False

    # -- for the protocol --

    def get_extra_info(self, what: str) -> Any:
        return (self._ip, 50000) if what == "peername" else None

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert data
        assert not self.half_closed, "written after its end"
        if self.gone or self.aborted or (self.closing and not self.buffer):
            return
        if not self.stuck:
            self.sent += data
            return
        self.buffer += data
        if len(self.buffer) > HIGH_WATER and not self._asked_to_pause:
            self._asked_to_pause = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        assert not self.closing
        self.half_closed = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def pause_reading(self) -> None:
        assert not self.closing
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert not self.closing
        assert self.paused
        self.paused = False
        self._loop.call_soon(self._read)

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.buffer:
                self._loop.call_soon(self._lost, None)

    def abort(self) -> None:
        self.closing = True
        if not self.aborted and not self.gone:
            self.aborted = True
            self.buffer.clear()
            self._loop.call_soon(self._lost, None)

    # -- for the peer --

    def feed(self, data: bytes | None) -> None:
        """Bytes of the peer, or its end."""
        self._unread.append(data)
        self._read()

    def lose(self, error: Exception) -> None:
        """The connection breaks."""
        self.closing = True
        self.buffer.clear()
        self._lost(error)

    def read_again(self) -> None:
        """The peer reads whatever there is."""
        self.stuck = False
        self.sent += self.buffer
        self.buffer.clear()
        if self._asked_to_pause:
            self._asked_to_pause = False
            if not self.gone:
                self.protocol.resume_writing()
        if self.closing:
            self._loop.call_soon(self._lost, None)

    @property
    def unread(self) -> int:
        """Bytes of the peer that were not read."""
        return sum(len(data) for data in self._unread if data is not None)

    def _read(self) -> None:
        while self._unread and not self.paused and not self.closing:
            data = self._unread.popleft()
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()

    def _lost(self, error: Exception | None) -> None:
        if not self.gone:
            self.gone = True
            self.protocol.connection_lost(error)


class Peer:
    """Who sits at the other end of a connection, in the hands of a test."""

    def __init__(self, loop: FakeLoop, transport: FakeTransport) -> None:
        self._loop = loop
        self.transport = transport

    def says(self, *parts: bytes, pieces: int = 0) -> None:
        """Send these, in one read, or in pieces of so many bytes."""
        data = b"".join(parts)
        step = pieces or len(data) or 1
        for at in range(0, len(data), step):
            self.transport.feed(data[at : at + step])
        self._loop.settle()

    def heard(self) -> bytes:
        """Everything that has come and was not looked at yet, as it is."""
        self._loop.settle()
        data = bytes(self.transport.sent)
        self.transport.sent.clear()
        return data

    def leaves(self) -> None:
        """Close the connection without a word."""
        self.transport.feed(None)
        self._loop.settle()

    def breaks(self) -> None:
        """The connection is reset."""
        self.transport.lose(ConnectionResetError())
        self._loop.settle()

    def is_read(self) -> bool:
        """What it says is read."""
        return not self.transport.paused

    def stops_reading(self) -> None:
        self.transport.stuck = True

    def reads_again(self) -> None:
        self.transport.read_again()
        self._loop.settle()

    @property
    def closed(self) -> bool:
        """The port has closed in an orderly way, everything written before it."""
        self._loop.settle()
        return self.transport.gone and not self.transport.aborted

    @property
    def aborted(self) -> bool:
        """The port has cut the connection."""
        self._loop.settle()
        return self.transport.aborted

    @property
    def connected(self) -> bool:
        self._loop.settle()
        return not self.transport.closing
