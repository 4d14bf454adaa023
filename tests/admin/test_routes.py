"""Which operation a path is for."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.admin.routes import Routes
from sidecar.core.operations import Call, Operation


async def _nobody(call: Call) -> Any:
    raise AssertionError


def operation(method: str, path: str) -> Operation:
    return Operation(method, path, "", _nobody, {})


ROUTES = Routes(
    [
        operation("GET", "/"),
        operation("GET", "/letters/{id}"),
        operation("DELETE", "/letters/{id}"),
        operation("GET", "/letters/export"),
        operation("POST", "/letters/{id}/{verb}"),
        operation("POST", "/drain"),
    ]
)


@pytest.mark.parametrize(
    ("method", "parts", "path", "values"),
    [
        ("GET", ("",), "/", {}),
        ("HEAD", ("",), "/", {}),
        ("GET", ("letters", "7"), "/letters/{id}", {"id": "7"}),
        ("GET", ("letters", "a/b"), "/letters/{id}", {"id": "a/b"}),
        ("GET", ("letters", "export"), "/letters/export", {}),
        ("DELETE", ("letters", "export"), "/letters/{id}", {"id": "export"}),
        ("POST", ("letters", "7", "drop"), "/letters/{id}/{verb}", {"id": "7", "verb": "drop"}),
    ],
)
def test_found(method: str, parts: tuple[str, ...], path: str, values: dict[str, str]) -> None:
    found, given, methods = ROUTES.find(method, parts)
    assert found is not None
    assert (found.path, given, methods) == (path, values, ())


@pytest.mark.parametrize(
    ("method", "parts", "methods"),
    [
        ("GET", ("drain",), ["POST"]),
        ("PUT", ("letters", "export"), ["DELETE", "GET", "HEAD"]),
        ("GET", ("letters", ""), []),
        ("GET", ("letters",), []),
        ("GET", ("drain", ""), []),
        ("GET", (), []),
    ],
)
def test_not_found(method: str, parts: tuple[str, ...], methods: list[str]) -> None:
    assert ROUTES.find(method, parts) == (None, {}, methods)
