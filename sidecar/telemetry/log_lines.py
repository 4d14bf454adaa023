"""What a log line looks like: one JSON object for machines, or one line of text for people.

Neither can be forged by what a peer sends. JSON escapes control characters; in text they are escaped too, and the only
line breaks are those of a message or a traceback of several lines, whose further lines are indented.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

import orjson

from sidecar.core.records import AccessRecord
from sidecar.core.text import timestamp

#: The longest message and the longest traceback, in characters: what waits in the queue has to be bounded.
MAX_TEXT: Final = 16384

#: What every LogRecord has; anything else came as ``extra``.
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message", "asctime", "taskName",
}  # fmt: skip
_LEVELS: Final = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "critical"}
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}


class Lines(Protocol):
    """A format."""

    def line(self, fields: dict[str, Any]) -> bytes:
        """One line, its end included. ``fields`` has ts, level, logger, msg and service first. Never raises."""
        ...


class JsonLines:
    """One JSON object a line."""

    def line(self, fields: dict[str, Any]) -> bytes:
        try:
            return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
        except Exception:  # a lone surrogate, an integer beyond 64 bits, a __str__ that raises
            return json.dumps({str(key): _plain(value) for key, value in fields.items()}).encode() + b"\n"


class TextLines:
    """``time level logger message key=value …`` for people."""

    def __init__(self, colour: bool = False) -> None:
        self._colour = colour

    def line(self, fields: dict[str, Any]) -> bytes:
        level = fields["level"]
        words = [fields["ts"], level.ljust(7), _escaped(fields["logger"]), _indented(fields["msg"])]
        for key, value in fields.items():
            if key not in ("ts", "level", "logger", "msg", "service", "exception"):
                words.append(f"{_escaped(str(key))}={_word(_plain(value))}")
        text = " ".join(words)
        if self._colour and level in _COLOURS:
            text = f"{_COLOURS[level]}{text}\x1b[0m"
        if "exception" in fields:
            text = f"{text}\n    {_indented(fields['exception'])}"
        return f"{text}\n".encode()


def record_fields(record: logging.LogRecord, service: str) -> dict[str, Any]:
    """What the logging module was given. ``extra`` cannot replace what every line has. Never raises."""
    fields: dict[str, Any] = {
        "ts": timestamp(record.created),
        "level": _LEVELS.get(record.levelname, record.levelname.lower()),
        "logger": record.name,
        "msg": _message(record),
        "service": service,
    }
    for key, value in record.__dict__.items():
        if key not in _STANDARD:
            fields.setdefault(key, value)
    if record.exc_info or record.exc_text:
        text = record.exc_text
        if text is None and record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
        fields["exception"] = (text or "")[-MAX_TEXT:]  # what was raised stands at the end
    if record.stack_info:
        fields["stack"] = record.stack_info[-MAX_TEXT:]
    return fields


def access_fields(record: AccessRecord, service: str) -> dict[str, Any]:
    """An access line; what is not there (no error, no endpoint, …) is left out."""
    good = record.status < 500 and not record.error
    fields = {
        "ts": timestamp(record.time),
        "level": "info" if good else "warning",
        "logger": "sidecar.access",
        "msg": f"{record.method} {record.target} {record.status}",
        "service": service,
        "direction": record.direction,
        "upstream": record.upstream,
        "method": record.method,
        "target": record.target,
        "status": record.status,
        "error": record.error,
        "cause": record.cause,
        "peer_error": record.peer_error,
        "duration": round(record.duration, 6),
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "endpoint": record.endpoint,
        "attempts": record.attempts,
        "client": record.client,
        "request_id": record.request_id,
        "trace_id": record.trace_id,
    }
    return {key: value for key, value in fields.items() if value is not None and value != ""}


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # arguments that do not fit the format, or cannot be shown
        text = f"{record.msg!s} (its arguments cannot be shown: {type(error).__name__})"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _plain(value: Any) -> Any:
    """A string, number, truth value or None; or whatever it is, as a string."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    try:
        if isinstance(value, Mapping):
            return " ".join(f"{key}:{item}" for key, item in value.items())
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _word(value: Any) -> str:
    """A value as one word of a text line."""
    text = _escaped(str(value))
    return '"' + text.replace('"', '\\"') + '"' if not text or " " in text or '"' in text else text


def _indented(text: str) -> str:
    """Text that may have several lines; no line of it can pass for a new entry."""
    return "\n    ".join(_escaped(line) for line in text.split("\n"))


def _escaped(text: str) -> str:
    """Without anything that a terminal would act on or hide."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)
