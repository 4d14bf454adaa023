"""Connections of the sidecar's own to the broker, each kept up for as long as it is wanted.

aio-pika is imported when the first one is made: who does not watch a broker need not have it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sidecar import __version__
from sidecar.core.amqp_settings import AmqpCredentials
from sidecar.core.extras import how_to_install
from sidecar.core.text import printable
from sidecar.resilience.backoff import Backoff
from sidecar.resilience.token_bucket import TokenBucket

if TYPE_CHECKING:
    from aio_pika import Connection

log = logging.getLogger("sidecar.amqp")

Addresses = Callable[[], Sequence[tuple[str, int]]]

#: How long one address has for the connection and the whole handshake, seconds.
CONNECT_SECONDS: Final = 3.0
#: A connection that lasted this long was a good one: the next trouble begins with short waits again, seconds.
GOOD_AFTER: Final = 10.0
#: How long the end waits for the broker to say goodbye, seconds. One that has blocked us does not read ours.
CLOSE_SECONDS: Final = 1.0
HEARTBEAT: Final = 10

_backoff = Backoff(0.5, 10.0, random.Random())
#: Full jitter may draw nothing at all; this much is waited in any case, seconds.
_SHORTEST: Final = 0.05


def missing_library() -> str:
    """Why no broker can be watched here, with what to install; empty when it can."""
    try:
        import aio_pika  # noqa: F401
    except ImportError:
        return f"needs aio-pika: {how_to_install('amqp')}, or leave the credentials out"
    return ""


def quieten() -> None:
    """Keep aio-pika from logging every failed attempt with its traceback; transitions are logged here."""
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def describe(error: BaseException) -> str:
    """An error in one short line. None of those that come here says a password."""
    text = " ".join(str(arg) for arg in error.args) or ("no answer in time" if isinstance(error, TimeoutError) else "")
    return printable(text or type(error).__name__, 200)


class TroubleLog:
    """The log lines about watching one upstream: a line when a *source* gets into trouble of some kind or out of it,
    and only one when several sources have the same trouble."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._kinds: dict[str, str] = {}
        self._lines = TokenBucket(0.1, 20, clock())

    def bad(self, source: str, kind: str, text: str) -> None:
        if self._kinds.get(source) == kind:
            return
        known = kind in self._kinds.values()
        self._kinds[source] = kind
        self._log(logging.DEBUG if known else logging.WARNING, "upstream %s: %s: %s", self._name, source, text)

    def good(self, source: str) -> None:
        kind = self._kinds.pop(source, None)
        if kind is not None:
            known = kind in self._kinds.values()
            self._log(logging.DEBUG if known else logging.INFO, "upstream %s: %s: works again", self._name, source)

    def gone(self, source: str) -> None:
        """This source has ended and has no say any more."""
        self._kinds.pop(source, None)

    def _log(self, level: int, text: str, *args: object) -> None:
        log.log(logging.DEBUG if self._lines.take(self._clock()) else level, text, *args)


