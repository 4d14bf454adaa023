"""Structured logs, off the hot path: callers put a line or a tuple into a bounded queue, one thread writes.

A pipe that nobody reads can so never stop traffic: when the queue is full, lines are dropped and counted, and the log
says how many as soon as it moves again. Access records are only formatted in the writer's thread; what comes through
the logging module is rare and is formatted at once, so that nothing it refers to is kept alive or can change.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import select
import threading
import time
from typing import Final

from sidecar.core.records import AccessRecord
from sidecar.core.text import counted, timestamp
from sidecar.telemetry.access_lines import access_fields
from sidecar.telemetry.log_lines import (
    JsonLines,
    Lines,
    TextLines,
    record_fields,
)

#: The levels that can be set, the most talkative first.
LEVELS: Final = ("debug", "info", "warning", "error")

#: Lines that wait for the writer, at most.
QUEUE: Final = 8192
#: How long the writer lets lines gather after the first one, seconds. A thread that is woken for each line fights the
#: event loop for the interpreter's lock.
GATHER_SECONDS: Final = 0.05
#: Lines formatted in one go; after each batch the writer gives way to the event loop.
BATCH: Final = 64
#: How long the end waits for what is still queued, seconds.
FLUSH_SECONDS: Final = 1.0
#: The longest target that is kept of an access record, in characters.
MAX_TARGET: Final = 1024


class LogWriter(logging.Handler):
    """Takes records from the logging module and from the access log; its own thread writes them to the file
    descriptor ``fd``, which it does not close. ``format`` is ``json`` or ``text``."""

    def __init__(self, format: str, service: str, fd: int) -> None:
        super().__init__()
        self._service = service
        self._fd = fd
        self._lines: Lines = JsonLines() if format == "json" else TextLines(colour=_wants_colour(fd))
        self._queue: queue.SimpleQueue[bytes | AccessRecord | None] = queue.SimpleQueue()
        #: Lines that were not written because the queue was full, or writing failed. (Threads that drop at the very
        #: same moment may be counted as one.)
        self.dropped = 0
        self._dropped_told = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= QUEUE:
            self.dropped += 1
        else:
            self._queue.put(self._lines.line(record_fields(record, self._service)))

    def put(self, record: AccessRecord) -> None:
        """Queue an access record; never blocks."""
        if self._queue.qsize() >= QUEUE:
            self.dropped += 1
        else:
            self._queue.put(record if len(record.target) <= MAX_TARGET else _shortened(record))

    def set_level(self, name: str) -> None:
        """The least severe level that is written: debug, info, warning or error. Raises :class:`ValueError`.

        Libraries stay at ``info`` at least: their debugging tells about every byte. Access lines do not depend on it.
        """
        if name not in LEVELS:
            raise ValueError(f"no such level: {name[:40]!r}; there are {', '.join(LEVELS)}")
        level = getattr(logging, name.upper())
        logging.getLogger("sidecar").setLevel(level)
        logging.getLogger().setLevel(max(level, logging.INFO))

    def close(self) -> None:
        """Write what is queued, for at most :data:`FLUSH_SECONDS`. Does nothing the second time."""
        atexit.unregister(self.close)
        if self in logging.root.handlers:
            logging.root.removeHandler(self)
            logging.captureWarnings(False)
        if not self._ending.is_set():
            self._ending.set()
            self._queue.put(None)
            self._thread.join(FLUSH_SECONDS)
            super().close()

    # -- the writer's thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ended = False
        while not ended:
            item = self._queue.get()
            self._ending.wait(GATHER_SECONDS)
            lines: list[bytes] = []
            while True:
                if item is None:
                    ended = True
                elif isinstance(item, bytes):
                    lines.append(item)
                else:
                    lines.append(self._lines.access(access_fields(item, self._service)))
                if len(lines) >= BATCH:
                    self._write(lines)
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        """Write the lines and forget them."""
        missing = self.dropped - self._dropped_told
        if missing:
            told = counted(missing, "log line") + (" was" if missing == 1 else " were")
            lines.append(self._lines.line(self._note(f"{told} dropped: the log is read too slowly")))
        data = memoryview(b"".join(lines))
        try:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except BlockingIOError:  # somebody who shares the descriptor made it non-blocking
                    select.select([], [self._fd], [], 1.0)
            self._dropped_told += missing
        except (OSError, ValueError):  # nobody is there any more
            self.dropped += len(lines) - bool(missing)
        lines.clear()

    def _note(self, text: str) -> dict[str, str]:
        return {
            "ts": timestamp(time.time()),
            "level": "warning",
            "logger": "sidecar.log",
            "msg": text,
            "service": self._service,
        }


def setup(level: str, format: str, service: str, fd: int = 2) -> LogWriter:
    """Send everything that is logged from ``level`` on, Python's warnings too, to a :class:`LogWriter` on ``fd``
    (standard error). The caller closes it; at the latest the interpreter's end does."""
    writer = LogWriter(format, service, fd)
    logging.root.handlers[:] = [writer]
    writer.set_level(level)
    logging.captureWarnings(True)
    # Libraries tell about every request at INFO.
    for name in ("aiohttp.access", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    atexit.register(writer.close)
    return writer


def _shortened(record: AccessRecord) -> AccessRecord:
    return record._replace(target=f"{record.target[:MAX_TARGET]}…")


def _wants_colour(fd: int) -> bool:
    """For a terminal, unless https://no-color.org says no."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR")
