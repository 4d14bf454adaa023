"""A trace through two sidecars, as a collector sees it."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from support.collector import Collector
from support.processes import App, Sidecar, ending, get, wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


def _ask(url: str, flags: str) -> None:
    request = urllib.request.Request(url, headers={"traceparent": f"00-{TRACE}-{CALLER}-{flags}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def test_the_spans_of_a_chain_hang_together(tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    with Collector() as collector, ending(app) as processes:
        app.ready()
        tracing = {"tracing": {"otlp": collector.url, "sample": 0}}
        callee = Sidecar(tmp_path, {
            "service": {"name": "tasks", "app": f"127.0.0.1:{app.port}"}, "inbound": {"bind": "127.0.0.1:0"}, **tracing,
        }, "callee")  # fmt: skip
        processes.append(callee)
        callee.ready()
        caller = Sidecar(tmp_path, {
            "service": {"name": "web"}, **tracing,
            "upstreams": {"tasks": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{callee.port('tasks')}"]}},
        }, "caller")  # fmt: skip
        processes.append(caller)
        caller.ready()
        url = f"http://127.0.0.1:{caller.port('tasks')}/who"
        _ask(url, "00")  # not sampled: no spans
        _ask(url, "01")
        wait_for(lambda: len(collector.spans) >= 2, "both spans")
        by_service = {
            next(a.value.string_value for a in sent.resource.attributes if a.key == "service.name"): span
            for sent in collector.resources
            for scope in sent.scope_spans
            for span in scope.spans
        }
        outbound, inbound = by_service["web"], by_service["tasks"]
        assert len(collector.spans) == 2
        assert {outbound.trace_id.hex(), inbound.trace_id.hex()} == {TRACE}
        assert outbound.parent_span_id.hex() == CALLER
        assert inbound.parent_span_id == outbound.span_id
        assert outbound.kind == outbound.SPAN_KIND_CLIENT
        assert inbound.kind == inbound.SPAN_KIND_SERVER
        seen = get(f"http://127.0.0.1:{app.port}/who")[1]["headers"]
        assert "traceparent" not in seen  # asked directly, without a sidecar
        assert caller.terminate() == 0
        assert callee.terminate() == 0
