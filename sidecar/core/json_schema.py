"""Pieces of JSON Schema, for the shapes of the admin API's answers."""

from __future__ import annotations

from typing import Any, Final

TEXT: Final = {"type": "string"}
FLAG: Final = {"type": "boolean"}
COUNT: Final = {"type": "integer", "minimum": 0}
NUMBER: Final = {"type": "number", "minimum": 0}
COUNTS: Final = {"type": "object", "additionalProperties": COUNT}


def record(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that always has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def array(items: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema that goes by that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that null satisfies, too."""
    return {"oneOf": [schema, {"type": "null"}]}
