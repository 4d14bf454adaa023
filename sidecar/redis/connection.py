"""One connection to a Redis server: commands of a turn of the loop go out together, replies come in their order."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from sidecar.core.address import Address
from sidecar.core.text import printable
from sidecar.net.dial import connect
from sidecar.net.hosts import is_address
from sidecar.net.lookup import LookupFailed, Resolver
from sidecar.redis.resp import ErrorReply, Malformed, Reader, Reply, encode
from sidecar.redis.settings import Settings, Trouble

logger = logging.getLogger("sidecar.redis")

#: Commands that wait for their reply.
MOST_PENDING: Final = 20_000
#: Seconds that the loop is given to read what has come, before a reply counts as late: the loop may be late itself.
_SPARE: Final = 0.002
#: Characters of what a server says that are told, and what stands before them.
_TOLD: Final = 200
SAYS: Final = "it says: "

Then = Callable[[Reply], None]
#: In place of a reply: there will be none.
LOST: Final = ErrorReply("LOST")


class Connection(asyncio.Protocol):
    """``timeout`` is what a reply may take, seconds; a late one ends the connection, as its reply would be taken for
    that of another command. ``trouble`` says why it has ended; ``lost`` is set then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self.timeout = timeout
        self.trouble = ""
        self.lost = asyncio.Event()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader = Reader()
        self._out: list[bytes] = []
        #: What to do with each reply that is to come, and when its command was sent.
        self._pending: deque[tuple[Then, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._ended = False
        #: The server has closed it, in an orderly way and while nothing was asked, as servers do with idle clients.
        self.quiet = False
        self._made = loop.time()

    @property
    def stood(self) -> float:
        """Seconds since it was made."""
        return self._loop.time() - self._made

    @property
    def stands(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self.trouble

    def send(self, command: bytes, then: Then) -> bool:
        """Send a command; ``then`` is called once with its reply, or with :data:`LOST`, but not from in here. Return
        False if nothing is sent."""
        if not self.stands or len(self._pending) >= MOST_PENDING:
            return False
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)
        self._pending.append((then, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self.timeout, self._look)
        return True

    async def call(self, *words: bytes | str | int) -> Reply:
        """Send a command and return its reply. Raises :class:`Trouble` when the connection ends, or the server
        refuses."""
        answer: asyncio.Future[Reply] = self._loop.create_future()

        def then(reply: Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        if not self.send(encode(*words), then):
            raise Trouble(self.trouble or "too many commands wait")
        reply = await answer
        if reply is LOST:
            raise Trouble(self.trouble)
        if isinstance(reply, ErrorReply):
            raise Trouble(said(reply))
        return reply

    def end(self, trouble: str) -> None:
        """Close it, for this reason."""
        self._ended = True
        self.trouble = self.trouble or trouble
        if self._transport is not None:
            self._transport.abort()

    # -- the loop's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.trouble:
            return
        try:
            replies = self._reader.feed(data)
        except Malformed as error:
            self.end(f"it does not speak Redis' protocol: {error}")
            return
        for reply in replies:
            if not self._pending:
                self.end("it said something that it was not asked")
                return
            self._late = False
            _tell(self._pending.popleft()[0], reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.trouble = self.trouble or (f"the connection broke: {exc}" if exc else "it has closed the connection")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.quiet = exc is None and not self._pending and not self._ended
        self.lost.set()
        while self._pending:
            _tell(self._pending.popleft()[0], LOST)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out and not self.trouble:
            self._transport.write(b"".join(out))

    def _look(self) -> None:
        """See whether the oldest command has its reply."""
        self._timer = None
        if not self._pending:
            return
        left = self._pending[0][1] + self.timeout - self._loop.time()
        if left <= 0:
            if self._late:
                self.end(f"no answer within {self.timeout * 1000:g} ms")
                return
            self._late = True
        self._timer = self._loop.call_later(max(left, _SPARE), self._look)


def _tell(then: Then, reply: Reply) -> None:
    """A fault of who has asked must not cost the others their replies."""
    try:
        then(reply)
    except Exception:
        logger.exception("a reply of Redis was not dealt with")


def said(error: ErrorReply) -> str:
    """What a server refuses with, in words that can be shown."""
    return f"{SAYS}{printable(error.text, _TOLD)}"


async def open_connection(address: Address, settings: Settings, resolver: Resolver, patience: float) -> Connection:
    """Connect; an answer may take ``patience`` seconds. Raises :class:`Trouble`, OSError."""
    loop = asyncio.get_running_loop()
    hosts: tuple[str, ...] = (address.host,)
    if not is_address(address.host):
        try:
            found = resolver.known(address.host) or await resolver.resolve(address.host)
        except LookupFailed as error:
            raise Trouble(f"its name does not resolve: {error}") from None
        hosts = found.addresses
    sock = await connect([(host, address.port) for host in hosts])
    connection = Connection(loop, patience)
    try:
        await loop.create_connection(
            lambda: connection,
            sock=sock,
            ssl=await asyncio.to_thread(_context, settings.ca) if settings.tls else None,  # it reads many files
            server_hostname=address.host if settings.tls else None,
        )
    except BaseException as error:
        sock.close()
        if isinstance(error, ssl.SSLError):
            raise Trouble(f"no TLS with it: {error.reason or error}") from None
        raise
    return connection


async def log_in(connection: Connection, settings: Settings) -> None:
    """Say who we are, if there is a password. Raises :class:`Trouble`."""
    if settings.password:
        user = (settings.user,) if settings.user else ()
        await connection.call("AUTH", *user, settings.password.reveal())


def _context(ca: str) -> ssl.SSLContext:
    """What is believed of TLS. Raises OSError for a file that cannot be read."""
    return ssl.create_default_context(cafile=ca or None)
