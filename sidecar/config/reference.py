"""Every key of the file as text to read: what it means, what is allowed, its default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.keys import Key
from sidecar.config.kinds import OMIT, Kind
from sidecar.config.policy import Policy, Short
from sidecar.config.schema import CONFIG
from sidecar.config.values import Duration, Size

_WIDTH = 100
_SIZES: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_DURATIONS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


_INTRODUCTION: Final = (
    "Every key of a configuration file: what it means, what is allowed, and its default.",
    "<name> is a name of your own; [] an item of a list. Text may hold ${VARIABLE} and ${VARIABLE:-default}.",
)


class Told(NamedTuple):
    """A section at one place. ``like``: it has the same keys as that one before, if not ``less`` some; then ``keys`` is
    empty."""

    path: str
    alternative: str
    doc: str
    keys: Sequence[ToldKey]
    like: str = ""
    less: Sequence[str] = ()

    @property
    def same(self) -> str:
        """Which section it is like, in words."""
        less = f", without {', '.join(self.less)}" if self.less else ""
        return f"as `{self.like}`{less}"


class ToldKey(NamedTuple):
    """``allowed`` is empty for sections, of which the keys follow; ``default`` where there is none."""

    name: str
    required: bool
    doc: str
    allowed: str
    default: str


def reference() -> str:
    """The text, for a terminal."""
    lines = list(_INTRODUCTION)
    for it in told():
        lines += ["", f"{it.path}{it.alternative}"]
        if it.like:
            lines.append(f"  {it.same.replace('`', '')}")
            continue
        lines += _wrapped(it.doc, "  ")
        for key in it.keys:
            lines.append(f"  {key.name}{' (required)' if key.required else ''}")
            lines += _wrapped(key.doc, "      ")
            if key.allowed:
                lines += _wrapped(f"allowed: {key.allowed}", "      ")
            if key.default:
                lines += _wrapped(f"default: {key.default}", "      ")
    return "\n".join(lines)


def markdown() -> str:
    """The same as a page: a heading and a table for each section."""
    lines = ["# Configuration", "", *(_cell(line) for line in _INTRODUCTION)]
    for it in told():
        lines += ["", f"## {_cell(it.path)}{it.alternative}", ""]
        if it.like:
            lines.append(f"A{it.same[1:]}.")
            continue
        lines.append(_cell(it.doc))
        if it.keys:
            lines += ["", "| key | meaning | allowed | default |", "|---|---|---|---|"]
        for key in it.keys:
            name = f"`{key.name}`{' (required)' if key.required else ''}"
            lines.append(f"| {name} | {' | '.join(map(_cell, (key.doc, key.allowed, key.default)))} |")
    return "\n".join(lines) + "\n"


def told() -> Iterator[Told]:
    """All sections. Those that stand in several places with the same keys have them once."""
    before: dict[Section, str] = {}
    for path, section, alternative in _sections(CONFIG, "", ""):
        here = path or "the file"
        whole = section.part_of or section
        if whole in before:
            less = [name for name in whole.keys if name not in section.keys]
            yield Told(here, alternative, "", (), before[whole], less)
            continue
        before[section] = here
        yield Told(here, alternative, section.doc, [_key(section, name, key) for name, key in section.keys.items()])


def _key(section: Section, name: str, key: Key) -> ToldKey:
    allowed = "" if isinstance(key.kind, Section | Policy) else key.kind.allowed
    default = key.default or section.shown_default(name, key)
    shown = "" if default is OMIT or default in ("", [], {}) else _text(key.kind, default)
    return ToldKey(name, key.required, key.doc, allowed, shown)


def _cell(text: str) -> str:
    """Text as Markdown takes it for text."""
    for character in "\\*_<|[":
        text = text.replace(character, f"\\{character}")
    return text


def _sections(kind: Kind, path: str, alternative: str) -> Iterator[tuple[str, Section, str]]:
    match kind:
        case Section():
            yield path, kind, alternative
            for name, key in kind.keys.items():
                yield from _sections(key.kind, f"{path}.{name}" if path else name, "")
        case Policy():
            yield from _sections(kind.section, path, " (or off)")
        case Short():
            yield from _sections(kind.section, path, f" (or {kind.main} alone)")
        case ListOf():
            yield from _sections(kind.item, f"{path}[]", "")
        case MapOf():
            yield from _sections(kind.value, f"{path}.<name>", "")
        case _:
            pass


def _text(kind: Kind, default: object) -> str:
    if default is None:
        return "off"
    if isinstance(kind, Size) and isinstance(default, int):
        return _with_unit(default, _SIZES)
    if isinstance(kind, Duration) and isinstance(default, int | float):
        return _with_unit(round(default * 1000), _DURATIONS)
    if isinstance(default, bool):
        return str(default).lower()
    return ", ".join(map(str, default)) if isinstance(default, list) else str(default)


def _with_unit(value: int, units: Mapping[str, int]) -> str:
    """In the largest unit of which it is a whole number."""
    return next((f"{value // length}{unit}" for unit, length in units.items() if value and value % length == 0), "0")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
