"""Topic patterns, as RabbitMQ's topic exchanges read them.

A routing key is words separated by dots; the empty key has no words at all. In a pattern ``*`` stands for exactly one
word and ``#`` for any number of them, also none; both only as whole words (``a*`` is an ordinary word). Words may be
empty: ``a..b`` has three.

Sets of states are kept as integers of any length. Compiled by mypyc this would be slower than it is interpreted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Predicate = Callable[[str], bool]

_ONE: Final = "*"
_ANY: Final = "#"
#: When a group of patterns has so many states, another one is begun. More make the integers slow, fewer the loops.
_GROUP_SIZE: Final = 512


def is_literal(text: str) -> bool:
    """Whether a pattern matches nothing but itself."""
    if _ONE not in text and _ANY not in text:
        return True
    words = text.split(".")
    return _ONE not in words and _ANY not in words


def compile_pattern(text: str) -> Predicate:
    """A function that says whether a routing key matches. The shapes that nearly all patterns have (a literal, or
    literal words with ``#`` before or after them) are compared as they are. Everything else takes one step for each
    word of the key, whatever the pattern is: neither of the two can be made so that matching takes long."""
    if is_literal(text):
        return _Literal(text).matches
    words = text.split(".")
    while len(words) > 1 and words[-1] == words[-2] == _ANY:
        words.pop()
    if words == [_ANY]:
        return _everything
    # A lone empty word is left to the general way: as text it could not be told from no word at all.
    if words[-1] == _ANY and words != ["", _ANY]:
        start = ".".join(words[:-1])
        if is_literal(start):
            return _Start(start).matches
    if words[0] == _ANY and words != [_ANY, ""]:
        end = ".".join(words[1:])
        if is_literal(end):
            return _End(end).matches
    return _Words(text).matches


def _everything(key: str) -> bool:
    return True


class _Literal:
    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def matches(self, key: str) -> bool:
        return key == self._text


class _Start:
    """``a.b.#``"""

    __slots__ = ("_all", "_start")

    def __init__(self, text: str) -> None:
        self._all = text
        self._start = text + "."

    def matches(self, key: str) -> bool:
        return key.startswith(self._start) or key == self._all


class _End:
    """``#.a.b``"""

    __slots__ = ("_all", "_end")

    def __init__(self, text: str) -> None:
        self._all = text
        self._end = "." + text

    def matches(self, key: str) -> bool:
        return key.endswith(self._end) or key == self._all


class _Automaton:
    """Patterns as the states of an automaton, one bit each, that are all followed at once. A pattern of n words (not
    counting ``#``) has n + 1 of them in a row: the one with the number k is set when its first k words can stand for
    the words so far."""

    __slots__ = ("_loops", "_one", "_starts", "_steps", "ends", "size")

    def __init__(self) -> None:
        self.size = 0
        self.ends = 0
        self._starts = 0
        #: The states in which a ``#`` takes the next word, those in which a ``*`` does, and those in which a literal.
        self._loops = 0
        self._one = 0
        self._steps: dict[str, int] = {}

    def add(self, pattern: str) -> int:
        """The number of the state that says that it matches."""
        bit = 1 << self.size
        self._starts |= bit
        if pattern:
            for word in pattern.split("."):
                if word == _ANY:
                    self._loops |= bit
                    continue
                if word == _ONE:
                    self._one |= bit
                else:
                    self._steps[word] = self._steps.get(word, 0) | bit
                bit <<= 1
        self.ends |= bit
        self.size = bit.bit_length()
        return self.size - 1

    def run(self, key: str) -> int:
        """The states that say of patterns that they match."""
        states = self._starts
        if key:
            steps = self._steps
            loops = self._loops
            one = self._one
            for word in key.split("."):
                states = (states & (steps.get(word, 0) | one)) << 1 | states & loops
                if not states:
                    return 0
        return states & self.ends


class _Words:
    """Any pattern."""

    __slots__ = ("_automaton",)

    def __init__(self, pattern: str) -> None:
        self._automaton = _Automaton()
        self._automaton.add(pattern)

    def matches(self, key: str) -> bool:
        return self._automaton.run(key) != 0


class PatternSet:
    """Many patterns, and which of them match a key. A key costs one step for each of its words and each
    ``_GROUP_SIZE`` words of patterns: not one comparison for each pattern."""

    __slots__ = ("_groups", "_kept", "_places", "_used")

    def __init__(self) -> None:
        self._groups: list[_Group] = []
        self._places: dict[str, tuple[_Group, int]] = {}
        #: States of all groups, and those of them that belong to patterns which are still there.
        self._used = 0
        self._kept = 0

    def __len__(self) -> int:
        return len(self._places)

    def add(self, pattern: str) -> None:
        if pattern in self._places:
            return
        if not self._groups or self._groups[-1].automaton.size >= _GROUP_SIZE:
            self._groups.append(_Group())
        group = self._groups[-1]
        before = group.automaton.size
        end = group.automaton.add(pattern)
        group.patterns[end] = pattern
        self._places[pattern] = (group, end)
        self._used += group.automaton.size - before
        self._kept += _states(pattern)

    def discard(self, pattern: str) -> None:
        place = self._places.pop(pattern, None)
        if place is None:
            return
        group, end = place
        del group.patterns[end]
        group.automaton.ends &= ~(1 << end)
        self._kept -= _states(pattern)
        if self._used > 2 * self._kept + _GROUP_SIZE:
            patterns = list(self._places)
            self._groups.clear()
            self._places.clear()
            self._used = self._kept = 0
            for text in patterns:
                self.add(text)

    def matching(self, key: str) -> list[str]:
        """The patterns that match, in no particular order."""
        found: list[str] = []
        for group in self._groups:
            ends = group.automaton.run(key)
            while ends:
                end = ends.bit_length() - 1
                found.append(group.patterns[end])
                ends ^= 1 << end
        return found


class _Group:
    """Some patterns of a set, by the number of their last state."""

    __slots__ = ("automaton", "patterns")

    def __init__(self) -> None:
        self.automaton = _Automaton()
        self.patterns: dict[int, str] = {}


def _states(pattern: str) -> int:
    """How many states it has."""
    if not pattern:
        return 1
    words = pattern.split(".")
    return len(words) - words.count(_ANY) + 1
