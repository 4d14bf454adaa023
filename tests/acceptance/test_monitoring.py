"""What ``deploy/`` has, on real servers: Prometheus finds real sidecars in a real Consul, answers each query of each
dashboard, and tells Alertmanager of a fault, which tells a webhook, and not of what only follows from it."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.agents import NOBODY
from support.alertmanager import Alertmanager, Webhook
from support.amqp_clients.raw import RawClient
from support.boards import Query, queries
from support.consul import ConsulAgent
from support.processes import ROOT, App, Sidecar, ending, free_port, get, wait_for
from support.prometheus import Shipped, with_consul
from support.rabbitmq import GUEST, RabbitMQ
from support.services import Workload

QUEUE, TOKEN = "monitored", "of the webhook"


def _service(name: str, app: App, consul: ConsulAgent, **more: Any) -> dict[str, Any]:
    return {
        "service": {
            "name": name, "id": f"{name}-0", "address": "127.0.0.1", "app": f"127.0.0.1:{app.port}",
            "check": {"http": "/health", "interval": "1s"},
        },
        "registry": f"consul://127.0.0.1:{consul.http_port}",
        "inbound": {
            "bind": "127.0.0.1:0",
            "routes": [{"match": {"path": "/limited"}, "rate_limit": {"rate": "1/m", "burst": 1}}],
        },
        "probes": {"bind": "127.0.0.1:0"},
        "log": {"access": "all"},
        **more,
    }  # fmt: skip


def _upstreams(folder: Path, broker: RabbitMQ, apps: list[App], ollama: int) -> dict[str, Any]:
    """A service, one that is gone, one with all policies, one in two versions, a language model, requests that are
    stored, messages held and too old."""
    none = {"ratio": "0%", "min": "0/s"}
    quick = {"initial_delay": "10ms", "max_delay": "10ms"}
    return {
        "work": {"bind": "127.0.0.1:0", "discover": {"service": "tasks"}, "retry": {**quick, "budget": none}},
        "gone": {
            "bind": "127.0.0.1:0", "endpoints": [NOBODY], "retry": quick,
            "circuit_breaker": {"failure_threshold": 2, "reset_timeout": "2s"},
            "fallback": [{"on": ["circuit_open", "connect_failed"], "upstream": "calm"}],
        },
        "calm": {
            "bind": "127.0.0.1:0",
            "endpoints": [f"127.0.0.1:{app.port}" for app in apps],
            "retry": {"hedge": {"after": "10ms"}},
            "bulkhead": {
                "adaptive": {"min": 1, "max": 2}, "max_pending": 1, "pending_timeout": "20ms",
                "priority": "header:x-priority",
            },
            "wait": {"timeout": "1s", "max": 10},
            "rate_limit": {"rate": "1000/s", "burst": 1000, "shared": True},
        },
        "versions": {
            "bind": "127.0.0.1:0",
            "endpoints": [
                {"address": f"127.0.0.1:{app.port}", "tags": [tag]} for app, tag in zip(apps, ("v1", "v2"), strict=True)
            ],
            "subsets": {"stable": {"tag": "v1"}, "next": {"tag": "v2"}},
            "split": {"stable": 100},
            "canary": {"subset": "next", "steps": [50], "each": "1h"},
            "routes": [{"match": {"path": "/kept"}, "cache": {"ttl": "1s"}, "faults": [{"delay": "1ms"}]}],
        },
        "ollama": {"bind": "127.0.0.1:0", "endpoints": [f"127.0.0.1:{ollama}"], "profile": "llm"},
        "stored": {
            "bind": "127.0.0.1:0",
            "endpoints": [NOBODY],
            "routes": [
                {"match": {"path": "/tasks", "methods": ["POST"]},
                 "queue": {"spool": True, "path": str(folder / "queue")}, "retry": "off"},
            ],
        },
        "rabbitmq": {
            "bind": "127.0.0.1:0",
            "protocol": "amqp",
            "endpoints": [f"127.0.0.1:{broker.port}"],
            "amqp": {
                "credentials": GUEST,
                "queues": [{"name": QUEUE, "high": 1000}],
                "spool": {"path": str(folder / "spool")},
                "publish": [
                    {"exchange": "amq.fanout", "rate": "2/s", "burst": 1, "over": "hold"},
                    {"exchange": "amq.topic", "rate": "1/s", "burst": 1, "over": "spool", "expires": "1s"},
                ],
            },
        },
    }  # fmt: skip


class Mesh(NamedTuple):
    web: Sidecar
    tasks: Sidecar
    prometheus: Shipped
    alertmanager: Alertmanager
    webhook: Webhook
    client: RawClient

    def work(self) -> None:
        """A little of everything, good and bad."""
        web = f"http://127.0.0.1:{self.web.port('web')}"
        work, gone = (f"http://127.0.0.1:{self.web.port(name)}" for name in ("work", "gone"))
        for path in ("/", "/", "/status/500", "/limited", "/status/503"):
            get(web + path)
            get(work + path)
        get(gone)
        versions = f"http://127.0.0.1:{self.web.port('versions')}"
        for path in ("/", "/", "/kept", "/kept"):
            get(versions + path)
        prompt = json.dumps({"model": "llama3.2", "prompt": "say hello"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web.port('ollama')}/api/generate", prompt) as answer:
            answer.read()
        calm = f"http://127.0.0.1:{self.web.port('calm')}/slow/60"
        with ThreadPoolExecutor(4) as pool:  # more than its limit
            list(pool.map(get, [calm] * 4))
        stored = urllib.request.Request(f"http://127.0.0.1:{self.web.port('stored')}/tasks", b"task", method="POST")
        with urllib.request.urlopen(stored) as answer:
            assert answer.status == 202
        for exchange in ("amq.fanout", "amq.topic"):
            for _ in range(2):
                self.client.publish(1, exchange, "key", b"message")
        time.sleep(0.5)  # nothing more is seen in between two scrapes


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMQ) -> Iterator[Mesh]:
    """All of it, and all is ready."""
    with_consul()
    folder = tmp_path_factory.mktemp("monitored")
    rabbitmq.declare(QUEUE)
    port = free_port()
    options = ("--port", str(port), "--load", "0", "--rate", "1000")
    model = Workload(folder, "ollama_stand_in", f"http://127.0.0.1:{port}/", *options)
    started = (App(folder, "web"), App(folder, "tasks"), model)
    with ConsulAgent() as consul, Webhook() as webhook, ending(*started) as processes:
        apps = [app for app in processes if isinstance(app, App)]
        tasks = Sidecar(folder, _service("tasks", apps[1], consul), "tasks-sidecar")
        processes.append(tasks)
        tracing = {"sample": 1.0, "otlp": f"http://{NOBODY}"}
        web = Sidecar(
            folder,
            _service("web", apps[0], consul, upstreams=_upstreams(folder, rabbitmq, apps, port), tracing=tracing)
            | {"redis": {"url": f"redis://{NOBODY}/0", "timeout": "50ms", "on_failure": "local"}},
            "web",
        )
        processes.append(web)
        alertmanager = Alertmanager(folder, webhook.port, TOKEN)
        processes.append(alertmanager)
        prometheus = Shipped(folder, consul.http_port, alertmanager.port)
        processes.append(prometheus)
        for process in processes:
            process.ready()
        with RawClient(web.port("rabbitmq")).open_channel() as client:
            yield Mesh(web, tasks, prometheus, alertmanager, webhook, client)
    rabbitmq.delete(QUEUE)


def test_each_query_of_each_panel_is_answered_with_data(mesh: Mesh) -> None:
    left = list(queries())
    assert len(left) > 80

    def answered(query: Query) -> bool:
        """Of one service or the other: only ``web`` calls others, only ``tasks`` is called."""
        texts = {query.filled(service=it, upstream=".*", queue=".*", __rate_interval="30s") for it in ("web", "tasks")}
        assert not any("$" in text for text in texts), texts
        return any(not math.isnan(value) for text in texts for value in mesh.prometheus.query(text).values())

    def complete() -> bool:
        mesh.work()
        left[:] = [query for query in left if not answered(query)]
        return not left

    wait_for(complete, lambda: "these have no data:\n" + "\n".join(map(str, left)), 120)


def test_a_fault_reaches_a_webhook_and_what_follows_from_it_is_hidden(mesh: Mesh) -> None:
    alertmanager, webhook = mesh.alertmanager, mesh.webhook
    assert not webhook.alerts("SidecarDown")
    mesh.tasks.kill()

    def hidden() -> bool:
        mesh.work()
        follows = {"callee": "tasks", "direction": "outbound"}.items()
        return any(
            alert["labels"].items() >= follows and alert["status"]["inhibitedBy"]
            for alert in alertmanager.alerts("ServiceErrorRate")
        )

    wait_for(hidden, lambda: f"its callers' errors are hidden: {alertmanager.alerts('ServiceErrorRate')}", 120)
    message, alert = wait_for(lambda: webhook.alerts("SidecarDown"), "the webhook is told")[0]
    assert (message.path, message.authorization) == ("/page", f"Bearer {TOKEN}")
    assert message.body["groupLabels"] == {"alertname": "SidecarDown", "callee": "tasks"}
    assert alert["status"] == "firing"
    assert (
        alert["labels"].items() >= {"service": "tasks", "instance": "tasks-0-sidecar", "severity": "critical"}.items()
    )
    assert alert["annotations"]["summary"] == "The sidecar tasks-0-sidecar of tasks does not answer"
    assert alert["annotations"]["runbook_url"].endswith("#sidecardown")


def test_the_fields_that_go_to_loki_are_in_the_lines(mesh: Mesh) -> None:
    mesh.work()
    text = (ROOT / "deploy" / "loki" / "sidecar.alloy").read_text("utf-8")
    blocks = {
        stage: re.findall(r"(\w+) = \"\"", found)
        for stage, found in re.findall(r"stage\.(\w+) \{\s+(?:expressions|values) = \{(.*?)\}", text, re.DOTALL)
    }
    assert blocks["labels"] == ["service", "level"]
    assert sorted(blocks["json"]) == sorted(["ts", *blocks["labels"], *blocks["structured_metadata"]])
    lines = [json.loads(line) for line in mesh.web.output().splitlines()]
    assert all({"ts", "service", "level"} <= line.keys() for line in lines)
    assert set(blocks["json"]) - {name for line in lines for name in line} == set()
    assert {line["level"] for line in lines} <= {"debug", "info", "warning", "error"}
