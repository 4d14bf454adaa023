"""The admin API's own description, made from its operations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecar import __version__
from sidecar.core.operations import Operation

_TOKEN: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"token": []}]


def document(operations: Sequence[Operation], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document. ``schemas`` are those that the operations name."""
    paths: dict[str, dict[str, Any]] = {}
    for it in operations:
        paths.setdefault(it.path, {})[it.method.lower()] = _operation(it)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sidecar admin API",
            "version": __version__,
            "description": "Reading is open, except for /config on an address that is not loopback. Changing, and "
            "reading what clients have published, what single requests were and what happened, needs the admin token "
            "where one is configured. On a loopback address requests for another Host are refused (421), and changes "
            "asked for by pages of other sites (403).",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Error": {"description": "anything else", "content": _json("Error")}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "X-Sidecar-Token"},
            },
        },
    }


def _operation(it: Operation) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": it.summary,
        "operationId": re.sub(r"\W+", "_", f"{it.method.lower()}{it.path}").strip("_"),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _parameter(name)}
            for name in re.findall(r"{(\w+)}", it.path)
        ]
        + [
            {"name": query.name, "in": "query", "description": query.summary, "schema": {"type": query.kind}}
            for query in it.query
        ],
        "responses": {str(status): _response(it, status) for status in it.answers}
        | {"default": {"$ref": "#/components/responses/Error"}},
    }
    if it.body:
        operation["requestBody"] = {
            "required": not it.bare,
            "content": _json(it.body) | {"text/plain": {"schema": {"type": "string"}}},
        }
    if it.method != "GET" or it.private:
        operation["security"] = [*_TOKEN, {}]  # {}: where no token is configured
    elif it.path in ("/config", "/config/set"):
        operation["security"] = [{}, *_TOKEN]
    return operation


def _response(it: Operation, status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"description": it.answers[status]}
    if status < 300 or status == 503:  # "unhealthy" and "not ready" are answers, not errors
        content = _json(it.schema) if it.schema else {}
        response["content"] = content | {kind: {"schema": {"type": "string"}} for kind in it.pages}
    else:
        response["content"] = _json("ConfigProblems" if status == 422 else "Error")
    return response


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _parameter(name: str) -> dict[str, Any]:
    if name == "mode":
        return {"type": "string", "enum": ["open", "close", "auto"]}
    return {"type": "integer"} if name == "number" else {"type": "string"}
