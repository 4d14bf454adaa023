"""One key of a section, and what it is by default."""

from __future__ import annotations

import dataclasses
import enum
import keyword
from collections.abc import Iterator
from typing import Any, Final

from sidecar.config.kinds import Kind


class Inherit(enum.Enum):
    """The type of :data:`INHERIT`."""

    INHERIT = "inherit"

    def __repr__(self) -> str:
        return "INHERIT"


#: In a route: what the listener has (and its state is shared).
INHERIT: Final = Inherit.INHERIT


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One key of a section. Its default is that of the model's field; ``default`` describes one that is computed.
    ``protocols``: of the port, those that have a use for it (empty: all). ``route``: why a route may not have it."""

    kind: Kind
    doc: str
    example: Any = None
    required: bool = False
    default: str = ""
    protocols: tuple[str, ...] = ()
    route: str = ""


def defaults_of(model: type) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass that have a default, with it."""
    for field in dataclasses.fields(model):
        if field.default is not dataclasses.MISSING:
            yield key_of(field.name), field.default
        elif field.default_factory is not dataclasses.MISSING:
            yield key_of(field.name), field.default_factory()


def field_of(key: str) -> str:
    """The field of the model that has a key's value: words of Python have an underscore behind them there."""
    return f"{key}_" if keyword.iskeyword(key) else key


def key_of(field: str) -> str:
    """The key whose value is in that field of the model."""
    return field.removesuffix("_") if keyword.iskeyword(field.removesuffix("_")) else field
