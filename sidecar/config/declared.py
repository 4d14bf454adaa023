"""Settings that are declared beside the filter that reads them: its keys, their errors and schema, and who has them.

A filter of our own has a key of its name, in the sections of ports and of routes. Those of other packages stand in the
list ``filters``, by the name of their entry point in the group ``sidecar.filters``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, dataclass_transform

from sidecar.config.containers import Fields, Section
from sidecar.config.document import Mapping, Node, Scalar
from sidecar.config.errors import nearest
from sidecar.config.keys import Key
from sidecar.config.kinds import BROKEN, Kind, Place, describe, substituted

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "sidecar.filters"


def key(kind: Kind, doc: str, *, default: Any = dataclasses.MISSING, example: Any = None) -> Any:
    """A key of some :class:`Settings`: its kind, a line about it, and the default, without which it is required.
    ``example`` stands in the schema."""
    required = default is dataclasses.MISSING
    return dataclasses.field(default=default, metadata={"key": Key(kind, doc, example, required)})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key,))
class Settings:
    """The base of a filter's settings: a frozen dataclass whose fields are made by :func:`key`. The docstring of the
    class is what the reference says of the section."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def section(settings: type) -> Section:
    """The section of a file that becomes such settings."""
    keys = {it.name: it.metadata["key"] for it in dataclasses.fields(settings)}
    return Section(settings, " ".join((settings.__doc__ or "").split()), keys)


class _Nothing(Settings):
    """It has no settings."""


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """A filter as the configuration sees it."""

    name: str
    filter: Any
    section: Section

    def problem(self, protocol: str, side: str) -> str:
        """Why it may not stand at such a port; empty when it may."""
        if protocol not in self.filter.protocols:
            return f"is for {', '.join(self.filter.protocols)} only"
        return "" if side in self.filter.sides else f"is for {', '.join(self.filter.sides)} only"


def declared(filter_class: Any) -> Declared:
    """A filter's declaration. Raises what its ``check()`` raises."""
    filter_class.check()
    return Declared(filter_class.name, filter_class, section(filter_class.settings_class or _Nothing))


@dataclasses.dataclass(frozen=True, slots=True)
class Used:
    """An item of ``filters``: which one, with which settings."""

    declared: Declared
    settings: Any


_found: dict[str, Declared] = {}


def installed() -> dict[str, EntryPoint]:
    """Filters of other packages, by name."""
    from importlib import metadata  # a megabyte, which only those who use such filters pay

    return {it.name: it for it in metadata.entry_points(group=GROUP)}


def find(point: EntryPoint) -> Declared:
    """What is declared there. Raises :class:`ValueError` with the reason when it cannot be used."""
    if point.name not in _found:
        try:
            it = declared(point.load())
        except Exception as error:  # it is somebody else's code
            raise ValueError(f"cannot be loaded from {point.value}: {type(error).__name__}: {error}") from error
        if it.name != point.name:
            raise ValueError(f"calls itself {it.name!r}; its entry point has to have the same name")
        _found[point.name] = it
    return _found[point.name]


class UsedFilter(Kind):
    """An item of ``filters``: ``use`` is the filter's name, the other keys are its settings."""

    allowed = "a mapping with use, the name of a filter that is installed, and its settings"

    def read(self, node: Node, at: Place) -> Any:
        if not isinstance(node, Mapping):
            return at.report("has the wrong type", found=describe(node), allowed=self.allowed)
        use = node.entries.get("use")
        if use is None:
            return at.at("use", at.line).report("is missing", allowed=self.allowed)
        place = at.at("use", use.line)
        scalar = substituted(use.value, place) if isinstance(use.value, Scalar) else None
        if scalar is None:
            return BROKEN if isinstance(use.value, Scalar) else place.report("has the wrong type", allowed="a name")
        points = installed()
        point = points.get(scalar.text)
        if point is None:
            names = ", ".join(sorted(points)) or "none: no package with filters is installed beside the sidecar"
            like = nearest(scalar.text, points)
            return place.report("is no filter that is installed", found=scalar.text, allowed=names, nearest=like)
        try:
            it = find(point)
        except ValueError as error:
            return place.report(str(error))
        rest = Mapping({name: entry for name, entry in node.entries.items() if name != "use"}, node.line)
        fields = it.section.read(rest, at)
        return BROKEN if fields is BROKEN else (it, fields, place)

    def build(self, value: tuple[Declared, Fields, Place]) -> Used:
        it, fields, _ = value
        return Used(it, it.section.build(fields))

    def show(self, value: Used) -> Any:
        return {"use": value.declared.name} | value.declared.section.show(value.settings)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"use": {"type": "string"}}, "required": ["use"]}
