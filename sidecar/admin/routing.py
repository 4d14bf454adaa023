"""Which operation a path and a method ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sidecar.core.operations import Operation


class NoPath(Exception):
    """No operation has this path."""


class NoMethod(Exception):
    """This path has other methods, ``allowed``."""

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__()
        self.allowed = sorted(allowed)


class Routing:
    """The paths of ``operations``; where two fit, the first one that has the method counts."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._routes = [(it, tuple(it.path.split("/")[1:])) for it in operations]

    def find(self, method: str, parts: Sequence[str]) -> tuple[Operation, Mapping[str, str]]:
        """The operation, and the parameters in its path. HEAD is what GET is. Raises :class:`NoPath` or
        :class:`NoMethod`."""
        allowed: set[str] = set()
        for operation, pattern in self._routes:
            found = _parameters(pattern, parts)
            if found is None:
                continue
            methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
            if method in methods:
                return operation, found
            allowed.update(methods)
        if allowed:
            raise NoMethod(allowed)
        raise NoPath


def _parameters(pattern: Sequence[str], parts: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    found = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{") and part:
            found[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return found
