"""YAML text to a tree of nodes that know their lines, within bounds.

The tree is composed here from the parser's events, not by PyYAML's own composer: that one recurses as deep as the
file says, takes the last of two equal keys, and does not bound what aliases multiply. Values are kept as text;
what they mean is decided by the key they stand at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import yaml

from sidecar.config import hints
from sidecar.config.environment import shield, unshield
from sidecar.config.errors import MAX_PROBLEMS, Line, Problem, TooManyProblems
from sidecar.core.text import printable

#: Largest file that is read, bytes.
MAX_BYTES = 1 << 20
#: Deepest nesting of mappings and lists.
MAX_DEPTH = 32
#: Most values a document may come to, aliases expanded.
MAX_NODES = 100_000

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()
#: A line that is indented with a tab somewhere.
_TABS = re.compile(r"[ \t]*\t")
_NodeStart: TypeAlias = yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent
_STRING_TAG = "tag:yaml.org,2002:str"


@dataclass(slots=True)
class Scalar:
    """One value as text; ``plain`` when it has no quotes, so that YAML would guess its type."""

    text: str
    plain: bool
    line: int
    size: int = 1

    @property
    def type(self) -> str:
        """The type YAML 1.1 gives it: ``str``, ``bool``, ``int``, ``float``, ``null``, ``timestamp``, …"""
        if not self.plain:
            return "str"
        tag: str = _RESOLVER.resolve(yaml.nodes.ScalarNode, self.text, (True, False))  # type: ignore[no-untyped-call]
        return tag.rpartition(":")[2]


@dataclass(slots=True)
class Sequence:
    """A list."""

    items: list[Node]
    line: int
    size: int = 1


@dataclass(slots=True)
class Entry:
    """One ``key: value``, with the key's line."""

    key: str
    line: int
    value: Node


@dataclass(slots=True)
class Mapping:
    """A mapping in the file's order; no two keys are equal."""

    entries: dict[str, Entry]
    line: int
    size: int = 1


Node = Scalar | Sequence | Mapping


