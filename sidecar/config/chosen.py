"""Which keys of a configuration are not as by default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sidecar.config.containers import MapOf, Section
from sidecar.config.document import join
from sidecar.config.keys import INHERIT
from sidecar.config.kinds import Kind
from sidecar.config.policy import Policy
from sidecar.config.schema import CONFIG, Config

_NONE: Final = object()


def chosen(config: Config) -> list[str]:
    """The paths of keys with another value than the default, as in error messages, in the order of the schema. A
    section that is there and has nothing but defaults is named itself."""
    return list(_section(CONFIG, "", config))


def _section(section: Section, path: str, value: Any) -> Iterator[str]:
    for name, key in section.keys.items():
        yield from _value(key.kind, join(path, name), section.item(value, name), section.defaults.get(name, _NONE))


def _value(kind: Kind, path: str, value: Any, default: Any) -> Iterator[str]:
    if value == default:
        return
    section = kind.section if isinstance(kind, Policy) else kind
    if isinstance(section, Section) and value is not None and value is not INHERIT:
        yield from list(_section(section, path, value)) or [path]
    elif isinstance(kind, MapOf) and isinstance(kind.value, Section):
        for name, item in value.items():
            yield from _value(kind.value, join(path, name), item, _NONE)
    else:
        yield path