class MonitorConnection:
    """One connection to one vhost, made anew whenever it is lost. ``source`` names it in the log and to the broker."""

    def __init__(
        self, source: str, vhost: str, credentials: AmqpCredentials, addresses: Addresses, report: TroubleLog,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.source = source
        self.vhost = vhost
        #: Why there is no connection.
        self.problem = "not tried yet"
        #: When anything was last answered on it, for those who use it to decide whether it still works.
        self.heard = 0.0
        self._credentials = credentials
        self._addresses = addresses
        self._report = report
        self._clock = clock
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._background: set[asyncio.Task[Any]] = set()
        self._task = asyncio.create_task(self._run(), name=f"amqp {source}")

    async def connection(self) -> Connection:
        """The connection, as soon as there is one."""
        while self._connection is None:
            await self._up.wait()
        return self._connection

    def drop(self, connection: Connection, error: BaseException) -> None:
        """Give up a connection that does not work."""
        if connection is self._connection:
            self._connection = None
            self.problem = describe(error)
            self._up.clear()
            self._down.set()

    def background(self, what: Awaitable[Any]) -> None:
        """Have something done that nobody waits for and whose failure does not matter."""
        task = asyncio.create_task(_quietly(what))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def blocked(self, connection: Connection) -> bool:
        """Whether the broker has said ``connection.blocked`` on this connection."""
        transport = connection.transport
        if transport is None:
            return False
        # aiormq keeps that to itself, but its ``ready`` waits for the end of it, and otherwise returns at once.
        waiting = transport.connection.ready()
        try:
            waiting.send(None)
        except StopIteration:
            return False
        waiting.close()
        return True

    async def unblocked(self, connection: Connection) -> None:
        """Wait until it is no longer blocked, or no longer there."""
        transport = connection.transport
        if transport is None or connection is not self._connection:
            return
        ready = asyncio.ensure_future(transport.connection.ready())
        down = asyncio.ensure_future(self._down.wait())
        try:
            await asyncio.wait((ready, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            down.cancel()

    async def close(self) -> None:
        await end(self._task)
        connection, self._connection = self._connection, None
        self._up.clear()
        self._down.set()
        if connection is not None:
            self.background(connection.close())
        if self._background:
            _, pending = await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
            for task in pending:
                task.cancel()
        self._report.gone(self.source)

    async def _run(self) -> None:
        failures = 0
        while True:
            begun = self._clock()
            try:
                connection = await self._connect()
            except Exception as error:
                self.problem = describe(error)
                self._report.bad(self.source, type(error).__name__, f"no connection to the broker: {self.problem}")
            else:
                self._down.clear()
                self._connection = connection
                connection.close_callbacks.add(self._lost)
                self.problem = "it was lost"
                self._up.set()
                self._report.good(self.source)
                await self._down.wait()
                self._report.bad(self.source, "lost", f"no connection to the broker: {self.problem}")
                self.background(connection.close())
                if self._clock() - begun > GOOD_AFTER:
                    failures = 0
            failures += 1
            await asyncio.sleep(max(_SHORTEST, _backoff.delay(failures)))

    def _lost(self, connection: Any, error: BaseException | None) -> None:
        """aio-pika tells that the connection has ended."""
        self.drop(connection, error or ConnectionError("it was closed"))

    async def _connect(self) -> Connection:
        """To the first address that takes us."""
        failure: Exception = ConnectionError("there is no endpoint")
        for host, port in self._addresses():
            opening = asyncio.create_task(self._open(host, port))
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await asyncio.shield(opening)
            except asyncio.CancelledError:
                self.background(_abandon(opening))
                raise
            except Exception as error:
                if not opening.done():
                    self.background(_abandon(opening))
                failure = error
        raise failure

    async def _open(self, host: str, port: int) -> Connection:
        from aio_pika import Connection
        from aio_pika.connection import make_url
        from aiormq.exceptions import InvalidFrameError

        user, password = self._credentials.username, self._credentials.password.reveal()
        if not user or not password:
            raise ValueError("credentials without a user name or a password")  # aiormq would be guest instead
        url = make_url(
            host=host, port=port, login=user, password=password, virtualhost=self.vhost, heartbeat=HEARTBEAT
        )  # fmt: skip
        # What yarl and aiormq make of a path must not lead to another vhost.
        if url.path != f"/{self.vhost}" or "%2F" in self.vhost:
            raise ValueError(f"the vhost {self.vhost} has a name that aio-pika cannot ask for")
        properties: dict[str, Any] = {
            "connection_name": f"sidecar, {self.source}",
            "product": "sidecar",
            "version": __version__,
            "information": "",
        }
        connection = Connection(url, client_properties=properties)
        try:
            await connection.connect()
        except InvalidFrameError as error:
            await connection.close()
            if "Connection.Close" not in str(error):
                raise
            # aiormq loses what the broker says when it does not let one into the vhost.
            raise PermissionError(f"there is no vhost {self.vhost}, or this user may not open it") from error
        except BaseException:
            await connection.close()
            raise
        return connection


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has ended. It may take more than one try: ``asyncio.wait_for``, which aiormq
    uses, forgets a cancellation that comes with the result (https://github.com/python/cpython/issues/86296)."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=0.1)


async def _abandon(opening: asyncio.Task[Connection]) -> None:
    """Close a connection that nobody waits for any more. Its opening may finish first: aio-pika forgets to close one
    that is cancelled at the very end of it."""
    await asyncio.wait((opening,), timeout=CLOSE_SECONDS / 2)
    opening.cancel()
    connection = await opening
    await connection.close()


async def _quietly(what: Awaitable[Any]) -> None:
    try:
        await what
    except Exception:
        pass
