"""What differs between two configurations, key by key, in words fit for a log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from sidecar.config.containers import MapOf, Section
from sidecar.config.document import join
from sidecar.config.keys import INHERIT
from sidecar.config.kinds import OMIT, Kind
from sidecar.config.policy import Policy
from sidecar.config.schema import CONFIG, Config
from sidecar.core.secret import Secret
from sidecar.core.text import printable

#: The longest value that is written out, in characters.
_LONGEST = 120


class Difference(NamedTuple):
    """``path`` is the key's, as in error messages; ``old`` and ``new`` are what stood and stands there, never a
    secret."""

    path: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.old} → {self.new}"


def differences(old: Config, new: Config) -> list[Difference]:
    """Every key with another value, in the order of the schema. Sections that are new, or gone, are one difference."""
    return list(_section(CONFIG, "", old, new))


def _section(section: Section, path: str, old: Any, new: Any) -> Iterator[Difference]:
    for name, key in section.keys.items():
        yield from _value(key.kind, join(path, name), section.item(old, name), section.item(new, name))


def _value(kind: Kind, path: str, old: Any, new: Any) -> Iterator[Difference]:
    if old == new:
        return
    section = kind.section if isinstance(kind, Policy) else kind
    absent = (None, INHERIT)
    if isinstance(section, Section) and old not in absent and new not in absent:
        yield from _section(section, path, old, new)
    elif isinstance(kind, MapOf) and isinstance(kind.value, Section):
        for name in {**old, **new}:
            yield from _value(kind.value, join(path, name), old.get(name), new.get(name))
    else:
        yield Difference(path, _shown(kind, old), _shown(kind, new))


def _shown(kind: Kind, value: Any) -> str:
    if isinstance(value, Secret):
        return "(a secret)" if value else "(no secret)"
    if isinstance(value, str) and not value:
        return "(empty)"
    if value is INHERIT or (value is None and not isinstance(kind, Policy)):
        return "(nothing)"
    shown = kind.show(value)
    if shown is OMIT:
        return "(nothing)"
    return printable(shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False), _LONGEST)
