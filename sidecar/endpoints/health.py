"""Finds out whether the sidecar's own app is well.

The HTTP check is a GET of a few lines over asyncio's streams: an HTTP client library would cost every sidecar more
memory than the rest of its control plane, and pools, redirects and cookies are what a check must not have.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sidecar.core.address import Address
from sidecar.core.health import Health
from sidecar.net.dial import connect
from sidecar.net.shortage import SHORTAGE, is_local

log = logging.getLogger("sidecar.health")

#: Seconds until the second check while the app starts; doubled each time up to the interval.
FIRST_DELAY = 0.1
#: The longest line of an answer's head, and the most of a body that is read, bytes.
MAX_LINE = 8192
MAX_BODY = 65536
#: Lines of all heads of one answer together, interim ones (1xx) included.
MAX_LINES = 256
#: Seconds spent on reading the body, which says nothing more; reading it spares the app a broken pipe.
BODY_TIME = 0.5

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: .*)?\r?\n", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppCheck:
    """``http`` is the path to GET (None: a TCP connection is enough), with ``host`` in its Host field (empty: where the
    app listens). Times are seconds."""

    http: str | None = None
    host: str = ""
    interval: float = 10.0
    timeout: float = 5.0


class AppChecker:
    """Checks ``app`` every ``check.interval`` seconds, more often until it is well for the first time.

    ``on_result`` is called with every result. HTTP: 2xx is healthy, 429 a warning, everything else (redirects too)
    unhealthy, as Consul judges its own checks. Otherwise: healthy when the port accepts a connection. What does not
    answer within ``check.timeout`` is unhealthy. ``addresses`` gives those that ``app`` has at present, or
    raises OSError; without it, ``app`` is one itself.
    """

    def __init__(
        self,
        app: Address,
        check: AppCheck,
        on_result: Callable[[Health], None],
        addresses: Callable[[], Sequence[Address]] | None = None,
    ) -> None:
        self._app = app
        self._addresses = addresses or (lambda: (app,))
        self._check = check
        self._on_result = on_result
        self._task: asyncio.Task[None] | None = None
        self._running: asyncio.Task[Health] | None = None
        #: The last result.
        self.health = Health("unhealthy", "not checked yet")

    def start(self) -> None:
        """Begin to check, the first time at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="app check")

    async def close(self) -> None:
        """Stop; no result is reported any more."""
        tasks = [task for task in (self._task, self._running) if task is not None]
        self._task = self._running = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def check_now(self) -> Health:
        """Check once and return the result; never raises. Callers at the same time share one check, so the app
        is not asked more often because somebody asks the sidecar more often."""
        if self._running is None:
            self._running = asyncio.create_task(self._check_once(), name="app check now")
            self._running.add_done_callback(self._ended)
        # Shielded: a caller that goes away must not take the others' result along.
        return await asyncio.shield(self._running)

    def _ended(self, task: asyncio.Task[Health]) -> None:
        if self._running is task:
            self._running = None

    async def _run(self) -> None:
        delay = FIRST_DELAY
        well = False
        while True:
            health = await self.check_now()
            well = well or health.status != "unhealthy"
            if well:
                delay = self._check.interval * random.uniform(0.95, 1.0)
            await asyncio.sleep(min(delay, self._check.interval))
            delay *= 2

    async def _check_once(self) -> Health:
        what = f"connect to {self._app}"
        if self._check.http is not None:
            what = f"GET {self._check.http.partition('?')[0]}"  # a query may hold a secret
        try:
            async with asyncio.timeout(self._check.timeout):
                if self._check.http is not None:
                    health = await self._get(self._check.http, what)
                else:
                    health = await self._connect(what)
        except TimeoutError:
            health = Health("unhealthy", f"{what}: no answer within {self._check.timeout:g} s")
        except OSError as error:
            if is_local(error):
                SHORTAGE.met(error)
                return self.health  # that says nothing about the app
            health = Health("unhealthy", f"{what}: {error.strerror or error or type(error).__name__}")
        except (EOFError, ValueError) as error:
            health = Health("unhealthy", f"{what}: {error}")
        except Exception as error:
            log.exception("the check of the app failed")
            health = Health("unhealthy", f"{what}: {type(error).__name__}")
        self.health = health
        try:
            self._on_result(health)
        except Exception:
            log.exception("a listener to the app's health failed")
        return health

    async def _connect(self, what: str) -> Health:
        writer = (await self._open())[1]
        writer.close()
        return Health("healthy", f"{what}: accepted")

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = await connect([(address.host, address.port) for address in self._addresses()])
        return await asyncio.open_connection(sock=sock, limit=MAX_LINE)

    async def _get(self, path: str, what: str) -> Health:
        reader, writer = await self._open()
        try:
            # Whatever is written in the configuration, the target stays on its line.
            target = quote(path, safe="/:?#[]@!$&'()*+,;=%-._~")
            host = self._check.host or self._app
            writer.write(
                f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sidecar-health\r\nAccept: */*\r\n"
                "Connection: close\r\n\r\n".encode("ascii")
            )
            status, length = await _head(reader)
            try:
                async with asyncio.timeout(BODY_TIME):
                    await _skip(reader, MAX_BODY if length is None else min(length, MAX_BODY))
            except (TimeoutError, OSError):
                pass
        finally:
            writer.close()
        if 200 <= status < 300:
            return Health("healthy", f"{what}: {status}")
        if status == 429:
            return Health("warning", f"{what}: {status}")
        return Health("unhealthy", f"{what}: {status}{', redirects are not followed' if 300 <= status < 400 else ''}")


async def _head(reader: asyncio.StreamReader) -> tuple[int, int | None]:
    """The status and the length of the body, if the answer names one. Raises ValueError when it is not HTTP/1."""
    status = 0
    length: int | None = None
    for _ in range(MAX_LINES):
        line = await reader.readline()  # ValueError when longer than MAX_LINE
        if not line.endswith(b"\n"):
            raise EOFError("closed before the head of an answer was complete")
        if not status:
            match = _STATUS_LINE.fullmatch(line)
            if match is None:
                raise ValueError("the answer is not HTTP/1")
            status = int(match[1])
        elif line in (b"\r\n", b"\n"):
            if status >= 200:
                return status, length
            status = 0  # an interim answer (RFC 9110 §15.2): the final one follows
        else:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length" and value.strip().isdigit() and len(value) < 20:
                length = int(value)
    raise ValueError("the head of the answer is too long")


async def _skip(reader: asyncio.StreamReader, size: int) -> None:
    while size > 0:
        data = await reader.read(min(size, MAX_LINE))
        if not data:
            return
        size -= len(data)
