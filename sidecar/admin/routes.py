"""Which operation a method and a path are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sidecar.core.operations import Operation


class Routes:
    """Operations by their paths, in OpenAPI's form: a piece in braces stands for any text. A path without braces goes
    before those with them, which are in the order that they came in."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._plain: dict[tuple[str, ...], dict[str, Operation]] = {}
        self._others: dict[tuple[str, ...], dict[str, Operation]] = {}
        for operation in operations:
            pieces = tuple(operation.path.split("/")[1:])
            table = self._others if "{" in operation.path else self._plain
            table.setdefault(pieces, {})[operation.method] = operation

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Method and path of each operation."""
        for table in (self._plain, self._others):
            for pieces, methods in table.items():
                yield from ((method, "/" + "/".join(pieces)) for method in methods)

    def find(self, method: str, parts: tuple[str, ...]) -> tuple[Operation | None, Mapping[str, str], Sequence[str]]:
        """Return the operation, what stands for the pieces in braces, and, when there is no operation, the methods that
        this path has. Who may GET may HEAD."""
        wanted = "GET" if method == "HEAD" else method
        found: list[str] = []
        for pieces, methods in self._of(parts):
            if wanted in methods:
                return methods[wanted], _values(pieces, parts), ()
            found += methods
        if "GET" in found:
            found.append("HEAD")
        return None, {}, sorted({*found})

    def _of(self, parts: tuple[str, ...]) -> Sequence[tuple[tuple[str, ...], Mapping[str, Operation]]]:
        plain = self._plain.get(parts)
        others = [(pieces, methods) for pieces, methods in self._others.items() if _fits(pieces, parts)]
        return others if plain is None else [(parts, plain), *others]


def _fits(pieces: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    return len(pieces) == len(parts) and all(
        part != "" if piece.startswith("{") else piece == part for piece, part in zip(pieces, parts, strict=True)
    )


def _values(pieces: tuple[str, ...], parts: tuple[str, ...]) -> Mapping[str, str]:
    return {piece[1:-1]: part for piece, part in zip(pieces, parts, strict=True) if piece.startswith("{")}
