"""From a configuration file to a :class:`~sidecar.config.schema.Config`, or to every problem it has."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.config import document, host, rules
from sidecar.config.addresses import Registry, is_wildcard
from sidecar.config.containers import Fields
from sidecar.config.errors import ConfigError, Line, Problem, TooManyProblems
from sidecar.config.kinds import BROKEN, Kind, Place, Reading
from sidecar.config.schema import CONFIG, Config

#: What standard input is called in messages.
STDIN = "<stdin>"
#: Before the name of a variable of the environment that holds the text itself.
VARIABLE = "env:"
_ONCE = Problem("", "cannot be read again by a reload, so no sidecar runs with it",
                allowed="the name of a file, or env:NAME for the text in a variable of the environment")  # fmt: skip


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check the file at ``path``, or the text in a variable for ``env:NAME``; variables come from ``environ``
    (by default the process's).

    Reads files that the configuration names as secrets (relative paths start at the file's directory). Raises
    :class:`ConfigError` with all problems, also when the file cannot be read at all. Standard input (``-``) is refused,
    as a reload reads it again.
    """
    if str(path) == "-":
        raise ConfigError(STDIN, [_ONCE])
    return load_text(_text(path), str(path), environ)


def load_text(text: str, filename: str, environ: Mapping[str, str] | None = None) -> Config:
    """As :func:`load`, for a text that was read already; ``filename`` is for messages and relative paths."""
    environ = os.environ if environ is None else environ
    fields = _checked(text, filename, Reading(environ, Path(filename).parent, root=CONFIG))
    config: Config = CONFIG.build(fields)
    return _named(config)


def load_foreign(text: str, filename: str) -> Config:
    """As :func:`load_text`, for a text that comes from elsewhere: it gets no variables, and opens no files."""
    fields = _checked(text, filename, Reading({}, Path(), closed=True, root=CONFIG))
    config: Config = CONFIG.build(fields)
    return _named(config)


def value_of(kind: Kind, data: object, path: str) -> Any:
    """A single value of a file, given as plain data; ``path`` is what it is called. Variables have no meaning in it.
    Raises :class:`ConfigError`."""
    reading = Reading({}, Path())
    try:
        node = document.parse(json.dumps(data), reading.problems)
        assert node is not None
        found = kind.read(node, Place(path, 0, reading))
    except document.BadDocument as bad:
        reading.problems.append(bad.problem)
    except TooManyProblems:
        pass
    if reading.problems:
        raise ConfigError("", reading.problems)
    return kind.build(found)


def load_as(kind: Kind, path: str | Path, check: Callable[[Fields], None]) -> Any:
    """Read another kind of file with the same errors: one section, ``check`` for what has to fit together in it.
    Raises :class:`ConfigError` with all problems."""
    reading = Reading(os.environ, Path(path).parent, root=kind)
    return kind.build(_read(kind, _text(path), str(path), reading, check, Problem("", "is empty")))


def load_file(path: str) -> Config:
    """As :func:`load`; ``-`` is standard input."""
    if path != "-":
        return load(path)
    return load_text(_decoded(sys.stdin.buffer.read(document.MAX_BYTES + 1), STDIN), STDIN)


class Summary(NamedTuple):
    """What there is to say of a file that is right."""

    service: str
    listeners: int
    registry: str
    #: All of it; ``None`` where it was read without the environment.
    config: Config | None


def check(path: str | Path, *, offline: bool = False) -> Summary:
    """Check the file at ``path``, or standard input for ``-``, as :func:`load` does. ``offline``: without variables of
    the environment and without secret files, so that what depends on them is taken to be right."""
    filename = STDIN if str(path) == "-" else str(path)
    text = _decoded(sys.stdin.buffer.read(document.MAX_BYTES + 1), filename) if str(path) == "-" else _text(path)
    reading = Reading({} if offline else os.environ, Path(filename).parent, offline=offline, root=CONFIG)
    fields = _checked(text, filename, reading)
    service = fields.section_of("service")
    registry = fields.value("registry")
    return Summary(
        str(service.get("name", "(from the environment)")) if service is not None else "",
        len(fields.get("upstreams", ())) + ("inbound" in fields),
        registry.kind if isinstance(registry, Registry) else "(from the environment)",
        None if offline else CONFIG.build(fields),
    )


def _text(path: str | Path) -> str:
    filename = str(path)
    if filename.startswith(VARIABLE):
        return _variable(filename)
    try:
        with open(path, "rb") as file:
            data = file.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(filename, [Problem("", f"cannot be read: {error.strerror or error}")]) from None
    except ValueError:
        raise ConfigError(filename, [Problem("", "cannot be read: not the name of a file")]) from None
    return _decoded(data, filename)


def _variable(filename: str) -> str:
    """The text that a variable holds; ``filename`` is ``env:NAME``."""
    text = os.environ.get(filename.removeprefix(VARIABLE))
    if text is None:
        raise ConfigError(filename, [Problem("", "cannot be read: there is no such variable in the environment")])
    return _decoded(text.encode("utf-8", "surrogateescape"), filename)


def _decoded(data: bytes, filename: str) -> str:
    if len(data) > document.MAX_BYTES:
        raise ConfigError(filename, [Problem("", "is too large", allowed=f"at most {document.MAX_BYTES} bytes")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = Line(data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start))
        raise ConfigError(filename, [Problem("", "is not text in UTF-8", line=line)]) from None


def _checked(text: str, filename: str, reading: Reading) -> Fields:
    empty = Problem("service.name", "is missing", found="an empty file", allowed="at least service: {name: …}")
    return _read(CONFIG, text, filename, reading, rules.check, empty)


def _read(
    kind: Kind, text: str, filename: str, reading: Reading, check: Callable[[Fields], None], empty: Problem
) -> Fields:
    """A whole file of that kind, without a problem. ``empty``: what is wrong when there is nothing in it."""
    fields: Fields | None = None
    more = False
    try:
        root = document.parse(text, reading.problems)
        if root is None or (isinstance(root, document.Scalar) and root.type == "null"):
            raise document.BadDocument(empty)
        read = kind.read(root, Place("", 0, reading))
        if isinstance(read, Fields):
            fields = read
            check(fields)
    except document.BadDocument as bad:
        reading.problems.append(bad.problem)
    except TooManyProblems:
        more = True
    if not reading.problems and fields is not None:
        return fields
    error = ConfigError(filename, reading.problems, more=more)
    log = fields.section_of("log") if fields is not None else None
    if log is not None and log.value("format") is not BROKEN:
        error.log_format = log.value("format")
    raise error


def _named(config: Config) -> Config:
    """``config`` with the defaults of ``service.id`` and ``service.address``, which depend on the rest and the host."""
    service, inbound = config.service, config.inbound
    address, id = service.address, service.id
    if not address:
        address = inbound.bind.host if inbound and not is_wildcard(inbound.bind.host) else host.address()
    if not id:
        id = host.default_id(service.name, inbound.bind.port if inbound else None)
    return dataclasses.replace(config, service=dataclasses.replace(service, address=address, id=id))
