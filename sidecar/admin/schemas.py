"""The shapes of the admin API's answers, as JSON Schema, for ``/openapi.json``."""

from __future__ import annotations

from typing import Any, Final

_TEXT: Final = {"type": "string"}
_FLAG: Final = {"type": "boolean"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number", "minimum": 0}
_STATUS: Final = {"type": "string", "enum": ["healthy", "warning", "unhealthy"]}
_PHASE: Final = {"type": "string", "enum": ["starting", "ready", "draining", "stopped"]}
_COUNTS: Final = {"type": "object", "additionalProperties": _COUNT}


def _object(**properties: Any) -> dict[str, Any]:
    """All of it is always there."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [schema, {"type": "null"}]}


_FOUND: Final = _object(status=_STATUS, output=_TEXT)
_FOUND_BY_NAME: Final = {"type": "object", "additionalProperties": _FOUND}

SCHEMAS: Final[dict[str, Any]] = {
    "Error": _object(error=_TEXT, message=_TEXT)
    | {"description": "error is a code that stays the same, message is for people"},
    "ConfigProblems": _object(
        error={"type": "string", "const": "config"}, message=_TEXT, problems=_list(_object(path=_TEXT, message=_TEXT))
    ),
    "Index": _object(service=_TEXT, phase=_PHASE, version=_TEXT, endpoints=_list(_TEXT)),
    "Ready": _object(ready=_FLAG, phase=_PHASE),
    "Health": _object(
        status=_STATUS,
        service=_TEXT,
        id=_TEXT,
        phase=_PHASE,
        app=_FOUND,
        upstreams=_FOUND_BY_NAME,
        registry=_or_null(
            _object(url=_TEXT, up=_FLAG, age=_NUMBER | {"description": "seconds since it last answered"})
        ),
    ),
    "ServiceHealth": _object(status=_STATUS, service=_TEXT, output=_TEXT),
    "DeepHealth": {
        "description": "of an upstream: output; of this service: app and dependencies",
        "oneOf": [
            _ref("ServiceHealth"),
            _object(status=_STATUS, service=_TEXT, app=_FOUND, dependencies=_FOUND_BY_NAME),
        ],
    },
    "OpenApi": {"type": "object", "description": "this document"},
    "Config": {"type": "object", "description": "the shape of the configuration file; see `sidecar schema`"},
    "Breaker": _object(
        state={"type": "string", "enum": ["closed", "half_open", "open"]},
        forced={"type": "string", "enum": ["auto", "open", "closed"]},
        failures=_COUNT | {"description": "in a row"},
        open_seconds=_NUMBER | {"description": "spent open so far, in all"},
        retry_after=_NUMBER | {"description": "seconds; 0: calls pass"},
    ),
    "Endpoint": _object(
        address=_TEXT,
        id=_TEXT,
        weight=_COUNT,
        state={"type": "string", "enum": ["healthy", "warning"]},
        ejected=_FLAG,
        active=_COUNT,
        failures=_COUNT | {"description": "in a row"},
    ),
    "Stats": _object(
        requests=_COUNTS | {"description": "finished exchanges by status; 0: the client left before an answer"},
        active=_COUNT,
        pending=_COUNT,
        p50_ms=_NUMBER,
        p99_ms=_NUMBER,
        retries=_COUNTS,
        rejected=_COUNTS,
        bytes_in=_COUNT,
        bytes_out=_COUNT,
        connections=_object(client=_COUNT, active=_COUNT, idle=_COUNT, tunnel=_COUNT),
    ),
    "Upstream": _object(
        name=_TEXT,
        bind=_TEXT,
        protocol=_TEXT,
        balancer=_TEXT,
        health=_STATUS,
        endpoints=_list(_ref("Endpoint")),
        breaker=_or_null(_ref("Breaker")),
        route_breakers=_list({"allOf": [_object(path=_TEXT), _ref("Breaker")]}),
        stats=_ref("Stats"),
    ),
    "Upstreams": _object(upstreams=_list(_ref("Upstream"))),
    "AmqpPorts": _object(upstreams=_list(_ref("AmqpPort"))),
    "AmqpPort": _object(
        name=_TEXT,
        blocked=_FLAG | {"description": "the broker has an alarm and takes no publishes"},
        blocked_seconds=_NUMBER | {"description": "of such alarms so far, in all"},
        connections=_COUNT | {"description": "past their handshake"},
        channels=_COUNT,
        consumers=_COUNT,
        unacked=_COUNT | {"description": "deliveries that are not settled yet"},
        delivered=_COUNT,
        stalled=_COUNT | {"description": "deliveries kept back from consumers now"},
        held=_object(
            messages=_COUNT,
            bytes=_COUNT,
            waiting_for=_list(_object(what=_TEXT, messages=_COUNT)),
        ),
        exchanges=_list(_ref("AmqpExchange")),
        queues=_list(_ref("AmqpQueue")),
        sessions=_list(_ref("AmqpSession")) | {"description": "200 at most: those with the most held, then the oldest"},
    ),
    "AmqpExchange": _object(
        vhost=_TEXT,
        exchange=_TEXT | {"description": "empty: the default exchange"},
        published=_COUNT | {"description": "whole messages taken from clients"},
        forwarded=_COUNT | {"description": "passed on to the broker"},
        confirmed=_COUNT | {"description": "by the broker"},
        nacked=_COUNT | {"description": "by the broker"},
        refused=_COUNT | {"description": "nacked by the sidecar"},
        returned=_COUNT | {"description": "by the broker: no queue took them"},
        held=_COUNT | {"description": "that had to wait, all of them"},
        dropped=_COUNT | {"description": "held, and lost with their channel or connection"},
        held_messages=_COUNT | {"description": "now"},
        held_bytes=_COUNT | {"description": "now"},
        held_seconds=_NUMBER | {"description": "waited, all messages together"},
    ),
    "AmqpQueue": _object(
        vhost=_TEXT,
        queue=_TEXT,
        depth=_or_null(_COUNT) | {"description": "ready messages; null: not known"},
        consumers=_or_null(_COUNT),
        high=_COUNT,
        low=_COUNT,
        full=_FLAG | {"description": "publishes that lead there are held or refused"},
        problem=_TEXT | {"description": "why it cannot be watched; empty when it can"},
    ),
    "AmqpSession": _object(
        client=_TEXT,
        product=_TEXT,
        user=_TEXT,
        vhost=_TEXT,
        endpoint=_TEXT | {"description": "the broker's address"},
        since=_NUMBER | {"description": "how long ago it came, seconds"},
        channels=_COUNT,
        consumers=_COUNT,
        unacked=_COUNT,
        held=_COUNT,
        blocked=_FLAG | {"description": "it was told to publish nothing for now"},
        stalled=_COUNT,
    ),
    "Changes": _object(changes=_list(_TEXT)),
    "Phase": _object(phase=_PHASE),
    "Level": _object(level={"type": "string", "enum": ["debug", "info", "warning", "error"]}),
}
