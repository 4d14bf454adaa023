"""The shapes of the admin API's answers, as JSON Schema, for ``/openapi.json``."""

from __future__ import annotations

from typing import Any, Final

from sidecar.core.build import COMPILED, INTERPRETED, PYTHON, C
from sidecar.core.json_schema import COUNT, COUNTS, FLAG, NUMBER, TEXT, array, or_null, record, ref

_STATUS: Final = {"type": "string", "enum": ["healthy", "warning", "unhealthy"]}
_PHASE: Final = {"type": "string", "enum": ["starting", "ready", "draining", "stopped"]}
_WHICH_BUILD: Final = {
    "build": {"type": "string", "enum": [COMPILED, INTERPRETED], "description": "of the hot path"},
    "scanner": {"type": "string", "enum": [C, PYTHON], "description": "what reads ordinary heads"},
    "amqp_scanner": {"type": "string", "enum": [C, PYTHON], "description": "what finds runs of AMQP messages"},
}
_WAITS: Final = {"description": "what another process has in use, and this one needs to start"}
_FOUND: Final = record(status=_STATUS, output=TEXT)
_FOUND_BY_NAME: Final = {"type": "object", "additionalProperties": _FOUND}

#: Lines for what failed, a share of the rest, and what was slow.
_SOME: Final = {
    "type": "object",
    "properties": {"sample": {"oneOf": [TEXT, NUMBER]}, "slow": {"oneOf": [TEXT, NUMBER]}},
    "additionalProperties": False,
}

