"""Which room may import which: read from the syntax trees, imports for types alone included.

A rule that the code does not keep yet is listed in :data:`KNOWN`, with the file that breaks it. That table may only
shrink: an entry that is no longer needed fails the test, too.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import sidecar
from support.statements import statements

ROOT = Path(sidecar.__file__).parent

#: Files whose room is not called as their package is.
ROOMS: Mapping[str, str] = {
    "__main__": "cli",
}

_DATA_PLANE = {"core", "net", "endpoints", "resilience", "exchange"}
#: What each room may import, beside itself and the version of the package.
RULES: Mapping[str, set[str]] = {
    "core": set(),
    "resilience": {"core"},
    "cache": {"core", "resilience"},
    "llm": {"core"},
    "storage": {"core"},
    "net": {"core"},
    "config": {"core"},
    "telemetry": {"core"},
    "endpoints": {"core", "net", "resilience"},  # net: probes dial
    "redirect": {"core"},
    "redis": {"core", "net", "resilience"},  # net: it dials; resilience: what it grants tokens to
    "registry": {"core", "net", "resilience"},
    "exchange": _DATA_PLANE,
    "filters": {
        "cache",
        "config",
        "core",
        "exchange",
        "llm",
        "resilience",
    },  # config: its kinds, for keys beside their user
    "http": {*_DATA_PLANE, "cache"},  # cache: what is kept for fallbacks
    "tcp": _DATA_PLANE,
    "amqp": {*_DATA_PLANE, "storage"},  # storage: the spool
    "http_queue": {*_DATA_PLANE, "config", "storage"},  # config: as filters; storage: requests that wait
    # http: its parser; net: it listens, too; resilience: a bound for its log lines
    "admin": {"core", "http", "net", "resilience"},
    "why": {"core", "net"},  # net: the words for why a connection failed
    "demo": {"core"},
}
#: These put everything together: the last two may import all but each other, and nobody imports them.
FREE = {"agent", "cli", "simulate"}

#: Within ``amqp``: each may import those before it. ``listener`` is the port with all that stands in no other package.
AMQP = ("wire", "topology", "flow", "spool", "monitor", "relay", "publisher", "replay", "failover", "listener")
#: Neither of these may import the other.
AMQP_APART = {"spool", "monitor"}

#: Rules that are broken today: the file, and the rooms that it should not import.
KNOWN: Mapping[str, set[str]] = {}
#: The same within ``amqp``: package, and the one that it should not import.
KNOWN_AMQP: set[tuple[str, str]] = set()

#: The most files that may import each other in a circle. All have to be of one room.
CIRCLE = 6
#: Larger circles of today, and those across rooms: the rooms, and the most files.
KNOWN_CIRCLES: Sequence[tuple[set[str], int]] = ()


def test_every_room_has_a_rule() -> None:
    rooms = {room(module) for module in graph()}
    assert rooms - RULES.keys() - FREE - {""} == set()
    assert (RULES.keys() | FREE) - rooms == set(), "rules for rooms that are gone"
    named = {name for name in ROOMS if not any(m == name or m.startswith(name + ".") for m in graph())}
    assert named == set(), "rooms of files that are gone"


def test_imports_lead_downward() -> None:
    broken: dict[str, set[str]] = {}
    for module, imported in graph().items():
        here = room(module)
        for other in imported:
            there = room(other)
            if there not in ("", here) and not _allowed(here, there):
                broken.setdefault(module, set()).add(there)
    new = {key: rooms - KNOWN.get(key, set()) for key, rooms in broken.items()}
    gone = {key: rooms - broken.get(key, set()) for key, rooms in KNOWN.items()}
    assert {key: rooms for key, rooms in new.items() if rooms} == {}, "imports against the rules"
    assert {key: rooms for key, rooms in gone.items() if rooms} == {}, "kept by now: take these out of KNOWN"


def test_packages_of_amqp_build_on_each_other() -> None:
    broken: dict[tuple[str, str], list[str]] = {}
    for module, imported in graph().items():
        here = _amqp_package(module)
        for other in imported:
            there = _amqp_package(other)
            if here and there and here != there and not _allowed_in_amqp(here, there):
                broken.setdefault((here, there), []).append(f"{module} imports {other}")
    assert {pair: texts for pair, texts in broken.items() if pair not in KNOWN_AMQP} == {}, "imports against the rules"
    assert KNOWN_AMQP - broken.keys() == set(), "kept by now: take these out of KNOWN_AMQP"


def test_circles_are_small_and_stay_in_their_room() -> None:
    found = []
    for circle in circles(graph()):
        rooms = {room(module) for module in circle}
        if len(rooms) > 1 or len(circle) > CIRCLE:
            found.append((rooms, circle))
    new = [
        f"{len(circle)} files: {' '.join(sorted(circle))}"
        for rooms, circle in found
        if not any(rooms <= known and len(circle) <= most for known, most in KNOWN_CIRCLES)
    ]
    assert new == [], "files that hang together"
    gone = [known for known, _ in KNOWN_CIRCLES if not any(rooms <= known for rooms, _ in found)]
    assert gone == [], "untied by now: take these out of KNOWN_CIRCLES"


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [{"b", "c"}]


@pytest.mark.parametrize(
    ("here", "there", "allowed"),
    [("filters", "http", False), ("filters", "core", True), ("agent", "amqp", True), ("agent", "cli", False),
     ("cli", "agent", True), ("demo", "agent", False), ("simulate", "agent", True), ("agent", "simulate", False)],
)  # fmt: skip
def test_rules_say_who_may(here: str, there: str, allowed: bool) -> None:
    assert _allowed(here, there) is allowed


def room(module: str) -> str:
    """The room of a module, which is named without ``sidecar.``; empty for the package itself."""
    parts = module.split(".")
    for n in range(len(parts), 0, -1):
        found = ROOMS.get(".".join(parts[:n]))
        if found is not None:
            return found
    return parts[0]


def _allowed(here: str, there: str) -> bool:
    if here in FREE:
        return there not in ("cli", "simulate")
    return there in RULES[here]


def _allowed_in_amqp(here: str, there: str) -> bool:
    return {here, there} != AMQP_APART and AMQP.index(there) < AMQP.index(here)


def _amqp_package(module: str) -> str:
    parts = module.split(".")
    if parts[0] != "amqp" or len(parts) == 1:
        return ""
    return parts[1] if parts[1] in AMQP else AMQP[-1]


@functools.cache
def graph() -> dict[str, set[str]]:
    """Of each module, named without ``sidecar.``, those that it imports."""
    files = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}
    return {name: set(_imports(path, files)) - {name} for name, path in files.items()}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in statements(ast.parse(path.read_bytes()).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relative to itself"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first != "sidecar":
                continue
            # A name in a module, or a module in a package.
            yield rest if rest in files else rest.rpartition(".")[0]


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one module (R. Tarjan, 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        path.append(module)
        for other in graph.get(module, ()):
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            start = path.index(module)
            if len(path) - start > 1:
                found.append(set(path[start:]))
            del path[start:]

    for module in graph:
        if module not in order:
            visit(module)
    return found
