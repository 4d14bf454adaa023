"""The kinds that are a section, or one value in its place: policies that can be off, and what has a main key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sidecar.config.containers import Fields, Section
from sidecar.config.document import Mapping, Node, Scalar, Sequence
from sidecar.config.kinds import BROKEN, Kind, Place, describe, substituted

#: What a policy that is switched off may be.
_OFF: Final = ("off", "false", "no")


class Policy(Kind):
    """A section that can be switched off with ``off``; YAML 1.1 reads a bare ``off`` as false, so that is the same."""

    can_be_off = True

    def __init__(self, section: Section) -> None:
        self.section = section
        self.allowed = f"a mapping with {', '.join(section.keys)}; or off"

    def read(self, node: Node, at: Place) -> Any:
        if not isinstance(node, Scalar):
            return self.section.read(node, at) if isinstance(node, Mapping) else self._refuse(node, at)
        scalar = substituted(node, at)
        if scalar is None:
            return BROKEN
        return None if scalar.text.lower() in _OFF else self._refuse(scalar, at)

    def parts(self) -> Iterator[tuple[str, Kind]]:
        yield "", self.section

    def has_the_shape_of(self, node: Node) -> bool:
        return isinstance(node, Mapping) or (isinstance(node, Scalar) and node.text in _OFF)

    def _refuse(self, node: Node, at: Place) -> Any:
        if isinstance(node, Scalar) and node.text.lower() in ("on", "true", "yes", "", "~", "null"):
            return at.report(
                "does not say what it is to be", found=describe(node), allowed=f"{self.allowed}; or leave it out"
            )
        return at.report(
            "has the wrong type", found=describe(node), allowed=self.allowed, nearest=self.section.shorthand(node)
        )

    def build(self, value: Any) -> Any:
        return None if value is None else self.section.build(value)

    def show(self, value: Any) -> Any:
        return "off" if value is None else self.section.show(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.section.schema(), {"enum": ["off", False]}]}


class Short(Kind):
    """A section that may also be written as one value, that of its key ``main``, when the rest is at its default."""

    def __init__(self, section: Section, main: str) -> None:
        self.section, self.main = section, main
        self.kind = section.keys[main].kind
        self.allowed = f"{self.kind.allowed}, or a mapping with {', '.join(section.keys)}"

    def read(self, node: Node, at: Place) -> Any:
        if isinstance(node, Mapping):
            return self.section.read(node, at)
        if isinstance(node, Sequence):
            return at.report("has the wrong type", found=describe(node), allowed=self.allowed)
        value = self.kind.read(node, at)
        if value is BROKEN:
            return BROKEN
        fields = Fields(self.section, at)
        fields[self.main], fields.places[self.main] = value, at
        return fields

    def meant(self, node: Scalar) -> str:
        return self.kind.meant(node)

    def parts(self) -> Iterator[tuple[str, Kind]]:
        yield "", self.section

    def has_the_shape_of(self, node: Node) -> bool:
        return isinstance(node, Scalar)

    def build(self, value: Any) -> Any:
        return self.section.build(value)

    def show(self, value: Any) -> Any:
        shown = self.section.show(value)
        defaults = {name: self.section.keys[name].kind.show(item) for name, item in self.section.defaults.items()}
        return shown[self.main] if shown == {**defaults, self.main: shown[self.main]} else shown

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.kind.schema(), self.section.schema()]}