SCHEMAS: Final[dict[str, Any]] = {
    "Error": record(error=TEXT, message=TEXT)
    | {"description": "error is a code that stays the same, message is for people"},
    "ConfigProblems": record(
        error={"type": "string", "const": "config"}, message=TEXT, problems=array(record(path=TEXT, message=TEXT))
    ),
    "Index": record(service=TEXT, phase=_PHASE, version=TEXT, **_WHICH_BUILD, endpoints=array(TEXT)),
    "Ready": {
        "type": "object",
        "properties": {"ready": FLAG, "phase": _PHASE, "waiting_for": TEXT | _WAITS},
        "required": ["ready", "phase"],
    },
    "Health": record(
        status=_STATUS,
        service=TEXT,
        id=TEXT,
        phase=_PHASE,
        **_WHICH_BUILD,
        waiting_for=or_null(TEXT) | _WAITS,
        faults=array(TEXT) | {"description": "what is injected on purpose, and where"},
        app=_FOUND,
        upstreams=_FOUND_BY_NAME,
        registry=or_null(record(url=TEXT, up=FLAG, age=NUMBER | {"description": "seconds since it last answered"})),
    ),
    "ServiceHealth": record(status=_STATUS, service=TEXT, output=TEXT),
    "DeepHealth": {
        "description": "of an upstream: output; of this service: app and dependencies",
        "oneOf": [
            ref("ServiceHealth"),
            record(status=_STATUS, service=TEXT, app=_FOUND, dependencies=_FOUND_BY_NAME),
        ],
    },
    "OpenApi": {"type": "object", "description": "this document"},
    "Config": {"type": "object", "description": "the shape of the configuration file; see `sidecar schema`"},
    "ConfigSet": record(paths=array(TEXT)),
    "Breaker": record(
        state={"type": "string", "enum": ["closed", "half_open", "open"]},
        forced={"type": "string", "enum": ["auto", "open", "closed"]},
        failures=COUNT | {"description": "in a row"},
        open_seconds=NUMBER | {"description": "spent open so far, in all"},
        retry_after=NUMBER | {"description": "seconds; 0: calls pass"},
        held=or_null(
            record(by=TEXT, reason=TEXT, since=TEXT, until=or_null(TEXT))
            | {"description": "who holds it by hand, why, since when and until when"}
        ),
    ),
    "Hold": {"type": "object", "properties": {"by": TEXT, "reason": TEXT, "for": TEXT}, "additionalProperties": False},
    "Endpoint": record(
        address=TEXT,
        hostname=or_null(TEXT | {"description": "the name that the address was found for"}),
        id=TEXT,
        weight=COUNT,
        state=_STATUS | {"description": "as the registry and active checks have it"},
        ejected=FLAG,
        ejection=or_null(
            record(
                reason={"type": "string", "enum": ["unreachable", "consecutive", "error_rate", "latency"]},
                text=TEXT,
                until=TEXT | {"description": "RFC 3339"},
            )
        ),
        share=NUMBER | {"description": "of its traffic: 0 while it is out, less than 1 while it starts slowly"},
        check=or_null(
            record(status=_STATUS, output=TEXT, at=TEXT | {"description": "RFC 3339"}, row=COUNT)
            | {"description": "the last active check; row: results of its kind, one after the other"}
        ),
        active=COUNT,
        failures=COUNT | {"description": "in a row"},
        ewma_ms=or_null(NUMBER | {"description": "the time to an answer that peak_ewma and prequal expect of it"}),
        reported=or_null(
            record(in_flight=COUNT, latency_ms=NUMBER, age_ms=COUNT)
            | {"description": "what its own sidecar has said last, for prequal"}
        ),
        hash_share=or_null(NUMBER | {"description": "of the keys, with consistent_hash"}),
        models=or_null(array(TEXT) | {"description": "language models that it has loaded, as far as it was asked"}),
        subset=or_null(TEXT | {"description": "the one that it is in"}),
        admin=or_null(
            TEXT | {"description": "where the sidecar that stands there has its admin API, as it says itself"}
        ),
        last_error=or_null(
            record(
                at=TEXT | {"description": "RFC 3339"},
                kind=TEXT | {"description": "a cause, status (its app answered 5xx) or peer (its sidecar did)"},
                text=TEXT,
            )
        ),
    ),
    "Subset": record(
        name=TEXT,
        weight=COUNT | {"description": "in the upstream's own split; 0: none"},
        share=NUMBER | {"description": "of its requests: an empty subset has none"},
        endpoints=COUNT,
        usable=COUNT | {"description": "those that are in the rotation"},
        requests=COUNTS | {"description": "tries, by status; without an answer by the status that stands for that"},
        p50_ms=NUMBER,
        p99_ms=NUMBER | {"description": "from a try's begin to its answer's head"},
    ),
    "Canary": record(
        subset=TEXT,
        phase={"type": "string", "enum": ["unknown", "running", "paused", "rolled_back", "done"]},
        weight=COUNT | {"description": "percent"},
        step=COUNT | {"description": "from 1 on; 0: before the first"},
        steps=array(COUNT),
        attempt=COUNT,
        revision=COUNT | {"description": "of its state; higher with each change"},
        reason=TEXT,
        by=TEXT | {"description": "who has changed it last"},
        at=or_null(TEXT | {"description": "RFC 3339"}),
        waits_for=TEXT,
        told=FLAG | {"description": "the registry, and so all other sidecars, have what is done here"},
        judged_s=NUMBER | {"description": "for how long this sidecar has seen it in this step"},
        judged=or_null(
            {
                "type": "object",
                "description": "what this sidecar goes by: the counts of as many as `sidecars` says; `shared`: the "
                "registry, where they are told, has answered",
            }
        ),
    ),
    "Name": record(
        name=TEXT,
        addresses=array(TEXT),
        age=or_null(NUMBER | {"description": "seconds since it was last looked up well"}),
        error=or_null(TEXT | {"description": "why the last lookup failed"}),
        cause=or_null(TEXT | {"description": "the same in one word"}),
    ),
    "Stats": record(
        requests=COUNTS | {"description": "finished exchanges by status; 0: the client left before an answer"},
        active=COUNT,
        pending=COUNT,
        p50_ms=NUMBER,
        p99_ms=NUMBER,
        retries=COUNTS,
        rejected=COUNTS,
        connect_failures=COUNTS | {"description": "connections that could not be made, by cause"},
        peer_errors=COUNTS | {"description": "answers of peer sidecars in place of their apps, by code"},
        queue=or_null(
            record(
                requests=COUNT | {"description": "stored, and without an outcome yet"},
                bytes=COUNT,
                outcomes=COUNTS | {"description": "what became of requests that may be queued, since the start"},
            )
        ),
        filters={"type": "object", "additionalProperties": {"type": "object"}}
        | {"description": "by name, what filters that declare it have counted, and show of themselves"},
        bytes_in=COUNT,
        bytes_out=COUNT,
        connections=record(client=COUNT, active=COUNT, idle=COUNT, tunnel=COUNT),
    ),
    "Upstream": record(
        name=TEXT,
        bind=TEXT,
        protocol=TEXT,
        balancer=TEXT,
        health=_STATUS,
        endpoints=array(ref("Endpoint")),
        subsets=array(ref("Subset")),
        canary=or_null(ref("Canary")),
        names=array(ref("Name")),
        breaker=or_null(ref("Breaker")),
        route_breakers=array({"allOf": [record(path=TEXT), ref("Breaker")]}),
        stats=ref("Stats"),
    ),
    "Inbound": record(service=TEXT, protocol=TEXT, stats=ref("Stats")),
    "Upstreams": record(upstreams=array(ref("Upstream"))),
    "Changes": {
        "description": "changes, a line each; with dry_run what would change: text for people, and the plan",
        "oneOf": [
            record(changes=array(TEXT)),
            record(
                text=array(TEXT),
                refused=array(record(path=TEXT, message=TEXT)),
                removed=array(TEXT),
                opened=array(TEXT),
                changed=array(TEXT),
                differences=array(record(path=TEXT, old=TEXT, new=TEXT)),
            ),
        ],
    },
    "Access": record(access={"oneOf": [{"type": "string", "enum": ["all", "errors", "off"]}, _SOME]}),
    "Phase": record(phase=_PHASE),
    "Level": record(level={"type": "string", "enum": ["debug", "info", "warning", "error"]}),
}
