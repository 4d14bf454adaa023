"""Posts bytes to a collector over HTTP/1.1: one connection that is kept, bounded times and sizes, no redirects.

Whatever the collector and the DNS do, a post is over when its time is, and an answer is read up to
:data:`MOST_ANSWER`.
"""

from __future__ import annotations

import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from sidecar import __version__
from sidecar.core.text import printable

#: Bytes of an answer that are read, its head included.
MOST_ANSWER: Final = 65536
#: How a kept connection fails that the collector has closed meanwhile.
_GONE: Final = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class CollectorError(Exception):
    """The collector did not answer, or not in HTTP; the text says why, without anything secret."""


class Answer(NamedTuple):
    """What the collector said. ``retry_after``: seconds that it asks to wait, or ``None``."""

    status: int
    retry_after: float | None
    body: bytes


class _Lookup:
    """Looks up where a collector listens, in a thread: the system's resolver may take as long as it likes. There is one
    such thread at a time; while it hangs, nobody waits for it a second time."""

    def __init__(self, host: str, port: int) -> None:
        self._asked = host, port
        self._thread: threading.Thread | None = None
        self._found: Sequence[Any] | OSError = ()

    def addresses(self, seconds: float) -> Sequence[Any]:
        """What :func:`socket.getaddrinfo` finds in so many seconds. Raises :class:`OSError`."""
        thread = self._thread
        if thread is None:
            self._thread = thread = threading.Thread(target=self._run, name="collector lookup", daemon=True)
            thread.start()
            thread.join(seconds)
        if thread.is_alive():
            raise OSError("its name is still being looked up")
        self._thread = None
        if isinstance(self._found, OSError):
            raise self._found
        return self._found

    def _run(self) -> None:
        try:
            self._found = socket.getaddrinfo(*self._asked, type=socket.SOCK_STREAM)
        except OSError as error:
            self._found = error
        except UnicodeError:  # a name that none can be
            self._found = OSError("its name cannot be looked up")


class CollectorClient:
    """A collector at ``url`` (http or https); ``headers`` go with each request. For one thread."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._lookup = _Lookup(self._host, self._port)
        self._path = quote(f"{parts.path.rstrip('/')}/v1/traces", safe="/%:@!$&'()*+,;=~")
        self._headers = {
            "user-agent": f"sidecar/{__version__}",
            **headers,
            "content-type": "application/json",
        }
        # Here and not when it is needed: reading the authorities holds the interpreter's lock for milliseconds.
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connection: HTTPConnection | None = None

    def post(self, body: bytes, seconds: float) -> Answer:
        """Send it, and return the answer; raise :class:`CollectorError` when there is none in so many seconds."""
        due = time.monotonic() + seconds
        kept = self._connection is not None
        try:
            try:
                return self._post(body, due)
            except _GONE:
                if not kept:
                    raise
                self.close()
                return self._post(body, due)
        except TimeoutError as error:
            self.close()
            raise CollectorError("it did not answer in time") from error
        except OSError as error:
            self.close()
            raise CollectorError(printable(error.strerror or str(error) or type(error).__name__)) from error
        except (HTTPException, ValueError) as error:  # ValueError: a chunk's size, for one, that is no number
            self.close()
            raise CollectorError(f"its answer is not HTTP ({type(error).__name__})") from error

    def close(self) -> None:
        """Close the connection; the next post makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post(self, body: bytes, due: float) -> Answer:
        connection = self._connection
        if connection is None:
            self._connection = connection = self._connect(due)
        wire = _Wire(connection.sock, due)
        connection.sock = wire
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            content = response.read(MOST_ANSWER)  # without a number, as much is set aside as the answer says it has
        finally:
            connection.sock = wire.socket
        if response.will_close or not response.isclosed():
            self.close()
        return Answer(response.status, _seconds(response.getheader("retry-after")), content)

    def _connect(self, due: float) -> HTTPConnection:
        sock = self._dial(due)
        if self._tls is None:
            connection = HTTPConnection(self._host, self._port)
        else:
            connection = HTTPSConnection(self._host, self._port, context=self._tls)
            try:
                sock.settimeout(_left(due))
                sock = self._tls.wrap_socket(sock, server_hostname=self._host)
            except BaseException:
                sock.close()
                raise
        connection.sock = sock
        return connection

    def _dial(self, due: float) -> socket.socket:
        """A connection to the first of its addresses that takes one."""
        failed = OSError("its name has no address")
        for family, kind, protocol, _, address in self._lookup.addresses(_left(due)):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_left(due))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                failed = error
            else:
                return sock
        raise failed


def _left(due: float) -> float:
    """Seconds that are left; raises :class:`TimeoutError` when none are."""
    left = due - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _seconds(given: str | None) -> float | None:
    """``Retry-After`` in seconds; a date is as good as nothing."""
    text = (given or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


class _Wire:
    """A socket that keeps a deadline and a bound for what is read, in front of :mod:`http.client`, which has neither:
    a socket's timeout begins anew with each byte."""

    def __init__(self, of: socket.socket, due: float) -> None:
        self.socket = of
        self.due = due

    def sendall(self, data: bytes) -> None:
        self.socket.settimeout(_left(self.due))
        self.socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self))

    def close(self) -> None:
        """Leave it open: an answer after which the connection ends is still to be read."""


class _Reading(io.RawIOBase):
    """One answer as it comes in."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._left = MOST_ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            return 0  # no more is looked at, as if it ended here
        wire = self._wire
        wire.socket.settimeout(_left(wire.due))
        size = wire.socket.recv_into(buffer, min(len(buffer), self._left))
        self._left -= size
        return size
