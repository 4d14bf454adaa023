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

from sidecar.core.text import timestamp

#: The longest message and the longest traceback, in characters: what waits in the queue has to be bounded.
MAX_TEXT: Final = 16384

#: What every LogRecord has; anything else came as ``extra``.
_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message", "asctime", "taskName",
}  # fmt: skip
_LEVELS: Final = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "critical"}
_COLOURS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}
_FAINT: Final = "\x1b[2m"
_STATUS_COLOURS: Final = {"1": "\x1b[32m", "2": "\x1b[32m", "3": "\x1b[36m", "4": "\x1b[33m", "5": "\x1b[31m"}
#: What stands at the beginning of an access line, or is no news on it.
_FIRST: Final = frozenset(
    {"ts", "level", "logger", "msg", "service", "direction", "upstream", "method", "target", "status", "error", "cause",
     "peer_error", "duration"}
)  # fmt: skip


class Lines(Protocol):
    """A format."""

    def line(self, fields: dict[str, Any]) -> bytes:
        """One line, its end included. ``fields`` has ts, level, logger, msg and service first. Never raises."""
        ...

    def access(self, fields: dict[str, Any]) -> bytes:
        """The same for a line of the access log."""
        ...


class JsonLines:
    """One JSON object a line."""

    def line(self, fields: dict[str, Any]) -> bytes:
        try:
            return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
        except Exception:  # a lone surrogate, an integer beyond 64 bits, a __str__ that raises
            return json.dumps({str(key): _plain(value) for key, value in fields.items()}).encode() + b"\n"

    access = line


class TextLines:
    """``time level logger message key=value …`` for people. Of exchanges: ``time level direction upstream method target
    status error duration key=value …``."""

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

    def access(self, fields: dict[str, Any]) -> bytes:
        status = str(fields["status"])
        said = [_escaped(str(fields[key])) for key in ("error", "cause", "peer_error") if key in fields]
        words = [
            fields["ts"],
            self._painted(fields["level"].ljust(7), _COLOURS.get(fields["level"], "")),
            fields["direction"],
            _escaped(fields["upstream"]),
            _escaped(f"{fields.get('method', '-')} {fields.get('target', '')}".rstrip()),
            self._painted(status, _STATUS_COLOURS.get(status[0], "")),
            *said,
            _milliseconds(fields["duration"]),
        ]
        more = " ".join(f"{key}={_word(_told(key, value))}" for key, value in fields.items() if key not in _FIRST)
        return f"{' '.join(words)} {self._painted(more, _FAINT)}\n".encode()

    def _painted(self, text: str, colour: str) -> str:
        return f"{colour}{text}\x1b[0m" if self._colour and colour else text


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


def _told(key: str, value: Any) -> str:
    """A field of an access line, as people read it."""
    if key in ("waited", "connecting", "first_byte"):
        return _milliseconds(value)
    if key != "tries":
        return str(_plain(value))
    tries = []
    for it in value:
        said = [it["endpoint"], *(str(it[name]) for name in ("status", "failure", "cause", "peer_error") if name in it)]
        tries.append(f"{' '.join(said)} {_milliseconds(it.get('seconds', 0.0))}")
    return ", ".join(tries)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g}ms" if seconds < 1 else f"{seconds:.3f}s"


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
