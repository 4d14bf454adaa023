"""Spans as OTLP/JSON, and what a collector answers. Encoding only: no I/O.

Source: the OpenTelemetry Protocol's specification, 1.x, "JSON Protobuf Encoding". It is protobuf's JSON with two
differences: ids are hexadecimal, and enumerations are numbers. Numbers of 64 bits are strings, as in protobuf.

The OpenTelemetry SDK takes six times the time for the same bytes' worth, and holds the interpreter's lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from sidecar import __version__
from sidecar.core.records import SpanRecord
from sidecar.core.text import printable, utf8

#: ``SpanKind`` of the protocol.
KINDS: Final = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
#: ``StatusCode`` of the protocol: an error. What is not one says nothing.
_ERROR: Final = {"code": 2}
_SCOPE: Final = {"name": "sidecar", "version": __version__}


def encode(records: Sequence[SpanRecord], resource: Sequence[dict[str, Any]]) -> bytes:
    """One ``ExportTraceServiceRequest``; ``resource`` is what :func:`attributes` made of the resource's."""
    spans = [_span(record) for record in records]
    whole = {
        "resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [{"scope": _SCOPE, "spans": spans}]}]
    }
    try:
        return orjson.dumps(whole)
    except orjson.JSONEncodeError:  # a text from a stranger that is no UTF-8
        clean: Any = _clean(whole)
        return orjson.dumps(clean)


def attributes(values: Mapping[str, str | int]) -> list[dict[str, Any]]:
    """Attributes as the protocol has them."""
    return [
        {"key": key, "value": {"stringValue": value} if isinstance(value, str) else _number(value)}
        for key, value in values.items()
    ]


def _number(value: int) -> dict[str, Any]:
    return {"boolValue": value} if isinstance(value, bool) else {"intValue": str(value)}


def _span(record: SpanRecord) -> dict[str, Any]:
    trace_id, span_id, parent_id, name, kind, start_ns, end_ns, values, ok, links = record
    span: dict[str, Any] = {
        "traceId": trace_id,
        "spanId": span_id,
        "name": name,
        "kind": KINDS[kind],
        "startTimeUnixNano": str(start_ns),
        "endTimeUnixNano": str(end_ns),
        "attributes": attributes(values),
    }
    if parent_id:
        span["parentSpanId"] = parent_id
    if links:
        span["links"] = [{"traceId": linked, "spanId": to} for linked, to in links]
    if not ok:
        span["status"] = _ERROR
    return span


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def rejected(body: bytes, most: int) -> tuple[int, str]:
    """What a collector that answered 200 did not take all the same: how many spans (``most`` at most), and why. An
    answer that is not what the protocol says rejects none."""
    try:
        partial = orjson.loads(body)["partialSuccess"]
        count = int(partial.get("rejectedSpans", 0))
        text = partial.get("errorMessage", "")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return 0, ""
    return min(max(count, 0), most), printable(text, 200) if isinstance(text, str) else ""
