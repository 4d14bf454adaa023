"""A trace through two sidecars, as a collector sees it."""

from __future__ import annotations

import http.client
import json
import urllib.request
from pathlib import Path
from typing import Any

import pika
import pytest

from support.collector import Collector
from support.processes import App, Sidecar, ending, get, wait_for
from support.rabbitmq import RabbitMQ, behind_sidecar, parameters_to

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


def _ask(url: str, flags: str) -> None:
    request = urllib.request.Request(url, headers={"traceparent": f"00-{TRACE}-{CALLER}-{flags}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
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


#: What is ours beside the trace: request id, and who was forwarded for.
_OURS = ("x-request-id", "x-forwarded-for", "x-forwarded-proto", "forwarded")


@pytest.mark.parametrize("sent", [{}, {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "a=1", "b3": "0"}])
def test_a_request_has_no_trace_of_ours_where_none_is_to_be_propagated(sent: dict[str, str], tmp_path: Path) -> None:
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        sidecar = Sidecar(tmp_path, {
            "service": {"name": "web"}, "tracing": {"propagate": [], "sample": 1},
            "upstreams": {"app": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{app.port}"]}},
        })  # fmt: skip
        processes.append(sidecar)
        sidecar.ready()
        direct, through = (_headers(port, sent) for port in (app.port, sidecar.port("app")))
        assert {name: value for name, value in through.items() if name not in _OURS} == direct


def _headers(port: int, sent: dict[str, str]) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/who", headers={"host": "app", **sent})
        found: dict[str, str] = json.loads(connection.getresponse().read())["headers"]
        return {name.lower(): value for name, value in found.items()}
    finally:
        connection.close()


@pytest.mark.parametrize(("propagate", "added"), [([], []), (["b3"], ["b3"])])
def test_a_message_has_the_headers_that_it_has_without_a_sidecar(
    propagate: list[str], added: list[str], rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    config = behind_sidecar(rabbitmq.port) | {"tracing": {"propagate": propagate, "sample": 1}}
    with ending(Sidecar(tmp_path, config)) as (sidecar,):
        assert isinstance(sidecar, Sidecar)
        port = sidecar.ready().port("rabbitmq")
        for headers in (None, {}, {"a": 1, "when": {"deep": [True, None, "x"]}}):
            direct, through = (_message(each, headers) for each in (rabbitmq.port, port))
            found = dict(through or {})
            assert [name for name in added if found.pop(name, None)] == added
            assert (found or None) == (direct or None) if added else through == direct


def _message(port: int, headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """The headers of a message that was published and consumed at that port."""
    with pika.BlockingConnection(parameters_to(port)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"hello", pika.BasicProperties(headers=headers, content_type="text/plain"))
        _, properties, body = channel.basic_get(queue, auto_ack=True)
        assert body == b"hello"
        found: dict[str, Any] | None = properties.headers
        return found
