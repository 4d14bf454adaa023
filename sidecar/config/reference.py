"""Every key of the file as text to read: what it means, what is allowed, its default."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Final

from sidecar.config.containers import ListOf, MapOf, Policy, Section, Short
from sidecar.config.kinds import OMIT, Kind
from sidecar.config.schema import CONFIG
from sidecar.config.values import Duration, Size

_WIDTH = 100
_SIZES: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_DURATIONS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def reference() -> str:
    """The text. Sections that stand in several places with the same keys are told once."""
    lines = [
        "Every key of a configuration file: what it means, what is allowed, and its default.",
        "<name> is a name of your own; [] an item of a list. Text may hold ${VARIABLE} and ${VARIABLE:-default}.",
    ]
    told: dict[Section, str] = {}
    for path, section, alternative in _sections(CONFIG, "", ""):
        lines += ["", f"{path or 'the file'}{alternative}"]
        if section in told:
            lines.append(f"  as {told[section]}")
            continue
        told[section] = path or "the file"
        lines += _wrapped(section.doc, "  ")
        for name, key in section.keys.items():
            lines.append(f"  {name}{' (required)' if key.required else ''}")
            lines += _wrapped(key.doc, "      ")
            if not isinstance(key.kind, Section | Policy):  # of which the keys follow below
                lines += _wrapped(f"allowed: {key.kind.allowed}", "      ")
            default = key.default or section.shown_default(name, key)
            if default is not OMIT and default not in ("", [], {}):
                lines += _wrapped(f"default: {_text(key.kind, default)}", "      ")
    return "\n".join(lines)


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
