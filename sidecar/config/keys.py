"""One key of a section, and what it is by default."""

from __future__ import annotations

import dataclasses
import enum
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
            yield field.name, field.default
        elif field.default_factory is not dataclasses.MISSING:
            yield field.name, field.default_factory()
