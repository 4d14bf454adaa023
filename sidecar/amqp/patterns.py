"""Topic patterns, as RabbitMQ's topic exchanges read them.

A routing key is words separated by dots; the empty key has no words at all. In a pattern ``*`` stands for exactly one
word and ``#`` for any number of them, also none; both only as whole words (``a*`` is an ordinary word). Words may be
empty: ``a..b`` has three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Predicate = Callable[[str], bool]

_ONE: Final = "*"
_ANY: Final = "#"


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
    return _Words(words).matches


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


class _Words:
    """Any pattern, as the states of an automaton that are all followed at once, one bit each: bit n is set when the
    words so far can be what the pattern's first n words (not counting ``#``) stand for."""

    __slots__ = ("_end", "_loops", "_one", "_steps")

    def __init__(self, words: list[str]) -> None:
        #: The states in which a ``#`` takes the next word; those where ``*`` does; and those where a word by name does.
        self._loops = 0
        self._one = 0
        self._steps: dict[str, int] = {}
        bit = 1
        for word in words:
            if word == _ANY:
                self._loops |= bit
                continue
            if word == _ONE:
                self._one |= bit
            else:
                self._steps[word] = self._steps.get(word, 0) | bit
            bit <<= 1
        for word in self._steps:
            self._steps[word] |= self._one
        self._end = bit

    def matches(self, key: str) -> bool:
        states = 1
        if key:
            steps = self._steps
            loops = self._loops
            one = self._one
            for word in key.split("."):
                states = (states & steps.get(word, one)) << 1 | states & loops
                if not states:
                    return False
        return states & self._end != 0
