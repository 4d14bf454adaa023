"""The kinds that hold others: lists, maps, and sections with fixed keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from sidecar.config.document import Entry, Mapping, Node, Scalar, Sequence, join
from sidecar.config.errors import nearest
from sidecar.config.hints import SYNONYMS, word
from sidecar.config.keys import INHERIT, Key, defaults_of, field_of
from sidecar.config.kinds import BROKEN, OMIT, Kind, Place, Refused, ScalarKind, describe, parents, some


class ListOf(Kind):
    """A list of values of one kind, at most ``maximum`` of them. ``into`` makes the model's collection."""

    def __init__(
        self,
        item: Kind,
        *,
        minimum: int = 0,
        maximum: int = 10_000,
        into: type[tuple[Any, ...] | frozenset[Any]] = tuple,
    ) -> None:
        self.item, self.minimum, self.maximum, self.into = item, minimum, maximum, into
        self.allowed = f"a list, each item {item.allowed}"

    def read(self, node: Node, at: Place) -> Any:
        if not isinstance(node, Sequence):
            return at.report("has the wrong type", found=describe(node), allowed=self.allowed, nearest=self._list(node))
        if not self.minimum <= len(node.items) <= self.maximum:
            return at.report(
                "has too few or too many items",
                found=f"{len(node.items)} item{'s' * (len(node.items) != 1)}",
                allowed=f"from {self.minimum} to {self.maximum}",
            )
        return [self.item.read(item, at.item(index, item.line)) for index, item in enumerate(node.items)]

    def _list(self, node: Node) -> str:
        """The node as the only item of a list."""
        like = self.item.meant(node) if isinstance(node, Scalar) else ""
        return f"[{word(like)}]" if like else ""

    def parts(self) -> Iterator[tuple[str, Kind]]:
        yield "[]", self.item

    def has_the_shape_of(self, node: Node) -> bool:
        return isinstance(node, Sequence)

    def build(self, value: Any) -> Any:
        return self.into(self.item.build(item) for item in value)

    def show(self, value: Any) -> Any:
        if len(value) < self.minimum:
            return OMIT
        items = sorted(value) if self.into is frozenset else value
        return [self.item.show(item) for item in items]

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": self.item.schema(), "maxItems": self.maximum}
        return schema | ({"minItems": self.minimum} if self.minimum else {})


class MapOf(Kind):
    """A mapping with free keys. ``named``: each value's model takes its key as ``name``."""

    def __init__(self, key: ScalarKind, value: Kind, *, maximum: int, named: bool = False) -> None:
        self.key, self.value, self.maximum, self.named = key, value, maximum, named
        self.allowed = f"a mapping, each key {key.allowed}"

    def read(self, node: Node, at: Place) -> Any:
        if not isinstance(node, Mapping):
            return at.report("has the wrong type", found=describe(node), allowed=self.allowed)
        if len(node.entries) > self.maximum:
            return at.report(
                "has too many entries", found=f"{len(node.entries)} entries", allowed=f"at most {self.maximum}"
            )
        values: dict[str, Any] = {}
        for entry in node.entries.values():
            place = at.at(entry.key, entry.line)
            value = self.value.read(entry.value, place)
            try:
                key = self.key.parse(Scalar(entry.key, plain=False, line=entry.line))
            except Refused:
                place.report("is not a valid name here", allowed=self.key.allowed)
                continue
            if key in values:
                place.report("is given twice (in another case)")
            values[key] = value
        return values

    def parts(self) -> Iterator[tuple[str, Kind]]:
        yield ".<name>", self.value

    def has_the_shape_of(self, node: Node) -> bool:
        return isinstance(node, Mapping)

    def build(self, value: Any) -> Any:
        if self.named and isinstance(self.value, Section):
            return {key: self.value.build(item, name=key) for key, item in value.items()}
        return {key: self.value.build(item) for key, item in value.items()}

    def show(self, value: Any) -> Any:
        return {key: self.value.show(item) for key, item in value.items()}

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema(), "maxProperties": self.maximum}


#: How alike a key has to be to another one, of 1, to be read as that.
_SURE: Final = 0.75


