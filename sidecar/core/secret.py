"""Values that are not to be seen."""

from __future__ import annotations

from typing import Final


class Secret:
    """A value that never shows itself: ``str`` and ``repr`` give stars, :meth:`reveal` gives the text."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, for the one place that sends or compares it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "***" if self._value else "''"

    __str__ = __repr__


#: What a secret is that was not given.
NO_SECRET: Final = Secret("")
