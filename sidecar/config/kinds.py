"""What a value in the file can be: the base of every kind, and where reading reports what it finds.

A kind knows four things about its values: how to read one from a node, how to make the model's object of it, how to
write it back (for ``GET /config``), and its JSON Schema. Single values are in ``values``, the rest in ``containers``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sidecar.config import document
from sidecar.config.environment import BadVariable, UnsetVariable, substitute
from sidecar.config.errors import MAX_PROBLEMS, Problem, TooManyProblems
from sidecar.core.text import printable

#: Characters that no value may have that is shown or sent.
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: A JSON Schema pattern for a value that is filled in from the environment.
VARIABLE: Final = {"type": "string", "pattern": r"\$\{"}


class _Broken(enum.Enum):
    BROKEN = "broken"


#: Stands for a value that could not be read; its problem has been reported.
BROKEN: Final = _Broken.BROKEN


class _Omit(enum.Enum):
    OMIT = "omit"


#: What :meth:`Kind.show` gives for a value that is written by leaving its key out.
OMIT: Final = _Omit.OMIT


@dataclass(slots=True)
class Reading:
    """One run of the loader: where variables come from, what relative paths start at, what was wrong so far.

    ``offline``: variables and secret files are not looked at; what depends on them is taken to be right, and is
    :data:`BROKEN` without a problem. ``closed``: secret files are not opened, and are taken to hold something.
    ``root`` is the kind of the whole file, for hints where a key belongs.
    """

    environ: Mapping[str, str]
    directory: Path
    problems: list[Problem] = field(default_factory=list)
    offline: bool = False
    closed: bool = False
    root: Kind | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the file something stands."""

    path: str
    line: int
    reading: Reading

    def report(self, message: str, *, found: str = "", allowed: str = "", nearest: str = "") -> _Broken:
        """Add a problem; gives :data:`BROKEN`, so that a kind can return it."""
        if len(self.reading.problems) >= MAX_PROBLEMS:
            raise TooManyProblems
        self.reading.problems.append(Problem(self.path, message, found, allowed, nearest, self.line))
        return BROKEN

    def at(self, key: str, line: int) -> Place:
        """The place of ``key`` inside this one."""
        return Place(document.join(self.path, key), line, self.reading)

    def item(self, index: int, line: int) -> Place:
        """The place of a list's item."""
        return Place(f"{self.path}[{index}]", line, self.reading)


class Refused(ValueError):
    """A value that is not allowed: what is wrong with it, and a value that may have been meant. ``hide``: it may hold
    a secret and is not to be shown."""

    def __init__(self, message: str = "is not allowed", *, nearest: str = "", hide: bool = False) -> None:
        super().__init__(message)
        self.nearest = nearest
        self.hide = hide


class Kind:
    """The base of all kinds."""

    #: What is allowed, in words.
    allowed: str = ""
    #: Whether ``None`` is a value of its own, which is written ``off``.
    can_be_off: bool = False

    def read(self, node: document.Node, at: Place) -> Any:
        """The value of ``node``, or :data:`BROKEN` after reporting what is wrong."""
        raise NotImplementedError

    def build(self, value: Any) -> Any:
        """The model's object for a value that was read."""
        return value

    def show(self, value: Any) -> Any:
        """The model's object as it would stand in a file; the reverse of read and build."""
        return value

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the values allowed."""
        raise NotImplementedError

    def parts(self) -> Iterator[tuple[str, Kind]]:
        """The kinds of what it holds, each with what is added to a path to get there: ``.key``, ``[]`` or nothing."""
        yield from ()

    def has_the_shape_of(self, node: document.Node) -> bool:
        """Whether that may be such a value, by its shape alone."""
        return False

    def meant(self, node: document.Scalar) -> str:
        """A single value as it would be right here: itself, or what is most like it; empty when there is none, or it
        is not to be shown."""
        return ""


class ScalarKind(Kind):
    """A kind whose values are single scalars. Subclasses say what a scalar means, in :meth:`parse`."""

    def parse(self, scalar: document.Scalar) -> Any:
        """The value of a scalar after substitution. Raises :class:`Refused`."""
        raise NotImplementedError

    def read(self, node: document.Node, at: Place) -> Any:
        if not isinstance(node, document.Scalar):
            return at.report("has the wrong type", found=describe(node), allowed=self.allowed)
        scalar = substituted(node, at)
        if scalar is None:
            return BROKEN
        try:
            return self.parse(scalar)
        except Refused as refused:
            found = HIDDEN if refused.hide else describe(scalar)
            if scalar.text != node.text and found is not HIDDEN:
                found += f" (from {printable(node.text)})"
            return at.report(str(refused), found=found, allowed=self.allowed, nearest=refused.nearest)

    def has_the_shape_of(self, node: document.Node) -> bool:
        return isinstance(node, document.Scalar)

    def meant(self, node: document.Scalar) -> str:
        if "${" in node.text or describe(node) == HIDDEN:
            return ""
        try:
            self.parse(node)
        except Refused as refused:
            return "" if refused.hide else refused.nearest
        return printable(node.text)


def substituted(node: document.Scalar, at: Place) -> document.Scalar | None:
    """``node`` with its variables replaced, or ``None`` after reporting why that is impossible."""
    if "${" not in node.text:
        return node
    try:
        text = substitute(node.text, at.reading.environ)
        text.encode()
    except UnsetVariable as error:
        if not at.reading.offline:
            at.report(str(error))
        return None
    except BadVariable as error:
        at.report(str(error))
        return None
    except UnicodeEncodeError:
        at.report("takes an environment variable whose value is not UTF-8")
        return None
    return document.Scalar(text, node.plain, node.line)


#: What is shown in place of a value that may hold a secret.
HIDDEN: Final = "(hidden, it may hold a secret)"
#: A URL with user info, as client libraries take it; where it stands by mistake, its password is not to be shown.
_USER_INFO: Final = re.compile(r"://[^/]*@")


def describe(node: document.Node) -> str:
    """A node in words; scalars with their text, so not for secrets."""
    if isinstance(node, document.Mapping):
        return "a mapping"
    if isinstance(node, document.Sequence):
        return "a list"
    if _USER_INFO.search(node.text):
        return HIDDEN
    match node.type:
        case "null":
            return "nothing"
        case "bool" | "int" | "float":
            return printable(node.text)
        case _:
            return f'"{printable(node.text)}"'


def parents(kind: Kind, name: str, value: document.Node, path: str = "") -> Iterator[str]:
    """The paths of all sections that have a key of that name whose values have the shape of this one."""
    parts = list(kind.parts())
    if path:
        yield from (path for step, inner in parts if step == f".{name}" and inner.has_the_shape_of(value))
    for step, inner in parts:
        yield from parents(inner, name, value, f"{path}{step}".lstrip("."))


def some(paths: Sequence[str]) -> str:
    """A few of them, in words."""
    return ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
