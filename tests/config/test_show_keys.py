"""Each key that is declared, given by itself, with a value or two (every night: with more, in pairs, and routes with
all that they hold): what is accepted is shown as a file that is accepted again, and means the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import sidecar.filters.order  # noqa: F401 - filters declare their keys
from sidecar.config import rules
from sidecar.config.containers import ListOf, MapOf, Section
from sidecar.config.document import Entry, Mapping, Node, Scalar, Sequence
from sidecar.config.errors import TooManyProblems
from sidecar.config.keys import Key
from sidecar.config.kinds import Kind, Place, Reading, Refused, ScalarKind
from sidecar.config.policy import Policy, Short
from sidecar.config.schema import CONFIG, INBOUND, UPSTREAM, Config
from sidecar.config.show import effective
from sidecar.config.values import Boolean, Enum
from support.examples import THOROUGH

Wrap = Callable[[Any], dict[str, Any]]

#: Keys that are given together.
TOGETHER: Final = 2 if THOROUGH else 1
#: What may be right where no example is declared.
VALUES: Final = ("1s", 1, "1KiB", "10/s", "50%", "/x", "a:1", "x", 100, "http://x")
BASE: Final[dict[str, Any]] = {
    "service": {"name": "a", "id": "a-1", "address": "10.0.0.1", "app": "127.0.0.1:1"},
    "registry": "consul://c:1",
    "inbound": {"bind": "0.0.0.0:0"},
    "redis": {"url": "redis://r:1"},
}
PORT: Final = {"bind": "127.0.0.1:0"}


def node_of(data: Any) -> Node:
    """The same as a file has it, without the time that YAML takes."""
    match data:
        case dict():
            return Mapping({name: Entry(name, 1, node_of(it)) for name, it in data.items()}, 1)
        case list() | tuple():
            return Sequence([node_of(it) for it in data], 1)
        case str():
            return Scalar(data, plain=False, line=1)
        case _:
            return Scalar(json.dumps(data), plain=True, line=1)


def loaded(data: dict[str, Any]) -> Config | list[str]:
    """The configuration, or what is wrong with it."""
    reading = Reading({}, Path(), root=CONFIG)
    try:
        fields = CONFIG.read(node_of(data), Place("", 0, reading))
        rules.check(fields)
    except TooManyProblems:
        pass
    if reading.problems:
        return [f"{it.path}: {it.message}" for it in reading.problems]
    config: Config = CONFIG.build(fields)
    return config


def filled(section: Section) -> dict[str, Any]:
    """The least that may stand there."""
    return {name: samples(key.kind, key)[0] for name, key in section.keys.items() if key.required}


def samples(kind: Kind, key: Key | None = None) -> list[Any]:
    """A few values that may be right there, the declared example first."""
    found = [key.example] if key is not None and key.example is not None else []
    match kind:
        case Section():
            found.append(filled(kind))
        case Policy() | Short():
            found += ["off", filled(kind.section)] if isinstance(kind, Policy) else [filled(kind.section)]
        case ListOf():
            found += [[it] for it in samples(kind.item)[:1]]
        case MapOf():
            found += [{"a": it} for it in samples(kind.value)[:1]]
        case Enum():
            found += kind.values
        case Boolean():
            found += [True, False]
        case ScalarKind():
            found += [it for it in VALUES if readable(kind, it)][:2]
        case _:
            pass
    return found if THOROUGH else found[: 2 if isinstance(kind, Enum | Boolean) else 1]


def readable(kind: ScalarKind, value: Any) -> bool:
    node = node_of(value)
    assert isinstance(node, Scalar)
    try:
        kind.parse(node)
    except Refused:
        return False
    return True


def given(section: Section, wrap: Wrap, protocol: str = "http", *, deep: bool = True) -> Iterator[dict[str, Any]]:
    """Files with the keys of a section that are for a protocol, and ``deep``: of those in it."""
    least = filled(section)
    known = {name: key for name, key in section.keys.items() if not key.protocols or protocol in key.protocols}
    for together in range(1, TOGETHER + 1):
        for keys in itertools.combinations(known.items(), together):
            for values in itertools.product(*(samples(key.kind, key) for _, key in keys)):
                yield wrap({**least, **{name: value for (name, _), value in zip(keys, values, strict=True)}})
    for name, key in known.items() if deep else ():
        into = lambda value, name=name: wrap({**least, name: value})  # noqa: E731
        yield from inside(key.kind, into, protocol, deep=THOROUGH or name != "routes")


def inside(kind: Kind, wrap: Wrap, protocol: str, *, deep: bool = True) -> Iterator[dict[str, Any]]:
    match kind:
        case Section():
            yield from given(kind, wrap, protocol, deep=deep)
        case Policy() | Short():
            yield from given(kind.section, wrap, protocol, deep=deep)
        case ListOf():
            yield from inside(kind.item, lambda value: wrap([value]), protocol, deep=deep)
        case MapOf():
            yield from inside(kind.value, lambda value: wrap({"a": value}), protocol, deep=deep)
        case _:
            pass


def of_upstreams(protocol: str) -> Iterator[dict[str, Any]]:
    fixed = {**PORT, "protocol": protocol}

    def wrap(keys: Any) -> dict[str, Any]:
        where = {} if "discover" in keys else {"endpoints": ["e:1"]}
        return {**BASE, "upstreams": {"b": {**where, **keys, **fixed}, "other": PORT}}

    yield from given(UPSTREAM, wrap, protocol)


def of_inbound(protocol: str) -> Iterator[dict[str, Any]]:
    fixed = {**PORT, "protocol": protocol}
    yield from given(INBOUND, lambda keys: {**BASE, "inbound": {**keys, **fixed}}, protocol, deep=THOROUGH)


def of_the_rest(protocol: str) -> Iterator[dict[str, Any]]:
    for name, key in CONFIG.keys.items():
        if name not in ("inbound", "upstreams"):
            into = lambda value, name=name: {**BASE, name: {**BASE.get(name, {}), **value}}  # noqa: E731
            yield from inside(key.kind, into, protocol)


@pytest.mark.parametrize(
    ("files", "protocol"),
    [
        (of_upstreams, "http"), (of_upstreams, "tcp"), (of_upstreams, "amqp"),
        (of_inbound, "http"), (of_inbound, "tcp"), (of_the_rest, ""),
    ],
)  # fmt: skip
def test_what_is_shown_is_accepted_and_means_the_same(
    files: Callable[[str], Iterator[dict[str, Any]]], protocol: str
) -> None:
    accepted = 0
    for file in files(protocol):
        config = loaded(file)
        if isinstance(config, Config):
            accepted += 1
            shown = effective(config)
            again = loaded(shown)
            assert isinstance(again, Config), (file, again)
            assert again == config or (effective(again) == shown and "***" in str(shown)), file
    assert accepted > 5