class Fields(dict[str, Any]):
    """What was read of one section: the keys that were given and are readable. Rules look at these, before the model
    is built."""

    def __init__(self, section: Section, place: Place) -> None:
        super().__init__()
        self.section = section
        self.place = place
        #: Where each known key that was given stands, unreadable ones too.
        self.places: dict[str, Place] = {}

    def take(self, key: str, node: Node, place: Place) -> None:
        """Read a key that was given."""
        self.places[key] = place
        if (value := self.section.keys[key].kind.read(node, place)) is not BROKEN:
            self[key] = value

    def take_for(self, key: str, entry: Entry, place: Place) -> None:
        """Take a key that is not known for one that was meant, so that nothing else is said of it, and if it is but
        misspelt, find the mistakes in it."""
        self.places[key] = place
        if key == nearest(entry.key, [key], _SURE) and self.section.keys[key].kind.has_the_shape_of(entry.value):
            self.take(key, entry.value, place)

    def value(self, key: str) -> Any:
        """The value given, else the default; :data:`BROKEN` when the one given could not be read, ``None`` when a
        required one is missing."""
        if key in self:
            return self[key]
        return BROKEN if key in self.places else self.section.defaults.get(key)

    def known(self, *keys: str) -> bool:
        """Whether all of these have a readable value or a default."""
        return all(self.value(key) is not BROKEN for key in keys)

    def section_of(self, key: str) -> Fields | None:
        """The section given at ``key``, if one was given."""
        value = self.get(key)
        return value if isinstance(value, Fields) else None


