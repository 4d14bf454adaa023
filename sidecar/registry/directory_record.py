"""The file of one instance in a registry folder, and its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sidecar.config.model import Service
from sidecar.registry.api import Instance

#: Larger files are not read.
MAX_SIZE = 65536
SUFFIX = ".json"
_STATES = {"passing": "healthy", "warning": "warning", "critical": "critical"}


@dataclass(frozen=True, slots=True)
class Record:
    """What a file says. ``instance.state`` may be ``critical`` here; such a one is not handed out."""

    service: str
    instance: Instance


def file_name(name: str) -> str:
    """A name that is safe as that of a file or folder: different names give different ones, and none of them begins
    with a dot, holds a slash or is too long for a file system."""
    safe = quote(name, safe="").replace(".", "%2E") if name.startswith(".") else quote(name, safe="")
    return safe if 0 < len(safe) <= 200 else f"%{hashlib.sha256(name.encode()).hexdigest()}"


def encode(service: Service, port: int, status: str, output: str) -> bytes:
    """The file's content."""
    content = {
        "service": service.name,
        "id": service.id,
        "host": service.address,
        "port": port,
        "tags": service.tags,
        "meta": service.meta,
        "weights": {"passing": service.weights.passing, "warning": service.weights.warning},
        "status": status,
        "output": output[:1000],
    }
    return json.dumps(content, separators=(",", ":")).encode()


def decode(data: bytes) -> Record:
    """Read a file's content. Raises ValueError, saying what is wrong, for anything that :func:`encode` cannot have
    written: everybody who may write to the folder can put files there."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    status = _text(content, "status")
    if status not in _STATES:
        raise ValueError(f"status is {status!r}, not passing, warning or critical")
    weights = content.get("weights")
    if not isinstance(weights, dict):
        raise ValueError("weights is not an object")
    tags = content.get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("tags is not a list of strings")
    meta = content.get("meta")
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise ValueError("meta is not an object of strings")
    host = _text(content, "host")
    if len(host) > 253 or not all(char.isalnum() or char in ".:_-%" for char in host):
        raise ValueError("host is neither an address nor a name")
    return Record(
        service=_text(content, "service"),
        instance=Instance(
            host=host,
            port=_number(content, "port", 1, 65535),
            id=_text(content, "id"),
            weight=_number(weights, "warning" if status == "warning" else "passing", 0, 65535),
            state=_STATES[status],
            tags=tuple(tags),
            meta=dict(meta),
        ),
    )


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is not a text")
    return value


def _number(content: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = content.get(key)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} is not a number from {least} to {most}")
    return value
