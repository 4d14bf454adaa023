"""As much of JSON Schema as the admin API's description uses."""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
_KNOWN = {
    "$ref", "additionalProperties", "allOf", "const", "description", "enum", "items", "minimum", "oneOf", "properties",
    "required", "type",
}  # fmt: skip


def problems(value: Any, schema: dict[str, Any], document: dict[str, Any], path: str = "$") -> list[str]:
    """What is wrong with a value; also a keyword that this does not know, and an object's key without a schema."""
    if "$ref" in schema:
        schema = resolve(schema["$ref"], document)
    found = [f"{path}: unknown keyword {key}" for key in schema.keys() - _KNOWN]
    expected = schema.get("type")
    if expected is not None:
        good = isinstance(value, _TYPES[expected]) and (expected == "boolean" or not isinstance(value, bool))
        if not good:
            return [f"{path}: {value!r} is no {expected}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is not one of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{path}: {value!r} is not {schema['const']!r}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{path}: {value!r} is less than {schema['minimum']}")
    if "oneOf" in schema:
        tried = [problems(value, option, document, path) for option in schema["oneOf"]]
        if sum(not each for each in tried) != 1:
            found += [f"{path}: not exactly one of the alternatives", *(p for each in tried for p in each)]
    for option in schema.get("allOf", []):
        found += [p for p in problems(value, option, document, path) if "no such property" not in p]
    if isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        properties = schema.get("properties", {})
        found += [f"{path}: {key} is missing" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            child = properties.get(key, schema.get("additionalProperties"))
            if child is None:
                found.append(f"{path}: no such property: {key}")
            else:
                found += problems(item, child, document, f"{path}.{key}")
    if isinstance(value, list) and "items" in schema:
        for n, item in enumerate(value):
            found += problems(item, schema["items"], document, f"{path}[{n}]")
    return found


def resolve(reference: str, document: dict[str, Any]) -> dict[str, Any]:
    """What a reference within the document stands for."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found
