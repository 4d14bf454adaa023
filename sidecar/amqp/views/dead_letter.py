"""Dead letters as plain data, for JSON: what the admin API and ``sidecar spool`` show of them."""

from __future__ import annotations

import math
from base64 import b64encode
from codecs import getincrementaldecoder
from datetime import UTC, datetime
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from sidecar.amqp.wire import content
from sidecar.amqp.wire.constants import HEADER, AmqpError
from sidecar.amqp.wire.properties import PROPERTIES, TABLE
from sidecar.amqp.wire.tables import decode_table
from sidecar.core.text import utf8

if TYPE_CHECKING:
    from sidecar.amqp.spool.dead_letters import DeadLetter

#: Bytes of a body that are shown when somebody looks at one message. An export has all of it.
SHOWN: Final = 64 * 1024
#: A larger body is not looked through for whether it is text.
MOST_TEXT: Final = 1024 * 1024

_FRAME: Final = Struct(">BHI")
_MANDATORY: Final = 1
#: The properties that are shown as they are.
_NAMES: Final = tuple(sorted(name for name, _, kind in PROPERTIES if kind != TABLE))


def summary(letter: DeadLetter, now: float) -> dict[str, Any]:
    """A dead letter in short. ``now`` is Unix time. Of one that cannot be read any more only its end is known."""
    message = letter.message
    found: dict[str, Any] = {
        "id": letter.id,
        "died": moment(letter.died),
        "age": round(max(0.0, now - letter.died), 3),
        "reason": utf8(letter.reason),
        "code": letter.code,
        "text": utf8(letter.text),
        "readable": message is not None,
    }
    if message is None:
        texts = ("vhost", "exchange", "routing_key", "user", "origin", "trace")
        found |= dict.fromkeys(texts, "") | {"published": None, "expires": None}
        return found | {"priority": 0, "attempts": 0, "bytes": letter.size}
    return found | {
        "vhost": utf8(message.vhost),
        "exchange": utf8(message.exchange),
        "routing_key": utf8(message.routing_key),
        "user": utf8(message.user),
        "origin": utf8(message.origin),
        "trace": utf8(message.trace),
        "published": moment(message.at),
        "expires": moment(message.expires) if message.expires else None,
        "priority": message.priority,
        "attempts": message.attempts,
        "bytes": len(message.body),
    }


def whole(letter: DeadLetter, now: float, shown: int | None = SHOWN) -> dict[str, Any]:
    """All of a dead letter; of its body the first ``shown`` bytes, or everything."""
    message = letter.message
    properties: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    if message is not None:
        properties, headers = _properties(message.header)
    return summary(letter, now) | {
        "mandatory": message is not None and bool(message.flags & _MANDATORY),
        "properties": properties,
        "headers": headers,
        # Of what cannot be read the record itself, so that whoever needs it can look for what is left.
        "body": body(letter.data if message is None else message.body, shown),
    }


def body(data: bytes, shown: int | None = SHOWN) -> dict[str, Any]:
    """A body's ``size``, and its ``content``: text if it is printable UTF-8, base64 otherwise; ``cut`` says that there
    is more."""
    part = data if shown is None else data[:shown]
    cut = len(part) < len(data)
    text = _text(part, cut) if len(part) <= MOST_TEXT else None
    if text is None:
        encoding, text = "base64", b64encode(part).decode("ascii")
    else:
        encoding = "text"
    return {"size": len(data), "cut": cut, "encoding": encoding, "content": text}


def moment(at: float) -> str | None:
    """Unix time as people write it, in UTC; None when it is beyond any calendar."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None


def _text(data: bytes, cut: bool) -> str | None:
    try:
        # A character that was cut through is left out.
        text = getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError:
        return None
    plain = text.replace("\n", "").replace("\r", "").replace("\t", "")
    return text if plain.isprintable() else None


def _properties(header: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Properties and headers of a content header's payload; empty where they cannot be read."""
    frame = _FRAME.pack(HEADER, 0, len(header)) + header + b"\xce"
    try:
        found = content.properties(frame, 0, len(frame))
    except AmqpError:
        return {}, {}
    properties = {name: _plain(value) for name in _NAMES if (value := getattr(found, name)) is not None}
    table = found.headers
    if table is None:
        return properties, {}
    try:
        return properties, {utf8(key): _plain(value) for key, value in decode_table(table, 0, len(table)).items()}
    except AmqpError:
        return properties, {}


def _plain(value: object) -> Any:
    """A table's value for JSON, which knows no bytes, no decimals, and no numbers that are none."""
    if isinstance(value, str):
        return utf8(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return body(value)["content"]
    if isinstance(value, dict):
        return {utf8(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value)
