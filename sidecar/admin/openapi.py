"""The admin API's own description, made from its routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sidecar import __version__
from sidecar.admin.schemas import SCHEMAS

if TYPE_CHECKING:
    from sidecar.admin.routes import Route

_TOKEN: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"token": []}]


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sidecar admin API",
            "version": __version__,
            "description": "Reading is open, except for /config on an address that is not loopback. Changing, and "
            "reading what clients have published, needs the admin token where one is configured. On a loopback address "
            "requests for another Host are refused (421), and changes asked for by pages of other sites (403).",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "responses": {"Error": {"description": "anything else", "content": _json("Error")}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "X-Sidecar-Token"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _parameter(name)}
            for name in re.findall(r"{(\w+)}", route.path)
        ]
        + [
            {"name": query.name, "in": "query", "description": query.summary, "schema": {"type": query.kind}}
            for query in route.query
        ],
        "responses": {str(status): _response(route, status) for status in route.answers}
        | {"default": {"$ref": "#/components/responses/Error"}},
    }
    if route.body:
        operation["requestBody"] = {
            "required": True,
            "content": _json(route.body) | {"text/plain": {"schema": {"type": "string"}}},
        }
    if route.method != "GET" or route.private:
        operation["security"] = [*_TOKEN, {}]  # {}: where no token is configured
    elif route.path == "/config":
        operation["security"] = [{}, *_TOKEN]
    return operation


def _response(route: Route, status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"description": route.answers[status]}
    if status < 300 or status == 503:  # "unhealthy" and "not ready" are answers, not errors
        content = _json(route.schema) if route.schema else {}
        response["content"] = content | {kind: {"schema": {"type": "string"}} for kind in route.pages}
    else:
        response["content"] = _json("ConfigProblems" if status == 422 else "Error")
    return response


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _parameter(name: str) -> dict[str, Any]:
    if name == "mode":
        return {"type": "string", "enum": ["open", "close", "auto"]}
    return {"type": "integer"} if name == "number" else {"type": "string"}
