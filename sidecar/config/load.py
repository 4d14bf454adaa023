"""From a configuration file to a :class:`~sidecar.config.model.Config`, or to every problem it has."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from sidecar.config import document, host, rules
from sidecar.config.containers import Fields
from sidecar.config.errors import ConfigError, Problem, TooManyProblems
from sidecar.config.kinds import BROKEN, Place, Reading
from sidecar.config.model import Config
from sidecar.config.schema import CONFIG
from sidecar.config.values import is_wildcard


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check the file at ``path``; variables come from ``environ`` (by default the process's).

    Reads files that the configuration names as secrets (relative paths start at the file's directory). Raises
    :class:`ConfigError` with all problems, also when the file cannot be read at all.
    """
    filename = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(filename, [Problem("", f"cannot be read: {error.strerror or error}")]) from None
    except ValueError:
        raise ConfigError(filename, [Problem("", "cannot be read: not the name of a file")]) from None
    if len(data) > document.MAX_BYTES:
        raise ConfigError(filename, [Problem("", "is too large", allowed=f"at most {document.MAX_BYTES} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(filename, [Problem("", "is not text in UTF-8", line=line)]) from None
    return load_text(text, filename, environ)


def load_text(text: str, filename: str, environ: Mapping[str, str] | None = None) -> Config:
    """As :func:`load`, for a text that was read already; ``filename`` is for messages and relative paths."""
    reading = Reading(os.environ if environ is None else environ, Path(filename).parent)
    fields: Fields | None = None
    more = False
    try:
        root = document.parse(text, reading.problems)
        if root is None or (isinstance(root, document.Scalar) and root.type == "null"):
            root = document.Mapping({}, 0)  # an empty file lacks its required keys, and says so
        read = CONFIG.read(root, Place("", 0, reading))
        if isinstance(read, Fields):
            fields = read
            rules.check(fields)
    except document.BadDocument as bad:
        reading.problems.append(bad.problem)
    except TooManyProblems:
        more = True
    if reading.problems or fields is None:
        error = ConfigError(filename, reading.problems, more=more)
        log = fields.section_of("log") if fields is not None else None
        if log is not None and log.value("format") is not BROKEN:
            error.log_format = log.value("format")
        raise error
    config: Config = CONFIG.build(fields)
    return _named(config)


def _named(config: Config) -> Config:
    """``config`` with the defaults of ``service.id`` and ``service.address``, which depend on the rest and the host."""
    service, inbound = config.service, config.inbound
    address, id = service.address, service.id
    if not address:
        address = inbound.bind.host if inbound and not is_wildcard(inbound.bind.host) else host.address()
    if not id:
        id = host.default_id(service.name, inbound.bind.port if inbound else None)
    return dataclasses.replace(config, service=dataclasses.replace(service, address=address, id=id))
