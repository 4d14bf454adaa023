"""The file of one instance in a registry folder, and its name."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from sidecar.core.instance import Instance
from sidecar.registry import validate
from sidecar.registry.errors import RegistryError
from sidecar.registry.settings import Workload

#: Larger files are not read.
MAX_SIZE = 65536
SUFFIX = ".json"
#: How every content begins. A file that was being written when its writer died has this, a part of it, or nothing.
_BEGINNING: Final = b'{"service":'
#: What :func:`file_name` gives, and what :func:`temporary_name` makes of it. Older versions ended it with a process id.
_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9_.~%-]{1,200}")
_TEMPORARY: Final = re.compile(r"\.[A-Za-z0-9_.~%-]{1,205}\.[0-9a-f]{1,16}")
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


def temporary_name(name: str) -> str:
    """Under which name the file ``name`` is written before it takes that one's place."""
    return f".{name}.{secrets.token_hex(8)}"


def is_name(name: str) -> bool:
    """Whether :func:`file_name` may have given this."""
    return _NAME.fullmatch(name) is not None


def is_file_name(name: str) -> bool:
    """Whether an instance's file, finished or not, may be called so."""
    return (name.endswith(SUFFIX) and is_name(name.removesuffix(SUFFIX))) or is_temporary_name(name)


def is_temporary_name(name: str) -> bool:
    """Whether :func:`temporary_name` may have given this, for what such names are given to."""
    return _TEMPORARY.fullmatch(name) is not None


def is_temporary(name: str, data: bytes) -> bool:
    """Whether a file of this name and content is one that was never finished."""
    return is_temporary_name(name) and data[: len(_BEGINNING)] == _BEGINNING[: len(data)]


def is_record(folder: str, name: str, data: bytes) -> bool:
    """Whether a file is an instance's, if only by what it is called: those that other versions write included."""
    try:
        content = json.loads(data)
        return (
            isinstance(content, dict)
            and file_name(_text(content, "service")) == folder
            and file_name(_text(content, "id")) + SUFFIX == name
        )
    except (ValueError, RecursionError):
        return False


def encode(workload: Workload, status: str, output: str) -> bytes:
    """The file's content."""
    content = {
        "service": workload.name,
        "id": workload.id,
        "host": workload.address,
        "port": workload.port,
        "tags": workload.tags,
        "meta": workload.meta,
        "sidecar": workload.fronted,
        **({"admin": workload.admin} if workload.admin else {}),
        "weights": {"passing": workload.passing_weight, "warning": workload.warning_weight},
        "status": status,
        "output": output[:1000],
    }
    return json.dumps(content, separators=(",", ":")).encode()


def check_size(workload: Workload) -> None:
    """Raises :class:`RegistryError` when others would not read this workload's file."""
    size = len(encode(replace(workload, port=65535), "critical", "x" * 1000))
    if size > MAX_SIZE:
        raise RegistryError(
            f"registry: service.tags and service.meta make a file of {size} bytes; one of at most {MAX_SIZE} is read"
        )


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
    weight = "warning" if status == "warning" else "passing"
    return Record(
        service=_text(content, "service"),
        instance=validate.instance(
            host_=content.get("host"),
            port=content.get("port"),
            id_=_text(content, "id"),
            weight=validate.number(weights.get(weight), f"weights.{weight}", 0, validate.MAX_WEIGHT),
            state=_STATES[status],
            tags=content.get("tags"),
            meta=content.get("meta"),
            sidecar=content.get("sidecar") is True,
            admin=content.get("admin", 0),
        ),
    )


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is not a text")
    return value
