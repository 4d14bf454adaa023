"""What Python files are made of, without their expressions: those are nine of ten nodes of a syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence


def statements(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """All statements of these, those inside of others included."""
    for node in body:
        yield node
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                yield from statements(inner)
