"""Structured logs, off the hot path: callers only put a record into a bounded queue, one thread writes.

A pipe that nobody reads can so never stop traffic: when the queue is full, lines are dropped and counted. Every line
is one JSON object (``log.format: json``) with ``ts``, ``level``, ``logger``, ``msg``, ``service`` and whatever the
caller gave as ``extra``; or, for people, one line of text in which control bytes are escaped.
"""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TextIO

import orjson

from sidecar.config.model import Log

#: Records that wait for the writer; at about 1 KiB each.
QUEUE: Final = 8192
#: How long the end waits for what is still queued, seconds.
FLUSH_SECONDS: Final = 2.0

_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class AccessRecord(NamedTuple):
    """A finished exchange. ``target`` is without its query, which may hold secrets; ``time`` is Unix time."""

    time: float
    direction: str
    upstream: str
    method: str
    target: str
    status: int
    error: str | None
    duration: float
    bytes_in: int
    bytes_out: int
    endpoint: str | None
    attempts: int
    client: str
    request_id: str
    trace_id: str | None


class LogWriter(logging.Handler):
    """Takes records from the logging module and from the access log; its own thread writes them to ``stream``."""

    def __init__(self, config: Log, service: str, stream: TextIO | None = None) -> None:
        super().__init__()
        self._service = service
        self._stream = stream if stream is not None else sys.stderr
        self._json = config.format == "json"
        self._colour = not self._json and self._stream.isatty()
        self._queue: queue.SimpleQueue[logging.LogRecord | AccessRecord | None] = queue.SimpleQueue()
        #: Lines that were not written because the queue was full, or writing failed.
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="log writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        self.put(record)

    def put(self, record: logging.LogRecord | AccessRecord) -> None:
        """Queue a record; never blocks."""
        if self._queue.qsize() >= QUEUE:
            self.dropped += 1
        else:
            self._queue.put(record)

    def set_level(self, name: str) -> None:
        """The least severe level that is written: debug, info, warning or error. Raises :class:`ValueError`."""
        if name not in LEVELS:
            raise ValueError(f"no such level: {name[:40]!r}; there are {', '.join(LEVELS)}")
        logging.getLogger().setLevel(name.upper())

    def close(self) -> None:
        """Write what is queued, for a bounded time."""
        logging.getLogger().removeHandler(self)
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(FLUSH_SECONDS)
        super().close()

    # -- the writer's thread -------------------------------------------------------------------------------------------

    def _write(self) -> None:
        lines: list[str] = []
        while True:
            item = self._queue.get()
            ended = item is None
            if item is not None:
                lines.append(self._line(item))
            if ended or len(lines) >= 256 or self._queue.empty():
                try:
                    self._stream.write("".join(lines))
                    self._stream.flush()
                except (OSError, ValueError):
                    self.dropped += len(lines)
                lines.clear()
            if ended:
                return

    def _line(self, item: logging.LogRecord | AccessRecord) -> str:
        try:
            fields = self._access(item) if isinstance(item, AccessRecord) else self._record(item)
        except Exception as error:  # a bad format string must not end the thread
            fields = {"ts": _timestamp(0), "level": "error", "logger": "sidecar.log", "msg": f"unloggable: {error!r}"}
        if self._json:
            return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode() + "\n"
        return self._text(fields)

    def _record(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            "service": self._service,
        }
        fields.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        return fields

    def _access(self, record: AccessRecord) -> dict[str, Any]:
        fields = record._asdict()
        seen = fields.pop("time")
        fields["duration"] = round(record.duration, 6)
        level = "info" if record.status < 500 and not record.error else "warning"
        return {
            "ts": _timestamp(seen),
            "level": level,
            "logger": "sidecar.access",
            "msg": f"{record.method} {record.target} {record.status}",
            "service": self._service,
            **{key: value for key, value in fields.items() if value not in (None, "")},
        }

    def _text(self, fields: dict[str, Any]) -> str:
        head = [fields.pop("ts")[11:23], fields.pop("level").ljust(7), fields.pop("logger"), fields.pop("msg")]
        fields.pop("service", None)
        exception = fields.pop("exception", None)
        more = " ".join(f"{key}={value}" for key, value in fields.items())
        line = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", " ".join([*head, more]).rstrip())
        if self._colour and head[1].strip() in _COLOURS:
            line = f"{_COLOURS[head[1].strip()]}{line}\x1b[0m"
        return f"{line}\n{exception}\n" if exception else f"{line}\n"


class AccessLog:
    """Which exchanges get a line: ``all``, ``errors`` (5xx, and whatever the sidecar answered itself) or ``off``."""

    def __init__(self, mode: str, writer: LogWriter) -> None:
        #: Hot path: lines are for statuses from this one on.
        self._from = {"all": 0, "errors": 500, "off": sys.maxsize}[mode]
        self._errors = mode != "off"
        self.record = writer.put

    def enabled_for(self, status: int, error: str | None) -> bool:
        """Whether an exchange that ended so gets a line."""
        return status >= self._from or (self._errors and bool(error))


LEVELS: Final = ("debug", "info", "warning", "error")
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


def setup(config: Log, service: str, stream: TextIO | None = None) -> LogWriter:
    """Send everything that is logged to a :class:`LogWriter` (to standard error), which the caller closes."""
    writer = LogWriter(config, service, stream)
    logging.root.handlers[:] = [writer]
    writer.set_level(config.level)
    # Libraries tell about every request at INFO.
    for name in ("aiohttp.access", "urllib3", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return writer


def _timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
