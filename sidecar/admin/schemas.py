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


_LETTER: Final[dict[str, Any]] = {
    "id": _COUNT | {"description": "grows with each death"},
    "died": _or_null(_TEXT) | {"description": "RFC 3339"},
    "age": _NUMBER | {"description": "seconds since then"},
    "reason": _TEXT,
    "code": _COUNT | {"description": "the broker's; 0: it was not the broker"},
    "text": _TEXT | {"description": "what the broker said; empty when it said nothing"},
    "readable": _FLAG | {"description": "false: what is left of it is no message any more"},
    "vhost": _TEXT,
    "exchange": _TEXT | {"description": "empty: the default exchange"},
    "routing_key": _TEXT,
    "user": _TEXT | {"description": "the property user-id"},
    "origin": _TEXT | {"description": "who published it"},
    "trace": _TEXT | {"description": "its traceparent"},
    "published": _or_null(_TEXT) | {"description": "RFC 3339"},
    "expires": _or_null(_TEXT) | {"description": "likewise; null: never"},
    "priority": _COUNT,
    "attempts": _COUNT | {"description": "how often the broker refused it"},
    "bytes": _COUNT | {"description": "of its body"},
}
_WAITS: Final = {"description": "what another process has in use, and this one needs to start"}
_FOUND: Final = _object(status=_STATUS, output=_TEXT)
_FOUND_BY_NAME: Final = {"type": "object", "additionalProperties": _FOUND}

