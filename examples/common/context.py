"""A request's trace context, and how it is handed on.

The sidecar puts a context into what comes without one and never changes one that is there. What it cannot know is which
outgoing call belongs to which incoming one: so an app copies these headers from what it has got to what it sends, and
one trace shows the whole way, over HTTP and over messages.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

#: W3C, both forms of B3, and the id by which ``sidecar why`` finds a request.
NAMES = (
    "traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled",
    "x-request-id",
)  # fmt: skip


def context_of(headers: Mapping[str, Any]) -> dict[str, str]:
    """What is to be handed on, of an HTTP request's or a message's headers."""
    return {name: str(headers[name]) for name in NAMES if name in headers}


def log(event: str, context: Mapping[str, str], **more: object) -> None:
    """One line of JSON, with the trace's id where there is one."""
    parts = context.get("traceparent", "").split("-")
    line = {"time": round(time.time(), 3), "event": event, **more}
    if len(parts) == 4:
        line["trace_id"] = parts[1]
    print(json.dumps(line), file=sys.stderr, flush=True)
