"""The admin API's own description, made from its routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sidecar import __version__

if TYPE_CHECKING:
    from sidecar.admin.routes import Route


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": _parameter(name)}
                for name in re.findall(r"{(\w+)}", route.path)
            ],
            "responses": {
                str(status): {"description": text, "content": {route.content: {}}}
                for status, text in route.answers.items()
            },
        }
        if route.body is not None:
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": route.body}}}
        if route.method != "GET":
            operation["security"] = [{"bearer": []}, {"token": []}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sidecar admin API",
            "version": __version__,
            "description": "Reading is open; changing needs the admin token where one is configured. "
            'Errors are {"error": code, "message": text}.',
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "X-Sidecar-Token"},
            }
        },
    }


def _parameter(name: str) -> dict[str, Any]:
    return {"type": "string", "enum": ["open", "close", "auto"]} if name == "mode" else {"type": "string"}
