"""Sidecars are found in a real Consul and scraped by a real Prometheus, whether their apps are well or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.consul import ConsulAgent
from support.processes import App, Sidecar, ending, free_port, get, wait_for
from support.prometheus import Prometheus, Shipped
from support.rabbitmq import GUEST, RabbitMQ

QUEUE = "scraped"


def _service(consul: ConsulAgent, port: int, name: str) -> dict[str, Any]:
    """The sidecar of an app at that port, for machines too."""
    return {
        "service": {
            "name": "tasks", "id": name, "address": "127.0.0.1", "app": f"127.0.0.1:{port}",
            "check": {"http": "/health", "interval": "1s"},
        },
        "registry": f"consul://127.0.0.1:{consul.http_port}",
        "inbound": {"bind": "127.0.0.1:0"},
        "probes": {"bind": "127.0.0.1:0"},
    }  # fmt: skip


def _caller(consul: ConsulAgent, broker: RabbitMQ) -> dict[str, Any]:
    """One without an inbound port, so that nobody would find it otherwise. It samples every request."""
    return {
        "service": {"name": "web", "address": "127.0.0.1"},
        "registry": f"consul://127.0.0.1:{consul.http_port}",
        "probes": {"bind": "127.0.0.1:0"},
        "tracing": {"sample": 1.0},
        "upstreams": {
            "work": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}},
            "rabbitmq": {
                "bind": "127.0.0.1:0",
                "protocol": "amqp",
                "endpoints": [f"127.0.0.1:{broker.port}"],
                "amqp": {"credentials": GUEST, "queues": [{"name": QUEUE, "high": 100}]},
            },
        },
    }


def _scraped(consul: ConsulAgent) -> list[str]:
    """Addresses of what has the tag for scrapers, as Prometheus' service discovery finds them."""
    names = [name for name, tags in consul.request("GET", "/v1/catalog/services").items() if "sidecar" in tags]
    found = [entry for name in names for entry in consul.request("GET", f"/v1/health/service/{name}?passing")]
    return sorted(f"{entry['Service']['Address']}:{entry['Service']['Port']}" for entry in found)


@contextmanager
def _mesh(folder: Path, consul: ConsulAgent, broker: RabbitMQ) -> Iterator[tuple[Sidecar, Sidecar, Sidecar]]:
    """A service's sidecar, one of the same service whose app never is there, and a caller's; all are ready."""
    app = App(folder, "tasks-0")
    good = Sidecar(folder, _service(consul, app.port, "tasks-0"), "good")
    lost = Sidecar(folder, _service(consul, free_port(), "tasks-1"), "lost")
    caller = Sidecar(folder, _caller(consul, broker), "caller")
    with ending(app, good, lost, caller) as processes:
        for process in processes:
            process.ready()
        yield good, lost, caller


def test_all_sidecars_are_found_scraped_and_summed_up(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    rabbitmq.declare(QUEUE)
    with ConsulAgent() as consul, _mesh(tmp_path, consul, rabbitmq) as (good, lost, caller):
        targets = sorted(sidecar.probes for sidecar in (good, lost, caller))
        wait_for(lambda: _scraped(consul) == targets, "all three are found")
        meta = consul.services()["tasks-1-sidecar"]["Meta"]
        assert (meta["service"], meta["metrics_port"]) == ("tasks", lost.probes.rpartition(":")[2])
        # Nobody takes it for an instance of the service.
        wait_for(lambda: consul.instances("tasks") == {"tasks-0"}, "the service itself")
        assert [it["id"] for it in get(f"{caller.admin}/upstreams/work")[1]["endpoints"]] == ["tasks-0"]

        with ending(Prometheus(tmp_path, *targets).ready()) as (prometheus,):
            assert isinstance(prometheus, Prometheus)
            _all_is_recorded(prometheus, caller)
            _a_bucket_leads_to_a_trace(prometheus)
        with ending(Shipped(tmp_path, consul.http_port).ready()) as (shipped,):
            assert isinstance(shipped, Shipped)
            _targets_are_found_and_named(shipped)
        _found_again_and_taken_out(consul, lost, targets)
    rabbitmq.delete(QUEUE)


def _all_is_recorded(prometheus: Prometheus, caller: Sidecar) -> None:
    work = f"http://127.0.0.1:{caller.port('work')}"
    wanted = {
        "service_latency_p99": [{"service": "tasks", "direction": it} for it in ("inbound", "outbound")],
        "error_rate_by_service": [{"service": "tasks", "direction": it} for it in ("inbound", "outbound")],
        "resource_utilization": [
            {"service": service, "resource": resource}
            for service in ("tasks", "web")
            for resource in ("cpu", "memory", "descriptors", "bulkhead")
        ],
        "message_queue_depth": [{"vhost": "/", "queue": QUEUE}],
        "circuit_breaker_state": [{"service": "web", "upstream": "work"}],
    }

    def complete() -> bool:
        assert get(f"{work}/")[0] == 200
        assert get(f"{work}/status/500")[0] == 500
        time.sleep(0.2)  # breaker and limits are not what this is about
        return not [
            (name, labels)
            for name, rows in wanted.items()
            for labels in rows
            if not any(labels.items() <= found and value == value for found, value in prometheus.query(name).items())
        ]

    wait_for(complete, lambda: f"every rule has values:\n{prometheus.output()}")
    (rate,) = [
        value
        for labels, value in prometheus.query("error_rate_by_service").items()
        if {("service", "tasks"), ("direction", "inbound")} <= labels
    ]
    assert 0.3 < rate < 0.7
    assert set(prometheus.query("up").values()) == {1.0}
    assert all(0 <= value < 1.5 for value in prometheus.query("resource_utilization").values())


def _targets_are_found_and_named(prometheus: Shipped) -> None:
    """Each series has the labels that alerts go by, and no metric's own "service" is another one."""

    def found() -> list[tuple[str, str]]:
        return sorted((row["service"], row["instance"]) for row in map(dict, prometheus.query("up == 1")))

    wait_for(lambda: [service for service, _ in found()] == ["tasks", "tasks", "web"], prometheus.output)
    assert {"tasks-0-sidecar", "tasks-1-sidecar"} < {instance for _, instance in found()}
    named = {row["upstream"]: row.get("service") for row in map(dict, prometheus.query("sidecar_upstream_info"))}
    assert named == {"work": "tasks", "rabbitmq": None}
    assert prometheus.query('{exported_service!=""}') == {}

    def health() -> set[str]:
        groups = prometheus.ask("rules", type="alert")["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]}

    wait_for(lambda: health() == {"ok"}, lambda: f"each alert is evaluated: {health()}")


def _a_bucket_leads_to_a_trace(prometheus: Prometheus) -> None:
    def exemplars() -> list[str]:
        now = time.time()
        found = prometheus.ask(
            "query_exemplars", query="sidecar_request_duration_seconds_bucket", start=f"{now - 600}", end=f"{now + 60}"
        )
        return [it["labels"]["trace_id"] for series in found for it in series["exemplars"]]

    assert all(len(trace) == 32 for trace in wait_for(exemplars, "exemplars"))


def _found_again_and_taken_out(consul: ConsulAgent, lost: Sidecar, targets: list[str]) -> None:
    consul.kill()
    consul.start()  # a -dev agent: its catalogue is empty now
    wait_for(lambda: _scraped(consul) == targets, "all three are registered again")
    probes = lost.probes
    assert get(f"http://{probes}/ready")[0] == 200
    assert get(f"http://{probes}/config")[0] == 404
    assert lost.terminate() == 0
    wait_for(lambda: _scraped(consul) == [it for it in targets if it != probes], "it is taken out")