class Section(Kind):
    """A mapping with fixed keys that becomes an object of the model.

    ``refused`` gives the reason for keys that are known elsewhere, or planned, and not allowed here. ``complete``
    may fill in the model's arguments where one default depends on another value. ``left_out`` names the keys that a
    file leaves out for such an object, as they would be refused there. ``short`` is the key that is meant by those who
    write a single value in place of the mapping; they are told so. ``free``: keys that begin with ``x-`` are for
    anchors and other programs, and are passed over. ``cross`` is JSON Schema of what its keys have to do with each
    other.
    """

    allowed = "a mapping"

    def __init__(
        self,
        model: type,
        doc: str,
        keys: dict[str, Key],
        *,
        refused: dict[str, str] | None = None,
        complete: Callable[[dict[str, Any]], None] | None = None,
        left_out: Callable[[Any], Collection[str]] | None = None,
        short: str = "",
        free: bool = False,
        cross: list[dict[str, Any]] | None = None,
    ) -> None:
        self.model, self.doc, self.keys = model, doc, keys
        self.refused = refused or {}
        self.short = short
        self.free = free
        self.cross = cross or []
        self._complete, self._left_out = complete, left_out
        self.defaults = {name: default for name, default in defaults_of(model) if name in keys}
        #: Keys that filters have declared; the model has their values in ``policies``.
        self.declared: dict[str, None] = {}
        self.part_of: Section | None = None  # that one, without some of its keys

    def declare(self, name: str, key: Key, default: Any) -> None:
        """Add a filter's key, before ``filters``."""
        at = list(self.keys).index("filters")
        items = list(self.keys.items())
        self.keys = dict([*items[:at], (name, key), *items[at:]])
        self.defaults[name] = default
        self.declared[name] = None

    def item(self, value: Any, name: str) -> Any:
        """What the model's object has for a key."""
        if name in self.declared:
            return value.policies.get(name, self.defaults[name])
        return getattr(value, field_of(name))

    def without(self, refused: dict[str, str]) -> Section:
        """The same section, with some keys refused for a reason."""
        keys = {name: key for name, key in self.keys.items() if name not in refused}
        part = Section(self.model, self.doc, keys, refused=self.refused | refused, complete=self._complete,
                       left_out=self._left_out)  # fmt: skip
        part.short, part.part_of = self.short, self
        return part

    def shorthand(self, node: Node) -> str:
        """What a single value was to be, as a mapping; empty when that is not plain."""
        like = self.keys[self.short].kind.meant(node) if self.short and isinstance(node, Scalar) else ""
        return f"{{{self.short}: {word(like)}}}" if like else ""

    def parts(self) -> Iterator[tuple[str, Kind]]:
        yield from ((f".{name}", key.kind) for name, key in self.keys.items())

    def has_the_shape_of(self, node: Node) -> bool:
        return isinstance(node, Mapping)

    def read(self, node: Node, at: Place) -> Any:
        if not isinstance(node, Mapping):
            # Not the text itself: where a section holds secrets, somebody may have put one in its place.
            found = f"a single value ({node.type})" if isinstance(node, Scalar) else describe(node)
            allowed = f"{self.allowed} with {', '.join(self.keys)}"
            return at.report("has the wrong type", found=found, allowed=allowed, nearest=self.shorthand(node))
        fields = Fields(self, at)
        for entry in node.entries.values():
            place = at.at(entry.key, entry.line)
            if entry.key in self.keys:
                fields.take(entry.key, entry.value, place)
            elif reason := self.refused.get(entry.key):
                place.report(reason, allowed=", ".join(self.keys))
            elif not (self.free and entry.key.startswith("x-")):
                like = self._unknown(entry.key, entry.value, place)
                if like in self.keys and like not in node.entries:
                    fields.take_for(like, entry, place)
        for name, key in self.keys.items():
            if key.required and name not in fields.places:
                _missing(key.kind, at.at(name, at.line))
        return fields

    def _unknown(self, name: str, value: Node, place: Place) -> str:
        """Report it, and return what was meant: a key of this section, or a path elsewhere."""
        root = place.reading.root
        like = nearest(name, self.keys) or next((key for key in SYNONYMS.get(name.lower(), ()) if key in self.keys), "")
        others = (
            list(dict.fromkeys(parents(root, name, value))) if root is not None and (self is root or not like) else []
        )
        message = "is not a known key"
        if others:
            like = join(others[0], name)
            message += f" here; it belongs to {some(others)}" if self is root else ""
        place.report(message, allowed=", ".join(self.keys), nearest=like)
        return like

    def build(self, value: Any, **more: Any) -> Any:
        arguments = {field_of(name): self.keys[name].kind.build(item) for name, item in value.items()} | more
        if self.declared:
            arguments["policies"] = self.policies(value, {name: arguments.pop(name, None) for name in self.declared})
        if self._complete:
            self._complete(arguments)
        return self.model(**arguments)

    def policies(self, value: Any, built: dict[str, Any]) -> dict[str, Any]:
        """The settings of filters, by name: of those that were given."""
        return {name: settings for name, settings in built.items() if name in value}

    def show(self, value: Any) -> Any:
        return dict(self._shown(value))

    def _shown(self, value: Any) -> Iterator[tuple[str, Any]]:
        left_out = self._left_out(value) if self._left_out else ()
        for name, key in self.keys.items():
            item = self.item(value, name)
            if name in left_out or item is INHERIT or (item is None and not key.kind.can_be_off):
                continue
            shown = key.kind.show(item)
            if shown is not OMIT:
                yield name, shown

    def schema(self) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for name, key in self.keys.items():
            schema = key.kind.schema() | {"description": key.doc}
            default = self.shown_default(name, key)
            if default is not OMIT:
                schema["default"] = default
            if key.default:
                schema["description"] += f" Default: {key.default}."
            if key.example is not None:
                schema["examples"] = [key.example]
            properties[name] = schema
        schema = {"type": "object", "description": self.doc, "properties": properties, "additionalProperties": False}
        required = [name for name, key in self.keys.items() if key.required]
        if required:
            schema["required"] = required
        if self.free:
            schema["patternProperties"] = {"^x-": {}}
        if self.cross:
            schema["allOf"] = self.cross
        return schema

    def shown_default(self, name: str, key: Key) -> Any:
        """A key's default as it would stand in a file; ``OMIT`` where that is computed, or that of its own keys."""
        if name not in self.defaults or key.default or key.required:
            return OMIT
        default = self.defaults[name]
        if default is INHERIT or (default is None and not key.kind.can_be_off):
            return OMIT
        if default is not None and (isinstance(key.kind, Section) or key.kind.can_be_off):
            return OMIT  # its keys have their own
        return key.kind.show(default)


def _missing(kind: Kind, at: Place) -> None:
    if isinstance(kind, Section) and any(key.required for key in kind.keys.values()):
        kind.read(Mapping({}, at.line), at)  # what is missing are its keys: service.name, not service
    else:
        at.report("is missing", allowed=kind.allowed)