class BadDocument(Exception):
    """The text cannot be read as a document at all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def parse(text: str, problems: list[Problem]) -> Node | None:
    """The document's tree, ``None`` when it is empty.

    Equal keys are added to ``problems`` and the first one is kept; what makes the rest unreadable (syntax,
    bounds, encoding) raises :class:`BadDocument`.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadDocument(Problem("", "is not text in UTF-8")) from None
    if size > MAX_BYTES:
        raise BadDocument(Problem("", "is too large", found=f"{size} bytes", allowed=f"at most {MAX_BYTES} bytes"))
    try:
        return _Composer(yaml.parse(shield(text), Loader=_LOADER), problems).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = Line(mark.line + 1, mark.column + 1) if mark else Line(0)
        if "maximum nesting depth" in (error.problem or ""):
            # libyaml 0.2.6 and later has a bound of its own, and scans ahead of the events that are counted here.
            raise BadDocument(_too_deep(line)) from None
        lines = text.split("\n")
        if mark and mark.line < len(lines) and _TABS.match(lines[mark.line]):
            raise BadDocument(
                Problem("", "is not valid YAML: indented with a tab", allowed="spaces", line=line)
            ) from None
        # Not str(error): it quotes the line, which may hold a secret.
        what = ", ".join(printable(unshield(part)) for part in (error.context, error.problem) if part)
        hint = next((hint for words, hint in hints.YAML.items() if words in what), "")
        raise BadDocument(Problem("", f"is not valid YAML: {what}", allowed=hint, line=line)) from None
    except yaml.reader.ReaderError as error:
        line = Line(text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 0)
        raise BadDocument(
            Problem("", "is not valid YAML: a character that is not allowed in YAML (a control character?)", line=line)
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: the pure-Python parser's chr() of an escape beyond Unicode.
        raise BadDocument(Problem("", f"is not valid YAML ({type(error).__name__})")) from None


class _Composer:
    def __init__(self, events: Iterator[yaml.Event], problems: list[Problem]) -> None:
        self._events = events
        self._problems = problems
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def document(self) -> Node | None:
        next(self._events)  # stream start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        root = self._node(next(self._events), "", 0)
        next(self._events)  # document end
        follows = next(self._events)
        if not isinstance(follows, yaml.StreamEndEvent):
            raise BadDocument(
                Problem("", "has more than one document (a second ---)", allowed="one document", line=_line(follows))
            )
        return root

    def _node(self, event: yaml.Event, path: str, depth: int) -> Node:
        line = _line(event)
        if depth > MAX_DEPTH:
            raise BadDocument(_too_deep(line))
        if isinstance(event, yaml.AliasEvent):
            # An anchor is known only once its node is complete, so no node can contain itself.
            target = self._anchors.get(event.anchor or "")
            if target is None:
                raise BadDocument(Problem(path, "is an alias (*name) without an anchor (&name) before it", line=line))
            self._count(target.size, line)
            return target
        start = cast("_NodeStart", event)  # the parser's grammar has nothing else here
        before = self._nodes
        self._count(1, line)
        tag = start.tag
        if tag not in (None, "!") and not (tag == _STRING_TAG and isinstance(start, yaml.ScalarEvent)):
            raise BadDocument(Problem(path, "has a YAML tag (!…); there are none in this file", line=line))
        node: Node
        if isinstance(start, yaml.ScalarEvent):
            node = Scalar(self._text(start, path), plain=tag is None and start.implicit[0], line=line)
        elif isinstance(start, yaml.SequenceStartEvent):
            node = self._sequence(line, path, depth)
        else:
            node = self._mapping(line, path, depth)
        node.size = self._nodes - before
        if start.anchor is not None:
            self._anchors[start.anchor] = node
        return node

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            allowed = f"at most {MAX_NODES} values, those of aliases included"
            raise BadDocument(Problem("", "has too many values", allowed=allowed, line=line))

    def _text(self, event: yaml.ScalarEvent, path: str) -> str:
        text = unshield(event.value)
        if not text.isascii() and _SURROGATE.search(text):
            raise BadDocument(Problem(path, "has half of a surrogate pair, which is not text", line=_line(event)))
        return text

    def _sequence(self, line: int, path: str, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}[{len(items)}]", depth + 1))
        return Sequence(items, line)

    def _mapping(self, line: int, path: str, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        merged: list[Mapping] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise BadDocument(Problem(path, "has a key that is not a word", allowed="a plain key", line=key_line))
            self._count(1, key_line)
            key = self._text(event, path)
            if event.anchor is not None:
                self._anchors[event.anchor] = Scalar(key, plain=event.implicit[0], line=key_line)
            inner = join(path, key)
            value = self._node(next(self._events), inner, depth + 1)
            if key == "<<" and event.implicit[0]:
                merged += self._merge_sources(value, inner)
            elif key in entries:
                self._duplicate(inner, key_line, entries[key].line)
            else:
                entries[key] = Entry(key, key_line, value)
        for source in merged:  # YAML 1.1 merge: what stands here wins, then the first source
            for entry in source.entries.values():
                entries.setdefault(entry.key, entry)
        return Mapping(entries, line)

    def _merge_sources(self, value: Node, path: str) -> list[Mapping]:
        sources = value.items if isinstance(value, Sequence) else [value]
        mappings = [source for source in sources if isinstance(source, Mapping)]
        if len(mappings) != len(sources):
            wrong = "merges something that is not a mapping"
            raise BadDocument(Problem(path, wrong, allowed="an alias of a mapping", line=value.line))
        return mappings

    def _duplicate(self, path: str, line: int, first: int) -> None:
        if len(self._problems) >= MAX_PROBLEMS:
            raise TooManyProblems
        self._problems.append(Problem(path, f"is given twice, first in line {int(first)}", line=line))


def join(path: str, key: str) -> str:
    """``path.key``, with keys that are not plain words quoted."""
    word = key if key.replace("_", "").replace("-", "").isalnum() else f'"{printable(key, 40)}"'
    return f"{path}.{word}" if path else word


def _too_deep(line: int) -> Problem:
    return Problem("", "is nested too deeply", allowed=f"at most {MAX_DEPTH} levels", line=line)


def _line(event: yaml.Event) -> Line:
    mark = event.start_mark
    return Line(mark.line + 1, mark.column + 1) if mark else Line(0)