SCHEMAS: Final[dict[str, Any]] = {
    "Error": _object(error=_TEXT, message=_TEXT)
    | {"description": "error is a code that stays the same, message is for people"},
    "ConfigProblems": _object(
        error={"type": "string", "const": "config"}, message=_TEXT, problems=_list(_object(path=_TEXT, message=_TEXT))
    ),
    "Index": _object(service=_TEXT, phase=_PHASE, version=_TEXT, endpoints=_list(_TEXT)),
    "Ready": {
        "type": "object",
        "properties": {"ready": _FLAG, "phase": _PHASE, "waiting_for": _TEXT | _WAITS},
        "required": ["ready", "phase"],
    },
    "Health": _object(
        status=_STATUS,
        service=_TEXT,
        id=_TEXT,
        phase=_PHASE,
        waiting_for=_or_null(_TEXT) | _WAITS,
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
        hostname=_or_null(_TEXT | {"description": "the name that the address was found for"}),
        id=_TEXT,
        weight=_COUNT,
        state={"type": "string", "enum": ["healthy", "warning"]},
        ejected=_FLAG,
        active=_COUNT,
        failures=_COUNT | {"description": "in a row"},
    ),
    "Name": _object(
        name=_TEXT,
        addresses=_list(_TEXT),
        age=_or_null(_NUMBER | {"description": "seconds since it was last looked up well"}),
        error=_or_null(_TEXT | {"description": "why the last lookup failed"}),
    ),
    "Stats": _object(
        requests=_COUNTS | {"description": "finished exchanges by status; 0: the client left before an answer"},
        active=_COUNT,
        pending=_COUNT,
        p50_ms=_NUMBER,
        p99_ms=_NUMBER,
        retries=_COUNTS,
        rejected=_COUNTS,
        queue=_or_null(
            _object(
                requests=_COUNT | {"description": "stored, and without an outcome yet"},
                bytes=_COUNT,
                outcomes=_COUNTS | {"description": "what became of requests that may be queued, since the start"},
            )
        ),
        filters={"type": "object", "additionalProperties": {"type": "object"}}
        | {"description": "by name, what filters that declare it have counted, and show of themselves"},
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
        names=_list(_ref("Name")),
        breaker=_or_null(_ref("Breaker")),
        route_breakers=_list({"allOf": [_object(path=_TEXT), _ref("Breaker")]}),
        stats=_ref("Stats"),
    ),
    "Upstreams": _object(upstreams=_list(_ref("Upstream"))),
    "AmqpPorts": _object(upstreams=_list(_ref("AmqpPort"))),
    "AmqpPort": _object(
        name=_TEXT,
        refusing={
            "type": "object",
            "additionalProperties": _TEXT,
            "description": "why clients are refused, in words, by reason: draining, no_broker, overloaded",
        },
        blocked=_FLAG | {"description": "the broker has an alarm and takes no publishes"},
        blocked_seconds=_NUMBER | {"description": "of such alarms so far, in all"},
        connections=_COUNT | {"description": "past their handshake"},
        detached=_COUNT | {"description": "of these, those without a broker at present"},
        channels=_COUNT,
        consumers=_COUNT,
        unacked=_COUNT | {"description": "deliveries that are not settled yet"},
        delivered=_COUNT,
        paused=_FLAG | {"description": "consumers get nothing new: the app, or what it needs, is unwell"},
        stalled=_COUNT | {"description": "deliveries kept back from consumers now"},
        held=_object(
            messages=_COUNT,
            bytes=_COUNT,
            waiting_for=_list(_object(what=_TEXT, messages=_COUNT)),
        ),
        exchanges=_list(_ref("AmqpExchange")),
        queues=_list(_ref("AmqpQueue")),
        unkeyed=_COUNTS
        | {"description": "by partitioned exchange, messages that went to partition 0 for want of a value"},
        spool=_or_null(_ref("Spool")),
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
    "Spool": _object(
        messages=_COUNT | {"description": "kept for the broker now"},
        bytes=_COUNT | {"description": "what they count as"},
        max_bytes=_COUNT,
        full=_FLAG,
        problem=_TEXT | {"description": "why it does not work at present; empty when it does"},
        still_seconds=_NUMBER | {"description": "for how long nothing has left it though something is there"},
        parked=_COUNT | {"description": "messages that wait for the login of the user they have to be sent as"},
        obstacles=_list(_object(vhost=_TEXT, user=_TEXT, problem=_TEXT))
        | {"description": "connections that cannot be made, and why (20 at most); no user: the sidecar's own account"},
        spooled=_COUNT | {"description": "messages that were put into it since the start"},
        replayed=_COUNT | {"description": "messages that left it for the broker, which confirmed them"},
        expired=_COUNT | {"description": "messages that were too old when their turn came"},
        corrupt=_COUNT | {"description": "messages that could not be read again"},
        acks=_COUNTS | {"description": "publishes confirmed to clients, by who vouched for them: broker, spool"},
        keys=_COUNT | {"description": "vhosts and lanes that have messages"},
        waiting=_list(_object(vhost=_TEXT, lane=_TEXT, messages=_COUNT, bytes=_COUNT))
        | {"description": "200 at most: those with the most messages; each keeps its own order"},
        dead_letters=_object(
            messages=_COUNT,
            bytes=_COUNT,
            dropped=_COUNT | {"description": "that had to go for newer ones"},
            reasons=_COUNTS,
        ),
    ),
    "DeadLetters": _object(
        dead_letters=_list(_ref("DeadLetterSummary")),
        next=_or_null(_COUNT) | {"description": "ask again with this as after; null: there are no more"},
    ),
    "DeadLetterSummary": _object(**_LETTER),
    "DeadLetter": _object(
        **_LETTER,
        mandatory=_FLAG,
        properties={"type": "object", "description": "AMQP's, as the client sent them"},
        headers={"type": "object", "description": "likewise"},
        body=_object(
            size=_COUNT | {"description": "bytes, all of them"},
            cut=_FLAG | {"description": "content is only the first 64 KiB; an export has everything"},
            encoding={"type": "string", "enum": ["text", "base64"]},
            content=_TEXT,
        ),
    ),
    "Changed": _object(
        messages=_COUNT | {"description": "how many"},
        next=_or_null(_COUNT) | {"description": "ask again, with this as after and before as it is; null: that is all"},
        before=_or_null(_NUMBER) | {"description": "only those were meant that had died by then, Unix time"},
    ),
    "Changes": _object(changes=_list(_TEXT)),
    "Phase": _object(phase=_PHASE),
    "Level": _object(level={"type": "string", "enum": ["debug", "info", "warning", "error"]}),
}
