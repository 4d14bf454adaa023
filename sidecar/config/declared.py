"""Settings that are declared beside what reads them: the keys, their errors and schema, and which filter has them.

A filter of our own has a key of its name, in the sections of ports and of routes. Those of other packages stand in the
list ``filters``, by the name of their entry point in the group ``sidecar.filters``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, dataclass_transform

from sidecar.config import document
from sidecar.config.containers import Fields, Section
from sidecar.config.document import Node, Scalar
from sidecar.config.errors import nearest
from sidecar.config.keys import Key, key_of
from sidecar.config.kinds import BROKEN, Kind, Place, describe, substituted
from sidecar.config.policy import Policy

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "sidecar.filters"


def key(
    kind: Kind,
    doc: str,
    *,
    default: Any = dataclasses.MISSING,
    example: Any = None,
    told: str = "",
    protocols: tuple[str, ...] = (),
    route: str = "",
) -> Any:
    """A key of some :class:`Settings`: its kind, a line about it, and the default, without which it is required.
    ``example`` stands in the schema. ``told`` describes a default that :meth:`Settings.complete` computes.
    ``protocols``: of the port, those that have a use for it (empty: all). ``route``: why a route may not have it."""
    declaration = Key(kind, doc, example, default is dataclasses.MISSING and not told, told, protocols, route)
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata={"key": declaration})
    return dataclasses.field(default=default, metadata={"key": declaration})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(key,))
class _Declaration(type):
    """Makes a frozen dataclass of each class. As a metaclass, because the compiler leaves its classes alone then. It
    annotates whatever they assign, though, so fields are what :func:`key` (or :func:`dataclasses.field`) has made."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        annotations = namespace.get("__annotations__", {})
        fields = {name: of for name, of in annotations.items() if isinstance(namespace.get(name), dataclasses.Field)}
        made: type = super().__new__(cls, name, bases, namespace | {"__annotations__": fields})
        # What can be said once for all of them is: to generate it for each would be a part of every start.
        return dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)(made)


class Settings(metaclass=_Declaration):
    """The base of all settings: a frozen dataclass whose fields are made by :func:`key`. The docstring of the class is
    what the reference says of the section."""

    #: The key that is meant by those who write a single value in place of the mapping; they are told so.
    short: ClassVar[str] = ""
    #: Keys that are known elsewhere, or planned, and not allowed here: why.
    refused: ClassVar[Mapping[str, str]] = {}
    #: Keys that begin with ``x-`` are for anchors and other programs, and are passed over.
    free: ClassVar[bool] = False
    #: JSON Schema of what the keys have to do with each other, for ``allOf``.
    cross: ClassVar[Sequence[dict[str, Any]]] = ()
    #: Defaults that differ for a protocol of the port.
    by_protocol: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    @staticmethod
    def complete(given: dict[str, Any]) -> None:
        """Fill in defaults that depend on other values."""

    def left_out(self) -> Sequence[str]:
        """Name the keys that a file with these settings has to leave out, since others give them no meaning."""
        return ()

    @staticmethod
    def check(given: Sequence[Fields], protocol: str) -> None:
        """Report what does not fit together. ``given`` are the sections of a filter at one port: its own, then those of
        its routes; ``protocol`` is the port's."""


def said(settings: type[Settings], name: str) -> Any:
    """What the class says under that name, unless it has a key of it: then what all say."""
    keys = {it.name for it in dataclasses.fields(settings)}
    return getattr(Settings if name in keys else settings, name)


SectionKind = TypeVar("SectionKind", bound=Section)


def section(settings: type[Settings], doc: str = "") -> Section:
    """The section of a file that becomes such settings; ``doc`` is by default the docstring of the class."""
    return section_as(Section, settings, doc)


def section_as(kind: type[SectionKind], settings: type[Settings], doc: str = "") -> SectionKind:
    """The same, of a kind of its own."""
    return kind(
        settings,
        doc or " ".join((settings.__doc__ or "").split()),
        {key_of(it.name): it.metadata["key"] for it in dataclasses.fields(settings) if "key" in it.metadata},
        refused=dict(said(settings, "refused")),
        complete=said(settings, "complete"),
        left_out=said(settings, "left_out"),
        short=said(settings, "short"),
        free=said(settings, "free"),
        cross=list(said(settings, "cross")),
    )


class _Nothing(Settings):
    """It has no settings."""


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """A filter as the configuration sees it. ``kind`` is that of its key, if it is one of our own."""

    name: str
    filter: Any
    section: Section
    kind: Kind

    def problem(self, protocol: str, side: str) -> str:
        """Why it may not stand at such a port; empty when it may."""
        if protocol not in self.filter.protocols:
            return f"is for {', '.join(self.filter.protocols)} only"
        return "" if side in self.filter.sides else f"is for {', '.join(self.filter.sides)} only"

    def standard(self, protocol: str) -> Any:
        """Its settings at a port where its key is left out; ``None``: it does not stand there."""
        if self.filter.setting is not None:
            return self.filter.setting.kind.build("")
        return self._build({}, protocol) if self.filter.by_default else None

    def build(self, value: Any, protocol: str) -> Any:
        """Its settings at a port, from what was read of its key."""
        return self._build(value, protocol) if isinstance(value, Fields) else self.kind.build(value)

    def _build(self, given: Mapping[str, Any], protocol: str) -> Any:
        settings: type[Settings] = self.filter.settings_class or _Nothing
        return self.section.build({**said(settings, "by_protocol").get(protocol, {}), **given})

    def check(self, given: Sequence[Fields], protocol: str) -> None:
        """Report what does not fit together in its sections at one port."""
        if self.filter.settings_class is not None:
            said(self.filter.settings_class, "check")(given, protocol)


def declared(filter_class: Any) -> Declared:
    """A filter's declaration. Raises what its ``check()`` raises."""
    filter_class.check()
    found = section(filter_class.settings_class or _Nothing, filter_class.doc)
    if filter_class.setting is not None:
        kind = filter_class.setting.kind
    else:
        kind = Policy(found) if filter_class.optional else found
    return Declared(filter_class.name, filter_class, found, kind)


@dataclasses.dataclass(frozen=True, slots=True)
class Used:
    """An item of ``filters``: which one, with which settings."""

    declared: Declared
    settings: Any


_found: dict[str, Declared] = {}
#: Names that filters of other packages may not have.
_ours: set[str] = set()


def reserve(names: Iterable[str]) -> None:
    """Keep these for filters of our own. One of another package would have the place of ours in every chain, and be
    taken for it where it is known what ours does."""
    _ours.update(names)


def installed() -> dict[str, EntryPoint]:
    """Filters of other packages, by name."""
    from importlib import metadata  # a megabyte, which only those who use such filters pay

    return {it.name: it for it in metadata.entry_points(group=GROUP)}


def find(point: EntryPoint) -> Declared:
    """What is declared there. Raises :class:`ValueError` with the reason when it cannot be used."""
    if point.name in _ours:
        raise ValueError("has the name of a filter of the sidecar's own; the package has to give it another one")
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
        if not isinstance(node, document.Mapping):
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
        rest = document.Mapping({name: entry for name, entry in node.entries.items() if name != "use"}, node.line)
        fields = it.section.read(rest, at)
        return BROKEN if fields is BROKEN else (it, fields, place)

    def build(self, value: tuple[Declared, Fields, Place]) -> Used:
        it, fields, _ = value
        return Used(it, it.section.build(fields))

    def show(self, value: Used) -> Any:
        return {"use": value.declared.name} | value.declared.section.show(value.settings)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"use": {"type": "string"}}, "required": ["use"]}
