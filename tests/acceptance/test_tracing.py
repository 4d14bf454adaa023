"""A trace through two sidecars, as a collector sees it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest

from support.collector import Collector, attributes
from support.processes import App, Sidecar, ending, free_port, wait_for
from support.rabbitmq import RabbitMQ, behind_sidecar, parameters_to

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@contextmanager
def _pair(tmp_path: Path, collector: Collector, **tracing: Any) -> Iterator[tuple[Sidecar, Sidecar]]:
    """The sidecars of web and tasks, and the app behind the second. What ``both`` leads to has a second address, where
    nothing listens."""
    app = App(tmp_path, "app")
    with ending(app) as processes:
        app.ready()
        more = {"tracing": {"otlp": collector.url, **tracing}}
        callee = Sidecar(tmp_path, {
            "service": {"name": "tasks", "app": f"127.0.0.1:{app.port}"}, "inbound": {"bind": "127.0.0.1:0"}, **more,
        }, "callee")  # fmt: skip
        processes.append(callee)
        there, nowhere = f"127.0.0.1:{callee.ready().port('tasks')}", f"127.0.0.1:{free_port()}"
        caller = Sidecar(tmp_path, {
            "service": {"name": "web"}, **more,
            "upstreams": {
                "tasks": {"bind": "127.0.0.1:0", "endpoints": [there]},
                "both": {"bind": "127.0.0.1:0", "endpoints": [nowhere, there]},
            },
        }, "caller")  # fmt: skip
        processes.append(caller)
        yield caller.ready(), callee
        assert caller.terminate() == 0
        assert callee.terminate() == 0


def _ask(port: int, fields: dict[str, str], path: str = "/who", status: int = 200) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers=fields)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    finally:
        connection.close()


def _connected(collector: Collector, trace: str, parent: str) -> dict[str, list[Any]]:
    """The spans of a trace by kind, as soon as its server span is there: each hangs below another, or the caller's."""

    def whole() -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"internal": [], "client": [], "server": []}
        for span in collector.spans:
            if span.trace_id.hex() == trace:
                found[span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()].append(span)
        return found if found["server"] and found["internal"] else {}

    found: dict[str, list[Any]] = wait_for(whole, f"the spans of {trace}")
    ids = {span.span_id.hex() for kind in found.values() for span in kind}
    for kind in found.values():
        for span in kind:
            assert span.parent_span_id.hex() in ids | {parent}
    return found


def test_a_request_through_two_sidecars_is_one_trace(tmp_path: Path) -> None:
    with Collector() as collector, _pair(tmp_path, collector, sample=0, propagate=["w3c", "b3"]) as (caller, _):
        tasks, both = caller.port("tasks"), caller.port("both")
        _ask(tasks, {"traceparent": f"00-{TRACE}-{CALLER}-00"})  # not sampled, nothing wrong with it: no spans

        _ask(tasks, {"traceparent": f"00-{'1' * 32}-{CALLER}-01"})
        found = _connected(collector, "1" * 32, CALLER)
        (whole,), (one,), (server,) = found["internal"], found["client"], found["server"]
        assert (whole.parent_span_id.hex(), one.parent_span_id) == (CALLER, whole.span_id)
        assert server.parent_span_id == one.span_id
        assert not any(span.trace_id.hex() == TRACE for span in collector.spans)

        # Twice: by turns, one of them begins at the address where nothing listens.
        for trace in ("2" * 32, "3" * 32):
            _ask(both, {"traceparent": f"00-{trace}-{CALLER}-01"})
        every = [_connected(collector, trace, CALLER) for trace in ("2" * 32, "3" * 32)]
        (twice,) = [found for found in every if len(found["client"]) == 2]
        refused, good = sorted(twice["client"], key=lambda span: span.start_time_unix_nano)
        assert attributes(refused)["error.type"] == "connect_failed"
        assert attributes(refused)["sidecar.cause"] == "refused"
        assert attributes(good)["http.request.resend_count"] == 1
        assert twice["server"][0].parent_span_id == good.span_id

        _ask(tasks, {"b3": f"{'4' * 32}-{CALLER}-1"})
        _connected(collector, "4" * 32, CALLER)
        _ask(tasks, {"X-B3-TraceId": "5" * 16, "X-B3-SpanId": CALLER, "X-B3-Sampled": "1"})
        found = _connected(collector, "0" * 16 + "5" * 16, CALLER)
        assert found["server"][0].parent_span_id == found["client"][0].span_id

        # Failed ones arrive though they were not sampled: of a caller's trace, and of one that began here.
        _ask(tasks, {"traceparent": f"00-{'6' * 32}-{CALLER}-00"}, "/status/500", 500)
        _connected(collector, "6" * 32, CALLER)
        before = len(collector.spans)
        _ask(tasks, {}, "/status/500", 500)
        wait_for(lambda: len(collector.spans) == before + 3, "the spans of a trace without a caller")
        trace = collector.spans[-1].trace_id.hex()
        found = _connected(collector, trace, "")
        assert found["server"][0].parent_span_id == found["internal"][0].span_id


#: What is ours beside the trace: request id, who was forwarded for, and the time that is left.
_OURS = ("x-request-id", "x-forwarded-for", "x-forwarded-proto", "forwarded", "x-sidecar-deadline")


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
